# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages about what the collection does: their examples, executed as they stand, on the cluster of the stories before."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout, kill
from tests.support.fleet import Fleet
from tests.support.pages import Story
from tests.support.ports import free_port


def test_evidence(tell: Callable[..., Story]) -> None:
    with tell("docs/evidence.md") as page:
        assert "site.yml" in page.run("playbooks/evidence.yml")
        assert "are as they were recorded" in " ".join(page.run("evidence_verify").split())


def test_record_of_a_release(tell: Callable[..., Story]) -> None:
    with tell("docs/releases.md") as page:
        # of the newest run: there is no release here
        assert "playbook: " in page.run("do=show")


def test_secrets(tell: Callable[..., Story]) -> None:
    with tell("docs/secrets.md") as page:
        page.run("secrets_check")


def test_live(tell: Callable[..., Story]) -> None:
    with tell("docs/live.md") as page:
        assert re.search(rf"{NODE} +hello ", page.run("stacks_status"))


def test_hub(tell: Callable[..., Story], checkout: Checkout) -> None:
    port = free_port()
    with tell("docs/hub.md", **{"inventory/pi-cluster": str(checkout.inventory)}) as page:
        token = page.run("token add").split()[-1]
        # another port: that of the page may be taken by the hub of a test beside this one
        serving = checkout.start(f"{page.take('serve')} --port {port}")
        try:
            ask = f"curl -fsS --retry 60 --retry-connrefused --retry-delay 1 -H 'Authorization: Bearer {token}'"
            code, said = checkout.shell(f"{ask} http://127.0.0.1:{port}/api/stacks")
            assert code == 0 and '"total":' in said, said
        finally:
            kill(serving)


@pytest.mark.full
def test_a_first_stack(tell: Callable[..., Story], fleet: Fleet, checkout: Checkout) -> None:
    # what the lab has in the place of an image that only a registry has; and where the lab keeps its stacks
    fleet.lab("load-images", "-i", str(fleet.inventory), "--as", "docker.io/library/caddy:2.10.2-alpine=80", NODE)
    with tell("docs/stacks.md", **{"…": str(checkout.inventory)}) as page:
        place = checkout.folder / "lab/stacks/first/compose.yaml"
        place.parent.mkdir()
        # the stack of that name is there already, and so is its port
        place.write_text(page.block("image: docker.io/library/caddy").replace("hello:", "first:").replace("8080:", "8090:"))
        checkout.commit("A first stack")
        shows = "docker inspect -f '{{.State.Running}}' first-first-1"
        assert "first" in page.run("--check --diff")
        assert fleet.sh(NODE, shows, check=False).strip() == ""
        assert checkout.shell(f"make site INVENTORY={checkout.inventory}")[0] == 0
        assert fleet.sh(NODE, shows).strip() == "true"
    # the stories behind this one get nodes that do not have its image
    checkout.git("rm", "-rq", "lab/stacks/first")
    checkout.commit("No first stack")
    assert checkout.shell("make site")[0] == 0
