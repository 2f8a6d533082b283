# SPDX-License-Identifier: GPL-3.0-or-later
"""What services, nodes and persons do that nobody wants: each ends as it should, and the service is as it was."""

from __future__ import annotations

import time

import pytest

from tests.integration.fix_runs.conftest import PROFILE, Shop

HOLDS = "/var/lib/pifleet/fix-runs"


def test_a_build_that_prints_without_end_and_hangs(well: Shop) -> None:
    well.profile(timeouts={"build": 20, "restart": 60})
    well.repository.commit()
    files, image, others, images = well.files(), well.web()["Image"], well.others(), well.images()
    well.fix("add endless 1.0", rc=2)
    run = well.last()
    assert (run.status, run.step("build").state) == ("rolled_back", "failed")
    assert "no end after 20 seconds" in run.reason
    log = next(artifact for artifact in run.artifacts if artifact.name == "build.log")
    assert 0 < log.size_bytes < 5 << 20
    assert (well.files(), well.web()["Image"], well.others(), well.images(), well.says()) == (files, image, others, images, "1.0 good")
    # what was built ends with who asked for it
    deadline = time.monotonic() + 60
    while "install.py" in well.sh("ps -eo args"):
        assert time.monotonic() < deadline
        time.sleep(1)


def test_health_that_flaps(well: Shop) -> None:
    container = well.web()["Id"]
    well.fix("set env MODE=flap", rc=2)
    run = well.last()
    assert (run.status, well.says()) == ("rolled_back", "1.0 good")
    assert well.web()["Id"] != container
    log = well.artifact("verify.log")
    assert "1/3  it runs and answers" in log
    assert "0/3" in log
    assert "3/3" not in log


def test_two_on_one_service(well: Shop) -> None:
    # as long as anybody looks at it
    well.profile(health={**PROFILE["health"], "interval": 1, "samples": 100, "timeout": 600})
    well.repository.commit()
    process = well.start("fix", service="web", instruction="bump greeting to 1.1")
    begun = well.at(process, "verify")
    assert f"The fix run {begun.id} of web is running" in well.told(well.fix("bump greeting to 2.0", rc=2))
    assert process.process.poll() is None
    process.kill()
    assert (well.fix_runs.listed()[1], well.says()) == (1, "1.1 good")


def test_it_goes_on_from_the_step_that_is_named(well: Shop) -> None:
    well.profile(health={**PROFILE["health"], "samples": 10})
    well.repository.commit()
    process = well.start("fix", service="web", instruction="bump greeting to 1.1")
    begun = well.at(process, "verify")
    process.kill()
    well.watch()
    well.play("fix", retry=begun.id, from_step="build")
    run = well.last()
    assert (run.id, run.status, well.builds(), well.says()) == (begun.id, "succeeded", 1, "1.1 good")
    same = [name for name in ("analyze", "patch", "build", "restart") if run.step(name) == begun.step(name)]
    assert same == ["analyze", "patch"]


@pytest.fixture
def full(well: Shop) -> Shop:
    """On whose node no room is left for what a fix run keeps."""
    well.sh(f"mkdir -p {HOLDS}; mount -t tmpfs -o size=4k none {HOLDS}; dd if=/dev/zero of={HOLDS}/full bs=4k count=1 status=none")
    return well


def test_a_full_disk(full: Shop) -> None:
    files, container, others = full.files(), full.web()["Id"], full.others()
    try:
        full.fix("bump greeting to 1.1", rc=2)
        run = full.last()
        assert (run.status, run.step("patch").state) == ("rolled_back", "failed")
        assert "Make room on the node" in run.reason
        assert (full.files(), full.web()["Id"], full.others(), full.says()) == (files, container, others, "1.0 good")
    finally:
        full.sh(f"umount {HOLDS}")
    # a check of a retry says where it would go on, and one of a new beginning looks anew
    before = full.everything()
    check = full.told(full.play("fix", "--check", retry=run.id))
    assert f"{run.id} is rolled_back, and would go on with: patch, build, restart, verify" in check
    assert "+greeting==1.1" in check
    assert "+greeting==1.1" in full.told(full.play("fix", "--check", retry=run.id, fresh=True))
    assert "invalid_resume_step" in full.told(full.play("fix", "--check", rc=2, retry=run.id, from_step="verify"))
    assert (full.last(), full.everything()) == (run, before)
    full.play("fix", retry=run.id)
    assert (full.last().id, full.last().status, full.says()) == (run.id, "succeeded", "1.1 good")
