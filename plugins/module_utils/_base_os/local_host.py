# SPDX-License-Identifier: GPL-3.0-or-later
"""The node itself as a Host. With another *root*, everything that comes from files is read below that folder."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterator

from ansible_collections.pifleet.ops.plugins.module_utils._base_os.host import Address, Space
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, clock, hardware
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

_UNIT_PROPERTIES = "ActiveState,SubState,UnitFileState,MainPID,NRestarts"


class LocalHost:
    """Adapter of the Host port. Raises PifleetError where a file that exists cannot be read (not root)."""

    def __init__(self, root: str = "/", run: argv.Runner = argv.run) -> None:
        self._root = root.rstrip("/")
        self._run = run

    def path(self, path: str) -> str:
        """Where *path* of the node really is."""
        return self._root + path

    def text(self, path: str) -> str | None:
        try:
            with open(self.path(path), "rb") as stream:
                return stream.read().decode("utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ProcessLookupError):
            return None
        except PermissionError as denied:
            raise PifleetError(f"cannot read {path}: {denied.strerror}.", "Run with root rights: set `become: true`.") from denied

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(path)))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def link(self, path: str) -> str | None:
        try:
            return os.readlink(self.path(path))
        except OSError:  # no link, or a process that ended while /proc was read
            return None

    def stamp(self, path: str) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size, found.st_mtime_ns

    def sha256(self, path: str) -> str:
        made = hashlib.sha256()
        with open(self.path(path), "rb") as stream:
            while block := stream.read(1 << 20):
                made.update(block)
        return made.hexdigest()

    def space(self, path: str) -> Space:
        found = os.statvfs(self._nearest(path))
        return Space(found.f_blocks * found.f_frsize >> 20, found.f_bavail * found.f_frsize >> 20)

    def writable(self, path: str) -> bool:
        return os.access(self._nearest(path), os.W_OK)

    def _nearest(self, path: str) -> str:
        while path != "/" and not os.path.exists(self.path(path)):
            path = os.path.dirname(path)
        return self.path(path)

    def machine(self) -> str:
        return os.uname().machine

    def page_size(self) -> int:
        return os.sysconf("SC_PAGE_SIZE")

    def addresses(self) -> list[Address]:
        return list(_netlink_addresses())

    def hardware(self) -> hardware.Hardware:
        return hardware.read(self._root or "/")

    def now(self) -> float:
        return time.time()

    def synchronised(self) -> bool | None:
        return clock.synchronised()

    def unit(self, name: str) -> dict[str, str]:
        if not self.exists("/run/systemd/system"):
            return {}
        done = self._run(["systemctl", "show", name, f"--property={_UNIT_PROPERTIES}"], timeout=20)
        return dict(line.split("=", 1) for line in argv.check(done).stdout.splitlines() if "=" in line)

    def k3s_version(self, binary: str) -> str:
        done = self._run([self.path(binary), "--version"], timeout=20)
        return done.stdout.splitlines()[0] if done.ok and done.stdout else ""


def _netlink_addresses() -> Iterator[Address]:
    """Yield the answer to RTM_GETADDR (rtnetlink(7)): what ``ip addr`` shows, without starting it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        kernel.send(struct.pack("=IHHIIB3x", 20, 22, 0x301, 1, 0, 0))  # header, RTM_GETADDR, REQUEST|DUMP, any family
        while True:
            data = kernel.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == 3:  # NLMSG_DONE
                    return
                if kind == 2:  # NLMSG_ERROR
                    raise OSError(-struct.unpack_from("=i", data, 16)[0], "the kernel refuses to list network addresses")
                yield _address(data[16:length])
                data = data[length + 3 & ~3 :]


def _address(message: bytes) -> Address:
    family, prefix, flags, scope, index = struct.unpack_from("=BBBBI", message)
    attributes = {}
    rest = message[8:]
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        attributes[kind] = rest[4:length]
        rest = rest[length + 3 & ~3 :]
    raw = attributes.get(2) or attributes[1]  # IFA_LOCAL, else IFA_ADDRESS: they differ on point-to-point links
    return Address(socket.if_indextoname(index), family, socket.inet_ntop(family, raw), prefix, scope, bool(flags & 1))
