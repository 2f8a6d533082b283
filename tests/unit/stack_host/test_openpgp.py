# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints of keys, as gpg prints them."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.openpgp import fingerprint

from .keys import FINGERPRINT, KEY


def armoured(data: bytes) -> str:
    return f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{base64.b64encode(data).decode()}\n-----END PGP PUBLIC KEY BLOCK-----\n"


def binary() -> bytes:
    return base64.b64decode("".join(KEY.splitlines()[2:-2]))


def test_as_gpg_prints_it() -> None:
    assert fingerprint(KEY) == FINGERPRINT
    assert fingerprint("\ntext before\n" + KEY.replace("BLOCK-----\n\n", "BLOCK-----\nVersion: GnuPG v2\nComment: x\n\n")) == FINGERPRINT
    assert fingerprint(KEY.replace("\n", "\r\n")) == FINGERPRINT
    assert fingerprint(armoured(binary())) == FINGERPRINT, "without a checksum"


def test_lengths_in_the_new_format() -> None:
    old = binary()
    assert old[0] == 0x98, "the old format, one octet of length"
    body = old[2 : 2 + old[1]]
    for header in (
        bytes([0xC6, len(body)]),
        bytes([0xC6, 0xFF]) + len(body).to_bytes(4, "big"),
        bytes([0x99]) + len(body).to_bytes(2, "big"),
    ):
        assert fingerprint(armoured(header + body)) == FINGERPRINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        KEY + KEY,
        KEY.replace("mDME", "####"),
        armoured(binary()[:40]),
        armoured(b"\x00" * 30),
        armoured(b""),
        armoured(binary() + binary()),
        armoured(b"\xb4\x01x" + binary()),
        armoured(b"\xc6\xe1" + binary()),
        armoured(b"\x9b" + binary()),
    ],
    ids=["nothing", "html", "two blocks", "no base64", "cut off", "zeros", "empty", "two keys", "user first", "partial", "no length"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(PifleetError, match="not one armoured OpenPGP key"):
        fingerprint(text)
