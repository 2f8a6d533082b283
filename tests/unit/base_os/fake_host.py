# SPDX-License-Identifier: GPL-3.0-or-later
"""A node in memory: a dictionary of files, and the few things that no file tells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ansible_collections.pifleet.ops.plugins.module_utils._base_os.host import Address, Space
from ansible_collections.pifleet.ops.plugins.module_utils._common.hardware import Hardware


@dataclass
class FakeHost:
    """Implements the Host port on *files* ({path: content}) and *links* ({path: target})."""

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    read_only: tuple[str, ...] = ()
    machine_name: str = "aarch64"
    page: int = 4096
    free_mb: int = 20_000
    known_addresses: tuple[Address, ...] = ()
    board: Hardware = field(default_factory=Hardware)
    time: float = 1_760_000_000.0
    clock_synchronised: bool | None = True
    units: dict[str, dict[str, str]] = field(default_factory=dict)
    version_line: str = ""
    hashed: list[str] = field(default_factory=list)
    versions_asked: list[str] = field(default_factory=list)

    def text(self, path: str) -> str | None:
        return self.files.get(path)

    def names(self, path: str) -> list[str]:
        below = path.rstrip("/") + "/"
        return sorted({p[len(below) :].split("/")[0] for p in (*self.files, *self.links) if p.startswith(below)})

    def exists(self, path: str) -> bool:
        return path in self.files or path in self.links or bool(self.names(path))

    def link(self, path: str) -> str | None:
        return self.links.get(path)

    def stamp(self, path: str) -> tuple[int, int] | None:
        return self.stamps.get(path, (len(self.files[path]), 1) if path in self.files else None)

    def sha256(self, path: str) -> str:
        self.hashed.append(path)
        return hashlib.sha256(self.files[path].encode()).hexdigest()

    def space(self, path: str) -> Space:
        return Space(30_000, self.free_mb)

    def writable(self, path: str) -> bool:
        return not any(path.startswith(prefix) for prefix in self.read_only)

    def machine(self) -> str:
        return self.machine_name

    def page_size(self) -> int:
        return self.page

    def addresses(self) -> tuple[Address, ...]:
        return self.known_addresses

    def hardware(self) -> Hardware:
        return self.board

    def now(self) -> float:
        return self.time

    def synchronised(self) -> bool | None:
        return self.clock_synchronised

    def unit(self, name: str) -> dict[str, str]:
        return self.units.get(name, {})

    def k3s_version(self, binary: str) -> str:
        self.versions_asked.append(binary)
        return self.version_line
