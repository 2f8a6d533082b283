# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a recipient's key is told before anything is encrypted for it: GnuPG's own keyring, and age's checksum."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyrage
import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import keys

NOW = datetime.now(tz=timezone.utc)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pifleet-gpg-"))  # a socket's path must be short
    yield folder
    subprocess.run(["gpgconf", "--homedir", folder, "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def make(home: Path, name: str, usage: str, expires: str, *more: str) -> str:
    argv = ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*argv, *more, "--quick-generate-key", name, "rsa2048", usage, expires], check=True, capture_output=True)
    listed = subprocess.run([*argv, "--list-keys", "--with-colons", name], check=True, capture_output=True, text=True).stdout
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))


def test_keys_of_gnupg_that_cannot_be_encrypted_for_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNUPGHOME", str(home))
    good = make(home, "good", "encrypt,sign", "0")
    soon = make(home, "soon", "encrypt,sign", "5d")
    gone = make(home, "gone", "encrypt,sign", "seconds=100", "--faked-system-time", f"{NOW - timedelta(days=9):%Y%m%dT%H%M%S}")
    signs = make(home, "signs", "sign", "0")
    assert keys.problems([good], NOW) == ([], [])
    wrong, coming = keys.problems([good, soon], NOW)
    assert wrong == []
    assert len(coming) == 1 and coming[0].startswith(f"GnuPG key {soon} expires on ")
    unknown = "0" * 40
    told = {text.split()[2]: text for text in keys.problems([gone, signs, unknown], NOW)[0]}
    assert "has expired" in told[gone]
    assert "is not for encryption" in told[signs]
    assert "is not in the keyring" in told[unknown]


def test_without_a_keyring_no_key_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "none"))
    ((text,), _soon) = keys.problems(["0" * 40], NOW)
    assert "is not in the keyring" in text


def test_a_letter_that_is_wrong_in_a_key_of_age_is_told() -> None:
    good = str(pyrage.x25519.Identity.generate().to_public())
    bad = good[:-1] + ("q" if good[-1] != "q" else "p")
    assert keys.problems([good, "ssh-ed25519 AAAA"], NOW) == ([], [])
    ((text,), _soon) = keys.problems([bad], NOW)
    assert text.startswith(f"{bad} is no key of age")
