# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the controller keeps a fleet's snapshots, and which of them is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._k3s import bundle
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.snapshot import Bundle, checked_name, select
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root


def of(given: str | None, fleet: str, task_vars: Mapping[str, Any]) -> Path:
    """Return the folder: *given*, or that of *fleet* under the fleet's root."""
    if given:
        return Path(os.getcwd(), Path(given).expanduser())
    root = task_vars.get("fleet_root")
    found = _fleet_root.resolve(str(root) if root else None, task_vars.get("playbook_dir"), os.getcwd())
    return _fleet_root.state_dir(found) / "snapshots" / checked_name(fleet)


def find(folder: Path, wanted: str, fleet: str) -> Bundle | None:
    """Return the bundle that *wanted* (``latest``, a name, or a path with a slash in it) means, None where *folder* has no such.

    Raises SnapshotError for a path that is no bundle.
    """
    if "/" in wanted:
        path = Path(os.getcwd(), Path(wanted).expanduser())
        return Bundle(str(path), bundle.read_manifest(path))
    return select(bundle.bundles_in(folder)[0], wanted, fleet)
