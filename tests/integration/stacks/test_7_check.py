# SPDX-License-Identifier: GPL-3.0-or-later
"""`--check --diff` shows the plan, touches nothing, and is what the next run does. Here through Ansible, as a user does it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.stacks.conftest import FIRST
from tests.support.fleet import BIN, ROOT, Fleet
from tests.support.stack_node import DESIRED, StackNode, compose, serves

SECRET = "correct-horse-battery"


def by_ansible(fleet: Fleet, folder: Path, *flags: str, **options: Any) -> tuple[dict[str, Any], str]:
    """What the module returned to Ansible, and all that Ansible printed."""
    settings = json.dumps({"path": DESIRED, "stable_seconds": 1, "timeout": 60, **options})
    argv = [BIN / "ansible", FIRST, "-i", fleet.inventory, "-b", "-m", "pifleet.ops.stack_reconcile", "-a", settings, "-t", folder, *flags]
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    answer = folder / FIRST
    assert answer.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads(answer.read_text())), done.stdout + done.stderr


def test_check_and_diff_predict_and_the_run_does_it(fleet: Fleet, node: StackNode, tmp_path: Path) -> None:
    node.stack("keep", compose({"a": serves()}))
    node.stack("edit", compose({"a": serves(), "b": serves(environment="{GREETING: hallo}")}))
    node.stack("hurt", compose({"a": serves(), "b": serves()}))
    node.stack("drop", compose({"a": serves()}))
    first, _ = by_ansible(fleet, tmp_path, revision="a" * 40)
    assert (first["changed"], first.get("failed", False)) == (True, False)

    secret_value = f"{{GREETING: salut, PASSWORD: {SECRET}}}"
    node.stack("edit", compose({"a": serves(), "b": serves("pifleet/lab-app:2", environment=secret_value)}))
    node.stack("new", compose({"a": serves()}))
    node.sh(f"docker stop -t 0 hurt-a-1; rm -rf {DESIRED}/drop")
    options = {"revision": "b" * 40, "remove": True}
    before = node.everything()
    predicted, shown = by_ansible(fleet, tmp_path, "--check", "--diff", **options)
    twice, _ = by_ansible(fleet, tmp_path, "--check", "--diff", **options)
    assert node.everything() == before
    assert predicted["plan"] == twice["plan"]
    for text in (
        "stack edit\n",
        "stack new\n",
        "stack hurt\n",
        "stack drop\n",
        "pifleet/lab-app:1 to pifleet/lab-app:2",
        "environment.PASSWORD",
    ):
        assert text in shown
    assert "stack keep\n" not in shown
    assert SECRET not in shown
    assert "salut" not in shown

    done, said = by_ansible(fleet, tmp_path, "--diff", **options)
    assert SECRET not in said
    assert done["plan"] == predicted["plan"]
    assert shown[shown.index("stack drop\n") :].splitlines()[:12] == said[said.index("stack drop\n") :].splitlines()[:12]
    assert [(s["name"], s["changed"], s["actions"]) for s in done["stacks"]] == [
        (s["name"], s["changed"], s["actions"]) for s in predicted["stacks"]
    ]
    assert {s["name"] for s in done["stacks"] if s["changed"]} == {"edit", "new", "hurt", "drop"}

    before = node.everything()
    settled, _ = by_ansible(fleet, tmp_path, "--check", "--diff", **options)
    assert not settled["changed"]
    assert node.everything() == before
    again, _ = by_ansible(fleet, tmp_path, **options)
    assert not again["changed"]


def test_every_predicted_change_of_one_kind_is_what_compose_then_does(node: StackNode) -> None:
    """Ids before and after tell what a run really replaced, made or removed; the prediction must have named that and nothing else."""
    node.stack("web", compose({"a": serves(), "b": serves(depends_on="[a]"), "c": serves()}))
    node.reconcile().require()
    before = node.identities()
    node.stack("web", compose({"a": serves(environment="{A: b}"), "b": serves(depends_on="[a]"), "d": serves()}))
    predicted = node.reconcile(check=True).require().stacks["web"]["actions"]
    node.reconcile().require()
    after = node.identities()
    touched = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert touched == {"web-a-1", "web-c-1", "web-d-1"}
    assert {service for service in "abcd" if f"'{service}'" in str(predicted)} == {"a", "c", "d"}


@pytest.mark.parametrize("gone", ["the engine", "all of Docker"])
def test_a_node_without_docker_is_predicted_and_untouched(node: StackNode, gone: str) -> None:
    node.stack("web", compose({"a": serves()}))
    node.stack("other", compose({"a": serves()}))
    node.stack("asleep", compose({"a": serves()}, "x-pifleet: {suspended: true}\n"))
    node.sh("systemctl stop docker.socket docker")
    if gone == "all of Docker":
        node.sh("mkdir /opt/hidden && mv /usr/bin/docker /opt/hidden/cli && mv /usr/libexec/docker /opt/hidden/plugins")
    try:
        result = node.reconcile(check=True).require()
        assert result.changed
        # without Compose nobody knows that a stack is suspended
        missing = {"web", "other", "asleep"} if gone == "all of Docker" else {"web", "other"}
        assert result.drift == {name: [("", "stack_missing")] for name in missing}
        assert {name for name, row in result.stacks.items() if row["changed"]} == missing
    finally:
        node.sh(
            "[ ! -d /opt/hidden ] || { mv /opt/hidden/cli /usr/bin/docker; mv /opt/hidden/plugins /usr/libexec/docker; rmdir /opt/hidden; }"
        )
