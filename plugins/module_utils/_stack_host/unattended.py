# SPDX-License-Identifier: GPL-3.0-or-later
"""What the timer starts on a node: refresh, reconcile, end. No Ansible, and nothing stays resident.

``pifleet-stacks.pyz [SETTINGS]``; the settings are written by the module ``stack_host``. Exit code 1 where the refresh or a stack failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import figures, in_force, places, refresh, turn
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.git import Access, RemoteRepository
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Report

VERSION = 1


def settings_text(source: Mapping[str, Any], reconcile: Mapping[str, Any] | None, timeout: float) -> str:
    """Return the content of the settings' file. *source*: ``url`` (empty: nothing is fetched) and what else a repository needs;
    *reconcile*: options of stack_reconcile, None where it is switched off; *timeout*: seconds for a refresh."""
    return json.dumps({"version": VERSION, "source": source, "reconcile": reconcile, "timeout": timeout}, indent=2, sort_keys=True) + "\n"


def main(arguments: Sequence[str], root: str = "/") -> int:
    """Refresh and reconcile once. Returns the exit code. *root*: folder of the desired state, another than ``/`` in tests."""
    report = None
    try:
        settings = _load(arguments[0] if arguments else places.SETTINGS)
        where = places.RefreshPlaces.below(root)
        success = _refresh(where, settings)
        if settings["reconcile"] is not None:
            report = _reconcile(where, settings["reconcile"])
            success = success and not report.failed
    except turn.SupersededError as newer:
        _say("superseded", reason=str(newer))
        return 0
    except (PifleetError, OSError) as error:
        _say("failed", reason=str(error))
        success = False
    figures.write(root, report.stacks if report else (), time.time(), success=success)
    return 0 if success else 1


def _load(path: str) -> dict[str, Any]:
    text = atomic_file.read_text(path)
    try:
        settings = json.loads(text or "")
        if settings["version"] != VERSION:
            raise ValueError(f"its version is {settings['version']}")
    except (ValueError, KeyError, TypeError) as error:
        raise PifleetError(f"{path} is missing or damaged: {error}.", "Run site.yml, which writes it.") from error
    return dict(settings)


def source_of(where: places.RefreshPlaces, settings: Mapping[str, Any], timeout: float) -> refresh.Source:
    """Return where desired state comes from."""
    if not settings["url"]:
        return refresh.Kept(where)
    access = Access(settings["url"], settings["token"], settings["ssh_key"], settings["known_hosts"])
    return RemoteRepository(argv.run, access, settings["revision"], settings["folder"], where.repository, timeout)


def _refresh(where: places.RefreshPlaces, settings: Mapping[str, Any]) -> bool:
    """Refresh, and say how it went. What is in force stays so where it fails, and is reconciled: it was verified once."""
    timeout = float(settings["timeout"])
    try:
        plan = refresh.refresh(where, source_of(where, settings["source"], timeout), time, timeout)
    except turn.SupersededError:
        raise
    except PifleetError as error:
        shown = refresh.status(where)
        _say("refresh_failed", reason=str(error), revision=shown.revision)
        if not shown.revision or refresh.damage(where):
            raise PifleetError("There is no whole desired state to reconcile by.", "See the failed refresh above.") from error
        return False
    _say("refreshed", revision=plan.target.revision, reason=plan.reason or "up_to_date")
    return True


def _reconcile(where: places.RefreshPlaces, options: Mapping[str, Any]) -> Report:
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks import local
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks.options import settings as settings_of
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks.reconcile import reconcile

    with in_force.desired_state(options["path"]) as tracked:
        shown = refresh.status(where)
        asked = {**options, "revision": shown.revision, "commit_message": shown.commit_message}
        report = reconcile(replace(settings_of(asked, unattended=True), tracked=tracked), local.ports(local.to_output))
    for warning in report.warnings:
        _say("warning", reason=warning)
    return report


def _say(event: str, **fields: str) -> None:
    """Write one JSON line to the standard output, which systemd takes into the journal."""
    sys.stdout.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
    sys.stdout.flush()
