# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that is repaired: by an instruction, by a diff, by what can be seen; approved, rejected, given up, and gone on with."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story

STACK = "lab/stacks/hello"
PROFILE = "fix_profiles/hello.yml"
MEBIBYTE = 1024**2


class Service:
    """The lab's stack, a profile of it that is committed, and the ledger's fix runs."""

    def __init__(self, checkout: Checkout, fleet: Fleet) -> None:
        self.checkout, self.fleet = checkout, fleet
        self.compose, self.greeting = checkout.folder / STACK / "compose.yaml", checkout.folder / STACK / "greeting.txt"
        self._before = {path: path.read_text() for path in (self.compose, self.greeting)}

    def profile(self, **changed: Any) -> None:
        table = yaml.safe_load((self.checkout.folder / "lab" / PROFILE).read_text())
        (self.checkout.folder / PROFILE).write_text(yaml.safe_dump({**table, **changed}))
        self.checkout.commit("What a fix run may do")

    def restore(self) -> None:
        for path, text in self._before.items():
            path.write_text(text)
        (self.checkout.folder / PROFILE).unlink()
        self.settings().unlink(missing_ok=True)
        self.checkout.commit("As it was")
        code, output = self.checkout.shell("ansible-playbook playbooks/stacks.yml")
        assert code == 0, output[-3000:]

    def settings(self) -> Path:
        return self.checkout.folder / "fix_runs.yml"

    def ask(self, instruction: str) -> FixRun:
        """Begin another fix run, and return it: one that waits for an approval ends its playbook well."""
        code, output = self.checkout.shell(f'ansible-playbook playbooks/fix.yml -e service=hello -e \'{{"instruction": "{instruction}"}}\'')
        assert code == 0, output[-3000:]
        return self.last()

    def last(self) -> FixRun:
        return FixRuns(Store(self.checkout.folder / ".pifleet/ledger.db")).listed(limit=1)[0][0]

    def runs(self, what: str) -> str:
        return self.fleet.sh(NODE, f"docker inspect -f '{{{{{what}}}}}' hello-hello-1").strip()

    def memory(self) -> int:
        return int(self.runs(".HostConfig.Memory")) // MEBIBYTE


@pytest.fixture
def hello(checkout: Checkout, fleet: Fleet) -> Iterator[Service]:
    service = Service(checkout, fleet)
    service.profile()
    yield service
    service.restore()


@pytest.mark.full
def test_fix_runs(tell: Callable[..., Story], hello: Service) -> None:
    checkout = hello.checkout
    image = hello.runs(".Config.Image")
    with tell("docs/runbooks/fix-runs.md", SERVICE="hello") as page:
        before = hello.memory()
        assert "112m" in page.run("--check", INSTRUCTION="set key mem_limit to 112m")
        assert hello.memory() == before
        page.run("INSTRUCTION", INSTRUCTION="set key mem_limit to 112m")
        assert hello.memory() == 112
        assert "mem_limit: 112m" in hello.compose.read_text()
        assert checkout.git("log", "-1", "--format=%s").startswith("Fix hello: ")

        old = hello.greeting.read_text()
        names = (f"{side}/{STACK}/greeting.txt" for side in "ab")
        lines = difflib.unified_diff(old.splitlines(keepends=True), ["Hello from a diff.\n"], *names)
        (checkout.folder / "fix.diff").write_text("".join(lines))
        page.run("apply diff fix.diff")
        assert hello.greeting.read_text() == "Hello from a diff.\n"
        assert hello.fleet.sh(NODE, f"cat /var/lib/pifleet/desired-state/{STACK}/greeting.txt") == "Hello from a diff.\n"

        # an image that nobody has
        hello.compose.write_text(hello.compose.read_text().replace(image, "pifleet/lab-app:9"))
        checkout.commit("Version 9")
        assert checkout.shell("ansible-playbook playbooks/stacks.yml")[0] != 0
        page.run("instruction=auto")
        assert hello.runs(".Config.Image") == image
        assert image in hello.compose.read_text()

        # one that ends because nothing answers on the node
        hello.fleet.sh(NODE, "systemctl stop docker.socket docker")
        code, output = checkout.shell(
            'ansible-playbook playbooks/fix.yml -e service=hello -e \'{"instruction": "set key mem_limit to 96m"}\''
        )
        assert code != 0 and "Docker does not answer" in " ".join(output.split())
        hello.fleet.sh(NODE, "systemctl start docker")
        page.run("retry=ID", ID=hello.last().id)
        assert hello.memory() == 96

        # with an approval, by one's own
        hello.settings().write_text("two_person: false\n")
        hello.profile(approval={"requirement": "pre-run"}, keep="pinned")
        waits = hello.ask("set key mem_limit to 80m")
        assert waits.id in page.run("status=awaiting_approval")
        page.run("reject=true", ID=waits.id, DIGEST=waits.plan_digest)
        assert hello.last().status == "rejected"
        page.run("cancel=true", ID=hello.ask("set key mem_limit to 80m").id)
        assert hello.last().status == "cancelled"
        waits = hello.ask("set key mem_limit to 80m")
        assert hello.memory() == 96
        assert waits.plan_digest in page.run("-e id=ID", ID=waits.id)
        page.run("-e plan_digest=DIGEST", ID=waits.id, DIGEST=waits.plan_digest)
        assert hello.last().status == "succeeded"
        assert hello.memory() == 80
        page.run("git merge", ID=waits.id)
        assert "mem_limit: 80m" in hello.compose.read_text()
        page.run("unpin=ID", ID=waits.id)
        page.run("playbooks/stacks.yml")
        assert hello.memory() == 80
        assert waits.id in page.run("playbooks/fix_runs.yml")
