# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens, credentials, node passwords, shared data, snapshots: the stand-in's side of k3s's contracts."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest

from lab.standin import bootstrap, datastore, endpoint, host, join, snapshots, tokens
from lab.standin.balancer import Balancer
from lab.standin.config import Config
from lab.standin.log import FatalError

HASH = "a" * 64


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("secret", tokens.Token("", "", "secret")),
        (f"K10{HASH}::server:secret", tokens.Token(HASH, "server", "secret")),
        (f"K10{HASH}::node:with:colon", tokens.Token(HASH, "node", "with:colon")),
    ],
)
def test_tokens_are_parsed(text: str, parsed: tokens.Token) -> None:
    assert tokens.parse(text) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must not be empty"),
        ("K10abc", "invalid token format"),
        ("K10ab::server:x", "CA hash length"),
        (f"K10{HASH}::server:", "invalid token format"),
    ],
)
def test_bad_tokens_are_refused_in_k3s_s_words(text: str, said: str) -> None:
    with pytest.raises(tokens.TokenError, match=said):
        tokens.parse(text)


def test_a_token_carries_the_hash_of_the_ca_file() -> None:
    assert tokens.parse(tokens.compose("PEM\n", "server", "s")).ca_hash == tokens.hash_of("PEM\n")


def authorization(user: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


@pytest.mark.parametrize(
    ("user", "secret", "who"),
    [
        ("server", "S", "server"),
        ("node", "S", "server"),  # the server token joins agents too
        ("", "S", "server"),
        ("node", "A", "node"),
        ("server", "A", ""),  # an agent token never makes a server
        ("node", "wrong", ""),
        ("node", "", ""),
    ],
)
def test_who_a_credential_is(user: str, secret: str, who: str) -> None:
    served = endpoint.Endpoint(Config("server"), api=None, credentials=lambda: {"server": ["S"], "node": ["A"]})  # type: ignore[arg-type]
    assert served.user_of(authorization(user, secret)) == who
    assert served.user_of("") == ""


class Secrets:
    """The API, as far as node passwords use it."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}

    def __call__(self, method: str, path: str, body: Any = None, content_type: str = "") -> tuple[int, Any]:
        if method == "POST":
            self.stored[f"{path}/{body['metadata']['name']}"] = body
            return 201, body
        return (200, self.stored[path]) if path in self.stored else (404, {})


def test_a_node_keeps_the_password_of_its_first_join() -> None:
    api = Secrets()
    endpoint.verify_node_password(api, "Pi-1", "mine")  # type: ignore[arg-type]
    endpoint.verify_node_password(api, "pi-1", "mine")  # type: ignore[arg-type]
    (secret,) = api.stored.values()
    assert secret["metadata"]["name"] == "pi-1.node-password.k3s"
    assert secret["immutable"]
    assert "mine" not in base64.b64decode(secret["data"]["hash"]).decode()
    with pytest.raises(endpoint.NodePasswordError, match="hash does not match"):
        endpoint.verify_node_password(api, "pi-1", "another")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (ConnectionRefusedError(), "dial tcp h:6443: connect: connection refused"),
        (TimeoutError(), "dial tcp h:6443: i/o timeout"),
        (socket.gaierror(), "dial tcp: lookup h: no such host"),
        (ConnectionResetError(), "read: connection reset by peer"),
        (ssl.SSLError(), "EOF"),
        (OSError(113, "No route to host"), "connect: no route to host"),
    ],
)
def test_failures_are_worded_as_go_words_them(problem: OSError, said: str) -> None:
    assert said in join._in_go(problem, "h", 6443)


def test_a_date_of_openssl_is_printed_as_go_prints_it() -> None:
    assert join._date("notBefore=Nov  1 08:31:00 2026 GMT\n") == "2026-11-01T08:31:00Z"


def test_shared_data_are_encrypted_with_the_token(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls/server-ca.key").write_text("KEY")
    packed = bootstrap.pack(str(tmp_path))
    stored = bootstrap.encrypt(packed, "one")
    assert "KEY" not in stored
    assert bootstrap.decrypt(stored, f"K10{HASH}::server:one") == packed
    with pytest.raises(ValueError, match="authentication failed"):
        bootstrap.decrypt(stored, "two")
    bootstrap.unpack(str(tmp_path / "new"), packed)
    assert (tmp_path / "new/tls/server-ca.key").read_text() == "KEY"
    assert (tmp_path / "new/tls/server-ca.key").stat().st_mode & 0o777 == 0o600


def test_each_token_has_its_own_place_in_the_datastore() -> None:
    assert bootstrap.key("one") == bootstrap.key(f"K10{HASH}::server:one") != bootstrap.key("two")


def test_only_known_files_are_taken_from_another_server(tmp_path: Path) -> None:
    bootstrap.unpack(str(tmp_path), json.dumps({"../evil": base64.b64encode(b"x").decode()}))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "sqlite"),
        ({"cluster-init": True}, "etcd"),
        ({"server": "https://x:6443"}, "etcd"),
        ({"cluster-reset": True}, "etcd"),
        ({"datastore-endpoint": "http://192.0.2.9:2379"}, "external"),
    ],
)
def test_which_datastore(values: dict[str, Any], kind: str, tmp_path: Path) -> None:
    assert datastore.kind_of(Config("server", {"data-dir": str(tmp_path), **values})) == kind


def test_a_datastore_that_exists_decides(tmp_path: Path) -> None:
    (tmp_path / "server/db/etcd/member/wal").mkdir(parents=True)
    assert datastore.kind_of(Config("server", {"data-dir": str(tmp_path)})) == "etcd"
    assert datastore.kind_of(Config("server", {"data-dir": str(tmp_path), "datastore-endpoint": "http://192.0.2.9:2379"})) == "etcd"


@pytest.mark.parametrize(
    ("cron", "moment", "due"),
    [
        ("0 */12 * * *", "2026-11-21 12:00", True),
        ("0 */12 * * *", "2026-11-21 12:01", False),
        ("0 */12 * * *", "2026-11-21 13:00", False),
        ("*/5 * * * *", "2026-11-21 09:25", True),
        ("30 2-4 * * 6,0", "2026-11-21 03:30", True),  # a Saturday
        ("30 2-4 * * 1-5", "2026-11-21 03:30", False),
    ],
)
def test_when_a_snapshot_is_due(cron: str, moment: str, due: bool) -> None:
    assert snapshots.due(cron, time.strptime(moment, "%Y-%m-%d %H:%M")) is due


def test_a_compressed_snapshot_is_opened(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("s", "content")
    with snapshots.opened(str(tmp_path / "s.zip")) as plain:
        assert Path(plain).read_text() == "content"


def test_an_agent_learns_the_servers_and_keeps_them(tmp_path: Path) -> None:
    def api(method: str, path: str) -> tuple[int, Any]:
        ports, addresses = [{"port": 6443}], [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.1"]}]
        return 200, {"items": [{"endpoints": addresses, "ports": ports}]}

    file = str(tmp_path / "etc/lb.json")
    Balancer(file, "https://10.0.0.1:6443").learn(api)  # type: ignore[arg-type]
    after_restart = Balancer(file, "https://10.0.0.1:6443")
    assert after_restart.state["ServerAddresses"] == ["10.0.0.1:6443", "10.0.0.2:6443"]
    assert Balancer(file, "https://10.9.9.9:6443").state["ServerAddresses"] == ["10.9.9.9:6443"]


def test_a_taken_port_is_reported_as_go_reports_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FatalError, match=f"listen tcp4 127.0.0.1:{port}: bind: address already in use"):
            host.check_port(port, "127.0.0.1")
