# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a file is a whole snapshot of etcd."""

from __future__ import annotations

import hashlib
from typing import IO

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_PAGE = 512
_HASH = 32
_BLOCK = 1 << 20


def verify(stream: IO[bytes], where: str) -> None:
    """Raise PifleetError unless *stream* is a snapshot with the right checksum.

    etcd streams its database, whole pages, followed by the SHA-256 of it: etcdutl/snapshot/v3_snapshot.go, server/etcdserver/api/v3rpc.
    """
    digest, size, tail = hashlib.sha256(), 0, b""
    while block := stream.read(_BLOCK):
        size += len(block)
        data = tail + block
        digest.update(data[:-_HASH])
        tail = data[-_HASH:]
    if size <= _HASH or size % _PAGE != _HASH:
        raise PifleetError(f"{where} is no whole snapshot of etcd: it ends without a checksum.", "Take another one; check the disk.")
    if digest.digest() != tail:
        raise PifleetError(f"{where} is damaged: the checksum of etcd is wrong.", "Take another one; check the disk.")
