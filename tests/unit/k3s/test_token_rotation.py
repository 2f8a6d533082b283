# SPDX-License-Identifier: GPL-3.0-or-later
"""The rotation of a server token: once, verified, and gone on with where it was cut off."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import token_rotation
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.token_rotation import RotationError, fingerprint, rotate, take, verify


@dataclass
class FakeServer:
    """*given*: what it is started with; *known*: secrets that it accepts, by user."""

    first: str = "old"
    token: str = "old"
    known: dict[str, list[str]] = field(default_factory=lambda: {"server": ["old"], "node": ["agents"]})
    fresh: str = "new"
    keeps_old: bool = False
    rotations: int = 0
    restarts: int = 0

    def given(self) -> str:
        return self.first

    def own(self) -> str:
        return self.token

    def agents(self) -> str:
        return "agents"

    def ca(self) -> str:
        return "K10" + "a" * 64

    def rotate(self) -> None:
        self.rotations += 1
        self.token = self.fresh
        self.known["server"] = [self.fresh, *(["old"] if self.keeps_old else [])]

    def restart_with(self, token: str) -> None:
        self.restarts += 1
        self.first = self.token = token.rpartition(":")[2]

    def accepts(self, user: str, secret: str) -> bool | None:
        return secret in self.known[user]


def test_a_token_is_rotated_once_and_verified() -> None:
    server = FakeServer()
    found = rotate(server, check=False, timeout=0)
    assert (found.changed, found.resumed, found.server, server.rotations) == (True, False, fingerprint("new"), 1)
    # the node was not told yet: whoever comes then goes on with it
    again = rotate(server, check=False, timeout=0)
    assert (again.changed, again.resumed, again.server, server.rotations) == (False, True, fingerprint("new"), 1)


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_server_takes_the_token_that_was_made_on_another_one_once(first: str) -> None:
    """Also where it was cut off between the file and the restart."""
    server = FakeServer(first=first, known={"server": ["new"], "node": ["agents"]})
    token = server.ca() + "::server:new"
    assert (take(server, token, check=True, timeout=0).changed, server.restarts) == (True, 0)
    found = take(server, token, check=False, timeout=0)
    assert (found.changed, found.server, server.restarts) == (True, fingerprint("new"), 1)
    assert (take(server, token, check=False, timeout=0).changed, server.restarts) == (False, 1)


def test_a_server_that_does_not_accept_the_token_it_took_is_told() -> None:
    with pytest.raises(RotationError, match="does not accept the new token"):
        take(FakeServer(), "new", check=False, timeout=0)


def test_a_check_only_says_what_would_be_done() -> None:
    server = FakeServer()
    found = rotate(server, check=True, timeout=0)
    assert (found.changed, found.server, server.rotations) == (True, fingerprint("old"), 0)


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (FakeServer(first=""), "has no token"),
        (FakeServer(token=""), "has no token"),
        (FakeServer(fresh="old"), "did not write a new token"),
        (FakeServer(keeps_old=True), "still accepts the old token"),
    ],
)
def test_what_does_not_verify_is_told(server: FakeServer, says: str) -> None:
    with pytest.raises(RotationError, match=says):
        rotate(server, check=False, timeout=0)


def test_tokens_are_verified_as_servers_and_agents_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify(FakeServer(), 0).agents == fingerprint("agents")
    for server, says in (
        (FakeServer(first="other"), "not started with its own token"),
        (FakeServer(known={"server": [], "node": ["agents"]}), "does not accept its own token"),
        (FakeServer(known={"server": ["old"], "node": []}), "its own token for agents"),
    ):
        with pytest.raises(RotationError, match=says):
            verify(server, 0)
    monkeypatch.setattr(token_rotation, "_POLL_SECONDS", 0.0)
    with pytest.raises(RotationError, match="After 0"):
        verify(FakeServer(token=""), 0.01)
