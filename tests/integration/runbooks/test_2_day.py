# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster that runs: its stacks, what differs from its manifests, its evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story


def test_stacks(tell: Callable[..., Story], fleet: Fleet, checkout: Checkout) -> None:
    compose = checkout.folder / "lab/stacks/hello/compose.yaml"
    with tell("docs/runbooks/stacks.md", NAME="hello") as page:
        assert "in_sync" in page.run("playbooks/stacks_status.yml")
        lines = [line for line in page.run("output=json").splitlines() if line.startswith("{")]
        assert NODE in json.loads(lines[-1])["hosts"]
        # a change whose plan has to be acknowledged
        compose.write_text(compose.read_text().replace("x-pifleet:\n", "x-pifleet:\n  policy: acknowledge\n").replace("64m", "96m"))
        checkout.commit("More memory")
        page.run("--check --diff")
        page.run("playbooks/stacks.yml")
        status = checkout.shell("ansible-playbook playbooks/stacks_status.yml -e output=json")[1]
        (digest,) = set(re.findall(r'"plan_digest": ?"([0-9a-f]{64})"', status))
        page.run("playbooks/acknowledge.yml", DIGEST=digest)
        memory = fleet.sh(
            NODE, "docker inspect -f '{{.HostConfig.Memory}}' $(docker ps -q --filter label=com.docker.compose.project=hello)"
        )
        assert int(memory) == 96 * 1024**2


def test_collect_diff(tell: Callable[..., Story], fleet: Fleet) -> None:
    with tell("docs/runbooks/collect-diff.md") as page:
        page.run("ansible-playbook playbooks/collect_diff.yml")
        fleet.kubectl("label", "namespace", "operations", "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        assert "pod-security" in page.run("collect-diff.sh", rc=1)
        page.run("ansible-playbook site.yml")
        page.run("collect_diff_dirs")


def test_evidence(tell: Callable[..., Story]) -> None:
    with tell("docs/runbooks/evidence.md") as page:
        assert "are as they were recorded" in " ".join(page.run("evidence_verify").split())
