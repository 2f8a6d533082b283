# SPDX-License-Identifier: GPL-3.0-or-later
"""Which k3s this file stands in for: written into it when it was made."""

from __future__ import annotations

import json
import os
import pkgutil
from dataclasses import dataclass

MOUNT = "/opt/k3s-standin"


@dataclass(frozen=True, slots=True)
class Release:
    """*version* such as ``v1.34.4+k3s1``; *components*: the folder's name below MOUNT."""

    version: str
    commit: str
    components: str

    def program(self, name: str) -> str:
        """Path of a component: of this version, or shared by versions."""
        base = f"{MOUNT}/{self.components}"
        for path in (f"{base}/{self.version}/{name}", f"{base}/bin/{name}"):
            if os.path.exists(path):
                return path
        return f"{base}/bin/{name}"


def load() -> Release:
    data = pkgutil.get_data(__package__ or "standin", "release.json")
    if data is None:
        raise FileNotFoundError("release.json")
    return Release(**json.loads(data))
