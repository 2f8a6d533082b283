# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a fleet's state lives: ``.pifleet/`` of the checkout, never a folder of an installed collection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: what a checkout has; MANIFEST.json is what an installed collection has
_CHECKOUT = (".git", "galaxy.yml")
_INSTALLED = "MANIFEST.json"
#: site.yml, playbooks/x.yml, playbooks/parts/x.yml
_DEPTH = 3


def resolve(given: str | None, playbook_dir: str | None, cwd: str) -> Path:
    """Return the fleet's folder, absolute.

    *given*: the variable ``fleet_root``, which wins; else the checkout that *playbook_dir* is in; else *cwd*, as for the playbooks of an
    installed collection. Raises PifleetError where *given* is no folder.
    """
    if given:
        root = Path(cwd, Path(given).expanduser()).resolve()
        if not root.is_dir():
            raise PifleetError(f"fleet_root is {given}, which is no folder of the controller.", "Create it, or correct the variable.")
        return root
    return (checkout_of(Path(playbook_dir)) if playbook_dir else None) or Path(cwd).resolve()


def of_task(templar: Any, task_vars: Mapping[str, Any]) -> Path:
    """Return the fleet's folder for a task with the variables *task_vars*. Raises as ``resolve``."""
    given = templar.template(task_vars["fleet_root"]) if "fleet_root" in task_vars else None
    return resolve(str(given) if given else None, task_vars.get("playbook_dir"), os.getcwd())


def checkout_of(folder: Path) -> Path | None:
    """Return the checkout that *folder* belongs to, or None where it is in no checkout or in an installed collection."""
    here = folder.resolve()
    for candidate in (here, *here.parents)[:_DEPTH]:
        if (candidate / _INSTALLED).exists():
            return None
        if any((candidate / mark).exists() for mark in _CHECKOUT):
            return candidate
    return None


def state_dir(root: Path) -> Path:
    """Return the folder of the fleet's state. It may not be there yet."""
    return root / ".pifleet"
