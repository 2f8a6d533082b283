# SPDX-License-Identifier: GPL-3.0-or-later
"""A node as a folder, and commands that do to its files what the real ones do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import engine

RELEASES = {
    "bookworm": ("debian", "12", "bookworm"),
    "trixie": ("debian", "13", "trixie"),
    "jammy": ("ubuntu", "22.04", "jammy"),
    "noble": ("ubuntu", "24.04", "noble"),
    "raspbian-12": ("raspbian", "12", "bookworm"),
    "raspbian-13": ("raspbian", "13", "trixie"),
}


class Killed(BaseException):
    """The process ends here, as with SIGKILL: nothing may catch it."""


@dataclass
class FakeClock:
    now: float = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeNode:
    """A node as a folder, and commands that do to its files what the real ones do. The process is killed before command *kill_at*."""

    root: Path
    kill_at: int = -1
    refuses: str = ""
    commands: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=lambda: {"dpkg": "1.22"})

    def write(self, path: str, text: str = "", mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.root / path.lstrip("/"))

    def install(self, name: str, version: str = "2.26.1-4") -> None:
        self.packages[name] = version
        stanzas = (f"Package: {p}\nStatus: install ok installed\nArchitecture: arm64\nVersion: {v}\n" for p, v in self.packages.items())
        self.write("/var/lib/dpkg/status", "\n".join(stanzas))
        if name in ("docker.io", "docker-ce"):
            self.write("/usr/sbin/dockerd")
        if name in ("docker-cli", "docker-ce-cli") or (name == "docker.io" and "docker-cli" not in self.packages):
            self.write("/usr/bin/docker")
        if "compose" in name:
            self.write(engine.PLUGINS[2])

    def __call__(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed:
        if len(self.commands) == self.kill_at:
            raise Killed
        line = " ".join(argv)
        self.commands.append(line)
        if self.refuses and self.refuses in line:
            self.refuses = ""
            return Completed(tuple(argv), 1, "", "Job for docker.service failed")
        if argv[:2] == ["apt-get", "install"]:
            for name in argv[argv.index("Dpkg::Options::=--force-confold") + 1 :]:
                self.install(engine.package_of(os.path.basename(name)), "2.40.0-1")
        if argv[0] == "systemctl" and "docker.service" in argv:
            self.write("/sys/fs/cgroup/system.slice/docker.service/cgroup.procs")
            if "enable" in argv:
                self.write("/etc/systemd/system/multi-user.target.wants/docker.service")
        if argv[0] == "systemctl" and "pifleet-stacks.timer" in argv:
            link = self.root / "etc/systemd/system/timers.target.wants/pifleet-stacks.timer"
            if "disable" in argv:
                link.unlink()
            elif "enable" in argv:
                self.write("/etc/systemd/system/timers.target.wants/pifleet-stacks.timer")
        return Completed(tuple(argv), 0, "", "")


def fresh(root: Path, release: str = "trixie") -> FakeNode:
    """A node without Docker."""
    node = FakeNode(root)
    os_id, version, codename = RELEASES[release]
    node.write("/etc/os-release", f'ID={os_id}\nVERSION_ID="{version}"\nVERSION_CODENAME={codename}\nPRETTY_NAME="{os_id} {version}"\n')
    node.install("dpkg", "1.22")
    return node
