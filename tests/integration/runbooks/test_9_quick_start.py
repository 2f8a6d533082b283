# SPDX-License-Identifier: GPL-3.0-or-later
"""The quick start, from its first command to its last: a stack is changed, broken and repaired, a node is lost and comes back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story

#: who commits; a person has that in git's settings
ME = {f"GIT_{role}_{what}": "me@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
AGAIN = "make site"


@pytest.mark.full
def test_quick_start(tell: Callable[..., Story], checkout: Checkout, fleet: Fleet) -> None:
    def runs() -> str:
        shows = "docker inspect -f '{{.Config.Image}} {{.State.Health.Status}}' hello-hello-1"
        return fleet.sh(NODE, shows, check=False).strip()

    with tell("docs/quick-start.md", env=ME) as page:
        page.run(AGAIN)
        page.run("activate")
        assert runs() == "pifleet/lab-app:1 healthy"

        page.run("lab-app:1#lab-app:2")
        page.run("version 2")
        assert "pifleet/lab-app:2" in page.run("--check --diff")
        assert runs() == "pifleet/lab-app:1 healthy"
        assert checkout.shell(AGAIN)[0] == 0
        assert runs() == "pifleet/lab-app:2 healthy"
        assert re.search(rf"{NODE} +hello +synced", page.run("stacks_status"))

        page.run("cp lab/fix_profiles")
        page.run("git add")
        page.run("What a fix run may do")
        page.run("lab-app:2#lab-app:9")
        page.run("version 9")
        code, output = checkout.shell(AGAIN)
        assert code != 0 and "lab-app:9" in output
        page.run("instruction=auto --check")
        page.run("instruction=auto")
        assert runs() == "pifleet/lab-app:2 healthy"
        assert "Fix hello: " in page.run("git log")
        assert checkout.git("status", "--porcelain", "lab/stacks") == ""

        before = fleet.nodes()[NODE]["metadata"]["uid"]
        page.run("python -m lab wipe")
        page.run("rebuild_accept_new_host_key")
        assert fleet.ready() == set(fleet.hosts) and fleet.nodes()[NODE]["metadata"]["uid"] != before
        assert runs() == "pifleet/lab-app:2 healthy"

        assert "fix.yml" in page.run("playbooks/evidence.yml")
        assert "are as they were recorded" in " ".join(page.run("evidence_verify").split())
