# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub's HTTP interface: who may send what, what is kept, and how everything else is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.hub import cli
from ansible_collections.pifleet.ops.hub.app import create_app
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens, Caller
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Row
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from fastapi.testclient import TestClient

from tests.support.sync import IDENTITY, OTHER, Clock, event_row, sha256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub.db")


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    app = create_app(store)
    token = ApiTokens(store).add("controller", "sync", IDENTITY.team_or_user, timedelta(days=1))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}, raise_server_exceptions=False) as found:
        yield found


def batch(*rows: Row) -> dict[str, Any]:
    return {"events": [{"id": r.key, "sha256": r.sha256, "content": (r.content or b"").decode()} for r in rows]}


def outcomes(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [entry["result"] for entry in answer.json()["results"]]


def test_events_are_kept_once(client: TestClient, store: Store) -> None:
    rows = [event_row(number) for number in (1, 2)]
    assert outcomes(client.post("/v1/events", json=batch(*rows))) == ["stored", "stored"]
    answer = client.post("/v1/events", json=batch(rows[1], event_row(3), event_row(3)))
    assert outcomes(answer) == ["duplicate", "stored", "duplicate"]
    first = answer.json()["results"][0]
    assert (first["id"], first["sha256"]) == (rows[1].key, rows[1].sha256)
    with store.read() as db:
        kept = db.exec_driver_sql("SELECT source, event_id, content FROM received_events ORDER BY event_id").all()
    assert [tuple(k) for k in kept] == [(IDENTITY.team_or_user, event_row(n).key, event_row(n).content) for n in (1, 2, 3)]


def test_other_content_under_a_known_id_is_refused_and_the_first_stays(client: TestClient, store: Store) -> None:
    client.post("/v1/events", json=batch(event_row(1)))
    answer = client.post("/v1/events", json=batch(event_row(1, text="other"), event_row(2)))
    assert outcomes(answer) == ["rejected", "stored"]
    assert "another content" in answer.json()["results"][0]["detail"]
    with store.read() as db:
        assert bytes(db.exec_driver_sql("SELECT content FROM received_events").scalars().all()[0]) == event_row(1).content


def test_two_of_one_id_in_a_batch(client: TestClient) -> None:
    assert outcomes(client.post("/v1/events", json=batch(event_row(1), event_row(1, text="other")))) == ["stored", "rejected"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, "does not have this hash"),
        ({"content": "{}", "sha256": sha256(b"{}")}, "is no event"),
        ({"content": "[]", "sha256": sha256(b"[]")}, "is no event"),
        ({"content": "{", "sha256": sha256(b"{")}, "is no event"),
        ({"id": "c0ffee-0000000009"}, "another event than the id says"),
    ],
)
def test_record_that_is_no_event_is_named_and_the_others_are_kept(client: TestClient, change: dict[str, str], said: str) -> None:
    sent = batch(event_row(1), event_row(2))
    sent["events"][0].update(change)
    answer = client.post("/v1/events", json=sent)
    assert outcomes(answer) == ["rejected", "stored"]
    assert said in answer.json()["results"][0]["detail"]


def test_empty_batch_says_that_the_hub_is_in_order(client: TestClient) -> None:
    assert client.post("/v1/events", json={"events": []}).json() == {"results": []}


def test_bodies_are_kept_once(client: TestClient, store: Store) -> None:
    content = bytes(range(256)) * 10
    path = f"/v1/bodies/{sha256(content)}"
    for status, result in ((201, "stored"), (200, "duplicate")):
        answer = client.put(path, content=content, headers={"Content-Type": "text/x-diff"})
        assert (answer.status_code, answer.json()["result"], answer.json()["sha256"]) == (status, result, sha256(content))
    assert client.put(f"/v1/bodies/{sha256(b'')}", content=b"").status_code == 201
    with store.read() as db:
        kept = db.exec_driver_sql("SELECT media_type, size, content FROM received_bodies ORDER BY size").all()
    assert [tuple(k) for k in kept] == [("application/octet-stream", 0, b""), ("text/x-diff", len(content), content)]


def test_body_with_another_hash_is_refused(client: TestClient, store: Store) -> None:
    answer = client.put(f"/v1/bodies/{'0' * 64}", content=b"x")
    assert (answer.status_code, answer.json()["type"]) == (422, "hash_mismatch")
    with store.read() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM received_bodies").scalar() == 0


def problem(answer: Any, status: int, kind: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["type"] == kind
    assert set(answer.json()) == {"type", "title", "status", "detail"}


def test_every_refusal_is_a_problem(client: TestClient) -> None:
    problem(client.get("/nothing"), 404, "not_found")
    problem(client.delete("/v1/events"), 405, "method_not_allowed")
    problem(client.post("/v1/events", content=b"{"), 422, "invalid")
    problem(client.post("/v1/events", json={"events": [{"id": "x"}]}), 422, "invalid")
    problem(client.post("/v1/events", json={"events": [batch(event_row(1))["events"][0]] * 1001}), 422, "invalid")
    problem(client.post("/v1/events", content=json.dumps(batch(event_row(1))).replace("c0ffee", "\\udc80")), 422, "invalid")
    problem(client.put("/v1/bodies/short", content=b""), 422, "invalid")
    problem(client.get("/v1/events?limit=0"), 422, "invalid")


def test_request_that_is_too_large_is_refused_before_it_is_read(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * (1 << 20)

    problem(client.put(f"/v1/bodies/{'0' * 64}", content=b"x" * (34 << 20)), 413, "too_large")
    problem(client.put(f"/v1/bodies/{'0' * 64}", content=parts()), 413, "too_large")


def test_without_a_valid_token_nothing_is_told(store: Store) -> None:
    clock = Clock()
    tokens = ApiTokens(store, clock)
    app = create_app(store)
    app.state.tokens = tokens
    texts = [tokens.add(name, "sync", IDENTITY.team_or_user, timedelta(days=1)) for name in ("good", "revoked")]
    tokens.revoke("revoked")
    with TestClient(app) as client:
        for header in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp4"}, {"Authorization": f"Bearer {texts[1]}"}):
            for ask in (client.get("/v1/events", headers=header), client.post("/v1/events", json={"events": []}, headers=header)):
                problem(ask, 401, "unauthorized")
                assert ask.headers["www-authenticate"] == "Bearer"
        good = {"Authorization": f"Bearer {texts[0]}"}
        assert client.get("/v1/events", headers=good).status_code == 200
        clock.move(days=1)
        problem(client.get("/v1/events", headers=good), 401, "unauthorized")
        assert client.get("/healthz").json() == {"status": "ok"}


def test_token_is_for_one_identity(client: TestClient) -> None:
    named = {"X-Pifleet-Source": OTHER.team_or_user}
    problem(client.post("/v1/events", json=batch(event_row(1)), headers=named), 403, "other_identity")
    assert client.get("/v1/events").json() == {"items": []}
    named = {"X-Pifleet-Source": IDENTITY.team_or_user}
    assert client.post("/v1/events", json=batch(event_row(1)), headers=named).status_code == 200


def test_what_one_identity_sent_another_does_not_see(client: TestClient, store: Store) -> None:
    client.post("/v1/events", json=batch(event_row(1)))
    client.put(f"/v1/bodies/{sha256(b'x')}", content=b"x")
    other = {"Authorization": f"Bearer {ApiTokens(store).add('other', 'sync', OTHER.team_or_user, timedelta(days=1))}"}
    assert client.get("/v1/events", headers=other).json() == client.get("/v1/bodies", headers=other).json() == {"items": []}
    assert outcomes(client.post("/v1/events", json=batch(event_row(1, text="theirs")), headers=other)) == ["stored"]


def test_token_of_another_role_sends_nothing(client: TestClient, store: Store) -> None:
    with store.write() as db:
        db.exec_driver_sql("UPDATE api_tokens SET role = 'viewer'")
    problem(client.post("/v1/events", json={"events": []}), 403, "forbidden")


def test_lists_come_in_pages(client: TestClient) -> None:
    client.post("/v1/events", json=batch(*(event_row(n) for n in range(1, 6))))
    first = client.get("/v1/events?limit=3").json()["items"]
    rest = client.get(f"/v1/events?limit=3&after={first[-1]['id']}").json()["items"]
    assert [item["id"] for item in first + rest] == [event_row(n).key for n in range(1, 6)]
    assert first[0]["sha256"] == event_row(1).sha256
    assert client.get(f"/v1/events?after={rest[-1]['id']}").json() == {"items": []}
    client.put(f"/v1/bodies/{sha256(b'x')}", content=b"x")
    assert client.get("/v1/bodies").json()["items"] == [{"id": sha256(b"x"), "sha256": sha256(b"x")}]


def test_database_that_cannot_be_used_is_said_without_details(client: TestClient, store: Store) -> None:
    Path(store.name).write_bytes(b"x" * 4096)
    answer = client.post("/v1/events", json=batch(event_row(1)))
    problem(answer, 503, "unavailable")
    assert store.name not in answer.text


def test_error_of_the_program_is_no_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("inner")

    monkeypatch.setattr(client.app.state.received, "store_events", broken)  # type: ignore[attr-defined]
    answer = client.post("/v1/events", json={"events": []})
    problem(answer, 500, "internal")
    assert "inner" not in answer.text


def test_interface_describes_itself(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/events", "/v1/bodies", "/v1/bodies/{sha256}", "/healthz"}


def test_tokens_are_shown_once_and_kept_as_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = ["--database", str(tmp_path / "hub.db")]
    add = [*database, "token", "add", "controller", "--owner", "team-a", "--fleet", "pi-cluster"]
    assert cli.main(add) == 0
    text = capsys.readouterr().out.strip()
    assert text.encode() not in (tmp_path / "hub.db").read_bytes()
    tokens = ApiTokens(Store(tmp_path / "hub.db"))
    assert tokens.caller_of(text) == Caller("controller", "sync", "team-a/pi-cluster")
    assert cli.main([*database, "token", "list"]) == 0
    assert "controller\tsync\tteam-a/pi-cluster\tvalid" in capsys.readouterr().out
    assert cli.main(add) == 2
    assert "There is a token controller already" in capsys.readouterr().err
    assert cli.main([*database, "token", "revoke", "controller"]) == cli.main([*database, "token", "revoke", "controller"]) == 0
    assert tokens.caller_of(text) is None
    assert [t.state for t in tokens.all()] == ["revoked"]
    assert [t.state for t in ApiTokens(Store(tmp_path / "hub.db"), Clock()).all()] == ["revoked"]
    assert cli.main([*database, "token", "revoke", "none"]) == 2
    assert cli.main([*add[:-5], "other", "--owner", "a", "--fleet", "b", "--days", "0"]) == 2


def test_expired_token_is_listed_as_such(store: Store) -> None:
    clock = Clock()
    tokens = ApiTokens(store, clock)
    tokens.add("old", "sync", "a/b", timedelta(days=1))
    clock.move(days=2)
    assert [t.state for t in tokens.all()] == ["expired"]
    with pytest.raises(PifleetError):
        tokens.add("old", "sync", "a/b", timedelta(days=1))
    assert ApiTokens(Store(Path(store.name).with_name("none.db"))).caller_of("x") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "without TLS"),
        (["--tls-cert", "x"], "belong together"),
        (["--tls-cert", "x", "--tls-key", "y"], "cannot be read"),
        (["--host", "203.0.113.1", "--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "cannot be listened on"),
    ],
)
def test_hub_that_may_not_listen(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert cli.main(["--database", str(tmp_path / "hub.db"), "serve", *words]) == 2
    assert said in capsys.readouterr().err
