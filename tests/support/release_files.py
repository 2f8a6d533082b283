# SPDX-License-Identifier: GPL-3.0-or-later
"""Small but genuine release files: ELF programs, archives, checksum files."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile

VERSION = "v1.34.4+k3s1"


def elf(machine: int, *, wide: bool = True, body: bytes = b"k3s" * 100) -> bytes:
    """Return an executable's headers with one segment that holds *body*."""
    if wide:
        start = 64 + 56
        head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack("<IIQQQQQQ", 1, 5, start, 0, 0, len(body), len(body), 4096)
    else:
        start = 52 + 32
        head = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack("<IIIIIIII", 1, start, 0, 0, len(body), len(body), 5, 4096)
    return head + segment + body


def tar(content: bytes = b"layer" * 1000, kind: str = "") -> bytes:
    """Return a tar archive of one file, packed as *kind* (``""`` or ``gz``)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def zst(blocks: tuple[bytes, ...] = (b"layer" * 1000,), *, checksum: bool = True) -> bytes:
    """Return a zstd frame of raw blocks (RFC 8878, 3.1.1): what any reader unpacks, made without a compressor."""
    descriptor = (0b100 if checksum else 0) | 0b0000_0000
    frame = struct.pack("<IBB", 0xFD2FB528, descriptor, 0x58)
    for number, block in enumerate(blocks):
        frame += (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") + block
    return frame + (b"\0\0\0\0" if checksum else b"")


def sums(files: dict[str, bytes]) -> bytes:
    """Return a sha256sum file of *files*."""
    return "".join(f"{hashlib.sha256(body).hexdigest()}  {name}\n" for name, body in files.items()).encode()


def release() -> dict[str, bytes]:
    """Return the files of a small release for all architectures, with their checksum files."""
    files: dict[str, bytes] = {}
    for label, binary, machine, wide in (("amd64", "k3s", 62, True), ("arm64", "k3s-arm64", 183, True), ("arm", "k3s-armhf", 40, False)):
        mine = {
            f"k3s-airgap-images-{label}.tar": tar(label.encode() * 1000),
            f"k3s-airgap-images-{label}.tar.gz": tar(label.encode() * 1000, "gz"),
            f"k3s-airgap-images-{label}.tar.zst": zst((label.encode() * 20000, b"end")),
            binary: elf(machine, wide=wide, body=label.encode() * 20000),
        }
        files |= mine
        files[f"sha256sum-{label}.txt"] = sums(mine)
    return files
