# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are on a node. All below a root folder, which is ``/`` but in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: the checked-out desired state, at the same place for ever: containers mount files of it
DESIRED_STATE = "/var/lib/pifleet/desired-state"
REFRESH = "/var/lib/pifleet/refresh"
SETTINGS = "/etc/pifleet/stacks.json"
REPOSITORY_KEY = "/etc/pifleet/repository_key"
KNOWN_HOSTS = "/etc/pifleet/repository_known_hosts"
PROGRAM = "/usr/local/lib/pifleet/pifleet-stacks.pyz"
SERVICE = "/etc/systemd/system/pifleet-stacks.service"
TIMER = "/etc/systemd/system/pifleet-stacks.timer"
DAEMON = "/etc/docker/daemon.json"


@dataclass(frozen=True, slots=True)
class RefreshPlaces:
    """*tree*: the checked-out desired state; the rest is bookkeeping of the refresh, all on one file system with it."""

    tree: Path
    state: Path

    @classmethod
    def below(cls, root: str = "/") -> RefreshPlaces:
        return cls(Path(root, DESIRED_STATE.lstrip("/")), Path(root, REFRESH.lstrip("/")))

    @property
    def active(self) -> Path:
        """Note of what is checked out."""
        return self.state / "active.json"

    @property
    def pending(self) -> Path:
        """Note of what is being checked out: there only between the first and the last file."""
        return self.state / "pending.json"

    @property
    def outcome(self) -> Path:
        """Note of how the last refresh ended."""
        return self.state / "outcome.json"

    @property
    def archive(self) -> Path:
        """What is checked out, as an archive: from it an edited or lost file is brought back without a network."""
        return self.state / "active.tar"

    @property
    def incoming(self) -> Path:
        return self.state / "incoming.tar"

    @property
    def staging(self) -> Path:
        return self.state / "staging"

    @property
    def records(self) -> Path:
        """What is kept of each stack."""
        return self.state.parent / "stacks"

    @property
    def repository(self) -> Path:
        """Cache of the git repository, bare: nothing is lost with it."""
        return self.state / "repository.git"
