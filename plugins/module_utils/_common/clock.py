# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of its clock."""

from __future__ import annotations

import struct


def synchronised() -> bool | None:
    """Return whether a time service disciplines the kernel's clock; None where the kernel does not say.

    The only way to ask without starting a process: adjtimex(2) with modes = 0, which reads and needs no privilege.
    timedatectl's "System clock synchronized" comes from the same call.
    """
    import ctypes  # here, because only this needs it

    timex = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    status: int = struct.unpack_from("@IlllliI", timex)[5]
    return not status & 0x40  # STA_UNSYNC
