# SPDX-License-Identifier: GPL-3.0-or-later
"""One node through its life: first deploy, drift of every kind, policies, removal, failures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels, locks, reconcile
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import EngineError, EngineTimeoutError

fake_engine = sys.modules["stacks_fake_engine"]  # of conftest
WEB = {"services": {"web": {"image": "app:1", "restart": "always"}, "db": {"image": "db:1", "restart": "always"}}}

NO_ACTION = {"observe", "resolve"}


def test_check_on_fresh_apply_check_again_apply_again(node):
    node.stack()
    predicted = node.reconcile(check=True)
    assert set(node.verbs()) <= NO_ACTION and not node.state.exists() and not node.running()
    assert node.one(predicted).status == "missing" and predicted.changed
    done = node.reconcile()
    assert set(node.running()) == {"web-web-1", "web-db-1"} and node.one(done).status == "synced"
    for key in ("plan", "changed"):
        assert done.as_result()[key] == predicted.as_result()[key]
    assert [s.drift for s in done.stacks] == [s.drift for s in predicted.stacks]
    before = node.running()
    node.engine.calls.clear()
    assert not node.reconcile(check=True).changed
    assert not node.reconcile().changed
    assert node.running() == before and node.verbs() == ["observe", "observe"]


def test_a_run_without_drift_writes_nothing_and_starts_no_compose(web):
    kept = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in web.state.iterdir()}
    assert not web.reconcile().changed
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in web.state.iterdir()} == kept
    assert web.verbs() == ["observe"]


def test_labels_of_a_first_deploy(web):
    found = web.engine.named("web-web-1").labels
    status = web.info()["web"]
    assert set(found) == set(labels.OURS)
    assert (found[labels.NAME], found[labels.OWNER], found[labels.REVISION]) == ("web", "stacks", "rev1")
    assert found[labels.COMPOSE_HASH] == status.compose_hash == web.engine.named("web-db-1").labels[labels.COMPOSE_HASH]


@pytest.mark.parametrize(
    "message", ["quotes \" and '", "a,b,c", "$HOME ${NAME} $$ \\n \\", "two\nlines\n", "emoji 😀 é", "\u2028\x85\x7f", "", "a" * 100_000]
)
def test_any_commit_message_survives(node, message):
    node.stack()
    node.reconcile(commit_message=message)
    assert node.engine.named("web-web-1").labels[labels.COMMIT_MESSAGE] == message
    before = node.running()
    status = node.one(node.reconcile(commit_message=message))
    assert status.commit_message == message and not status.changed and node.running() == before


def test_bytes_of_a_message_that_are_no_text_are_replaced_and_make_no_drift(node):
    node.stack()
    node.reconcile(commit_message="caf\udce9\0")
    assert node.engine.named("web-web-1").labels[labels.COMMIT_MESSAGE] == "caf\ufffd\ufffd"
    assert not node.reconcile(commit_message="caf\udce9\0").changed


def test_a_new_revision_without_a_change_restarts_nothing_and_is_shown(web):
    before = web.running()
    done = web.one(web.reconcile(revision="rev2", commit_message="second"))
    assert (done.revision, done.commit_message, done.changed, done.status) == ("rev2", "second", False, "synced")
    assert web.running() == before and web.verbs() == ["observe"]
    assert web.info()["web"].revision == "rev2"


# -- drift: (what somebody does, the service, the reason, the action) ---------------------------------------------------------
def _rewrite(table: Any) -> Callable[[Any], None]:
    return lambda node: node.stack(table=table)


def _service(**changed: Any) -> dict[str, Any]:
    services = json.loads(json.dumps({"web": {"image": "app:1", "restart": "always"}, "db": {"image": "db:1", "restart": "always"}}))
    services["web"].update(changed)
    return {"services": services}


def _tamper(name: str, value: str | None) -> Callable[[Any], None]:
    def does(node: Any) -> None:
        old = node.engine.named("web-web-1")
        kept = {k: v for k, v in old.labels.items() if k != name}
        node.engine.by_hand("web-web-1", labels=kept if value is None else {**kept, name: value})

    return does


DRIFT = {
    "image reference": (_rewrite(_service(image="app:2")), "web", "image_changed", "recreate"),
    "variable": (_rewrite(_service(environment={"A": "1"})), "web", "config_changed", "recreate"),
    "command": (_rewrite(_service(command="sleep 1")), "web", "config_changed", "recreate"),
    "network of the file": (_rewrite({**_service(networks=["back"]), "networks": {"back": None}}), "web", "network_changed", "recreate"),
    "volume of the file": (_rewrite({**_service(volumes=["data:/data"]), "volumes": {"data": None}}), "web", "volume_changed", "recreate"),
    "replicas": (_rewrite(_service(scale=2)), "web", "replicas", "scale"),
    "service gone from the file": (
        _rewrite({"services": {"web": {"image": "app:1", "restart": "always"}}}),
        "db",
        "service_unexpected",
        "remove",
    ),
    "retagged": (lambda n: n.engine.local.update({"app:1": "sha256:other"}), "web", "image_digest_changed", "recreate"),
    "removed": (lambda n: n.engine.containers.pop(n.engine.named("web-web-1").id), "web", "service_missing", "create"),
    "stopped": (lambda n: n.engine.touch("web-web-1", state="exited", exit_code=0), "web", "stopped", "start"),
    "killed": (lambda n: n.engine.touch("web-web-1", state="exited", exit_code=137), "web", "stopped", "start"),
    "paused": (lambda n: n.engine.touch("web-web-1", state="paused"), "web", "stopped", "start"),
    "unhealthy": (lambda n: n.engine.touch("web-web-1", health="unhealthy"), "web", "unhealthy", "recreate"),
    "restarting": (lambda n: n.engine.touch("web-web-1", state="restarting", restarts=9), "web", "crash_looping", "recreate"),
    "created": (lambda n: n.engine.touch("web-web-1", state="created"), "web", "never_started", "start"),
    "renamed": (lambda n: n.engine.touch("web-web-1", name="mine"), "web", "container_misnamed", "rename"),
    "disconnected": (lambda n: n.engine.touch("web-web-1", networks=()), "web", "network_changed", "recreate"),
    "connected": (lambda n: n.engine.touch("web-web-1", networks=("other", "web_default")), "web", "network_changed", "recreate"),
    "docker update": (
        lambda n: n.engine.touch("web-web-1", limits={**n.engine.named("web-web-1").limits, "Memory": "64"}),
        "web",
        "limits_changed",
        "recreate",
    ),
    "restart policy": (
        lambda n: n.engine.touch("web-web-1", limits={**n.engine.named("web-web-1").limits, "RestartPolicy": '{"Name": "no"}'}),
        "web",
        "limits_changed",
        "recreate",
    ),
    "label removed": (_tamper(labels.REVISION, None), "web", "label_tampered", "recreate"),
    "label edited": (_tamper(labels.COMMIT_MESSAGE, "mine"), "web", "label_tampered", "recreate"),
    "hash edited": (_tamper(labels.SERVICE_HASH, "0" * 64), "web", "label_tampered", "recreate"),
    "all labels removed": (lambda n: n.engine.by_hand("web-web-1", labels={}), "web", "label_tampered", "recreate"),
    "made by hand": (lambda n: n.engine.by_hand("web-web-1", shape="other"), "web", "config_changed", "recreate"),
    "mounted by hand": (lambda n: n.engine.by_hand("web-web-1", mounts=("bind /etc /x rw",)), "web", "volume_changed", "recreate"),
    "orphan": (
        lambda n: n.engine.by_hand("web-db-1", service="stray", labels={}, name="web-stray-1"),
        "stray",
        "orphan",
        "remove",
    ),
}


@pytest.mark.parametrize("what", DRIFT)
def test_drift_is_detected_predicted_and_repaired(web, what):
    does, service, reason, action = DRIFT[what]
    before = web.running()
    does(web)
    damaged = web.running()

    detected = web.one(web.reconcile(policy="detect"))
    assert (service, reason) in {(d.service, d.reason) for d in detected.drift}, detected.drift
    assert (detected.status, detected.changed, web.running()) == ("drifted", False, damaged)

    predicted = web.reconcile(check=True)
    done = web.reconcile()
    assert done.as_result()["plan"] == predicted.as_result()["plan"] and done.changed and predicted.changed
    status = web.one(done)
    assert (status.status, status.last_error) == ("synced", "")
    assert action in {a.kind for a in status.actions if a.target == service}, status.actions
    if what not in ("service gone from the file", "orphan"):
        assert web.running()["web-db-1"] == before["web-db-1"], "the neighbour was touched"
    web.engine.calls.clear()
    again = web.reconcile()
    assert not again.changed and web.one(again).drift == () and web.verbs() == ["observe"]


def test_changed_files_are_named(node):
    folder = node.stack(
        table={
            "services": {
                "web": {
                    "image": "app:1",
                    "restart": "always",
                    "env_file": ["app.env"],
                    "environment": {"FIXED": "${FIXED}"},
                    "volumes": ["./conf:/conf"],
                    "configs": ["motd"],
                    "secrets": ["key"],
                },
                "db": {"image": "db:1", "restart": "always"},
            },
            "configs": {"motd": {"file": "motd.txt"}},
            "secrets": {"key": {"file": "key.txt"}},
        },
        **{"app.env": "A=1\nB=1\n", ".env": "FIXED=1\n", "conf/x.conf": "1", "motd.txt": "1", "key.txt": "1"},
    )
    assert node.one(node.reconcile()).status == "synced"
    db = node.running()["web-db-1"]

    def drift() -> dict[str, str]:
        status = node.one(node.reconcile(check=True))
        assert {d.service for d in status.drift} <= {"web"}
        assert not node.reconcile().failed and node.running()["web-db-1"] == db
        return {d.reason: d.detail for d in status.drift}

    (folder / "app.env").write_text("A=1\nB=2\n")
    assert drift() == {"env_file_changed": "app.env: environment.B"}
    (folder / ".env").write_text("FIXED=2\n")
    assert drift() == {"env_file_changed": ".env: environment.FIXED"}
    for path in ("conf/x.conf", "motd.txt", "key.txt"):
        (folder / path).write_text("2")
        assert drift() == {"mounted_file_changed": path}
    (folder / "conf/new.conf").write_text("2")
    assert drift() == {"mounted_file_changed": "conf/new.conf"}
    (folder / "README.md").write_text("no container sees this")
    assert drift() == {}


def test_intent_is_no_drift(node):
    job = {"image": "app:1", "restart": "no"}
    node.engine.behaviour = {name: {"state": "exited", "exit_code": 0} for name in ("job", "setup", "once")}
    node.stack(
        table={
            "services": {
                "none": {"image": "app:1", "scale": 0},
                "job": job,
                "off": {"image": "missing:1", "profiles": ["debug"]},
                "setup": {"image": "app:1"},
                "once": {"image": "app:1", "restart": "on-failure"},
                "web": {"image": "app:1", "restart": "always", "depends_on": {"setup": {"condition": "service_completed_successfully"}}},
            }
        }
    )
    assert node.one(node.reconcile()).status == "synced"
    again = node.one(node.reconcile())
    assert (again.status, again.drift, again.changed) == ("synced", (), False)
    node.stack(table={"x-pifleet": {"suspended": True}, "services": {"web": {"image": "app:2"}}})
    node.engine.touch("web-web-1", state="exited")
    done = node.one(node.reconcile())
    assert (done.suspended, done.drift, done.changed, done.status) == (True, (), False, "synced")


def test_a_job_that_failed_and_a_service_that_somebody_stopped_are_drift(node):
    node.engine.behaviour = {"job": {"state": "exited", "exit_code": 0}}
    node.stack(table={"services": {"job": {"image": "app:1"}, "web": {"image": "app:1"}}})
    assert node.one(node.reconcile()).status == "synced"
    node.engine.touch("web-web-1", state="exited", exit_code=0)
    assert [(d.service, d.reason) for d in node.one(node.reconcile(check=True)).drift] == [("web", "stopped")]
    node.engine.touch("web-job-1", exit_code=2)
    assert {d.service for d in node.one(node.reconcile(check=True)).drift} == {"web", "job"}


@pytest.mark.parametrize("where", ["setting", "stack"])
@pytest.mark.parametrize(
    ("pattern", "ignored"),
    [
        ("stopped", True),
        ("web/stopped", True),
        ("*/stopped", True),
        ("db/stopped", False),
        ("unhealthy", False),
        ("limits_changed:Memory", False),
    ],
)
def test_ignored_drift(node, where, pattern, ignored):
    table = _service()
    if where == "stack":
        table["x-pifleet"] = {"drift_ignore": [pattern]}
    else:
        node.settings["ignore"] = (pattern,)
    node.stack(table=table)
    node.reconcile()
    node.engine.touch("web-web-1", state="exited", exit_code=1)
    assert bool(node.one(node.reconcile()).changed) is not ignored


def test_an_ignored_key_is_no_drift_even_after_the_record_is_lost(node):
    node.settings["ignore"] = ("config_changed:environment.TZ", "web/limits_changed:Memory")
    node.stack(table=_service(environment={"TZ": "1", "A": "1"}))
    node.reconcile()
    before = node.running()
    node.stack(table=_service(environment={"TZ": "2", "A": "1"}))
    node.engine.touch("web-web-1", limits={**node.engine.named("web-web-1").limits, "Memory": "5"})
    assert not node.reconcile().changed
    (node.state / "web.json").unlink()
    assert not node.reconcile().changed and node.running() == before
    node.stack(table=_service(environment={"TZ": "2", "A": "2"}))
    assert node.one(node.reconcile()).drift[0].detail == "environment.A"


def test_a_rule_that_is_added_later_takes_a_key_out_without_a_restart(web):
    web.stack(table=_service(environment={"TZ": "1"}))
    web.reconcile()
    before = web.running()
    web.stack(table={**_service(environment={"TZ": "2"}), "x-pifleet": {"drift_ignore": ["config_changed:environment.*"]}})
    assert not web.reconcile().changed and web.running() == before


# -- what others share --------------------------------------------------------------------------------------------------------
def test_a_service_in_the_network_of_another_follows_it(node):
    table = {
        "services": {
            "vpn": {"image": "app:1", "restart": "always"},
            "side": {"image": "app:1", "restart": "always", "network_mode": "service:vpn"},
            "other": {"image": "app:1", "restart": "always"},
        }
    }
    node.stack(table=table)
    node.reconcile()
    before = node.running()
    table["services"]["vpn"]["image"] = "app:2"
    node.stack(table=table)
    done = node.one(node.reconcile())
    assert [(a.kind, a.target) for a in done.actions] == [("recreate", "side"), ("recreate", "vpn")]
    assert node.running()["web-other-1"] == before["web-other-1"]
    vpn = node.engine.named("web-vpn-1").id
    assert node.engine.named("web-side-1").network_mode == f"container:{vpn}"
    node.engine.by_hand("web-vpn-1")
    assert [(d.service, d.reason) for d in node.one(node.reconcile(check=True)).drift] == [("side", "network_changed")]


def test_a_network_that_is_defined_anew_takes_its_containers_along(node):
    table = {**_service(networks=["back"]), "networks": {"back": {"internal": False}}}
    node.stack(table=table)
    node.reconcile()
    before = node.running()
    table["networks"]["back"]["internal"] = True
    node.stack(table=table)
    done = node.one(node.reconcile())
    assert ("web", "network_changed", "definition of web_back") in {(d.service, d.reason, d.detail) for d in done.drift}
    assert ("drop_network", "web_back") in node.engine.calls and done.status == "synced"
    assert node.running()["web-db-1"] == before["web-db-1"] and node.running()["web-web-1"] != before["web-web-1"]
    assert not node.reconcile().changed


def test_a_volume_that_is_defined_anew_is_refused_as_long_as_it_exists(node):
    table = {**_service(volumes=["data:/data"]), "volumes": {"data": {"driver": "local"}}}
    node.stack(table=table)
    node.reconcile()
    before = node.running()
    table["volumes"]["data"]["driver_opts"] = {"type": "nfs"}
    node.stack(table=table)
    for failed in (node.one(node.reconcile(check=True)), node.one(node.reconcile())):
        assert failed.status == "failed" and "web_data" in failed.last_error and not failed.changed
        assert "docker volume rm web_data" in failed.last_error, "the way out is said"
    assert node.running() == before and "web_data" in node.engine.volumes_here
    node.engine.volumes, volumes = lambda *_, **__: _gone(), node.engine.volumes
    node.stack("other")
    report = node.reconcile()
    assert "went away" in node.one(report).last_error and node.one(report, "other").status == "synced"
    node.engine.volumes = volumes
    node.engine.volumes_here.clear()
    assert node.one(node.reconcile()).status == "synced"


# -- images -------------------------------------------------------------------------------------------------------------------
def test_a_registry_that_is_down_does_not_matter_when_the_images_are_here(web):
    web.engine.failing["pull"] = "connection refused"
    web.stack(table=_service(image="app:2", pull_policy="always"))
    assert web.one(web.reconcile()).status == "synced" and "pull" in web.verbs()


def test_a_missing_image_is_pulled_and_the_plan_is_the_same_before_and_after(web):
    web.engine.registry["app:3"] = "sha256:app3"
    web.stack(table=_service(image="app:3"))
    predicted = web.reconcile(check=True).plan_digest
    web.engine.failing["up"] = "disk full"
    assert web.one(web.reconcile()).status == "failed" and "app:3" in web.engine.local
    assert web.reconcile(check=True).plan_digest == predicted
    del web.engine.failing["up"]
    assert web.one(web.reconcile()).status == "synced" and not web.reconcile().changed


def test_an_image_that_does_not_exist_fails_before_anything_is_touched(web):
    before = web.running()
    web.stack(table=_service(image="nope:1"))
    failed = web.one(web.reconcile())
    assert failed.status == "failed" and "nope:1" in failed.last_error and not failed.changed
    assert web.running() == before and "up" not in web.verbs()
    assert (failed.revision, failed.last_sync_status) == ("rev1", "failed")


def test_an_image_whose_tag_was_taken_away_is_no_drift(web):
    del web.engine.local["app:1"]
    assert not web.reconcile().changed


def test_an_image_is_built_when_its_context_changed(node):
    folder = node.stack(table=_service(image="own:1", build="."), Dockerfile="FROM app:1")
    node.reconcile()
    assert ("build", "web") in node.engine.calls
    node.engine.calls.clear()
    assert not node.reconcile().changed
    (folder / "Dockerfile").write_text("FROM app:2")
    assert node.one(node.reconcile()).status == "synced" and ("build", "web") in node.engine.calls
    assert not node.reconcile().changed


# -- many stacks --------------------------------------------------------------------------------------------------------------
def test_one_changed_service_of_many_stacks_is_one_call_for_one_container(node):
    for number in range(20):
        node.stack(f"s{number:02}")
    node.reconcile(parallel=4)
    before = node.running()
    node.engine.calls.clear()
    node.stack("s07", _service(image="app:2"))
    node.reconcile(revision="rev2")
    after = node.running()
    assert {name for name in after if after[name] != before[name]} == {"s07-web-1"}
    assert [call for call in node.engine.calls if call[0] not in ("observe", "resolve")] == [("up", "s07", ("web",), True)]
    assert [call for call in node.engine.calls if call[0] == "resolve"] == [("resolve", "s07")]


def test_bad_stacks_stop_no_other_and_are_named(node):
    for number in range(16):
        node.stack(f"good{number:02}")
    node.stack("invalid", "services: [")
    node.stack("noimage", _service(image="nope:1"))
    node.stack("crashing", {"services": {"bad": {"image": "app:1", "restart": "always"}}})
    node.stack("failing", {"services": {"ends": {"image": "app:1"}}})
    node.stack("Upper_Case")
    node.engine.behaviour = {"bad": {"state": "restarting", "restarts": 5, "exit_code": 1}, "ends": {"state": "exited", "exit_code": 3}}
    report = node.reconcile(parallel=4)
    by_name = {s.name: s for s in report.stacks}
    assert {n for n, s in by_name.items() if s.status == "synced"} == {f"good{n:02}" for n in range(16)}
    assert {s.name for s in report.failed} == {"invalid", "noimage", "crashing", "failing", "Upper_Case"}
    assert "yaml" in by_name["invalid"].last_error and "nope:1" in by_name["noimage"].last_error
    assert "crashes again and again" in by_name["crashing"].last_error and "exit code 3" in by_name["failing"].last_error
    assert "it would take upper_case" in by_name["Upper_Case"].last_error
    assert all(f"stack {name}:" in report.failure for name in ("invalid", "noimage", "crashing", "failing", "Upper_Case"))
    assert [s.name for s in report.stacks] == sorted(by_name)


def test_a_crash_loop_is_reported_within_ten_seconds_and_never_called_synced(node):
    node.stack(table={"services": {"bad": {"image": "app:1", "restart": "always"}}})
    node.engine.behaviour = {"bad": {"state": "restarting", "restarts": 5, "exit_code": 1}}
    began = node.engine.clock.time
    assert node.one(node.reconcile()).status == "failed"
    assert node.engine.clock.time - began < 10


def test_a_container_that_never_gets_healthy_fails_at_the_time_limit(node):
    node.stack()
    node.engine.behaviour = {"web": {"health": "starting"}}
    began = node.engine.clock.time
    failed = node.one(node.reconcile(timeout=40))
    assert failed.status == "failed" and "web-web-1 is not healthy yet after 4" in failed.last_error
    assert 40 <= node.engine.clock.time - began < 45
    node.engine.touch("web-web-1", health="healthy")
    assert (status := node.one(node.reconcile())).status == "synced" and not status.changed


@pytest.mark.parametrize("left", [{"health": "unhealthy"}, {"state": "created"}, {}])
def test_what_an_attempt_left_that_failed_goes_when_the_change_is_taken_back(node, left):
    good = {"services": {"web": {"image": "app:1", "restart": "always", "environment": {"MODE": "good"}}}}
    bad = {"services": {"web": {"image": "app:1", "restart": "always", "environment": {"MODE": "bad"}}}}
    node.stack(table=good)
    assert node.one(node.reconcile()).status == "synced"
    node.stack(table=bad)
    node.engine.behaviour = {"web": {"health": "unhealthy"}}
    assert node.one(node.reconcile(timeout=10)).status == "failed"
    made, node.engine.behaviour = node.running()["web-web-1"], {}
    node.engine.touch("web-web-1", **{"health": "", **left})
    node.stack(table=good)
    taken_back = node.one(node.reconcile())
    assert (taken_back.status, [action.kind for action in taken_back.actions]) == ("synced", ["recreate"])
    assert node.running()["web-web-1"] != made
    assert not node.one(node.reconcile()).changed


def test_docker_down_is_one_clear_error(web):
    web.engine.failing["observe"] = "Cannot connect to the Docker daemon"
    with pytest.raises(PifleetError, match="Cannot connect"):
        web.reconcile()
    with pytest.raises(PifleetError, match="Cannot connect"):
        web.info()


def test_docker_is_not_missed_where_no_stack_is(node):
    """Such as a node of the lab that no stack names: Docker is there, and nothing ever started it."""
    node.engine.failing["observe"] = "Cannot connect to the Docker daemon"
    assert node.info() == {}


# -- policies -----------------------------------------------------------------------------------------------------------------
def test_the_policy_of_the_stack_wins(node):
    node.stack("a", {**_service(), "x-pifleet": {"policy": "detect"}})
    node.stack("b", {**_service(), "x-pifleet": {"policy": "apply"}})
    done = {s.name: s for s in node.reconcile(policy="acknowledge").stacks}
    assert (done["a"].status, done["a"].policy, done["b"].status) == ("missing", "detect", "synced")
    assert not done["a"].awaiting_acknowledgement and done["a"].planned


def test_detect_asks_compose_once(node):
    node.stack()
    for _ in range(2):
        assert not node.reconcile(policy="detect").changed
    assert node.verbs().count("resolve") == 1


@pytest.fixture
def gated(web):
    web.settings["policy"] = "acknowledge"
    web.stack(table=_service(image="app:2"))
    return web


def test_a_gated_plan_waits_and_is_applied_once_it_is_acknowledged(gated):
    before = gated.running()
    waiting = gated.one(gated.reconcile())
    assert waiting.awaiting_acknowledgement and waiting.plan_digest and not waiting.changed and waiting.status == "drifted"
    assert gated.running() == before and gated.info()["web"].awaiting_acknowledgement
    done = gated.one(gated.acknowledge("web", waiting.plan_digest))
    assert (done.status, done.changed, done.awaiting_acknowledgement) == ("synced", True, False)
    assert not list(gated.state.glob("*.acknowledged"))
    assert ("acknowledged", "ann") in {(event, fields.get("by")) for event, fields in gated.engine.log}


def test_an_acknowledgement_of_one_plan_does_not_release_another(gated):
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.failing["up"] = "boom"
    assert gated.one(gated.acknowledge("web", digest)).status == "failed"
    del gated.engine.failing["up"]
    gated.stack(table=_service(image="app:1", environment={"OTHER": "1"}))
    before = gated.running()
    done = gated.one(gated.reconcile())
    assert done.awaiting_acknowledgement and done.plan_digest != digest and gated.running() == before
    gated.stack(table=_service(image="app:2"))
    assert gated.one(gated.reconcile()).awaiting_acknowledgement, "it was void already"
    with pytest.raises(PifleetError, match="is now"):
        gated.acknowledge("web", "0" * 64)


def test_a_failed_apply_does_not_use_it_up_even_when_it_did_half_of_its_work(gated):
    gated.stack(table={"services": {n: {"image": "app:2", "restart": "always", "environment": {"N": n}} for n in ("db", "web")}})
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.kill_at = gated.engine.steps + 5  # db is replaced, web is not
    with pytest.raises(fake_engine.KilledError):
        gated.acknowledge("web", digest)
    gated.engine.kill_at = -1
    done = gated.one(gated.reconcile())
    assert (done.status, done.changed) == ("synced", True)
    gated.engine.touch("web-web-1", state="exited")
    assert gated.one(gated.reconcile()).awaiting_acknowledgement, "it is used up"


def test_what_is_left_of_an_acknowledged_plan_is_permitted_but_nothing_beyond_it(gated):
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.failing["up"] = "boom"
    gated.acknowledge("web", digest)
    del gated.engine.failing["up"]
    gated.engine.touch("web-db-1", state="exited")  # another service, which that plan was not about
    assert gated.one(gated.reconcile()).awaiting_acknowledgement


def test_a_begun_permission_to_start_is_none_to_recreate(web):
    web.settings["policy"] = "acknowledge"
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    digest = web.one(web.reconcile()).plan_digest
    web.engine.failing["up"] = "boom"
    assert web.one(web.acknowledge("web", digest)).status == "failed"
    del web.engine.failing["up"]
    web.engine.local["app:1"] = "sha256:other"  # the tag gets other content
    before = web.running()
    assert web.one(web.reconcile()).awaiting_acknowledgement and web.running() == before


def test_a_begun_permission_is_for_the_image_that_it_was_given_for(web):
    web.settings["policy"] = "acknowledge"
    web.engine.local["app:1"] = "sha256:other"
    digest = web.one(web.reconcile()).plan_digest
    web.engine.failing["up"] = "boom"
    web.acknowledge("web", digest)
    del web.engine.failing["up"]
    web.engine.local["app:1"] = "sha256:another"
    before = web.running()
    assert web.one(web.reconcile()).awaiting_acknowledgement and web.running() == before


def test_a_plan_is_for_the_content_of_the_image_that_a_service_is_to_get(gated):
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.local["app:2"] = "sha256:other"
    before = gated.running()
    with pytest.raises(PifleetError, match="is now"):
        gated.acknowledge("web", digest)
    assert gated.one(gated.reconcile()).awaiting_acknowledgement and gated.running() == before


def test_a_permission_that_failed_is_for_the_content_of_the_image_that_it_was_given_for(gated):
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.failing["up"] = "boom"
    assert gated.one(gated.acknowledge("web", digest)).status == "failed"
    del gated.engine.failing["up"]
    gated.engine.local["app:2"] = "sha256:other"
    before = gated.running()
    assert gated.one(gated.reconcile()).awaiting_acknowledgement and gated.running() == before


@pytest.mark.parametrize("made", [0, 2])  # of two services: none, or one that runs
def test_a_first_deploy_is_for_the_content_of_the_images_that_it_was_permitted_with(node, made):
    node.settings["policy"] = "acknowledge"
    node.stack("shop")
    digest = node.one(node.reconcile(), "shop").plan_digest
    node.engine.local["app:1"] = "sha256:other"
    with pytest.raises(PifleetError, match="is now"):
        node.acknowledge("shop", digest)
    digest = node.one(node.reconcile(), "shop").plan_digest
    node.engine.kill_at = node.engine.steps + made
    with pytest.raises(fake_engine.KilledError):
        node.acknowledge("shop", digest)
    node.engine.kill_at = -1
    node.engine.local["app:1"] = "sha256:another"
    before = node.running()
    assert node.one(node.reconcile(), "shop").awaiting_acknowledgement and node.running() == before


def test_an_image_that_the_attempt_pulled_makes_no_difference(gated):
    gated.engine.registry["app:3"] = "sha256:app3"
    gated.stack(table=_service(image="app:3"))
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.failing["up"] = "boom"
    gated.acknowledge("web", digest)
    del gated.engine.failing["up"]
    assert gated.engine.local["app:3"]
    done = gated.one(gated.reconcile())
    assert (done.status, done.changed) == ("synced", True)


@pytest.mark.parametrize("made", [1, 2, 3])  # of two services: a container, which runs, and another
def test_a_first_deploy_that_failed_half_way_keeps_its_permission(node, made):
    node.settings["policy"] = "acknowledge"
    node.stack("shop")
    digest = node.one(node.reconcile(), "shop").plan_digest
    node.engine.kill_at = node.engine.steps + made
    with pytest.raises(fake_engine.KilledError):
        node.acknowledge("shop", digest)
    node.engine.kill_at = -1
    assert len(node.running()) == (made + 1) // 2
    done = node.one(node.reconcile(), "shop")
    assert (done.status, done.changed, done.awaiting_acknowledgement) == ("synced", True, False)


def test_a_begun_removal_does_not_take_volumes_that_it_was_not_about(gone):
    gone.settings.update(policy="acknowledge", remove=True)
    digest = gone.one(gone.reconcile()).plan_digest
    gone.engine.failing["down"] = "boom"
    gone.acknowledge("web", digest)
    del gone.engine.failing["down"]
    assert gone.one(gone.reconcile(remove_volumes=True)).awaiting_acknowledgement and gone.engine.volumes_here


def test_an_acknowledgement_ends(gated):
    digest = gated.one(gated.reconcile()).plan_digest
    gated.engine.failing["up"] = "boom"
    gated.acknowledge("web", digest, expires_in=60)
    del gated.engine.failing["up"]
    gated.engine.clock.time += 61
    assert gated.one(gated.reconcile()).awaiting_acknowledgement


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"stack": "nope"}, "no stack nope"),
        ({"digest": "x"}, "is now"),
        ({"expires_in": 0}, "cannot end"),
        ({"who": ""}, "Nobody"),
        ({"policy": "apply"}, "nothing to acknowledge"),
    ],
)
def test_what_cannot_be_acknowledged_is_refused_and_nothing_is_kept(gated, changed, match):
    given = {"stack": "web", "digest": gated.one(gated.reconcile()).plan_digest, **changed}
    with pytest.raises(PifleetError, match=match):
        gated.acknowledge(given.pop("stack"), given.pop("digest"), **given)
    assert not list(gated.state.glob("*.acknowledged"))


def test_without_drift_there_is_nothing_to_acknowledge(web):
    with pytest.raises(PifleetError, match="no plan"):
        web.acknowledge("web", "x", policy="acknowledge")


# -- removal ------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def gone(node):
    """A stack that the desired state no longer has, beside one that it has."""
    node.stack("web", {**_service(volumes=["data:/data"]), "volumes": {"data": None}})
    node.stack("keep")
    node.reconcile()
    for file in (node.path / "web").iterdir():
        file.unlink()
    (node.path / "web").rmdir()
    node.engine.calls.clear()
    return node


def test_a_stack_that_is_gone_stays_unless_removal_is_on(gone):
    before = gone.running()
    status = gone.one(gone.reconcile())
    assert [(d.reason, d.service) for d in status.drift] == [("stack_unexpected", "")] and status.status == "drifted"
    assert gone.running() == before and not status.changed
    assert gone.one(gone.reconcile(remove=True, check=True)).changed and gone.running() == before
    done = gone.one(gone.reconcile(remove=True))
    assert (done.status, done.changed, done.containers_total) == ("missing", True, 0)
    assert set(gone.running()) == {"keep-web-1", "keep-db-1"} and "web_data" in gone.engine.volumes_here
    assert not list(gone.state.glob("web.json"))
    assert {s.name for s in gone.reconcile(remove=True).stacks} == {"keep"}


def test_volumes_go_only_when_that_is_said_too(gone):
    gone.reconcile(remove=True, remove_volumes=True)
    assert not gone.engine.volumes_here


@pytest.mark.parametrize(("said", "removed"), [({"remove": True}, True), ({"remove": False}, False)])
def test_what_the_stack_said_of_its_removal_wins(node, said, removed):
    node.stack("keep")
    node.stack("web", {**_service(), "x-pifleet": said})
    node.reconcile()
    (node.path / "web/compose.yaml").unlink()
    (node.path / "web").rmdir()
    node.reconcile(remove=not said["remove"])
    assert ("web-web-1" in node.running()) is not removed


def test_an_empty_or_unreadable_desired_state_removes_nothing(gone):
    before = gone.running()
    (gone.path / "keep/compose.yaml").unlink()
    assert not gone.reconcile(remove=True).changed and gone.running() == before
    (gone.path / "keep").rmdir()
    gone.path.rmdir()
    with pytest.raises(PifleetError, match="not there"):
        gone.reconcile(remove=True)
    assert gone.running() == before
    gone.path.mkdir()
    gone.reconcile(remove=True, allow_empty=True)
    assert not gone.running()


def test_an_acknowledgement_does_not_get_around_an_empty_desired_state(gone):
    digest = gone.one(gone.reconcile(policy="acknowledge", remove=True)).plan_digest
    (gone.path / "keep/compose.yaml").unlink()
    before = gone.running()
    with pytest.raises(PifleetError, match="no plan"):
        gone.acknowledge("web", digest, policy="acknowledge", remove=True)
    assert gone.running() == before


def test_a_stack_that_became_invalid_is_not_removed(web):
    web.stack("web", "services: [")
    before = web.running()
    failed = web.one(web.reconcile(remove=True))
    assert failed.status == "failed" and web.running() == before


def test_a_stack_for_other_nodes_is_not_here_and_leaves_when_it_moves(node):
    node.settings.update(node_name="pi-1.local", node_roles=("workers",), remove=True)
    tables = {
        "name": {"nodes": ["pi-1"]},
        "whole": {"nodes": ["pi-1.local"]},
        "role": {"roles": ["work*"]},
        "either": {"nodes": ["pi-9"], "roles": ["workers"]},
        "other": {"nodes": ["pi-2"]},
        "servers": {"roles": ["control_plane"]},
    }
    for name, says in tables.items():
        node.stack(name, {**_service(), "x-pifleet": says})
    assert [s.name for s in node.reconcile().stacks] == ["either", "name", "role", "whole"]
    node.stack("name", {**_service(), "x-pifleet": {"nodes": ["pi-2"]}})
    moved = node.one(node.reconcile(), "name")
    assert moved.drift[0].reason == "stack_unexpected" and not any(n.startswith("name-") for n in node.running())


def test_a_removal_has_an_acknowledgement_of_its_own(gone):
    gone.settings.update(policy="acknowledge", remove=True)
    before = gone.running()
    waiting = gone.one(gone.reconcile())
    assert waiting.awaiting_acknowledgement and gone.running() == before
    done = gone.one(gone.acknowledge("web", waiting.plan_digest))
    assert (done.status, done.changed) == ("missing", True) and "web-web-1" not in gone.running()


def test_a_removal_that_was_cut_off_after_its_last_container_is_finished(gone, monkeypatch):
    down = gone.engine.down

    def killed(*args: Any, **more: Any) -> None:
        down(*args, **{**more, "volumes": False})
        raise fake_engine.KilledError

    monkeypatch.setattr(gone.engine, "down", killed)
    with pytest.raises(fake_engine.KilledError):
        gone.reconcile(remove=True, remove_volumes=True)
    monkeypatch.undo()
    assert "web-web-1" not in gone.running() and "web_data" in gone.engine.volumes_here
    gone.engine.calls.clear()
    assert gone.one(gone.reconcile(remove=True, remove_volumes=True, check=True)).changed
    done = gone.one(gone.reconcile(remove=True, remove_volumes=True))
    assert (done.status, done.changed) == ("missing", True) and "down" in gone.verbs() and not gone.engine.volumes_here
    assert {s.name for s in gone.reconcile(remove=True).stacks} == {"keep"}


def test_a_removal_that_failed_after_its_last_container_is_finished(gone, monkeypatch):
    down = gone.engine.down

    def fails(*args: Any, **more: Any) -> None:
        down(*args, **{**more, "volumes": False})
        raise EngineError("network web_default has active endpoints")

    monkeypatch.setattr(gone.engine, "down", fails)
    failed = gone.one(gone.reconcile(remove=True, remove_volumes=True))
    assert (failed.status, failed.changed) == ("failed", True) and "active endpoints" in failed.last_error
    monkeypatch.undo()
    assert "web-web-1" not in gone.running() and "web_data" in gone.engine.volumes_here
    told = gone.info()["web"]
    assert told.status == "failed" and "active endpoints" in told.last_error
    assert gone.one(gone.reconcile()).status == "failed", "it is told of as long as it is not finished"
    assert gone.one(gone.reconcile(remove=True, remove_volumes=True, check=True)).changed
    done = gone.one(gone.reconcile(remove=True, remove_volumes=True))
    assert (done.status, done.changed) == ("missing", True) and not gone.engine.volumes_here
    assert {s.name for s in gone.reconcile(remove=True).stacks} == {"keep"}


def test_a_stack_that_came_back_after_its_removal_failed_leaves_again_like_any_other(gone, monkeypatch):
    monkeypatch.setitem(gone.engine.failing, "down", "boom")
    assert gone.one(gone.reconcile(remove=True)).status == "failed" and "web-web-1" in gone.running()
    gone.stack("web", {**_service(volumes=["data:/data"]), "volumes": {"data": None}})
    back = gone.reconcile(remove=True)
    assert gone.one(back).status == "synced" and not back.changed
    for container in [c.id for c in gone.engine.all() if c.project == "web"]:
        del gone.engine.containers[container]
    (gone.path / "web/compose.yaml").unlink()
    (gone.path / "web").rmdir()
    assert {s.name for s in gone.reconcile(remove=True).stacks} == {"keep"}, "nothing of a removal is left to be done"


@pytest.mark.parametrize(("said", "status"), [("acknowledge", True), ("detect", False)])
def test_the_policy_of_a_stack_holds_for_its_removal(node, said, status):
    node.stack("keep")
    node.stack("web", {**_service(), "x-pifleet": {"policy": said}})
    digest = node.one(node.reconcile(policy=said)).plan_digest
    if said == "acknowledge":
        node.acknowledge("web", digest)
    else:
        node.stack("web", {**_service(), "x-pifleet": {"policy": "apply"}})
        node.reconcile()
        node.stack("web", {**_service(), "x-pifleet": {"policy": said}})
        node.reconcile()
    (node.path / "web/compose.yaml").unlink()
    (node.path / "web").rmdir()
    found = node.one(node.reconcile(remove=True))
    assert (found.policy, found.awaiting_acknowledgement, found.changed) == (said, status, False) and "web-web-1" in node.running()


def test_a_suspended_stack_that_is_gone_is_left_alone(node):
    node.stack("keep")
    node.stack("web")
    node.reconcile()
    node.stack("web", {**WEB, "x-pifleet": {"suspended": True}})
    node.reconcile()
    (node.path / "web/compose.yaml").unlink()
    (node.path / "web").rmdir()
    found = node.one(node.reconcile(remove=True))
    assert (found.suspended, found.changed) == (True, False) and "web-web-1" in node.running()


# -- ownership and scope ------------------------------------------------------------------------------------------------------
def test_foreign_projects_are_never_touched(web):
    mine = web.engine.named("web-db-1")
    foreign = replace(mine, id="f" * 64, name="foreign-db-1", project="foreign", labels={}, folder="/home/ann")
    release = replace(foreign, id="e" * 64, name="shop-db-1", project="shop", labels={**mine.labels, labels.OWNER: "release/prod"})
    for container in (foreign, release):
        web.engine.containers[container.id] = container
    web.engine.touch("foreign-db-1", state="exited", exit_code=1)
    report = web.reconcile(remove=True)
    assert [s.name for s in report.stacks] == ["web"] and {foreign.id, release.id} <= set(web.engine.containers)
    for name, owner in (("foreign", "/home/ann"), ("shop", "release/prod")):
        web.stack(name)
        failed = web.one(web.reconcile(remove=True), name)
        assert failed.status == "failed" and owner in failed.last_error and not failed.changed
    assert web.engine.containers[foreign.id].state == "exited"
    assert not (web.state / "foreign.json").exists()
    report = web.reconcile(owner="release/prod", remove=True, only=())
    assert {"web-web-1", "web-db-1", "foreign-db-1"} <= set(web.running())


def test_what_somebody_started_from_the_stacks_own_folder_is_taken_over(web):
    for name in ("web-web-1", "web-db-1"):
        web.engine.by_hand(name, labels={})
    (web.state / "web.json").unlink()
    done = web.one(web.reconcile())
    assert {d.reason for d in done.drift} == {"label_tampered"} and done.status == "synced"


def test_out_of_scope_is_said_and_not_touched(web):
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    web.stack("other")
    for scope, touched in ((("oth*",), {"other"}), (("role:servers",), set()), (("nope",), set())):
        report = web.reconcile(scope=scope, node_roles=("workers",), check=True)
        assert {s.name for s in report.stacks if s.changed} == touched
        assert {s.name for s in report.stacks if not s.in_scope} == {"web", "other"} - touched
    assert {s.name for s in web.reconcile(scope=("role:work*", "w*"), node_roles=("workers",)).stacks if s.changed} == {"web"}


def test_a_pinned_stack_is_reported_and_not_moved(web):
    kept = json.loads((web.state / "web.json").read_text())
    (web.state / "web.json").write_text(json.dumps({**kept, "pinned": "rev1"}))
    web.stack(table=_service(image="app:2"))
    before = web.running()
    status = web.one(web.reconcile(revision="rev2"))
    assert (status.pinned, status.changed, status.revision) == (True, False, "rev1") and web.running() == before


# -- what is kept -------------------------------------------------------------------------------------------------------------
def test_a_lost_record_is_recovered_from_labels_and_rewritten_when_verified(web):
    web.stack(table=_service(image="app:2"))
    web.reconcile(revision="rev2", commit_message="newer")
    known = web.info()["web"]
    web.engine.touch("web-web-1", state="exited", exit_code=1)  # stopped containers count
    (web.state / "web.json").unlink()
    found = web.info()["web"]
    assert found.recovered and found.status == "drifted"
    assert (found.revision, found.commit_message, found.compose_hash) == ("rev2", "newer", known.compose_hash)
    assert found.last_sync_at and found.last_sync_at <= known.last_sync_at
    assert not (web.state / "web.json").exists()
    done = web.one(web.reconcile(revision="rev2", commit_message="newer"))
    assert (done.status, done.recovered) == ("synced", False) and (web.state / "web.json").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", '{"version": 99}', '{"version": 1}', "\x00\xff" * 100, '{"version":1,"stack":7}']
)
def test_a_damaged_record_counts_as_lost(web, content):
    (web.state / "web.json").write_text(content)
    before = web.running()
    assert web.info()["web"].recovered
    report = web.reconcile()
    assert web.one(report).status == "synced" and not report.changed and web.running() == before
    assert "damaged" in report.warnings[0]


def test_another_version_of_compose_restarts_nothing(web):
    before = web.running()
    web.engine.version = "compose-2"
    assert not web.reconcile().changed and web.running() == before and "resolve" in web.verbs()
    web.engine.calls.clear()
    assert not web.reconcile().changed and web.verbs() == ["observe"]


def test_backoff_of_an_unattended_run(web):
    web.engine.failing["up"] = "boom"
    web.stack(table=_service(image="app:2"))
    wait = 30.0
    for _ in range(4):
        web.engine.calls.clear()
        assert web.one(web.reconcile(unattended=True)).status == "failed" and "up" in web.verbs()
        for part in (0.5, 0.4):
            web.engine.clock.time += wait * part
            web.engine.calls.clear()
            held = web.one(web.reconcile(unattended=True))
            assert held.status == "failed" and held.last_error and held.retry_at and "up" not in web.verbs()
        web.engine.clock.time += wait * 0.2
        wait *= 2
    web.engine.calls.clear()
    web.reconcile(unattended=True)
    web.reconcile(unattended=True, revision="rev2")
    web.reconcile()
    assert web.verbs().count("up") == 3, "a new revision, and a person, do not wait"


def test_info_changes_nothing_and_knows_drift(web):
    web.engine.touch("web-web-1", state="exited", exit_code=1)
    before = {p.name: p.read_bytes() for p in web.state.iterdir()}
    status = web.info()["web"]
    assert (status.status, status.containers_running, status.containers_total) == ("drifted", 1, 2)
    assert {p.name: p.read_bytes() for p in web.state.iterdir()} == before and set(web.verbs()) == {"observe"}


@pytest.mark.parametrize("alone", ["suspended", "out of scope"])
def test_what_a_stack_failed_of_is_no_failure_of_runs_that_leave_it_alone(web, alone):
    web.engine.failing["up"] = "boom"
    web.stack(table=_service(image="app:2"))
    assert [s.name for s in web.reconcile().failed] == ["web"]
    if alone == "suspended":
        web.stack(table={**_service(image="app:2"), "x-pifleet": {"suspended": True}})
    report = web.reconcile(scope=("nope",) if alone == "out of scope" else ())
    assert not report.failed and "boom" in web.one(report).last_error
    web.stack(table="services: [")
    assert [s.name for s in web.reconcile().failed] == ["web"]


def test_a_clock_that_was_ahead_does_not_hold_back_what_failed(web):
    web.engine.clock.time += 10 * 365 * 86400.0
    web.engine.failing["up"] = "boom"
    web.stack(table=_service(image="app:2"))
    web.reconcile(unattended=True)
    web.engine.clock.time -= 10 * 365 * 86400.0
    del web.engine.failing["up"]
    assert web.one(web.reconcile(unattended=True)).status == "synced"


def test_info_of_a_node_that_has_no_desired_state_tells_what_is_there(web, make_node):
    assert web.info()["web"].status == "synced"
    (web.path / "web/compose.yaml").unlink()
    (web.path / "web").rmdir()
    web.path.rmdir()
    found = web.info()["web"]
    assert (found.revision, found.containers_running) == ("rev1", 2) and [d.reason for d in found.drift] == ["stack_unexpected"]
    fresh = make_node()
    fresh.path.rmdir()
    assert not fresh.info()
    fresh.engine.failing["identity"] = "Docker is not installed"
    assert not fresh.info()


def test_a_node_without_docker_is_predicted(node):
    node.stack()
    fresh = node.reconcile(check=True)
    node.engine.failing["identity"] = "Docker is not installed on this node."
    predicted = node.reconcile(check=True)
    assert predicted.as_result()["plan"] == fresh.as_result()["plan"] and predicted.changed
    assert node.one(predicted).drift[0].reason == "stack_missing"
    with pytest.raises(PifleetError, match="not installed"):
        node.reconcile()


def test_a_node_whose_docker_is_off_and_never_ran_anything_is_predicted(node):
    node.stack()
    fresh = node.reconcile(check=True)
    node.engine.failing["observe"] = "Cannot connect to the Docker daemon."
    predicted = node.reconcile(check=True)
    assert predicted.as_result()["plan"] == fresh.as_result()["plan"] and predicted.changed
    with pytest.raises(PifleetError, match="Cannot connect"):
        node.reconcile()
    with pytest.raises(PifleetError, match="Cannot connect"):
        node.info()


def test_a_node_whose_docker_is_off_is_predicted_from_what_was_there_last(node):
    job = {"image": "app:1", "restart": "no"}
    node.engine.behaviour["job"] = {"state": "exited", "exit_code": 0}
    services = {**WEB["services"], "job": job, "side": {"image": "app:1", "network_mode": "service:web", "restart": "always"}}
    node.stack("same", {"services": services})
    node.stack("changed")
    node.stack("by-hand", _service(restart="no"))
    node.stack("gone")
    node.reconcile()
    changed = {"services": {**WEB["services"], "web": {"image": "app:2", "restart": "always"}}}
    node.stack("changed", changed)
    node.stack("new")
    (node.path / "gone/compose.yaml").unlink()
    node.engine.failing["observe"] = "Cannot connect to the Docker daemon."
    kept = {path.name: path.read_bytes() for path in node.state.iterdir()}
    predicted = node.reconcile(check=True, remove=True, revision="rev2")
    assert "Cannot connect" in predicted.warnings[0] and not predicted.failed
    with pytest.raises(PifleetError, match="Cannot connect"):
        node.reconcile(remove=True, revision="rev2")
    assert {path.name: path.read_bytes() for path in node.state.iterdir()} == kept
    assert {s.containers_running for s in predicted.stacks} == {0}, "none runs, and that is what is said"
    # Docker starts, and with it what is to be restarted
    del node.engine.failing["observe"]
    node.engine.touch("by-hand-web-1", state="exited", exit_code=255)
    done = node.reconcile(remove=True, revision="rev2")
    assert done.as_result()["plan"] == predicted.as_result()["plan"]
    assert {s.name: s.changed for s in predicted.stacks} == {"same": False, "changed": True, "by-hand": True, "gone": True, "new": True}


# -- time and order -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_container_relabelled_into_another_stack_is_mended_in_one_run(node, parallel):
    for name in ("aaa", "web", "zzz"):
        node.stack(name)
    node.reconcile()
    before = node.running()
    node.engine.touch("web-web-1", project="zzz", service="stray")
    report = node.reconcile(parallel=parallel)
    assert {s.status for s in report.stacks} == {"synced"} and not report.failed
    assert node.engine.named("web-web-1").project == "web"
    assert {name for name, found in node.running().items() if before[name] != found} == {"web-web-1"}
    assert not node.reconcile().changed


def test_a_stack_takes_the_container_name_of_one_that_is_removed_in_the_same_run(node):
    table = {"services": {"web": {"image": "app:1", "restart": "always", "container_name": "front"}}}
    node.stack("zzz", table)
    node.reconcile()
    (node.path / "zzz/compose.yaml").unlink()
    node.stack("aaa", table)
    report = node.reconcile(remove=True)
    assert not report.failed and node.engine.named("front").project == "aaa"


def test_an_apply_that_takes_too_long_says_what_it_waited_for(node):
    services = {
        "db": {"image": "db:1", "restart": "always"},
        "job": {"image": "app:1", "restart": "no"},
        "web": {"image": "app:1", "restart": "always", "depends_on": {"db": {"condition": "service_healthy"}}},
    }
    node.stack(table={"services": services})
    node.engine.behaviour["db"] = {"health": "starting"}
    up = node.engine.up

    def hangs(*args: Any, **more: Any) -> None:
        up(*args, **more)
        raise EngineTimeoutError("applying web took longer than 15 seconds and was ended.", "A longer time limit is stacks_timeout.")

    node.engine.up = hangs
    error = node.one(node.reconcile()).last_error
    assert error.endswith("It waited: web-db-1 is not healthy, web-job-1 has not completed.") and "longer than 15 seconds" in error
    node.engine.observe, observe = lambda *_, projects=(), **__: _down(projects, observe), node.engine.observe
    assert "waited" not in node.one(node.reconcile(revision="rev2")).last_error


def _down(projects: Any, observe: Any) -> Any:
    """The engine answers the first look of a run, and no more."""
    if projects:
        raise EngineError("nothing is said any more")
    return observe(timeout=1)


def test_an_image_that_may_not_be_pulled_is_no_error_of_a_check_whose_run_has_it_by_then(node):
    node.stack(table=_service(image="own:1", pull_policy="never"))
    refused = node.one(node.reconcile(check=True))
    assert refused.status == "failed" and "own:1" in refused.last_error
    coming = node.reconcile(check=True, images_coming=True)
    assert node.one(coming).last_error == "" and coming.changed
    node.engine.failing["observe"] = "Cannot connect to the Docker daemon."
    unknown = node.reconcile(check=True)
    assert node.one(unknown).last_error == "" and unknown.changed


def test_a_check_of_a_copy_predicts_what_its_home_will_get(node, tmp_path):
    table = {**_service(volumes=["./conf:/conf"], build=".", image="own:1"), "x-pifleet": {"policy": "apply"}}
    files = {"conf/x": "1", "Dockerfile": "FROM app:1"}
    node.stack(table=table, **files)
    node.reconcile()
    copy = tmp_path / "copy"
    node.path.rename(copy)
    home = str(node.path)

    def check() -> Any:
        settings = replace(node.with_settings(), path=str(copy), home=home)
        return reconcile.reconcile(settings, node.engine.ports(), check=True)

    assert not check().changed
    (copy / "web/conf/x").write_text("2")
    predicted = check()
    copy.rename(node.path)
    done = node.reconcile()
    assert predicted.changed and done.as_result()["plan"] == predicted.as_result()["plan"]
    assert [s.drift for s in done.stacks] == [s.drift for s in predicted.stacks]


def test_values_of_variables_are_kept_nowhere(node):
    node.stack(table=_service(environment={"PASSWORD": "hunter2hunter2"}))
    report = node.reconcile()
    node.stack(table=_service(environment={"PASSWORD": "correcthorse"}))
    changed = node.reconcile()
    kept = "".join(p.read_text() for p in node.state.iterdir())
    shown = json.dumps([report.as_result(), changed.as_result()]) + json.dumps(node.engine.log)
    for secret in ("hunter2hunter2", "correcthorse"):
        assert secret not in kept and secret not in shown
    assert "environment.PASSWORD" in shown
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in node.state.iterdir()) and node.state.stat().st_mode & 0o777 == 0o700


def test_log_lines(node):
    node.stack()
    node.stack("bad", _service(image="nope:1"))
    node.reconcile()
    assert {(event, fields["stack"]) for event, fields in node.engine.log} == {
        ("started", "web"),
        ("succeeded", "web"),
        ("started", "bad"),
        ("failed", "bad"),
    }


# -- somebody else is at work ----------------------------------------------------------------------------------------------------
@pytest.fixture
def held(web):
    """The stack ``web``, changed, while another run works on it. What that run does when it is waited for is in ``web.other``."""
    web.stack(table=_service(image="app:2"))
    lock = locks.Lock(str(web.state), "web", "another", web.engine.clock)
    lock.acquire(0.0)
    web.other = lambda: None
    sleep = web.engine.clock.sleep

    def waited(seconds: float) -> None:
        sleep(seconds)
        web.other()

    web.engine.clock.sleep = waited
    web.lock = lock
    yield web
    lock.release()


def test_a_stack_that_is_busy_for_too_long_says_who_is_at_it(held):
    held.stack("free")
    held.reconcile(only=("free",))
    report = held.reconcile(timeout=20)
    busy = held.one(report)
    assert "another (pid" in busy.last_error and "works on it" in busy.last_error and [s.name for s in report.failed] == ["web"]
    assert held.one(report, "free").status == "synced" and held.engine.named("web-web-1").image == "app:1"


def test_what_the_other_run_did_is_not_done_again(held):
    def other() -> None:
        held.other = lambda: None
        held.lock.release()
        held.engine.clock.sleep = type(held.engine.clock).sleep.__get__(held.engine.clock)
        assert held.reconcile().changed

    held.other = other
    report = held.reconcile(timeout=20)
    assert held.one(report).status == "synced" and not report.changed
    assert [call for call in held.engine.calls if call[0] == "up"] == [("up", "web", ("web",), True)]


def test_a_removal_that_the_other_run_made_is_no_error(held):
    (held.path / "web/compose.yaml").unlink()
    held.stack("keep")
    held.reconcile(only=("keep",))

    def other() -> None:
        held.other = lambda: None
        held.lock.release()
        held.engine.clock.sleep = type(held.engine.clock).sleep.__get__(held.engine.clock)
        held.reconcile(remove=True)

    held.other = other
    report = held.reconcile(remove=True, timeout=20)
    assert not report.failed and set(held.running()) == {"keep-web-1", "keep-db-1"}
    assert len([call for call in held.engine.calls if call[0] == "down"]) == 1


def test_a_defect_in_one_stack_leaves_the_others_alone(node, monkeypatch):
    node.stack()
    node.stack("other")
    up = node.engine.up
    monkeypatch.setattr(node.engine, "up", lambda source, *a, **k: [][1] if source.project == "web" else up(source, *a, **k))
    report = node.reconcile()
    assert "unexpected: IndexError" in node.one(report).last_error and node.one(report, "other").status == "synced"
    assert node.one(report).status == "failed" and not locks.is_held(str(node.state), "web")


def test_an_engine_that_goes_away_while_stacks_are_watched_fails_them(node):
    node.stack()
    observe, looks = node.engine.observe, iter(range(9))
    node.engine.observe = lambda *a, **k: observe(*a, **k) if next(looks) == 0 else _gone()
    failed = node.one(node.reconcile())
    assert failed.status == "failed" and "went away" in failed.last_error
    node.engine.observe = observe
    assert node.one(node.reconcile()).status == "synced"


def _gone() -> Any:
    raise EngineError("Docker went away.")


def test_a_container_that_comes_up_again_and_again_is_in_a_loop_only_when_it_did_so_lately(web):
    now = web.engine.clock.time
    web.engine.touch("web-web-1", restarts=5, started_at=_docker_time(now - 10))
    assert [d.reason for d in web.one(web.reconcile(check=True)).drift] == ["crash_looping"]
    for started in (_docker_time(now - 3600), "no time"):
        web.engine.touch("web-web-1", started_at=started)
        assert web.one(web.reconcile(check=True)).drift == ()


def _docker_time(seconds: float) -> str:
    return locks.iso(seconds).replace("Z", "123Z")
