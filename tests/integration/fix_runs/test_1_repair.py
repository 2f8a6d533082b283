# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that fails for a missing dependency is repaired: that service alone, on record, and it stays repaired."""

from __future__ import annotations

import hashlib
import json
import random
import socket

from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics

from tests.integration.fix_runs.conftest import NODE, OTHER, Shop


def test_by_an_instruction(broken: Shop) -> None:
    others, head = broken.others(), broken.head()
    assert "No module named 'greeting'" in broken.sh("docker logs shop-web-1 2>&1")
    everything = broken.everything()

    predicted = broken.fix("add greeting 1.0", "--check")
    assert "+greeting==1.0" in predicted.output
    assert broken.everything() == everything
    assert broken.fix_runs.listed() == ([], 0)

    done = broken.fix("add greeting 1.0")
    assert broken.says() == "1.0 good"
    # a step asks the node once; what is over is let go of, and the end of the record is written down
    assert sum(done.ssh_calls.values()) <= 7, done.ssh_calls
    assert broken.others() == others
    assert {host for host, _task in done.changed} <= {NODE, OTHER}
    assert not [host for host, task in done.changed if host == OTHER and "Record the fix run" not in task and "Decide" not in task]

    run = broken.last()
    assert (run.status, broken.states()) == ("succeeded", "succeeded " * 5 + "skipped")
    assert all(step.started_at <= step.ended_at and step.message for step in run.steps[:5])
    assert run.requester
    # each artifact is what the ledger has the hash of
    kept = {artifact.name: artifact for artifact in run.artifacts}
    assert set(kept) == {
        "analyze.json", "plan.json", "patch.diff", "build.log", "restart.log", "verify.log", "metrics.json",
    }  # fmt: skip
    for artifact in run.artifacts:
        content = (broken.repository.root / artifact.path).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (artifact.checksum, artifact.size_bytes)
    assert "+greeting==1.0" in broken.artifact("patch.diff")
    assert "Successfully installed greeting==1.0" in broken.artifact("build.log")
    assert json.loads(broken.artifact("plan.json"))["digest"] == run.plan_digest
    # it is committed, with a message that says whence
    assert broken.repository.git("rev-parse", "HEAD^") == head
    assert broken.repository.git("log", "-1", "--format=%B").endswith(f"Fix-Run: {run.id}")
    assert (broken.repository.root / "stacks/shop/web/requirements.txt").read_text() == "greeting==1.0\n"
    assert broken.repository.git("status", "--porcelain") == ""
    assert broken.repository.git("for-each-ref", "refs/pifleet/fix-runs") == ""
    assert broken.sh("ls /var/lib/pifleet/fix-runs; docker images -q 'pifleet-fix/*'") == ""

    # the next reconcile keeps it
    container = broken.web()["Id"]
    assert not [task for host, task in broken.deploy().changed if host == NODE]
    assert broken.web()["Id"] == container
    # a second fix run has nothing to do, and says so
    assert "has greeting already" in broken.told(broken.fix("add greeting 1.0", rc=2))
    assert broken.fix_runs.listed()[1] == 1
    # no secret that the service prints is kept anywhere
    found = [
        path for path in broken.repository.root.rglob("*") if path.is_file() and ".git" not in path.parts and "stacks" not in path.parts
    ]
    assert not [path for path in found if b"hunter2-planted" in path.read_bytes()]
    assert "DB_PASSWORD" in broken.artifact("analyze.json") + broken.sh("docker logs shop-web-1")


def test_by_itself_from_the_log(well: Shop) -> None:
    # somebody took the line out
    well.change("web/requirements.txt", "# nothing\n")
    well.deploy(rc=2)
    others = well.others()
    well.fix("auto")
    assert (well.last().status, well.says()) == ("succeeded", "1.0 good")
    assert well.others() == others
    assert json.loads(well.artifact("analyze.json"))["evidence"]["failure"] == "missing Python module"


def test_by_itself_where_nothing_is_known(broken: Shop) -> None:
    before = broken.everything()
    told = broken.told(broken.fix("auto", rc=2))
    assert "which version of greeting is wanted is not known" in told
    assert (broken.last().status, broken.everything()) == ("failed", before)


def test_a_variable_and_a_check(shop: Shop) -> None:
    # stacks that are sent as a file
    (shop.repository.root / "stacks/shop/large").write_bytes(random.Random(1).randbytes(200_000))
    shop.change("web/requirements.txt", "greeting==1.0\n")
    shop.deploy()
    well, others = shop, shop.others()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(30)
        variables = {"fix_runs_statsd_host": "127.0.0.1", "fix_runs_statsd_port": statsd.getsockname()[1]}
        well.fix("set env MODE=better; $(id) and check module", fix_runs_textfile="var/node/pifleet.prom", **variables)
        sent: list[str] = []
        while not any(line.startswith("pifleet.fix_runs.web.seconds:") for line in sent):
            sent += statsd.recv(2000).decode().split("\n")
    counted = sorted(line for line in sent if line.endswith("|c"))
    steps = [f"{name}.succeeded" for name in ("analyze", "build", "patch", "restart", "verify")]
    assert counted == sorted(f"pifleet.fix_runs.web.{name}:1|c" for name in (*steps, "rollback.skipped", "succeeded"))
    assert len(sent) == len(counted) + 6
    assert well.says() == "1.0 better; $(id)"
    assert well.others() == others
    figures = (well.repository.root / "var/node/pifleet.prom").read_text()
    assert figures == exposition.text(metrics.gauges(well.fix_runs.tally()))
    assert 'pifleet_fix_run_steps{service="web",step="verify",state="succeeded"} 1' in figures
    assert "files that end with .prom" in well.told(well.fix("auto", rc=2, fix_runs_textfile="var/node/pifleet"))
    assert "# or bad" in (well.repository.root / "stacks/shop/compose.yaml").read_text()


def test_list_and_detail(broken: Shop) -> None:
    broken.fix("add greeting 1.0")
    shown = broken.play("fix_runs").output
    assert "fix-000001-web" in shown
    whole = broken.play("fix_runs", id="fix-000001-web", artifacts=True, output="json").output
    assert "Successfully installed" in whole
    assert "no fix run x" in broken.told(broken.play("fix_runs", id="x", rc=2))
    (broken.repository.root / "var/artifacts/fix-000001-web/build.log").write_text("forged\n")
    assert "was changed" in broken.told(broken.play("fix_runs", id="fix-000001-web", artifacts=True, rc=2))


def test_as_a_person_writes_it_in_a_shell(well: Shop) -> None:
    """Ansible's own form of a variable keeps the first word of it alone."""
    words = ("-e", "service=web", "-e", "instruction=bump greeting to 1.1")
    well.play("fix", *words)
    assert (well.last().instruction, well.last().status, well.says()) == ("bump greeting to 1.1", "succeeded", "1.1 good")
    refused = well.told(well.play("fix", "-e", "service=web", "-e", "instruction=set env MODE=fast", rc=2))
    assert "Ansible takes words with `=` away" in refused
