# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks of the collection that the hub runs beside the queue, through ``ansible-runner``: one at a time."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.pifleet.ops.hub.execution import COLLECTION, config_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import scrubbed

#: seconds after which a playbook is ended
LONGEST = 3600
#: of ansible-runner's events: https://docs.ansible.com/projects/runner/en/stable/intro/#runner-artifact-job-events-host-and-playbook-events
_ENDED = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended on a host. *at*: when, UTC, ISO 8601; *result*: what its module returned."""

    host: str
    action: str
    ok: bool
    at: str
    result: Mapping[str, Any]


@dataclass(slots=True)
class Played:
    """*results*: in the order in which they came."""

    ok: bool = False
    results: list[TaskResult] = field(default_factory=list)

    def problem(self) -> str:
        """Return why it failed, in one line free of secrets; empty where it did not."""
        if self.ok:
            return ""
        said = [f"{r.host}: {r.result.get('msg') or 'failed'}" for r in self.results if not r.ok]
        return scrubbed(" ".join((said[0] if said else "The playbook could not be run; the hub's log says more.").split()))[:500]


class Player(Protocol):
    """Runs a playbook of the collection, by its file's name, and returns how its tasks ended."""

    def __call__(self, playbook: str, variables: Mapping[str, str]) -> Played: ...


@dataclass(frozen=True, slots=True)
class Runner:
    """*root*: of the fleet; *inventory*: its inventories, as ``-i`` takes them; none: those of its ``ansible.cfg``."""

    root: Path
    inventory: tuple[str, ...] = ()

    def __call__(self, playbook: str, variables: Mapping[str, str]) -> Played:
        """See ``Player``."""
        import ansible_runner  # takes 0.3 s, which a hub that is only asked need not

        played = Played()

        def keep(event: Mapping[str, Any]) -> bool:
            data = event.get("event_data", {})
            if event.get("event") in _ENDED and not data.get("ignore_errors"):
                ok = event["event"] == "runner_on_ok"
                result, action = data.get("res") or {}, str(data.get("resolved_action") or data.get("task_action"))
                played.results.append(TaskResult(data["host"], action, ok, str(event["created"]), result))
            return False  # nothing of it on the disk: results may hold secrets

        with tempfile.TemporaryDirectory(prefix="pifleet-play-") as folder:
            run = ansible_runner.run(
                private_data_dir=folder,
                project_dir=str(self.root),
                playbook=str(COLLECTION / "playbooks" / playbook),
                cmdline=" ".join(f"-i '{place}'" for place in self.inventory) or None,
                extravars={**variables, "fleet_root": str(self.root)},
                envvars={
                    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                    "ANSIBLE_CONFIG": config_of(self.root),
                    # ansible-runner turns it off where nothing is said
                    "ANSIBLE_HOST_KEY_CHECKING": os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
                },
                timeout=LONGEST,
                quiet=True,
                event_handler=keep,
            )
        played.ok = run.rc == 0
        return played
