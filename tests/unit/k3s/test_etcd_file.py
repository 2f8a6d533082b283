# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot of etcd is known by the checksum at its end."""

from __future__ import annotations

import hashlib
import io

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.etcd_file import verify


@pytest.mark.parametrize("pages", [1, 8, 4096, 4097])
def test_a_whole_snapshot_is_accepted_and_every_damage_is_not(pages):
    data = bytes(range(256)) * 2 * pages
    whole = data + hashlib.sha256(data).digest()
    verify(io.BytesIO(whole), "x")
    for damaged in (whole[:-1], whole[:-32], b"y" + whole[1:], whole[:-1] + b"\0", data, b"", hashlib.sha256(b"").digest()):
        with pytest.raises(PifleetError, match=r"^x is"):
            verify(io.BytesIO(damaged), "x")
