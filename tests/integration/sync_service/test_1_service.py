# SPDX-License-Identifier: GPL-3.0-or-later
"""The service pifleet-sync as the role evidence installs it, under a real systemd: in the order in which a controller lives."""

from __future__ import annotations

import json

from tests.integration.sync_service.conftest import SOURCE, UNIT, Controller
from tests.support.sync import append

SERVICE = "ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service"


def pid(controller: Controller) -> int:
    return int(controller.user("show --property MainPID --value pifleet-sync.service"))


def record(controller: Controller) -> dict[str, object]:
    found: dict[str, object] = json.loads((controller.folder / ".pifleet/sync/owner.json").read_text())
    return found


def is_owned_by_the_unit(controller: Controller) -> bool:
    try:
        return record(controller)["pid"] == pid(controller) != 0
    except (OSError, ValueError):
        return False


def test_check_predicts_the_installation_and_does_nothing(controller: Controller) -> None:
    played = controller.sync("mode=install", "--check")
    assert (played.rc, played.changed > 0) == (0, True), played.out
    assert controller.sh(f"test -e {UNIT}").rc != 0


def test_installed_it_sends_what_comes_and_says_who_it_is(controller: Controller) -> None:
    ids = append(controller.store, 3, [b"one"])
    played = controller.sync("mode=install")
    assert (played.rc, played.changed > 0) == (0, True), played.out
    assert controller.user("is-enabled pifleet-sync.service") == "enabled"
    controller.eventually(lambda: controller.received() == ids)
    found = record(controller)
    assert (found["pid"], found["controller"], found["team_or_user"]) == (pid(controller), "raspberrypi", SOURCE)
    shown = controller.sh(
        f"python -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{found['port']}/\").read().decode())'"
    )
    assert json.loads(shown.out)["daemon_owner_record"]["status"] == "present"
    token = (controller.folder / "token").read_text().strip()
    assert token not in shown.out + controller.sh("journalctl -b --no-pager; ps -ef").out + controller.sh(f"cat {UNIT}").out


def test_installed_again_nothing_changes(controller: Controller) -> None:
    before = pid(controller)
    for words in (["--check"], []):
        played = controller.sync("mode=install", *words)
        assert (played.rc, played.changed) == (0, 0), played.out
    assert pid(controller) == before


def test_status_check_and_json_agree_while_it_runs(controller: Controller) -> None:
    assert controller.sync("check=true").rc == 0
    found = controller.json()
    assert (found["exit_code"], found["ok"], found["daemon_owner_record"]["status"]) == (0, True, "present")
    assert (found["active_queue"]["event_count"], found["legacy_queue"]["event_count"]) == (0, 0)
    played = controller.sync()
    assert played.rc == 0, played.out


def test_killed_it_is_started_again_takes_over_and_goes_on(controller: Controller) -> None:
    before = pid(controller)
    controller.sh(f"kill -9 {before}")
    ids = append(controller.store, 2)
    controller.eventually(lambda: is_owned_by_the_unit(controller) and pid(controller) != before)
    controller.eventually(lambda: set(ids) <= set(controller.received()))
    assert controller.sync("check=true").rc == 0


def test_another_identity_is_refused_until_it_is_put_back(controller: Controller) -> None:
    settings = controller.folder / "evidence.yml"
    text = settings.read_text()
    settings.write_text(text.replace("fleet-1", "fleet-2"))
    played = controller.sync()
    assert (played.rc, "daemon_team_or_user" in played.out) == (2, True), played.out
    assert [m["field"] for m in controller.json()["mismatches"]] == ["daemon_team_or_user"]
    settings.write_text(text)
    assert controller.sync("check=true").rc == 0


def test_stopped_it_leaves_nothing_and_killed_an_orphan_that_the_remedy_removes(controller: Controller) -> None:
    assert controller.sh("systemctl --user stop pifleet-sync.service").rc == 0
    assert controller.json()["daemon_owner_record"]["status"] == "absent"
    assert controller.sh("systemctl --user start pifleet-sync.service").rc == 0
    controller.eventually(lambda: is_owned_by_the_unit(controller))
    for_good = f"{UNIT}.d/z-for-good.conf"
    assert controller.sh(f"printf '[Service]\\nRestart=no\\n' > {for_good} && systemctl --user daemon-reload").rc == 0
    assert controller.sh(f"kill -9 {pid(controller)}").rc == 0
    controller.eventually(lambda: controller.user("is-active pifleet-sync.service") == "failed")
    assert controller.sh(f"rm {for_good} && systemctl --user daemon-reload").rc == 0
    append(controller.store, 1)
    before = controller.received()
    played = controller.sync()
    assert (played.rc, "orphan_records: dead_pid" in played.out) == (2, True), played.out
    found = controller.json()
    assert (found["exit_code"], found["daemon_owner_record"]["status"]) == (2, "orphan")
    assert controller.received() == before
    assert controller.sync("mode=stop").rc == 0
    played = controller.sync()
    assert played.rc == 0, played.out
    assert len(controller.received()) == len(before) + 1


def test_live_orphan_is_found_and_ended_by_the_remedy(controller: Controller) -> None:
    """A service by hand that has lost its ownership and does not look for ten minutes."""
    log, owner = controller.folder / "log", controller.folder / ".pifleet/sync/owner.json"
    controller.sh(f"exec python -m {SERVICE} --root {controller.folder} --interval 600 2> {log}", detach=True)
    controller.eventually(lambda: log.exists() and "all is sent" in log.read_text())
    running = record(controller)["pid"]
    owner.unlink()
    played = controller.sync("check=true")
    assert (played.rc, "not_the_owner" in played.out) == (2, True), played.out
    assert controller.sh(f"kill -0 {running}").rc == 0, "to look ends nothing"
    played = controller.sync("mode=stop")
    assert (played.rc, f"ended pid {running}" in played.out) == (0, True), played.out
    controller.eventually(lambda: controller.sh(f"kill -0 {running}").rc != 0)
    assert controller.sync("check=true").rc == 0


def test_second_service_ends_with_2_and_says_whose_the_outbox_is(controller: Controller) -> None:
    assert controller.sh("systemctl --user start pifleet-sync.service").rc == 0
    controller.eventually(lambda: is_owned_by_the_unit(controller))
    second = controller.sh(f"python -m {SERVICE} --root {controller.folder}")
    assert (second.rc, f"pid {pid(controller)}" in second.out) == (2, True), second.out
    assert is_owned_by_the_unit(controller)


def test_removed_it_is_gone(controller: Controller) -> None:
    played = controller.sync("mode=uninstall")
    assert (played.rc, played.changed > 0) == (0, True), played.out
    assert controller.sh(f"test -e {UNIT}").rc != 0
    assert controller.user("is-active pifleet-sync.service") == "inactive"
    assert list((controller.folder / ".pifleet/sync").rglob("*.json")) == []
    played = controller.sync("mode=uninstall")
    assert (played.rc, played.changed) == (0, 0), played.out
