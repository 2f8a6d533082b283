# SPDX-License-Identifier: GPL-3.0-or-later
"""Heads of the controller's evidence, written down on a node: one file for each chain, one line of JSON for each head.

A file is only added to. Who rewrites the ledger on the controller cannot make the nodes forget what they saw.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

FOLDER = "/var/lib/pifleet/evidence"
#: lines of a file; of more, every second one of the older half goes, so that a long history grows thin, but never short
KEEP = 1000
_CHAIN = re.compile(r"[0-9a-f]{8,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Anchor:
    """A head: number and hash of the last event of a chain. *at*: when the controller says it was, UTC."""

    chain: str
    seq: int
    sha256: str
    at: str = ""


def add(folder: Path, anchor: Anchor, keep: int = KEEP) -> Anchor | None:
    """Write *anchor* down durably, and return the last one of its chain before it, None where there is none.

    One that is there already is not written again. Raises PifleetError for what is no head, and where the file cannot be written.
    """
    if not (_CHAIN.fullmatch(anchor.chain) and _SHA256.fullmatch(anchor.sha256) and anchor.seq > 0):
        raise PifleetError(f"{anchor} is no head of a chain.", "Give what run_record returned as `head`.")
    path = folder / f"{anchor.chain}.jsonl"
    try:
        data = atomic_file.read_bytes(path) or b""
        known = _parse(data)
        last = known[-1] if known else None
        if last is None or (last.seq, last.sha256) != (anchor.seq, anchor.sha256):
            _write(path, data, [*known, anchor], keep)
        return last
    except OSError as error:
        raise PifleetError(
            f"{path} cannot be written: {error.strerror or error}.", "Make room on the node, and give root access to it."
        ) from error


def read(folder: Path) -> list[Anchor]:
    """Return the heads of every chain, by chain and in the order in which they were written down."""
    return [anchor for path in sorted(folder.glob("*.jsonl")) for anchor in _parse(atomic_file.read_bytes(path) or b"")]


def _write(path: Path, data: bytes, anchors: list[Anchor], keep: int) -> None:
    torn = bool(data) and not data.endswith(b"\n")
    if torn or not data or len(anchors) > keep:
        if len(anchors) > keep:
            half = len(anchors) // 2
            anchors = [*anchors[:half:2], *anchors[half:]]
        atomic_file.write_atomic(path, b"".join(_line(a) for a in anchors), 0o600, folder_mode=0o700)
        return
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, _line(anchors[-1]))
        os.fsync(fd)
    finally:
        os.close(fd)


def _line(anchor: Anchor) -> bytes:
    return json.dumps(asdict(anchor), sort_keys=True).encode() + b"\n"


def _parse(data: bytes) -> list[Anchor]:
    """Lines that are none, as one that a power cut tore, are left out."""
    found = []
    for line in data.splitlines():
        try:
            table: Any = json.loads(line)
            anchor = Anchor(str(table["chain"]), int(table["seq"]), str(table["sha256"]), str(table.get("at", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        found.append(anchor)
    return found
