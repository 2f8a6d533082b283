# SPDX-License-Identifier: GPL-3.0-or-later
"""With a real repository: what is committed counts, and a candidate is on no branch before it is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import diff

from tests.support.fix_runs import COMPOSE, PROFILE, REQUIREMENTS, Fleet

NOW = "2025-01-02T03:04:05.000000Z"


def test_the_same_is_planned_for_the_same(fleet: Fleet) -> None:
    planned = fleet.plan()
    assert planned == fleet.plan()
    assert planned.plan.base == fleet.head
    assert planned.plan.digest != fleet.plan("bump requests to 2.32.5").plan.digest
    assert planned.plan.steps["restart"]["others"] == ["other"]
    assert REQUIREMENTS not in str(planned.plan.as_table()), "files may hold secrets, and the plan is kept"


def test_only_what_is_asked_for_is_read(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        fleet.repository.write(f"stacks/shop/web/{number}.txt", f"{number}\n")
    fleet.repository.write("stacks/shop/compose.yaml", COMPOSE + "# again\n")
    fleet.head = fleet.repository.commit()
    read, run = list[str](), argv.run

    def noted(words: Sequence[str], **more: Any) -> argv.Completed:
        if "cat-file" in words:
            read.append(words[-1])
        return run(words, **more)

    monkeypatch.setattr(fleet.desk.checkout, "_run", noted)
    fleet.desk.ask("web", "set image tag 2")
    assert len(read) <= 3, "the profile, and what the edit is made in"
    fleet.desk.ask("web", "auto")
    assert len(read) <= 6


def test_what_is_no_text_is_not_among_the_texts(fleet: Fleet) -> None:
    fleet.repository.write("stacks/shop/web/dos.txt", "a\r\n")
    (fleet.repository.root / "stacks/shop/web/binary").write_bytes(b"\xff\x00")
    found = fleet.checkout.tree(fleet.repository.commit(), "stacks/shop")
    assert set(found.modes) - set(found.texts) == {"web/dos.txt", "web/binary"}
    assert found.texts["web/requirements.txt"] == REQUIREMENTS
    assert "web/binary" not in found.texts
    assert found.texts.get("nowhere") is None
    assert len(found.texts) == 2


def test_what_the_instruction_asks_for_besides_is_not_asked_of_what_was_there_before(fleet: Fleet) -> None:
    steps = fleet.plan("bump requests to 2.32.4 and check migrated table=orders").plan.steps
    assert [check["name"] for check in steps["verify"]["checks"]] == ["ping", "migrated"]
    assert steps["rollback"]["checks"] == steps["verify"]["checks"][:1]


def test_a_candidate_is_on_no_branch_before_it_is_kept(fleet: Fleet) -> None:
    run = fleet.candidate(fleet.plan())
    assert fleet.repository.git("rev-parse", "HEAD") == fleet.head
    assert fleet.repository.git("status", "--porcelain") == ""
    assert fleet.repository.git("rev-parse", f"{run.candidate}^") == fleet.head
    assert fleet.candidate(fleet.plan()).candidate == run.candidate
    fleet.desk.refuse_other_patch(run)
    assert fleet.checkout.keep(run.candidate)
    assert not fleet.checkout.keep(run.candidate)
    text = (fleet.repository.root / "stacks/shop/web/requirements.txt").read_text()
    assert text == REQUIREMENTS.replace("2.31.0", "2.32.4")
    reverted = fleet.checkout.revert(run.candidate)
    assert fleet.checkout.same(reverted, fleet.head, "stacks")


def test_a_candidate_that_is_not_the_planned_patch_is_refused(fleet: Fleet) -> None:
    planned = fleet.plan()
    run = fleet.candidate(planned)
    for edits in (
        [replace(planned.edits[0], after="evil\n")],
        [*planned.edits, Edit("stacks/other/compose.yaml", "", "x")],
        [],
    ):
        other = fleet.checkout.commit("fix-000002-web", fleet.head, edits, "x", NOW)
        with pytest.raises(PifleetError, match="is not the patch of the plan"):
            fleet.desk.refuse_other_patch(replace(run, candidate=other))


def test_a_branch_that_went_on_is_not_lost(fleet: Fleet) -> None:
    run = fleet.candidate(fleet.plan())
    fleet.repository.write("README", "x")
    fleet.repository.commit()
    with pytest.raises(PifleetError, match="cannot be committed to the desired state"):
        fleet.checkout.keep(run.candidate)


REQUIRES = "stacks/shop/web/requirements.txt"


def committed(fleet: Fleet) -> FixRun:
    """A fix run whose patch was committed."""
    run = fleet.candidate(fleet.plan())
    assert fleet.checkout.keep(run.candidate)
    return run


def commits(fleet: Fleet) -> int:
    return int(fleet.repository.git("rev-list", "--count", "HEAD"))


def test_what_was_taken_back_is_not_taken_back_again(fleet: Fleet) -> None:
    run = committed(fleet)
    reverted = fleet.checkout.revert(run.candidate)
    # killed before that was recorded: whoever goes on finds it
    assert fleet.checkout.revert(run.candidate) == reverted == fleet.repository.git("rev-parse", "HEAD")
    assert (commits(fleet), (fleet.repository.root / REQUIRES).read_text()) == (3, REQUIREMENTS)
    fleet.repository.write("README", "x")
    fleet.repository.commit()
    assert fleet.checkout.revert(run.candidate) == reverted
    assert fleet.repository.git("status", "--porcelain") == ""


def test_what_was_never_committed_is_not_taken_back(fleet: Fleet) -> None:
    run = fleet.candidate(fleet.plan())
    assert fleet.checkout.revert(run.candidate) == ""
    assert fleet.repository.git("rev-parse", "HEAD") == fleet.head


def test_a_person_may_have_taken_it_back(fleet: Fleet) -> None:
    run = committed(fleet)
    fleet.repository.git("revert", "--no-edit", run.candidate)
    assert fleet.checkout.revert(run.candidate) == fleet.repository.git("rev-parse", "HEAD")
    assert not fleet.checkout.is_kept(run.candidate)


def test_files_that_a_person_put_back_are_taken_back(fleet: Fleet) -> None:
    run = committed(fleet)
    fleet.repository.write(REQUIRES, REQUIREMENTS)
    head = fleet.repository.commit()
    assert not fleet.checkout.is_kept(run.candidate)
    assert fleet.checkout.revert(run.candidate) == ""
    assert fleet.repository.git("rev-parse", "HEAD") == head


def test_what_was_taken_back_is_committed_anew(fleet: Fleet) -> None:
    run = committed(fleet)
    fleet.checkout.revert(run.candidate)
    with pytest.raises(PifleetError, match="was taken back there since"):
        fleet.checkout.keep(run.candidate)
    again = fleet.desk.renewed(run)
    assert again.candidate != run.candidate
    assert fleet.desk.renewed(run) == again, "killed before it was recorded, the same is made"
    assert fleet.desk.renewed(again) == again
    fleet.desk.refuse_other_patch(again)  # the plan and its approval are for this patch
    assert fleet.checkout.keep(again.candidate)
    assert (fleet.repository.root / REQUIRES).read_text() == REQUIREMENTS.replace("2.31.0", "2.32.4")
    assert "Fix-Run: fix-000001-web" in fleet.repository.git("log", "-1", "--format=%B")
    # and back once more
    assert fleet.checkout.revert(again.candidate) == fleet.repository.git("rev-parse", "HEAD")
    assert (fleet.repository.root / REQUIRES).read_text() == REQUIREMENTS


def test_a_candidate_that_was_not_taken_back_stays(fleet: Fleet) -> None:
    run = fleet.candidate(fleet.plan())
    assert fleet.desk.renewed(run) == run
    assert fleet.checkout.keep(run.candidate)
    assert fleet.desk.renewed(run) == run
    # what follows on it does not take it back
    fleet.repository.write(REQUIRES, (fleet.repository.root / REQUIRES).read_text() + "more==1\n")
    fleet.repository.commit()
    assert fleet.desk.renewed(run) == run
    assert not fleet.checkout.keep(run.candidate)


def test_what_was_taken_back_is_not_put_on_something_else(fleet: Fleet) -> None:
    run = committed(fleet)
    fleet.checkout.revert(run.candidate)
    fleet.repository.write("stacks/other/compose.yaml", "services: {a: {image: b}}\n")
    head = fleet.repository.commit()
    with pytest.raises(PifleetError, match=r"was committed and taken back, and the branch went on.*fresh=true"):
        fleet.desk.renewed(run)
    assert fleet.repository.git("rev-parse", "HEAD") == head


def test_files_that_were_changed_again_are_left_as_they_are(fleet: Fleet) -> None:
    run = committed(fleet)
    fleet.repository.write(REQUIRES, "flask==3.0.0\nrequests[socks]==2.33.0\n")
    head = fleet.repository.commit()
    with pytest.raises(PifleetError, match=r"requirements.txt was changed again.*git revert"):
        fleet.checkout.revert(run.candidate)
    git = fleet.repository.root / ".git"
    assert not [name for name in ("REVERT_HEAD", "sequencer", "MERGE_HEAD", "index.lock") if (git / name).exists()]
    assert (fleet.repository.git("rev-parse", "HEAD"), fleet.repository.git("status", "--porcelain")) == (head, "")
    # the way out that it names
    fleet.repository.write(REQUIRES, REQUIREMENTS.replace("flask==3.0.0", "flask==3.0.1"))
    fleet.repository.git("commit", "--quiet", "--all", "-m", f"Back\n\nThis reverts commit {run.candidate}.")
    assert fleet.checkout.revert(run.candidate) == fleet.repository.git("rev-parse", "HEAD")


def test_what_was_changed_elsewhere_in_a_file_stays(fleet: Fleet) -> None:
    fleet.repository.write(REQUIRES, "".join(f"a{n}==1\n" for n in range(9)) + REQUIREMENTS)
    fleet.head = fleet.repository.commit()
    run = committed(fleet)
    text = (fleet.repository.root / REQUIRES).read_text()
    fleet.repository.write(REQUIRES, text.replace("a0==1", "a0==2"))
    fleet.repository.commit()
    assert fleet.checkout.revert(run.candidate) == fleet.repository.git("rev-parse", "HEAD")
    assert (fleet.repository.root / REQUIRES).read_text() == text.replace("a0==1", "a0==2").replace("2.32.4", "2.31.0")
    assert fleet.repository.git("status", "--porcelain") == ""


def test_edited_files_are_not_lost_by_taking_back(fleet: Fleet) -> None:
    run = committed(fleet)
    (fleet.repository.root / REQUIRES).write_text("mine\n")
    with pytest.raises(PifleetError, match="cannot be taken back from the desired state"):
        fleet.checkout.revert(run.candidate)
    assert (fleet.repository.root / REQUIRES).read_text() == "mine\n"


def test_hooks_and_settings_of_the_repository_have_no_say(fleet: Fleet) -> None:
    hooks, ran = fleet.repository.root / ".git/hooks", fleet.repository.root.parent / "ran"
    for name in ("pre-commit", "post-merge", "commit-msg", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\nexit 1\n")
        (hooks / name).chmod(0o755)
    assert fleet.checkout.keep(fleet.candidate(fleet.plan()).candidate)
    assert not ran.exists()


def test_what_is_not_committed_is_refused(fleet: Fleet) -> None:
    for path in ("stacks/shop/compose.yaml", "stacks/shop/new", "fix_profiles/web.yml"):
        whole = fleet.repository.root / path
        before = whole.read_text() if whole.exists() else None
        whole.write_text((before or "") + "# edited\n")
        with pytest.raises(PifleetError, match="Not committed as it is"):
            fleet.plan()
        whole.write_text(before) if before is not None else whole.unlink()
    fleet.plan()


def test_links_in_the_repository_are_refused(fleet: Fleet) -> None:
    path = fleet.repository.root / "stacks/shop/web/requirements.txt"
    path.unlink()
    os.symlink("/etc/passwd", path)
    fleet.repository.commit()
    for text in ("bump requests to 2 in web/requirements.txt", "add requests 2"):
        with pytest.raises(PifleetError):
            fleet.plan(text)


def test_files_that_are_no_text_are_left_alone(fleet: Fleet) -> None:
    (fleet.repository.root / "stacks/shop/web/requirements.txt").write_bytes(b"requests==2.31.0\r\n")
    fleet.repository.commit()
    with pytest.raises(PifleetError, match="is no text"):
        fleet.plan("bump requests to 2 in web/requirements.txt")


@pytest.mark.parametrize("text", ["set env A=planted-secret", "set env API_KEY=x1234567", "set env A=AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQ"])
def test_a_secret_is_not_taken(fleet: Fleet, text: str) -> None:
    with pytest.raises(PifleetError, match="looks like a secret"):
        fleet.desk.ask("web", text)
    with pytest.raises(PifleetError, match="looks like a secret"):
        fleet.desk.ask("web", "apply diff x", f"--- a\n+++ b\n@@ -1 +1 @@\n-a\n+{text.removeprefix('set env ')}\n")


def test_a_node_with_another_desired_state_is_refused(fleet: Fleet) -> None:
    fleet.repository.write("stacks/other/compose.yaml", "services: {a: {image: b}}\n")
    fleet.repository.commit()
    with pytest.raises(PifleetError, match="differs from what is checked out"):
        fleet.plan()
    for revision, told in (("", "has no desired state yet"), ("f" * 40, "differs")):
        with pytest.raises(PifleetError, match=told):
            fleet.plan(revision=revision)


def test_a_file_that_may_be_executed(fleet: Fleet) -> None:
    path = "stacks/shop/web/run.sh"
    fleet.repository.write(path, "#!/bin/sh\n")
    fleet.head = fleet.repository.commit()
    for edits in (
        [Edit(path, "#!/bin/sh\n", "#!/bin/sh\n", "100755")],
        [Edit(path, "#!/bin/sh\n", "#!/bin/sh\nexec x\n", "100755"), Edit("stacks/shop/web/new.sh", None, "#!/bin/sh\n", "100755")],
    ):
        rendered = diff.render(edits)
        commit = fleet.checkout.commit("fix-000001-web", fleet.head, edits, "x", NOW)
        assert fleet.checkout.mode(commit, path) == "100755"
        # git reads what a person is shown, and makes the same of it
        fleet.repository.git("reset", "--hard", "--quiet", fleet.head)
        (fleet.repository.root.parent / "patch").write_text(rendered)
        fleet.repository.git("apply", "--index", str(fleet.repository.root.parent / "patch"))
        assert fleet.repository.git("write-tree") == fleet.repository.git("rev-parse", f"{commit}^{{tree}}")
        fleet.repository.git("reset", "--hard", "--quiet", fleet.head)


def test_a_stack_that_is_pinned_is_let_go_of_first(fleet: Fleet) -> None:
    with pytest.raises(PifleetError, match=r"is pinned on pi-1.*-e unpin=ID"):
        fleet.plan(stack={"pinned": True})


# -- auto -------------------------------------------------------------------------------------------------------------------------------
def test_a_module_that_was_taken_out_comes_back(fleet: Fleet) -> None:
    fleet.repository.write("stacks/shop/web/requirements.txt", "flask==3.0.0\n")
    fleet.head = fleet.repository.commit()
    planned = fleet.plan("auto", log="x\nModuleNotFoundError: No module named 'requests.adapters'\n")
    assert planned.edits[0].after == "flask==3.0.0\nrequests==2.31.0\n"
    assert planned.evidence["module"] == "requests"
    with pytest.raises(PifleetError, match="which version of pyyaml is wanted is not known"):
        fleet.plan("auto", log="ModuleNotFoundError: No module named 'yaml'")


def change(fleet: Fleet, old: str, new: str) -> None:
    fleet.repository.write("stacks/shop/compose.yaml", COMPOSE.replace(old, new))
    fleet.head = fleet.repository.commit()


def test_an_image_that_is_not_there(fleet: Fleet) -> None:
    change(fleet, "web:1.2.3 ", "web:9.9.9 ")
    planned = fleet.plan("auto", built=False, image={"reference": "x", "id": ""})
    assert planned.edits[0].after == COMPOSE
    assert planned.evidence["failure"] == "image not found"


def test_a_variable_that_was_taken_out(fleet: Fleet) -> None:
    change(fleet, "      MODE: production    # or test\n", "")
    for said in ("KeyError: 'MODE'", "error: MODE is not set", 'environment variable "MODE" is required'):
        assert fleet.plan("auto", log=said).edits[0].after == COMPOSE


def test_not_well_since_the_last_change(fleet: Fleet) -> None:
    change(fleet, "production", "broken")
    crashed = [{"state": "exited", "exit_code": 1, "oom_killed": False}]
    assert fleet.plan("auto", containers=crashed).edits[0].after == COMPOSE
    well = {"containers": [{"state": "running", "exit_code": 0, "oom_killed": False}], "health": {"ok": True, "said": ""}}
    with pytest.raises(PifleetError, match="No known failure"):
        fleet.plan("auto", **well)


def test_what_the_node_synced_last_comes_back_not_the_change_before(fleet: Fleet) -> None:
    """Two changes that did not do: what was before the last one is no better."""
    good, crashed = fleet.head, [{"state": "exited", "exit_code": 1, "oom_killed": False}]
    change(fleet, "production", "broken")
    worse = fleet.head
    change(fleet, "production", "broken too")
    synced = {"status": "failed", "last_error": "", "drift": [], "pinned": False, "revision": good}
    planned = fleet.plan("auto", containers=crashed, stack=synced)
    assert planned.edits[0].after == COMPOSE
    assert f"files as they were at {good[:12]}, which pi-1 synced last" in planned.plan.summary
    # without that, or where that is what fails now, or unknown here, it is told that nobody knows
    for revision in ("", fleet.head, "f" * 40, "HEAD", None):
        planned = fleet.plan("auto", containers=crashed, stack={**synced, "revision": revision})
        assert planned.edits[0].after == COMPOSE.replace("production", "broken")
        assert f"at {worse[:12]}, before the last change; whether it was well then is not known" in planned.plan.summary


WELL = {"containers": [{"state": "running", "exit_code": 0, "oom_killed": False}], "health": {"ok": True, "said": ""}}


@pytest.mark.parametrize("log", ["ModuleNotFoundError: No module named 'requests'", "KeyError: 'MODE'", "Cannot find module 'x'"])
def test_what_an_old_line_of_the_log_says_is_nothing_where_the_service_is_well(fleet: Fleet, log: str) -> None:
    fleet.repository.write("stacks/shop/web/requirements.txt", "flask==3.0.0\n")
    change(fleet, "      MODE: production    # or test\n", "")
    with pytest.raises(PifleetError, match="No known failure was found"):
        fleet.plan("auto", **WELL, log=log)


def test_an_image_that_is_gone_while_the_service_runs_is_no_failure(fleet: Fleet) -> None:
    change(fleet, "web:1.2.3 ", "web:9.9.9 ")
    with pytest.raises(PifleetError, match="No known failure was found"):
        fleet.plan("auto", **WELL, built=False, image={"reference": "x", "id": ""})


def test_a_failure_without_a_patch_does_not_hide_one_that_has_one(fleet: Fleet) -> None:
    fleet.repository.write("stacks/shop/web/words.txt", "hello\n")
    fleet.repository.commit()
    (fleet.repository.root / "stacks/shop/web/words.txt").unlink()
    fleet.head = fleet.repository.commit()
    missing = "ModuleNotFoundError: No module named 'yaml'\n"
    planned = fleet.plan("auto", log=f"{missing}FileNotFoundError: [Errno 2] No such file or directory: '/build/words.txt'\n")
    assert planned.evidence["failure"] == "missing file"
    # no taking back in the place of what is named
    with pytest.raises(PifleetError, match="which version of pyyaml is wanted is not known"):
        fleet.plan("auto", log=missing)


def test_what_was_not_looked_at_is_not_told_of(fleet: Fleet) -> None:
    log = "ModuleNotFoundError: No module named 'yaml'"
    with pytest.raises(PifleetError, match=r"requirements.txt does not have it, and nothing earlier is committed"):
        fleet.plan("auto", log=log)
    before = fleet.head
    change(fleet, "production", "other")
    with pytest.raises(PifleetError, match=rf"does not have it, nor had it at {before[:12]}, before the last change"):
        fleet.plan("auto", log=log)


def test_a_dependency_without_a_single_version_is_told_of_as_that(fleet: Fleet) -> None:
    fleet.repository.write("stacks/shop/web/requirements.txt", "pyyaml>=6,<7\n")
    before = fleet.repository.commit()
    fleet.repository.write("stacks/shop/web/requirements.txt", "flask==3.0.0\n")
    fleet.head = fleet.repository.commit()
    with pytest.raises(PifleetError, match=rf"does not have it, and had it in no single version at {before[:12]}"):
        fleet.plan("auto", log="ModuleNotFoundError: No module named 'yaml'")


def test_killed_for_want_of_memory(fleet: Fleet) -> None:
    fleet.repository.write_yaml("fix_profiles/web.yml", {**PROFILE, "compose_keys": ["mem_limit"]})
    change(fleet, "    build: ./web\n", "    build: ./web\n    mem_limit: 64m\n")
    killed = [{"state": "exited", "exit_code": 137, "oom_killed": True}]
    assert "mem_limit: 128m\n" in fleet.plan("auto", containers=killed, memory=str(64 << 20)).edits[0].after


PORTS = {**PROFILE, "compose_keys": ["ports", "environment.*"]}


@pytest.mark.parametrize(
    "said",
    [
        "external connectivity on endpoint shop-web-1 (0): Bind for 0.0.0.0:8080 failed: port is already allocated",
        "Error starting userland proxy: listen tcp4 0.0.0.0:8080: bind: address already in use",
        "failed to bind host port for [::]:8080:172.17.0.2:80/tcp: address already in use",
        "failed to bind host port 0.0.0.0:8080/tcp: address already in use",
        "Error: listen EADDRINUSE: address already in use :::8080",
    ],
)
def test_a_port_that_is_taken(fleet: Fleet, said: str) -> None:
    fleet.repository.write_yaml("fix_profiles/web.yml", PORTS)
    change(fleet, "    build: ./web\n", '    build: ./web\n    ports: ["8080:80"]\n')
    created = [{"state": "created", "exit_code": 128, "oom_killed": False, "error": said}]
    planned = fleet.plan("auto", containers=created)
    assert planned.edits[0].after == COMPOSE
    assert planned.evidence == {"failure": "port taken", "port": "8080"}
    # another port than the last change brought, or none: whose it is has to be found out
    for other in (said.replace("8080", "8443"), said.replace("8080", "81")):
        with pytest.raises(PifleetError, match=r"The port .* is taken on pi-1"):
            fleet.plan("auto", containers=[{**created[0], "error": other}])


@pytest.mark.parametrize(
    "said",
    [
        'exec: "/build/run.sh": permission denied: unknown',
        "PermissionError: [Errno 13] Permission denied: '/x/run.sh'",
        "./run.sh: Permission denied",
    ],
)
def test_a_script_that_may_not_be_executed(fleet: Fleet, said: str) -> None:
    fleet.repository.write("stacks/shop/web/run.sh", "#!/bin/sh\n")
    fleet.head = fleet.repository.commit()
    planned = fleet.plan("auto", log=said)
    assert [(edit.before, edit.after, edit.mode) for edit in planned.edits] == [("#!/bin/sh\n", "#!/bin/sh\n", "100755")]
    assert "new mode 100755" in planned.diff
    fleet.desk.refuse_other_patch(fleet.candidate(planned))
    # somebody took the right away: the same
    (fleet.repository.root / "stacks/shop/web/run.sh").chmod(0o755)
    fleet.head = fleet.repository.commit()
    with pytest.raises(PifleetError, match="may not be used by the user"):
        fleet.plan("auto", log="PermissionError: [Errno 13] Permission denied: '/data/x'")


def test_what_the_last_change_did_to_the_user_goes_back(fleet: Fleet) -> None:
    fleet.repository.write_yaml("fix_profiles/web.yml", {**PROFILE, "compose_keys": ["user"]})
    change(fleet, "    build: ./web\n", "    build: ./web\n    user: nobody\n")
    planned = fleet.plan("auto", log="PermissionError: [Errno 13] Permission denied: '/data/x'")
    assert (planned.edits[0].after, planned.evidence["failure"]) == (COMPOSE, "wrong file permission")


@pytest.mark.parametrize(
    "said",
    [
        "FileNotFoundError: [Errno 2] No such file or directory: '/build/words.txt'",
        "Error: ENOENT: no such file or directory, open '/build/words.txt'",
        "python3: can't open file '/build/words.txt': [Errno 2] No such file or directory",
        'failed to compute cache key: "/web/words.txt": not found',
        "cat: /build/words.txt: No such file or directory",
    ],
)
def test_a_file_that_was_removed(fleet: Fleet, said: str) -> None:
    path = fleet.repository.root / "stacks/shop/web/words.txt"
    fleet.repository.write("stacks/shop/web/words.txt", "hello\n")
    fleet.repository.commit()
    path.unlink()
    fleet.head = fleet.repository.commit()
    planned = fleet.plan("auto", log=said)
    assert [(edit.path, edit.before, edit.after) for edit in planned.edits] == [("stacks/shop/web/words.txt", None, "hello\n")]
    fleet.desk.refuse_other_patch(fleet.candidate(planned))


def test_the_drift_report_is_read(fleet: Fleet) -> None:
    change(fleet, "production", "other")
    stopped = [{"state": "exited", "exit_code": 0, "oom_killed": False}]
    drifted = {"status": "drifted", "last_error": "", "drift": [{"service": "web", "reason": "stopped", "detail": ""}], "pinned": False}
    with pytest.raises(PifleetError, match=r"somebody changed it on pi-1.*stacks.yml --limit pi-1"):
        fleet.plan("auto", containers=stopped, stack=drifted)
    # one that ended by itself was not stopped by anybody; one that loops neither
    for state, reason in (({"exit_code": 1}, "stopped"), ({"state": "restarting"}, "crash_looping")):
        drift = [{"service": "web", "reason": reason, "detail": ""}]
        planned = fleet.plan("auto", containers=[{**stopped[0], **state}], stack={**drifted, "drift": drift})
        assert planned.evidence["failure"] == "bad after a change"
    # what cannot be made as desired leaves what ran before running, and that is well
    well = {"containers": [{"state": "running", "exit_code": 0, "oom_killed": False}], "health": {"ok": True, "said": ""}}
    failed = {"status": "failed", "last_error": "the build of web failed", "drift": [], "pinned": False}
    assert fleet.plan("auto", **well, stack=failed).edits[0].after == COMPOSE


def test_where_nothing_is_known_it_is_said(fleet: Fleet) -> None:
    with pytest.raises(PifleetError, match=r"No known failure was found.*exited with exit code 7"):
        fleet.plan("auto", containers=[{"state": "exited", "exit_code": 7, "oom_killed": False}])
