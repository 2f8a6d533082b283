# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of an armoured OpenPGP key, so that a repository's key is known before apt trusts it. Nodes may have no gpg."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_ARMOUR = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[\w-]+: .*\r?\n)*\r?\n"
    r"(?P<body>[A-Za-z0-9+/=\r\n]+?)(?:\r?\n=[\w+/]{4})?\r?\n-----END"
)
_PUBLIC_KEY = 6


def fingerprint(armoured: str) -> str:
    """Return the fingerprint (40 hexadecimal digits, upper case) of the primary key, version 4 (RFC 4880, 12.2).

    Raises PifleetError for text that holds exactly one such key not.
    """
    blocks = list(_ARMOUR.finditer(armoured))
    try:
        if len(blocks) != 1:
            raise ValueError
        packets = list(_packets(base64.b64decode(re.sub(r"\s", "", blocks[0]["body"]), validate=True)))
        keys = [body for tag, body in packets if tag == _PUBLIC_KEY]
        if len(keys) != 1 or packets[0][0] != _PUBLIC_KEY or keys[0][0] != 4:
            raise ValueError
    except (ValueError, IndexError, binascii.Error) as error:
        raise PifleetError("This is not one armoured OpenPGP key.") from error
    return hashlib.sha1(b"\x99" + len(keys[0]).to_bytes(2, "big") + keys[0]).hexdigest().upper()  # noqa: S324 - the format's own digest


def _packets(data: bytes) -> list[tuple[int, bytes]]:
    """Return (tag, body) of each packet (RFC 4880, 4.2)."""
    found, at = [], 0
    while at < len(data):
        first = data[at]
        if not first & 0x80:
            raise ValueError("no packet")
        at += 1
        if first & 0x40:
            tag, (length, at) = first & 0x3F, _new_length(data, at)
        else:
            tag, size = (first >> 2) & 0x0F, 1 << (first & 3)
            if size == 8:
                raise ValueError("indeterminate length")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("cut off")
        found.append((tag, data[at : at + length]))
        at += length
    return found


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError("partial length")
