# SPDX-License-Identifier: GPL-3.0-or-later
"""When a stack counts as up: several looks at containers, given one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Container, Service, Stack
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.verify import LOOP_PATIENCE, STABLE, WAITING, Watch, holding_up

from tests.support import stack_models

ALWAYS = {"limits": {"RestartPolicy": "always"}}


def stack(**services: Any) -> Stack:
    return Stack("web", "web", {name: Service(name, "h", {}, {}, "pifleet/lab-app:1", **table) for name, table in services.items()})


def container(of: Stack, name: str, **what: Any) -> Container:
    return replace(stack_models.container(of, name, {}), **what)


def watch(of: Stack, stable: float = 2.0, deadline: float = 100.0) -> Watch:
    return Watch(of, stable, 0.0, deadline, {})


def test_it_is_stable_when_three_looks_over_the_time_show_the_same():
    one = stack(a=ALWAYS)
    up = [container(one, "a")]
    quick, slow = watch(one, stable=0.0), watch(one, stable=2.0)
    assert [quick.look(up, now)[0] for now in (0.0, 0.1, 0.2)] == [WAITING, WAITING, STABLE]
    assert [slow.look(up, now)[0] for now in (0.0, 1.0, 1.5, 2.0)] == [WAITING, WAITING, WAITING, STABLE]
    other = watch(one, stable=0.0)
    restarted = [container(one, "a", started_at="2026-01-01T00:00:09.000000000Z")]
    assert [other.look(seen, now)[0] for now, seen in enumerate((up, up, restarted, restarted, restarted))] == [WAITING] * 4 + [STABLE]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"health": "starting"}, "web-a-1 is not healthy yet"),
        ({"state": "created"}, "web-a-1 is created"),
        ({"state": "restarting", "exit_code": 3}, "web-a-1 is restarting"),
    ],
)
def test_what_is_waited_for_is_said_when_the_time_is_over(what, says):
    one = stack(a=ALWAYS)
    seen = watch(one, deadline=30.0)
    assert seen.look([container(one, "a", **what)], 1.0) == (WAITING, says)
    assert seen.look([container(one, "a", **what)], 30.0) == ("", f"{says} after 30 seconds")
    assert watch(one, deadline=30.0).look([], 31.0) == ("", "a has 0 of 1 containers after 31 seconds")
    changing = watch(one, deadline=5.0)
    assert changing.look([container(one, "a")], 5.0) == ("", "it does not come to rest after 5 seconds")


def test_a_crash_loop_is_told_with_the_exit_code_that_was_seen():
    one = stack(a=ALWAYS)
    seen = watch(one)
    looks = [("restarting", 7, 2), ("running", 0, 3), ("running", 0, 4), ("running", 0, 5)]
    answers = [seen.look([container(one, "a", state=s, exit_code=c, restarts=r)], n * 3.0) for n, (s, c, r) in enumerate(looks)]
    assert answers[-1] == ("", "web-a-1 crashes again and again (5 restarts, exit code 7)") and LOOP_PATIENCE < 9.0
    calm = watch(one)
    assert [calm.look([container(one, "a", restarts=4)], now)[0] for now in (0.0, 9.0, 10.0, 12.0)][-1] == STABLE, "it came to rest"


@pytest.mark.parametrize(
    ("service", "what", "verdict"),
    [
        ({"job": True}, {"state": "exited"}, WAITING),
        ({"undecided": True}, {"state": "exited"}, WAITING),
        ({"job": True}, {"state": "exited", "exit_code": 2}, "web-a-1 ended with exit code 2"),
        ({}, {"state": "exited"}, "web-a-1 ended with exit code 0"),
        ({"job": True, "limits": {"RestartPolicy": "on-failure"}}, {"state": "exited"}, WAITING),
        (ALWAYS, {"health": "unhealthy"}, "web-a-1 is unhealthy"),
        ({"scale": 0}, {"state": "exited", "exit_code": 2}, WAITING),
    ],
)
def test_what_may_end_and_what_may_not(service, what, verdict):
    one = stack(a=service)
    assert verdict in watch(one).look([container(one, "a", **what)], 0.0)


def test_what_holds_an_apply_up():
    three = stack(job={"job": True}, db=ALWAYS, web=ALWAYS)
    here = [container(three, "job"), container(three, "db", health="starting"), container(three, "web", state="created")]
    assert holding_up(three, here) == "web-db-1 is not healthy, web-job-1 has not completed"
    assert holding_up(three, [replace(one, oneoff=True) for one in here]) == ""
