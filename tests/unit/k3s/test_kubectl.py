# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a kubectl call that fails: which failures are asked again, for how long, and what is said in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import kubectl as port
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import ApiError, ApiUnreachableError, Kubectl

AWAY = Completed(("kubectl",), 1, "", "The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?\n")
REFUSED = Completed(("kubectl",), 1, "", 'Error from server (NotFound): nodes "a" not found\n')
ANSWER = Completed(("kubectl",), 0, "here\n", "")


def kubectl(answers: Iterator[Completed], calls: list[tuple[str, ...]]) -> Kubectl:
    def run(argv, **_options) -> Completed:
        calls.append(tuple(word for word in argv[1:] if not word.startswith("--")))
        return next(answers)

    return Kubectl(run, "/etc/k3s.yaml", ["kubectl"])


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only a sleep moves."""
    pauses: list[float] = []
    monkeypatch.setattr(port.time, "sleep", pauses.append)
    monkeypatch.setattr(port.time, "monotonic", lambda: sum(pauses))
    return pauses


def test_an_api_that_is_away_for_a_moment_is_asked_again() -> None:
    calls: list[tuple[str, ...]] = []
    with kubectl(iter([AWAY, AWAY, ANSWER]), calls) as ask:
        assert ask.ask("patch", "node", "a", patience=20.0) == "here\n"
    assert calls == [("patch", "node", "a")] * 3


def test_patience_ends(slept: list[float]) -> None:
    calls: list[tuple[str, ...]] = []
    with kubectl(iter([AWAY] * 100), calls) as ask, pytest.raises(ApiUnreachableError, match="no API answers"):
        ask.ask("patch", "node", "a", patience=5.0)
    assert sum(slept) == 5.0


def test_without_patience_nothing_is_asked_twice() -> None:
    calls: list[tuple[str, ...]] = []
    with kubectl(iter([AWAY]), calls) as ask, pytest.raises(ApiUnreachableError):
        ask.get("nodes")
    assert calls == [("get", "nodes")]


def test_what_the_api_refused_is_not_asked_again() -> None:
    calls: list[tuple[str, ...]] = []
    with kubectl(iter([REFUSED]), calls) as ask, pytest.raises(ApiError, match="not found"):
        ask.ask("delete", "node", "a", patience=20.0)
    assert len(calls) == 1
