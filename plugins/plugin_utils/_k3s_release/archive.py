# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a release's file is what its name says, and whole: a checksum made from a broken file does not make it usable.

Headers are walked without unpacking (zstd, tar, ELF), so a 200 MB archive costs milliseconds; gzip has no lengths and is read through.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_CHUNK = 1 << 20
_TAR_BLOCK = 512
_AGAIN = "Get the file again from the release and compare its size there."


class _BrokenError(Exception):
    """What is wrong with the file, as the end of a sentence that begins with its path."""


def check_images(path: Path) -> None:
    """Raise PifleetError unless *path* is a complete archive of the kind that its name says (.tar.zst, .tar.gz or .tar)."""
    kinds = {".zst": _zstd, ".gz": _gzip, ".tar": _tar}
    _check(path, kinds[path.suffix])


def check_binary(path: Path, machine: int) -> None:
    """Raise PifleetError unless *path* is a complete program for *machine* (ELF's ``e_machine``) or a script with its interpreter."""
    _check(path, lambda stream, size: _program(stream, size, machine))


def _check(path: Path, kind: Callable[[BinaryIO, int], None]) -> None:
    try:
        with path.open("rb") as stream:
            kind(stream, os.fstat(stream.fileno()).st_size)
    except _BrokenError as broken:
        raise PifleetError(f"{path} {broken}, although its checksum is right. Nothing was installed.", _AGAIN) from broken


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise _BrokenError(f"is cut off after {stream.tell()} bytes")
    return data


def _skip(stream: BinaryIO, count: int, size: int) -> None:
    if stream.tell() + count > size:
        raise _BrokenError(f"is cut off after {size} bytes")
    stream.seek(count, os.SEEK_CUR)


def _zstd(stream: BinaryIO, size: int) -> None:
    """Walk the frames and blocks of RFC 8878, section 3."""
    frames = 0
    while stream.tell() < size:
        magic = struct.unpack("<I", _exactly(stream, 4))[0]
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # skippable frame
            _skip(stream, struct.unpack("<I", _exactly(stream, 4))[0], size)
        elif magic == 0xFD2FB528:
            _zstd_frame(stream, size)
            frames += 1
        else:
            raise _BrokenError("is no zstd archive" if frames == 0 else "has something after its end")
    if frames == 0:
        raise _BrokenError("is empty")


def _zstd_frame(stream: BinaryIO, size: int) -> None:
    descriptor = _exactly(stream, 1)[0]
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    _skip(stream, (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size, size)
    last = 0
    while not last:
        header = int.from_bytes(_exactly(stream, 3), "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        if kind == 3:
            raise _BrokenError(f"is damaged near byte {stream.tell()}")
        _skip(stream, 1 if kind == 1 else length, size)
    if descriptor >> 2 & 1:
        _skip(stream, 4, size)


def _gzip(stream: BinaryIO, size: int) -> None:
    if size == 0:
        raise _BrokenError("is empty")
    if stream.read(2) != b"\x1f\x8b":
        raise _BrokenError("is no gzip archive")
    stream.seek(0)
    unpack = zlib.decompressobj(31)
    try:
        while chunk := stream.read(_CHUNK):
            while chunk:
                unpack.decompress(chunk)
                chunk = unpack.unused_data
                if chunk:
                    unpack = zlib.decompressobj(31)
    except zlib.error as error:
        raise _BrokenError(f"is damaged ({error})") from error
    if not unpack.eof:
        raise _BrokenError(f"is cut off after {size} bytes")


def _tar(stream: BinaryIO, size: int) -> None:
    """Walk the headers of a POSIX (ustar, pax, GNU) archive to its end mark of zero blocks."""
    if size == 0:
        raise _BrokenError("is empty")
    members = 0
    while True:
        header = _exactly(stream, _TAR_BLOCK)
        if header == bytes(_TAR_BLOCK):
            break
        if header[257:262] != b"ustar":
            raise _BrokenError("is no tar archive" if members == 0 else f"is damaged near byte {stream.tell()}")
        length = _tar_number(header[124:136], stream.tell())
        _skip(stream, -(-length // _TAR_BLOCK) * _TAR_BLOCK, size)
        members += 1
    if members == 0:
        raise _BrokenError("is an archive of nothing")


def _tar_number(field: bytes, at: int) -> int:
    if field[0] & 0x80:  # GNU: base 256
        return int.from_bytes(field, "big") & ((1 << 88) - 1)
    try:
        return int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError as error:
        raise _BrokenError(f"is damaged near byte {at}") from error


def _program(stream: BinaryIO, size: int, machine: int) -> None:
    if size == 0:
        raise _BrokenError("is empty")
    start = stream.read(64)
    if start.startswith(b"#!"):
        return
    if not start.startswith(b"\x7fELF") or len(start) < 52:
        raise _BrokenError("is no program")
    wide, order = start[4] == 2, "<" if start[5] == 1 else ">"
    found = struct.unpack(order + "H", start[18:20])[0]
    if found != machine:
        raise _BrokenError(f"is a program for another processor (ELF machine {found} instead of {machine})")
    if wide and len(start) < 64:
        raise _BrokenError(f"is cut off after {size} bytes")
    # ELF header and program header: elf(5); 64-bit fields stand elsewhere than 32-bit ones
    number, width = ("Q", 8) if wide else ("I", 4)
    places = (32, 54, 8, 32) if wide else (28, 42, 4, 16)
    table = struct.unpack_from(order + number, start, places[0])[0]
    entry, count = struct.unpack_from(order + "HH", start, places[1])
    stream.seek(table)
    segments = _exactly(stream, entry * count)
    if entry < places[3] + width:
        raise _BrokenError("has no program in it")
    for at in range(0, entry * count, entry):
        offset = struct.unpack_from(order + number, segments, at + places[2])[0]
        length = struct.unpack_from(order + number, segments, at + places[3])[0]
        if offset + length > size:
            raise _BrokenError(f"is cut off after {size} bytes")
