# SPDX-License-Identifier: GPL-3.0-or-later
"""The role on fresh nodes, with desired state from the controller's checkout; seen by Docker's and systemd's own eyes."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import subprocess

from ansible_collections.pifleet.ops.plugins.plugin_utils import _node_program

from tests.support.fleet import ROOT, Run

from .conftest import ONE, TREE, TWO, Stacks, stack, until

MESSAGE = 'web: "quoted", $HOME ${X} \\ 🥧\n\nand a body'
# Every file that a run could touch, with mode and content; what a check leaves in memory too
STATE = (
    "find /etc /usr /boot /var/lib/pifleet /var/lib/dpkg /var/lib/docker /run/pifleet -xdev ! -type d -printf '%p %m %s %T@\\n' 2>/dev/null"
    " | grep -v '\\.pyc' | sort | sha256sum; systemctl list-units --type service,timer --state=active --no-legend | wc -l"
)


def plans(run: Run, task: str) -> dict[str, object]:
    return {found["host"]: found["plan"] for found in run.of(task)}


def test_quartet_on_fresh_nodes(stacks: Stacks) -> None:
    stacks.state.commit({"stacks/web/compose.yaml": stack(), "stacks/two/compose.yaml": stack(nodes=[TWO])}, MESSAGE)
    stacks.play("--check").require()  # the first login of a user writes to its home
    before = {node: stacks.sh(STATE, node) for node in (ONE, TWO)}
    predicted = stacks.play("--check", "--diff").require()
    assert {node: stacks.sh(STATE, node) for node in (ONE, TWO)} == before, "check mode touched a node"

    applied = stacks.play().require()
    assert applied.changed == predicted.changed and len(applied.changed) == 4
    for task in ("Prepare the node for stacks", "Reconcile the stacks"):
        assert plans(applied, task) == plans(predicted, task)

    for flags in (("--check",), ()):
        again = stacks.play(*flags).require()
        assert again.changed == set(), again.changed
        assert all(plan == [] for plan in plans(again, "Prepare the node for stacks").values())
    calls = {node: again.ssh_calls[stacks.fleet.address(node)] for node in (ONE, TWO)}
    assert calls == {ONE: 3, TWO: 2}, "two module calls a node, and one for the anchor of the run's record"
    assert re.search(rf"{TWO} +two +synced .* -$", again.output, re.M), "a table shows the stacks"


def test_docker_and_systemd_see_what_was_claimed(stacks: Stacks) -> None:
    assert set(stacks.containers(ONE)) == {"web-app-1"}
    assert set(stacks.containers(TWO)) == {"web-app-1", "two-app-1"}
    assert stacks.sh("docker network inspect bridge web_default -f '{{(index .IPAM.Config 0).Subnet}}'").split() == [
        "10.213.0.0/24",
        "10.213.1.0/24",
    ]
    assert stacks.sh("systemctl is-enabled docker pifleet-stacks.timer; systemctl is-active docker pifleet-stacks.timer").split() == [
        "enabled",
        "enabled",
        "active",
        "active",
    ]
    program = stacks.sh("sha256sum /usr/local/lib/pifleet/pifleet-stacks.pyz").split()[0]
    assert program == hashlib.sha256(_node_program.stacks()).hexdigest()
    assert stacks.sh("stat -c %a /etc/pifleet/stacks.json /var/lib/pifleet/desired-state/stacks/web/compose.yaml").split() == ["600", "644"]
    assert stacks.sh("systemd-analyze verify /etc/systemd/system/pifleet-stacks.* 2>&1 | grep pifleet || true") == ""


def test_the_status_is_a_table_and_json(stacks: Stacks) -> None:
    found = stacks.status(TWO)
    assert [s["name"] for s in found["stacks"]] == ["two", "web"]
    assert found["refresh"]["state"] == "completed"
    assert found["refresh"]["commit_message"] == found["stacks"][0]["commit_message"] == MESSAGE
    assert found["refresh"]["revision"] == stacks.state.git("rev-parse", "HEAD")
    shown = stacks.play(playbook="playbooks/stacks_status.yml").require()
    assert re.search(r"NODE +STACK +STATUS +REVISION +RUNNING +LAST SYNC +DRIFT", shown.output)
    assert shown.changed == set()


def test_the_node_repairs_by_itself(stacks: Stacks) -> None:
    before = invocation(stacks)
    stacks.fleet.first_run_after("1s", ONE)
    stacks.sh("docker stop -t 0 web-app-1 && systemctl restart pifleet-stacks.timer")
    until(lambda: invocation(stacks) != before and "inactive" in stacks.sh("systemctl is-active pifleet-stacks.service || true"))
    assert set(stacks.containers()) == {"web-app-1"}
    lines = stacks.sh(f"journalctl --sync; journalctl _SYSTEMD_INVOCATION_ID={invocation(stacks)} -o cat").splitlines()
    assert [json.loads(line)["event"] for line in lines if line.startswith("{")] == ["refreshed", "started", "succeeded"]
    assert stacks.sh("pgrep -f '[p]ifleet-stacks.pyz' || true") == "", "nothing stays"
    stacks.fleet.first_run_after("1d", ONE)
    stacks.sh("systemctl restart pifleet-stacks.timer")


def invocation(stacks: Stacks) -> str:
    """Which run of the timer's service is the newest."""
    return stacks.sh("systemctl show pifleet-stacks.service -P InvocationID").strip()


def test_only_what_is_committed_is_deployed_and_the_rest_is_named(stacks: Stacks) -> None:
    stacks.state.write({"stacks/web/compose.yaml": stack("pifleet/lab-app:3"), "stacks/new/compose.yaml": stack()})
    run = stacks.play("--limit", ONE).require()
    assert run.changed == set()
    assert "Not deployed, because not committed as they are: stacks/new/compose.yaml, stacks/web/compose.yaml" in " ".join(
        run.output.split()
    ).replace("stacks/web/compose.yaml, stacks/new/compose.yaml", "stacks/new/compose.yaml, stacks/web/compose.yaml")
    stacks.state.git("checkout", "--quiet", "--", "stacks")
    stacks.state.git("clean", "--quiet", "-fd", "stacks")


def test_one_nodes_failed_stack_stops_no_other_and_fails_the_run_which_is_on_record(stacks: Stacks) -> None:
    kept = stacks.containers(ONE)
    stacks.state.commit({"stacks/bad/compose.yaml": stack("pifleet/no-such-image:1", nodes=["refresh-1"])}, "A bad one")
    run = stacks.play().require(2)
    assert [f["host"] for f in run.failures] == [ONE]
    assert "no-such-image" in run.failures[0]["msg"]
    assert re.search(rf"{ONE} +bad +failed", run.output) and re.search(rf"{TWO} +web +synced", run.output)
    assert f"{ONE}: bad failed:" in run.output
    assert stacks.containers(ONE) == kept, "its neighbours were left alone"
    with sqlite3.connect(f"file:{stacks.state.path / '.pifleet/ledger.db'}?mode=ro", uri=True) as ledger:
        newest = "SELECT name FROM artifacts WHERE run_id = (SELECT id FROM runs ORDER BY started_at DESC LIMIT 1)"
        names = [name for (name,) in ledger.execute(newest)]
    assert "stacks.json" in names, "what was found and done is kept with the run"
    stacks.state.commit({"stacks/bad/compose.yaml": None}, "Without it")
    stacks.play().require()


def test_a_plan_that_waits_is_acknowledged_by_whoever_is_logged_in(stacks: Stacks) -> None:
    stacks.state.commit({"stacks/web/compose.yaml": stack("pifleet/lab-app:3", policy="acknowledge")}, "Three, if somebody agrees")
    kept = stacks.containers(ONE)
    waiting = stacks.play("--limit", ONE).require()
    digest = re.search(rf"{ONE}: web waits for an acknowledgement of its plan ([0-9a-f]{{64}})", waiting.output)
    assert digest and stacks.containers(ONE) == kept

    acknowledge = "playbooks/acknowledge.yml"
    assert "Say what is acknowledged" in stacks.play(playbook=acknowledge).require(2).output
    assert "not in the group" in stacks.play(playbook=acknowledge, node="other", stack="web", plan_digest="x").require(2).output
    other = stacks.play(playbook=acknowledge, node=ONE, stack="web", plan_digest="0" * 64).require(2)
    assert "is now" in other.output and stacks.containers(ONE) == kept

    done = stacks.play(playbook=acknowledge, node=ONE, stack="web", plan_digest=digest[1]).require()
    assert re.search(r"web +synced", done.output)
    assert stacks.containers(ONE) != kept
    who = subprocess.run([ROOT / ".venv/bin/python", "-c", LOGIN], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert f'"by": "{who}"' in stacks.sh("journalctl -t pifleet-stacks -o cat | grep acknowledged | tail -1")
    stacks.state.commit({"stacks/web/compose.yaml": stack("pifleet/lab-app:3")}, "Without a gate")


LOGIN = """
import sys; sys.path.insert(0, ".collections")
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin
print(origin.login())
"""


def test_switched_off_reconcile_goes_on_refreshing(stacks: Stacks) -> None:
    stacks.sh("docker stop -t 0 web-app-1")
    revision = stacks.state.commit({"stacks/web/note.txt": "x"}, "Only refreshed")
    run = stacks.play("--limit", ONE, stacks_reconcile_enabled=False).require()
    assert "web-app-1" not in stacks.containers()
    assert [e["event"] for e in stacks.unattended()] == ["refreshed"]
    assert "web-app-1" not in stacks.containers()
    assert stacks.sh(f"cat {TREE}/web/note.txt") == "x"
    assert not run.of("Show the stacks", ONE) or "skipped" in {t["outcome"] for t in run.of("Show the stacks", ONE)}
    stacks.play("--limit", ONE).require()
    assert set(stacks.containers()) == {"web-app-1"}
    assert stacks.refreshed()["revision"] == revision


def test_a_node_that_wants_none_any_more_is_left_with_what_runs_and_without_timer(stacks: Stacks) -> None:
    stacks.play("--limit", TWO).require()
    kept = stacks.containers(TWO)
    stacks.play("--limit", TWO, stacks_enabled=False).require()
    assert stacks.containers(TWO) == kept
    assert stacks.sh("systemctl is-active pifleet-stacks.timer || true", TWO).strip() == "inactive"
    assert stacks.sh("ls /etc/systemd/system/pifleet-stacks.* 2>/dev/null || true", TWO) == ""
    assert stacks.play("--limit", TWO, stacks_enabled=False).require().changed == set()
    stacks.play("--limit", TWO).require()
    assert stacks.containers(TWO) == kept
