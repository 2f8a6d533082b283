# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster that runs: its stacks, what differs from its manifests, its evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story


def shown(output: str) -> dict[str, Any]:
    """The status of the stacks by node, from the JSON among Ansible's own lines."""
    text = output[output.index("{", output.index("Show the stacks")) : output.rindex("PLAY RECAP")]
    found, _end = json.JSONDecoder().raw_decode("\n".join(line.strip() for line in text.splitlines()))
    return dict(found)


def test_stacks(tell: Callable[..., Story], fleet: Fleet, checkout: Checkout) -> None:
    compose = checkout.folder / "lab/stacks/hello/compose.yaml"
    with tell("docs/runbooks/stacks.md", NAME="hello") as page:
        assert re.search(rf"{NODE} +hello +synced", page.run("playbooks/stacks_status.yml"))
        assert shown(page.run("output=json"))[NODE]["stacks"][0]["name"] == "hello"
        # a change whose plan has to be acknowledged
        compose.write_text(compose.read_text().replace("x-pifleet:\n", "x-pifleet:\n  policy: acknowledge\n").replace("64m", "96m"))
        checkout.commit("More memory")
        page.run("--check --diff")
        page.run("playbooks/stacks.yml")
        status = checkout.shell("ansible-playbook playbooks/stacks_status.yml -e output=json")[1]
        (stack,) = shown(status)[NODE]["stacks"]
        assert stack["awaiting_acknowledgement"]
        page.run("playbooks/acknowledge.yml", DIGEST=stack["plan_digest"])
        memory = fleet.sh(NODE, "docker inspect -f '{{.HostConfig.Memory}}' $(docker ps -q --filter name=hello)")
        assert int(memory) == 96 * 1024**2
    # the stories behind this one lose the node, and nobody acknowledges there what it gets back
    compose.write_text(compose.read_text().replace("  policy: acknowledge\n", ""))
    checkout.commit("No acknowledgement")


def test_collect_diff(tell: Callable[..., Story], fleet: Fleet) -> None:
    with tell("docs/runbooks/collect-diff.md") as page:
        page.run("ansible-playbook playbooks/collect_diff.yml")
        fleet.kubectl("label", "namespace", "operations", "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        assert "pod-security" in page.run("collect-diff.sh", rc=1)
        page.run("ansible-playbook site.yml")
        page.run("collect_diff_dirs")
        # of a fleet without observability: nothing to do
        page.run("playbooks/observability.yml")


def test_evidence(tell: Callable[..., Story]) -> None:
    with tell("docs/runbooks/evidence.md") as page:
        assert "are as they were recorded" in " ".join(page.run("evidence_verify").split())
