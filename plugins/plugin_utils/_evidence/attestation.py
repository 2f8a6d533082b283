# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed statements: who vouches for which head of a chain.

A statement is an in-toto statement (https://in-toto.io/Statement/v1) about the event that is the head, in a DSSE envelope. It is signed
with the controller's own ed25519 key, or with the operator's GnuPG key.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import chain
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SigningLibraryError
from securesystemslib.signer import CryptoSigner, GPGKey, GPGSigner, Key, Signer, SSlibKey

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:pifleet:run:v1"
APPROVAL = "urn:pifleet:approval:v1"
APPROVAL_AHEAD = "urn:pifleet:approval-ahead:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: of the controller, below the fleet's state
KEY_FILE = Path("keys") / "evidence.pem"


#: seconds that GnuPG has to list keys
GPG_SECONDS = 10.0
#: validities, as ``gpg --with-colons`` writes them, of keys that do not sign
_UNUSABLE = {"e": "has expired", "r": "was revoked", "i": "is invalid", "d": "is disabled"}


class SigningError(PifleetError):
    """A statement could not be signed, or its signature cannot be trusted."""


def payload(subject: str, sha256: str, predicate: Mapping[str, Any], kind: str = PREDICATE) -> bytes:
    """Return what is signed: of a run, that *predicate* (the run, its status and who ran it) ended with the event *subject* of this hash;
    of an approval (*kind*), that *predicate* (who permits it, and until when) is about the plan of this digest of the fix run *subject*,
    or of the service *subject* where it is given ahead."""
    about = [{"name": subject, "digest": {"sha256": sha256}}]
    return chain.canonical({"_type": STATEMENT, "subject": about, "predicateType": kind, "predicate": dict(predicate)})


def sign(content: bytes, signer: Signer) -> dict[str, Any]:
    """Return the DSSE envelope of *content*. Raises SigningError."""
    envelope = Envelope(content, PAYLOAD_TYPE, {})
    try:
        envelope.sign(signer)
    except (SigningLibraryError, ValueError, OSError, subprocess.SubprocessError) as error:
        raise SigningError(f"The run's statement could not be signed: {error}.", "Look at the signing key, and run again.") from error
    table: dict[str, Any] = envelope.to_dict()
    return table


def verified(envelope: Mapping[str, Any], keys: Mapping[str, Mapping[str, Any]], kind: str = PREDICATE) -> tuple[str, dict[str, Any]]:
    """Return (id of the key, statement) of an envelope that one of *keys* signed. *keys*: as ``public``, by id. Raises SigningError."""
    try:
        found = Envelope.from_dict(json.loads(json.dumps(envelope)))
        known = [_key(keyid, keys[keyid]) for keyid in found.signatures if keyid in keys]
        if not known:
            raise SigningError(f"It is signed with {', '.join(found.signatures) or 'no key'}, which nobody introduced.")
        accepted = found.verify(known, 1)
        statement = json.loads(found.payload)
    except SigningError:
        raise
    except (SigningLibraryError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SigningError(f"Its signature does not hold: {error}.") from error
    if found.payload_type != PAYLOAD_TYPE or not isinstance(statement, dict) or statement.get("predicateType") != kind:
        raise SigningError(f"It is no statement about {'a run' if kind == PREDICATE else 'an approval'}.")
    return next(iter(accepted)), statement


def public(key: Key) -> dict[str, Any]:
    """Return what is needed to verify with *key*, as JSON can hold it."""
    table: dict[str, Any] = key.to_dict()
    return table


def own_signer(path: Path) -> Signer:
    """Return the controller's own signer; its key is made where there is none yet. Raises SigningError."""
    try:
        pem = atomic_file.read_bytes(path)
        if pem is None:
            pem = _create(path)
        private = load_pem_private_key(pem, None)
        return CryptoSigner(private)
    except OSError as error:
        raise SigningError(
            f"The signing key {path} cannot be used: {error.strerror or error}.", "Give this user access to it and its folder."
        ) from error
    except (ValueError, TypeError, SigningLibraryError) as error:
        raise SigningError(
            f"{path} is no private key of ed25519: {error}.", "Restore it, or move it away: the next run makes and introduces a new one."
        ) from error


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """A key of the operator's keyring. *expires_at*: UTC, ISO 8601, None where it never does."""

    signer: Signer
    expires_at: str | None


def gnupg_key(key: str, home: str | None = None, run: argv.Runner = argv.run) -> OperatorKey:
    """Return the signing key of the operator's keyring that *key*, its whole fingerprint, names. Raises SigningError.

    *home*: of GnuPG, where it is not the user's. What ``gpg --with-colons`` prints is in GnuPG's doc/DETAILS.
    """
    fingerprint = key.replace(" ", "").lower()
    validity, expires = _listed(fingerprint, home, run)
    if validity in _UNUSABLE:
        raise _unusable(key, f"it {_UNUSABLE[validity]}")
    try:
        _uri, public_key = GPGSigner.import_(fingerprint, home)
    except (SigningLibraryError, ValueError, OSError, subprocess.SubprocessError) as error:
        raise _unusable(key, str(error)) from error
    moment = datetime.fromtimestamp(int(expires), tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if expires else None
    return OperatorKey(GPGSigner(public_key, home), moment)


def _listed(fingerprint: str, home: str | None, run: argv.Runner) -> tuple[str, str]:
    """Return validity and expiry (seconds since 1970, or nothing) of a secret key, as GnuPG lists it."""
    done = run(
        ["gpg", *(["--homedir", home] if home else []), "--batch", "--with-colons", "--list-secret-keys", fingerprint], timeout=GPG_SECONDS
    )
    record: list[str] = []
    for line in done.stdout.splitlines():
        fields = line.split(":")
        if fields[0] in ("sec", "ssb"):
            record = fields
        elif fields[0] == "fpr" and fields[9].lower() == fingerprint and record:
            return record[1], record[6]
    raise _unusable(fingerprint, "there is no such secret key" if done.rc != 127 else done.stderr)


def _unusable(key: str, why: str) -> SigningError:
    return SigningError(
        f"The GnuPG key {key} cannot be used: {why}.",
        "Give the whole fingerprint that `gpg --list-secret-keys` shows of a key that signs, in evidence_gnupg_key.",
    )


def _key(keyid: str, table: Mapping[str, Any]) -> Key:
    kind = GPGKey if str(table.get("scheme", "")).startswith("pgp+") else SSlibKey
    return kind.from_dict(keyid, json.loads(json.dumps(table)))


def _create(path: Path) -> bytes:
    """Make a key, private before it is there, and its public half beside it; of two that come at once the first one counts."""
    signer = CryptoSigner.generate_ed25519()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        atomic_file.write_atomic(new, signer.private_bytes, 0o600)
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    atomic_file.fsync_folder(path.parent)
    content = path.read_bytes()
    public_key = load_pem_private_key(content, None).public_key()
    atomic_file.write_atomic(path.with_suffix(".pub"), public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return content
