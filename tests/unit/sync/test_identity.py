# SPDX-License-Identifier: GPL-3.0-or-later
"""evidence.yml and the token: what is taken, and what is said of what is not."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity, token
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Identity, Settings, SettingsError, TokenSource
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.token import TokenError

from tests.support.sync import START

WHOLE = """
hub_url: https://hub.example.org:8470/
owner: team-a
fleet: pi-cluster
token_file: secrets/token
ca_file: /etc/ca.pem
ledger_url: postgresql://pifleet@db/ledger
legacy_ledger: old/ledger.db
outbox_limit: 10
outbox_attempts: 2
"""


def write(root: Path, text: str) -> Path:
    (root / "evidence.yml").write_text(text)
    return root


def test_whole_file(tmp_path: Path) -> None:
    assert identity.load(write(tmp_path, WHOLE)) == Settings(
        root=tmp_path,
        identity=Identity("team-a", "pi-cluster", "https://hub.example.org:8470"),
        token=TokenSource(tmp_path / "secrets/token"),
        ca_file=Path("/etc/ca.pem"),
        ledger_url="postgresql://pifleet@db/ledger",
        legacy_ledger=tmp_path / "old/ledger.db",
        limit=10,
        attempts=2,
    )
    assert identity.load(tmp_path).scope == "team-a/pi-cluster@https://hub.example.org:8470"


@pytest.mark.parametrize("text", [None, "", "---\n", "owner: team-a\nfleet: pi-cluster\n"])
def test_fleet_without_a_hub_has_no_identity(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write(tmp_path, text)
    found = identity.load(tmp_path)
    assert (found.identity, found.scope, found.limit, found.attempts) == (None, "", 100_000, 5)
    assert found.default_ledger == tmp_path / ".pifleet/ledger.db"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "is no table"),
        ("owner: [", "cannot be read"),
        ("ower: x", "unknown key ower.*Its keys are ca_file, fleet, hub_url"),
        ("hub_url: https://x", "owner is missing"),
        ("hub_url: https://x\nowner: a", "fleet is missing"),
        ("hub_url: 5", "hub_url is no text"),
        ("hub_url: ''", "hub_url is no text"),
        ("hub_url: ftp://x", "hub_url is no URL of a hub"),
        ("hub_url: https://", "hub_url is no URL of a hub"),
        ("hub_url: https://x?y=1", "hub_url is no URL of a hub"),
        ("hub_url: https://[x", "hub_url is no URL"),
        ("hub_url: https://x:port", "hub_url is no URL"),
        ("hub_url: http://x", "hub_url is not encrypted.*Use https"),
        ("hub_url: https://user:hunter2@x", "hub_url contains credentials"),
        ("owner: a/b", "owner is 'a/b'"),
        (f"owner: {'a' * 64}", "1 to 63 letters"),
        ("outbox_limit: 0", "outbox_limit is 0.*above 0"),
        ("outbox_limit: true", "outbox_limit is True"),
        ("outbox_attempts: many", "outbox_attempts is 'many'"),
        ("token_file: x\ntoken_sops: {file: x, key: y}", "token_sops stands beside token_file"),
        ("token_sops: x", "token_sops is no table of file and key"),
        ("token_sops: {file: x}", "token_sops is no table of file and key"),
        ("token_sops: {file: x, key: 'a\"]'}", "token_sops is no table of file and key"),
    ],
)
def test_bad_file_is_told_by_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        identity.load(write(tmp_path, text))
    assert str(tmp_path / "evidence.yml") in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_http_is_for_the_same_machine(tmp_path: Path) -> None:
    found = identity.load(write(tmp_path, "hub_url: http://127.0.0.1:8470\nowner: a\nfleet: b"))
    assert found.identity == Identity("a", "b", "http://127.0.0.1:8470")


def test_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "evidence.yml").mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        identity.load(tmp_path)


def test_python_and_code_are_named_the_same_however_called() -> None:
    assert os.path.basename(identity.executable_path()).startswith("python3.")
    assert Path(identity.source_path(), "plugins").is_dir()


def kept(root: Path, text: str, mode: int = 0o600) -> TokenSource:
    path = root / "token"
    path.write_text(text)
    path.chmod(mode)
    return TokenSource(path)


def test_token_says_until_when_it_holds(tmp_path: Path) -> None:
    text = token.new(START + timedelta(days=1))
    source = kept(tmp_path, f"{text}\n")
    found = token.inspect(source, START)
    assert (found.state, found.usable, found.expires_at) == ("usable", True, START + timedelta(days=1))
    assert token.read(source, START).value == text
    assert text not in repr(token.read(source, START))
    late = token.inspect(source, START + timedelta(days=1))
    assert (late.state, late.usable) == ("expired", False)
    assert token.inspect(source, START, refused=found.fingerprint).state == "refused"
    assert token.new(START) != token.new(START)


@pytest.mark.parametrize(
    ("text", "mode", "state"),
    [("", 0o600, "missing"), ("x", 0o640, "exposed"), ("x", 0o604, "exposed"), ("someone-elses-form", 0o400, "usable")],
)
def test_token_files(tmp_path: Path, text: str, mode: int, state: str) -> None:
    source = kept(tmp_path, text, mode)
    found = token.inspect(source, START)
    assert found.state == state
    if state != "usable":
        with pytest.raises(TokenError, match="mode 0600"):
            token.read(source, START)


def test_token_that_is_not_there(tmp_path: Path) -> None:
    assert token.inspect(None, START).state == "missing"
    assert token.inspect(TokenSource(tmp_path / "none"), START).state == "missing"
    assert token.inspect(TokenSource(tmp_path), START).state == "unreadable"
    assert token.expiry_of(f"pft_20251399T000000Z_{'a' * 43}") is None, "no such day"


def test_token_in_sops_is_decrypted_only_to_be_shown(tmp_path: Path) -> None:
    source = TokenSource(kept(tmp_path, "encrypted", 0o644).path, "hub_token")
    asked: list[tuple[str, ...]] = []

    def sops(words: object, **_: object) -> argv.Completed:
        asked.append(tuple(words))  # type: ignore[arg-type]
        return argv.Completed((), 0, "secret\n", "")

    assert token.inspect(source, START).usable
    assert asked == []
    assert token.read(source, START, sops).value == "secret"
    assert asked == [("sops", "--decrypt", "--extract", '["hub_token"]', str(source.path))]
    with pytest.raises(TokenError, match="no key could decrypt"):
        token.read(source, START, lambda *_a, **_k: argv.Completed((), 128, "", "x\nno key could decrypt\n"))
    with pytest.raises(TokenError, match="it is empty"):
        token.read(source, START, lambda *_a, **_k: argv.Completed((), 0, "", ""))
