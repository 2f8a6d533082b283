# SPDX-License-Identifier: GPL-3.0-or-later
"""A repair that does not verify is taken back exactly; one that was cut off is gone on with, and no finished step is done again."""

from __future__ import annotations

import pytest

from tests.integration.fix_runs.conftest import NEIGHBOUR, PROFILE, Shop


def test_not_well_afterwards(well: Shop) -> None:
    files, image, others, head = well.files(), well.web()["Image"], well.others(), well.head()
    everything = well.sh("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | grep -v none | sort")
    well.fix("bump greeting to 2.0", rc=2)
    run = well.last()
    assert (run.status, well.states()) == ("rolled_back", "succeeded succeeded succeeded succeeded failed succeeded")
    assert "503" in run.reason
    assert (well.files(), well.web()["Image"], well.others(), well.says()) == (files, image, others, "1.0 good")
    assert well.sh("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | grep -v none | sort") == everything
    assert image in well.artifact("rollback.log")
    # never committed, nothing left, and nothing for the next run to do
    assert (well.head(), well.repository.git("status", "--porcelain")) == (head, "")
    assert well.sh("ls /var/lib/pifleet/fix-runs") == ""
    container = well.web()["Id"]
    well.deploy()
    assert well.web()["Id"] == container
    # tried again with what fits
    well.fix("bump greeting to 1.1")
    assert well.says() == "1.1 good"


@pytest.mark.parametrize(
    ("instruction", "step"),
    [("bump greeting to 9.9", "build"), ("set env MODE=good and check wrong", "verify")],
)
def test_every_other_failure(well: Shop, instruction: str, step: str) -> None:
    well.change("compose.yaml", (well.repository.root / "stacks/shop/compose.yaml").read_text().replace("good  #", "fine  #"))
    well.deploy()
    files, image = well.files(), well.web()["Image"]
    well.fix(instruction, rc=2)
    run = well.last()
    assert (run.status, run.step(step).state) == ("rolled_back", "failed")
    assert (well.files(), well.web()["Image"], well.says()) == (files, image, "1.0 fine")
    if step == "build":
        assert "No matching distribution found for greeting==9.9" in well.artifact("build.log")


def test_a_check_that_failed_before_too(well: Shop) -> None:
    well.profile(health={**PROFILE["health"], "checks": ["module", "wrong"]})
    well.repository.commit()
    files, image = well.files(), well.web()["Image"]
    well.fix("bump greeting to 1.1", rc=2)
    run = well.last()
    assert run.step("analyze").detail["checks"] == {"module": True, "wrong": False}
    assert "the check wrong ended with exit code 3" in run.reason
    assert (run.status, well.files(), well.web()["Image"], well.says()) == ("rolled_back", files, image, "1.0 good")


@pytest.mark.parametrize("step", ["analyze", "patch", "build", "restart", "verify"])
def test_killed_in_a_step(well: Shop, step: str) -> None:
    well.profile(health={**PROFILE["health"], "samples": 8})
    well.repository.commit()
    others, images, commits = well.others(), well.images(), well.commits()
    well.watch()
    process = well.start("fix", service="web", instruction="bump greeting to 1.1")
    well.at(process, step)
    process.kill()
    # nothing stays running, for whoever looks
    left = well.last()
    assert (left.status, left.interrupted) == ("failed", True)
    finished = {s.name: (s.started_at, s.ended_at) for s in left.steps if s.state == "succeeded"}
    well.play("fix", retry=left.id)
    run = well.last()
    assert (run.id, run.status, well.says()) == (left.id, "succeeded", "1.1 good")
    assert {name: (run.step(name).started_at, run.step(name).ended_at) for name in finished} == finished
    assert well.others() == others
    # its effects: built once more where it was cut off while it was built, all else once
    assert 1 <= well.builds() <= 1 + (step == "build")
    assert (well.made(), len(well.images() - images), well.commits()) == (1, 1, commits + 1)
    assert "nothing to retry" in well.told(well.play("fix", rc=2, retry=left.id))


def test_killed_in_the_rollback(well: Shop) -> None:
    files, image, others, commits = well.files(), well.web()["Image"], well.others(), well.commits()
    well.watch()
    process = well.start("fix", service="web", instruction="bump greeting to 2.0")
    well.at(process, "rollback", 180)
    process.kill()
    well.play("fix", rc=2, retry=well.last().id)
    assert well.last().status == "rolled_back"
    assert (well.files(), well.web()["Image"], well.others()) == (files, image, others)
    # there and back
    assert (well.builds(), well.made(), well.commits()) == (1, 2, commits)


def test_a_new_one_from_an_old_one(well: Shop) -> None:
    (well.repository.root / "fix.diff").write_text(
        "--- a/stacks/shop/web/requirements.txt\n+++ b/stacks/shop/web/requirements.txt\n@@ -1 +1 @@\n-greeting==1.0\n+greeting==2.0\n"
    )
    well.fix("apply diff fix.diff", rc=2)
    old = well.last()
    (well.repository.root / "fix.diff").unlink()
    well.play("fix", rc=2, retry=old.id, fresh=True)
    new = well.last()
    assert (new.parent_id, new.status, new.plan_digest) == (old.id, "rolled_back", old.plan_digest)


@pytest.fixture
def pinned(well: Shop) -> Shop:
    """Held at a patch by a fix run, which is not in the desired state."""
    well.profile(keep="pinned")
    well.repository.commit()
    head, others = well.head(), well.others()
    well.fix("bump greeting to 1.1")
    run = well.last()
    assert (run.status, run.holds, well.says(), well.others()) == ("succeeded", True, "1.1 good", others)
    assert (well.head(), well.repository.git("status", "--porcelain")) == (head, "")
    return well


def test_a_patch_that_stays_pinned(pinned: Shop) -> None:
    # the desired state goes on, and the stack keeps files and containers
    container, files = pinned.web()["Id"], pinned.files()
    pinned.repository.write("stacks/neighbour/compose.yaml", NEIGHBOUR + "# another\n")
    pinned.repository.commit()
    for _again in range(2):
        pinned.deploy()
        assert (pinned.web()["Id"], pinned.files(), pinned.says()) == (container, files, "1.1 good")
    assert "is pinned on" in pinned.told(pinned.fix("set env MODE=other", rc=2))
    assert (pinned.last().status, pinned.says()) == ("failed", "1.1 good")


def test_a_pinned_stack_that_is_let_go_of(pinned: Shop) -> None:
    # a person commits the patch first: nothing is left to do
    run, container, files = pinned.last(), pinned.web()["Id"], pinned.files()
    pinned.repository.git("merge", "--quiet", "--no-edit", f"refs/pifleet/fix-runs/{run.id}")
    check = pinned.play("fix", "--check", unpin=run.id)
    assert any("Let go of the pinned stack" in task for _host, task in check.changed)
    assert pinned.fix_runs.get(run.id).holds
    pinned.play("fix", unpin=run.id)
    assert not pinned.fix_runs.get(run.id).holds
    assert pinned.repository.git("for-each-ref", "refs/pifleet/fix-runs") == ""
    pinned.deploy()
    assert (pinned.web()["Id"], pinned.files(), pinned.says()) == (container, files, "1.1 good")
    assert "holds nothing pinned" in pinned.told(pinned.play("fix", rc=2, unpin=run.id))


def test_a_pinned_stack_whose_patch_nobody_committed(pinned: Shop) -> None:
    pinned.play("fix", unpin=pinned.last().id)
    pinned.deploy()
    assert pinned.says() == "1.0 good"
