# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements signed with the operator's GnuPG key, beside the controller's own: by real keys in a keyring of the test's."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation, chain
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.attestation import SigningError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import Statements
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.tampering import HOSTS, audit, header, recording, someone

#: as ``gpg --faked-system-time`` takes it
LONG_AGO = "20200101T000000"
Gpg = Callable[..., str]


@pytest.fixture(scope="module")
def keyring() -> Iterator[Path]:
    # in /tmp: a socket's path may have 107 characters
    folder = Path(tempfile.mkdtemp(prefix="gpg-"))
    yield folder
    subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "gpg-agent"], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def keys(keyring: Path) -> dict[str, str]:
    """Fingerprints: of a key that signs, one of RSA, one that has expired, and one that was revoked."""

    def gpg(*words: str, stdin: str = "") -> str:
        command = ["gpg", "--homedir", str(keyring), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, input=stdin).stdout

    gpg("--quick-generate-key", "good@example.org", "ed25519", "sign", "2099-01-01")
    gpg("--quick-generate-key", "rsa@example.org", "rsa2048", "sign", "never")
    gpg("--faked-system-time", LONG_AGO, "--quick-generate-key", "expired@example.org", "ed25519", "sign", "1d")
    gpg("--quick-generate-key", "revoked@example.org", "ed25519", "sign", "never")
    found = {}
    for line in gpg("--with-colons", "--list-secret-keys").splitlines():
        fields = line.split(":")
        if fields[0] == "fpr":
            fingerprint = fields[9]
        elif fields[0] == "uid":
            found[fields[9].partition("@")[0]] = fingerprint
    revocation = (keyring / "openpgp-revocs.d" / f"{found['revoked']}.rev").read_text()
    gpg("--import", stdin=revocation.replace(":-----BEGIN", "-----BEGIN"))
    return found


@pytest.fixture(autouse=True)
def _home(keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNUPGHOME", str(keyring))


def ended(store: Store, state: Path, key: str | None, number: int = 1) -> str:
    """A run that ended with a statement."""
    runs = Runs(store, gone=lambda _process: False)
    run_id = runs.open(header(), someone(number), HOSTS).run_id
    runs.close(someone(number), dict.fromkeys(HOSTS, "ok"), recording(run_id))
    assert Statements(store, state, key).sign(run_id)
    return run_id


@pytest.mark.parametrize("kind", ["good", "rsa"])
def test_statement_of_the_operators_key_is_verified(tmp_path: Path, keys: dict[str, str], kind: str) -> None:
    store = Store(tmp_path / "ledger.db")
    spaced = " ".join(keys[kind][n : n + 4] for n in range(0, 40, 4))
    ended(store, tmp_path, spaced)
    report = audit(store, trusted=(keys[kind].lower(),))
    assert (report.findings, report.statements) == ((), 1)
    assert not (tmp_path / attestation.KEY_FILE).exists(), "the controller's own key is not made"
    (finding,) = audit(store, trusted=("0" * 40,)).findings
    assert (finding.problem, "which is not trusted" in finding.text) == ("unsigned", True)


def test_both_kinds_of_keys_sign_one_chain_and_each_is_introduced_once(tmp_path: Path, keys: dict[str, str]) -> None:
    store = Store(tmp_path / "ledger.db")
    for number, key in enumerate((keys["good"], None, keys["good"], None), 1):
        ended(store, tmp_path, key, number)
    report = audit(store)
    assert (report.findings, report.statements) == ((), 4)
    with store.read() as db:
        told = [json.loads(row)["data"] for row in db.exec_driver_sql("SELECT content FROM events WHERE kind = 'key.introduced'").scalars()]
    assert [data.get("expires_at", "never")[:10] for data in told] == ["2099-01-01", "never"]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("expired", "it has expired"),
        ("revoked", "it was revoked"),
        ("0" * 40, "there is no such secret key"),
        ("no key", "no such secret key"),
    ],
)
def test_key_that_does_not_sign_is_told(tmp_path: Path, keys: dict[str, str], key: str, says: str) -> None:
    with pytest.raises(SigningError, match=f"{says}.*evidence_gnupg_key"):
        attestation.gnupg_key(keys.get(key, key))


def test_key_without_its_secret_half_is_told(tmp_path: Path, keys: dict[str, str], keyring: Path) -> None:
    shutil.copyfile(keyring / "pubring.kbx", tmp_path / "pubring.kbx")
    try:
        with pytest.raises(SigningError, match="there is no such secret key"):
            attestation.gnupg_key(keys["good"], str(tmp_path))
    finally:
        # the agent that it started for this folder
        subprocess.run(["gpgconf", "--homedir", str(tmp_path), "--kill", "gpg-agent"], check=False)


def test_machine_without_gnupg_is_told(keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SigningError, match="gpg: no such program"):
        attestation.gnupg_key(keys["good"])


def test_statement_made_with_a_key_after_its_expiry_is_found(tmp_path: Path, keys: dict[str, str]) -> None:
    """As with a clock that was set back: GnuPG itself signs with no expired key."""
    store = Store(tmp_path / "ledger.db")
    late = datetime(2099, 1, 2, tzinfo=timezone.utc)
    runs = Runs(store, now=lambda: late)
    run_id = runs.open(header(), someone(1), HOSTS).run_id
    runs.close(someone(1), dict.fromkeys(HOSTS, "ok"), recording(run_id))
    Statements(store, tmp_path, keys["good"], now=lambda: late).sign(run_id)
    (finding,) = audit(store).findings
    assert finding.problem == "unsigned"
    assert f"the key {keys['good'].lower()}, which had expired at 2099-01-01" in finding.text


def test_statement_of_a_key_that_nobody_introduced_is_refused(keys: dict[str, str]) -> None:
    content = attestation.payload("c-1", "a" * 64, {"run": "r"})
    mine, rsa = attestation.gnupg_key(keys["good"]).signer, attestation.gnupg_key(keys["rsa"]).signer
    envelope = attestation.sign(content, mine)
    known = {mine.public_key.keyid: attestation.public(mine.public_key), rsa.public_key.keyid: attestation.public(rsa.public_key)}
    assert attestation.verified(envelope, known)[0] == keys["good"].lower()
    with pytest.raises(SigningError, match="which nobody introduced"):
        attestation.verified(envelope, {rsa.public_key.keyid: known[rsa.public_key.keyid]})
    forged = {**envelope, "payload": attestation.sign(chain.canonical({"x": 1}), rsa)["payload"]}
    with pytest.raises(SigningError, match="does not hold"):
        attestation.verified(forged, known)
    with pytest.raises(SigningError, match="does not hold"):
        attestation.verified(envelope, {mine.public_key.keyid: known[rsa.public_key.keyid]})
