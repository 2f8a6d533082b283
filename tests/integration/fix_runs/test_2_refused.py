# SPDX-License-Identifier: GPL-3.0-or-later
"""What may not be done is refused before anything is touched, and an approval permits one plan, once, by somebody else."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import Any

import pytest

from tests.integration.fix_runs.conftest import NODE, PROFILE, Shop
from tests.support.fleet import BIN, ROOT


def test_escapes(well: Shop) -> None:
    before = well.everything()
    (well.repository.root / "out.diff").write_text("--- a/../../etc/motd\n+++ b/../../etc/motd\n@@ -0,0 +1 @@\n+x\n")
    (well.repository.root / "other.diff").write_text(
        "--- a/stacks/shop/compose.yaml\n+++ b/stacks/shop/compose.yaml\n@@ -9,3 +9,3 @@\n"
        "   other:\n-    image: pifleet/lab-app:1\n+    image: pifleet/lab-app:2\n     pull_policy: never\n"
    )
    for instruction, told in (
        ("apply diff out.diff", "no file below"),
        ("apply diff other.diff", "more than the service web"),
        ("apply diff missing.diff", "There is no diff"),
        ("set key privileged to true", "privileged"),
        ("bump greeting to 1.1 in ../neighbour/compose.yaml", "no file below"),
        ("bump greeting to 1.1; reboot", "is no instruction"),
        ("set env MODE=x and check rm", "is no command that the profile allows"),
        ("set env API_TOKEN=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB", "looks like a secret"),
    ):
        assert told in well.told(well.fix(instruction, rc=2)), instruction
    assert "There is no service nothing" in well.told(well.play("fix", rc=2, service="nothing", instruction="auto"))
    assert well.fix_runs.listed() == ([], 0)
    assert well.everything() == before


@pytest.mark.parametrize("way", ["ln -s /etc/hostname {0}", "ln {0}.new {0}"], ids=["symlink", "hardlink"])
def test_links_on_the_node(well: Shop, way: str) -> None:
    path = "/var/lib/pifleet/desired-state/stacks/shop/web/requirements.txt"
    well.sh(f"mv {path} {path}.new; {way.format(path)}")
    before = well.everything()
    well.fix("bump greeting to 1.1", rc=2)
    assert well.last().status == "failed"
    assert well.everything() == before


def test_docker_that_is_off(well: Shop) -> None:
    files = well.files()
    well.sh("systemctl stop docker.socket docker")
    well.fix("bump greeting to 1.1", rc=2)
    assert "Docker does not answer" in well.last().reason
    assert (well.last().status, well.files()) == ("failed", files)


def test_a_node_that_has_something_else(well: Shop) -> None:
    well.repository.write("stacks/neighbour/compose.yaml", "services: {app: {image: x}}\n")
    well.repository.commit()
    well.fix("bump greeting to 1.1", rc=2)
    assert "differs from what is checked out" in well.last().reason
    well.repository.write("stacks/shop/web/requirements.txt", "greeting==1.1\n")
    assert "Not committed as it is" in well.told(well.fix("bump greeting to 1.1", rc=2))


# -- approvals ------------------------------------------------------------------------------------------------------------
def as_somebody_else(shop: Shop, **variables: Any) -> subprocess.CompletedProcess[str]:
    """approve.yml, in the login session of another user, who became root."""
    words = [f"-e{name}={value}" for name, value in {"fleet_root": shop.repository.root, **variables}.items()]
    login = ["sh", "-c", 'echo "$0" >/proc/self/loginuid && exec "$@"', str(pwd.getpwnam("nobody").pw_uid)]
    return subprocess.run(
        [*login, BIN / "ansible-playbook", "playbooks/approve.yml", "-i", shop.fleet.inventory, *words],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CALLBACKS_ENABLED": "pifleet.ops.evidence", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def test_an_approval(well: Shop) -> None:
    well.profile(approval={"requirement": "pre-run"})
    well.repository.commit()
    before = well.everything()
    well.fix("bump greeting to 1.1")
    run = well.last()
    assert (run.status, well.says()) == ("awaiting_approval", "1.0 good")
    assert well.everything() == before
    # a check of the approval shows what it would permit, and decides nothing
    check = well.play("approve", "--check", run_id=run.id, plan_digest=run.plan_digest)
    assert run.plan_digest in well.told(check)
    assert "+greeting==1.1" in well.told(check)
    assert f"{run.id} is awaiting_approval, and would go on with: patch, build, restart, verify" in well.told(check)
    assert (well.last(), well.everything()) == (run, before)
    # one at a time
    assert "is awaiting_approval" in well.told(well.fix("bump greeting to 2.0", rc=2))
    # not by the one who asked, not of another plan, not by a name that is typed
    decided = {"run_id": run.id, "plan_digest": run.plan_digest}
    assert "cannot approve it" in well.told(well.play("approve", rc=2, **decided, approver="bob", requester="carol"))
    assert "Look at it" in well.told(well.play("approve", rc=2, run_id=run.id, plan_digest="0" * 64))
    assert well.everything() == before
    done = as_somebody_else(well, **decided)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    ended = well.last()
    assert (ended.status, well.says()) == ("succeeded", "1.1 good")
    assert [(a.approver, bool(a.used_at)) for a in ended.approvals] == [("nobody", True)]
    # a replay
    assert as_somebody_else(well, **decided).returncode == 2
    assert "waits for no approval" in well.told(well.play("approve", rc=2, **decided))


def test_rejected_after_the_restart(well: Shop) -> None:
    well.profile(approval={"requirement": "pre-verify"})
    well.repository.commit()
    files, image, others = well.files(), well.web()["Image"], well.others()
    well.fix("bump greeting to 1.1")
    run = well.last()
    assert (run.status, well.says()) == ("awaiting_approval", "1.1 good")
    well.play("approve", run_id=run.id, plan_digest=run.plan_digest, reject=True)
    assert (well.last().status, well.says()) == ("rolled_back", "1.0 good")
    assert (well.files(), well.web()["Image"], well.others()) == (files, image, others)


def test_the_profile_says_which_node(well: Shop) -> None:
    assert "is not in --limit" in well.told(well.fix("auto", "--limit", "fix-2.local", rc=2))
    well.repository.write_yaml("fix_profiles/web.yml", {**PROFILE, "node": "nowhere"})
    well.repository.commit()
    assert "no host of this inventory" in well.told(well.fix("auto", rc=2))
    assert NODE in well.fleet.hosts
