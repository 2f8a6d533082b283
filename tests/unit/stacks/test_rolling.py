# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that are rolled: at no moment none of their containers serves, whatever happens on the way."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest

fake_engine = sys.modules["stacks_fake_engine"]  # of conftest


def table(image: str = "app:1", **web: Any) -> dict[str, Any]:
    services = {"web": {"image": image, "restart": "always", **web}, "db": {"image": "db:1", "restart": "always"}}
    return {"x-pifleet": {"rolling": {"web": 2}}, "services": services}


def serving(node: Any) -> list[str]:
    """Images of the containers of ``web`` that run."""
    return sorted(
        c.image for c in node.engine.containers.values() if c.service == "web" and c.state == "running" and c.health != "unhealthy"
    )


@pytest.fixture
def rolled(node: Any) -> Any:
    """A node with the first version, on which each command is seen by ``serving`` at least once."""
    node.stack(table=table())
    node.reconcile()
    node.seen = []
    node.engine.on_call = lambda _verb: node.seen.append(serving(node))
    node.engine.calls.clear()
    return node


def test_new_beside_old_then_old_goes(rolled: Any) -> None:
    db = rolled.engine.named("web-db-1")
    rolled.stack(table=table("app:2"))
    predicted = rolled.reconcile(check=True)
    done = rolled.reconcile()
    assert done.as_result()["plan"] == predicted.as_result()["plan"] and rolled.one(done).status == "synced"
    assert all(rolled.seen) and ["app:1", "app:2"] in rolled.seen and serving(rolled) == ["app:2"]
    assert rolled.engine.named("web-db-1") == db
    rolled.engine.calls.clear()
    assert not rolled.reconcile().changed and rolled.verbs() == ["observe"]
    rolled.stack(table=table("app:1"))
    rolled.reconcile()
    assert serving(rolled) == ["app:1"] and not rolled.reconcile().changed


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"health": "unhealthy"}, "is unhealthy; the old one serves on"),
        ({"health": "starting"}, "was not healthy in time; the old one serves on"),
        ({"state": "exited", "exit_code": 1}, "is not up; the old one serves on"),
        ({"state": "running", "restarts": 3}, "is not up; the old one serves on"),
    ],
)
def test_bad_version_is_taken_back(rolled: Any, behaviour: dict[str, Any], said: str) -> None:
    old = rolled.engine.named("web-web-1")
    rolled.engine.behaviour["web"] = behaviour
    rolled.stack(table=table("app:2"))
    status = rolled.one(rolled.reconcile(timeout=30))
    assert status.status == "failed" and said in status.last_error
    assert all(rolled.seen) and [c for c in rolled.engine.containers.values() if c.service == "web"] == [old]
    rolled.stack(table=table("app:1"))
    assert rolled.one(rolled.reconcile()).status == "synced" and rolled.engine.named("web-web-1") == old


@pytest.mark.parametrize("step", range(8))
def test_killed_at_every_step(rolled: Any, step: int) -> None:
    rolled.stack(table=table("app:2"))
    rolled.engine.kill_at = rolled.engine.steps + step
    with contextlib.suppress(fake_engine.KilledError):
        rolled.reconcile()
    rolled.engine.kill_at = -1
    assert all(rolled.seen) and serving(rolled)
    assert rolled.one(rolled.reconcile()).status == "synced"
    assert all(rolled.seen) and serving(rolled) == ["app:2"] and not rolled.reconcile().changed


def test_stopped_service_is_just_made_anew(rolled: Any) -> None:
    rolled.engine.touch("web-web-1", state="exited")
    rolled.stack(table=table("app:2"))
    assert rolled.one(rolled.reconcile()).status == "synced" and serving(rolled) == ["app:2"]
    assert "web-web-1" in rolled.running()


@pytest.mark.parametrize(
    ("value", "web", "said"),
    [
        ([], {}, "rolling must be a table"),
        ({"web": -1}, {}, "rolling must be a table"),
        ({"web": True}, {}, "rolling must be a table"),
        ({"nobody": 1}, {}, "names nobody, which is no service"),
        ({"web": 1}, {"container_name": "x"}, "web has container_name and cannot be rolled"),
        ({"web": 1}, {"ports": ["80:80"]}, "web has ports and cannot be rolled"),
    ],
)
def test_bad_input(node: Any, value: Any, web: dict[str, Any], said: str) -> None:
    node.stack(table={**table(**web), "x-pifleet": {"rolling": value}})
    assert said in node.one(node.reconcile()).last_error and not node.running()
