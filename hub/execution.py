# SPDX-License-Identifier: GPL-3.0-or-later
"""One fix run of the queue, done by ``playbooks/fix.yml`` in a child ``ansible-runner``, which ends with its parent."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import scrubbed
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import metrics
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import BUSY, FREE, FixRuns, Told, untold
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

log = logging.getLogger("pifleet.queue")

COLLECTION = Path(__file__).resolve().parents[1]
#: ends a child with its parent, however that ended: https://man7.org/linux/man-pages/man1/setpriv.1.html
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
#: times that a fix run is begun before it counts as one that ends whoever does it; docs/fix-runs.md says so
MOST = 3
#: lines of output that tell why a fix run could not be begun
_TAIL = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """What the hub and its workers are told by the environment; each name is in ``ENVIRONMENT``.

    *root*: of the fleet, the same folder for all of them; *inventory*: its inventories; *queue*: name of the broker's queue; *variables*:
    extra variables of the playbook.
    """

    root: Path
    inventory: tuple[str, ...] = ()
    broker_url: str = ""
    queue: str = "pifleet.fix_runs"
    variables: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, environment: Mapping[str, str], root: Path | None = None) -> Settings:
        """Return the settings of *environment*. Raises PifleetError for what cannot be."""
        given = str(root) if root else environment.get("FIX_RUNS_FLEET_ROOT") or None
        port = environment.get("FIX_RUNS_STATSD_PORT", "")
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise PifleetError(f"FIX_RUNS_STATSD_PORT is {port!r}, which is no port.", "Give a number of 1 to 65535.")
        url = environment.get("FIX_RUNS_BROKER_URL", "")
        if url and url.partition("://")[0] not in ("amqp", "amqps", "redis", "rediss"):
            raise PifleetError("FIX_RUNS_BROKER_URL names no broker.", "Give amqp://USER@HOST/VHOST for RabbitMQ, or redis://HOST/0.")
        host = environment.get("FIX_RUNS_STATSD_HOST", "")
        return cls(
            root=_fleet_root.resolve(given, None, os.getcwd()),
            inventory=tuple(filter(None, environment.get("FIX_RUNS_INVENTORY", "").split(os.pathsep))),
            broker_url=url,
            queue=environment.get("FIX_RUNS_QUEUE") or "pifleet.fix_runs",
            variables={**({"fix_runs_statsd_host": host} if host else {}), **({"fix_runs_statsd_port": int(port)} if port else {})},
        )

    def measure(self, before: FixRun, after: FixRun) -> None:
        """Tell the StatsD server, where there is one, what of a fix run has ended."""
        host, port = self.variables.get("fix_runs_statsd_host", ""), self.variables.get("fix_runs_statsd_port", metrics.PORT)
        metrics.send(metrics.of_change(before, after), host, port)

    def refuse_file(self, store: Store) -> None:
        """Raise PifleetError where there is a broker and the ledger is a file: each machine of the workers would have one of its own."""
        if self.broker_url and not store.name.startswith("postgresql://"):
            raise PifleetError(
                f"FIX_RUNS_BROKER_URL names a broker, and the ledger is the file {store.name}, which one machine has to itself.",
                f"Put `ledger_url: postgresql://USER@HOST/DATABASE` into {identity.FILE}, or leave the broker out: the hub works without.",
            )

    def store(self) -> Store:
        """Return the fleet's ledger."""
        return ledger_of(identity.load(self.root))


class Play(Protocol):
    """What does a fix run: ``Child``, and in unit tests something quick."""

    def __call__(self, run_id: str, task_id: str) -> str:
        """Do it, and return the end of what was said."""


@dataclass(frozen=True, slots=True)
class Child:
    """``ansible-runner`` as a child of this process."""

    settings: Settings

    def __call__(self, run_id: str, task_id: str) -> str:
        folder = _fleet_root.state_dir(self.settings.root) / "queue" / run_id
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._prepare(folder, run_id, task_id)
            with (folder / "output").open("wb") as output:
                subprocess.run(
                    [*_WITH_PARENT, *self._command(folder)],
                    cwd=self.settings.root, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
                )  # fmt: skip
            lines = (folder / "output").read_text(errors="replace").splitlines()
            return "\n".join([line for line in lines if line.strip()][-_TAIL:])
        finally:
            # what ansible-runner keeps of events and of its environment may hold secrets; the ledger has the record
            shutil.rmtree(folder, ignore_errors=True)

    def _prepare(self, folder: Path, run_id: str, task_id: str) -> None:
        """Write what ansible-runner reads: https://docs.ansible.com/projects/runner/en/stable/intro/#runner-input-directory-hierarchy."""
        folder.mkdir(mode=0o700, parents=True)
        (folder / "env").mkdir()
        variables = {**self.settings.variables, "run_id": run_id, "fix_run_task_id": task_id, "fleet_root": str(self.settings.root)}
        (folder / "env/extravars").write_text(json.dumps(variables))
        (folder / "env/envvars").write_text(json.dumps(self._environment(folder)))
        # ansible-runner keeps no child from outliving it, and lets it ignore the end of its terminal
        (folder / "bin").mkdir()
        wrapper = folder / "bin/ansible-playbook"
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(_WITH_PARENT)} {beside("ansible-playbook")} "$@"\n')
        wrapper.chmod(0o700)

    def _environment(self, folder: Path) -> dict[str, str]:
        return {
            "PATH": f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "ANSIBLE_CONFIG": config_of(self.settings.root),
            # what is said is kept as the reason where nothing could be begun
            "ANSIBLE_NOCOLOR": "1",
            # ansible-runner turns it off where nothing is said
            "ANSIBLE_HOST_KEY_CHECKING": os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
        }

    def _command(self, folder: Path) -> list[str]:
        inventories = shlex.join(word for place in self.settings.inventory for word in ("-i", place))
        return [
            *(beside("ansible-runner"), "run", str(folder), "--playbook", str(COLLECTION / "playbooks/fix.yml")),
            *("--project-dir", str(self.settings.root), "--ident", "run", "--omit-event-data"),
            *([f"--cmdline={inventories}"] if inventories else []),
        ]


def config_of(root: Path) -> str:
    """Return Ansible's configuration for the fleet at *root*: the environment's, its own, or the collection's."""
    own = root / "ansible.cfg"
    return os.environ.get("ANSIBLE_CONFIG") or str(own if own.exists() else COLLECTION / "ansible.cfg")


def beside(program: str) -> str:
    """Return the program of this environment, else the one that is found."""
    found = Path(sys.executable).parent / program
    return str(found) if found.exists() else program


def execute(store: Store, play: Play, run_id: str, task_id: str = "", told: Told = untold) -> bool:
    """Do the fix run, as far as it goes, and return whether there is nothing left to do: False where somebody else is at it.

    *task_id*: of the message; one that comes again goes on with what the first one began; *told*: see ``FixRuns``. Raises LedgerError.
    """
    fix_runs = FixRuns(store, told=told)
    with store.claim(f"fix-run {run_id}") as mine:
        standing = fix_runs.admit(run_id, task_id, MOST) if mine else fix_runs.standing(run_id, task_id)
        if standing == FREE and mine:
            log.info("%s begins", run_id)
            before = fix_runs.get(run_id)
            said = play(run_id, task_id)
            # what the child left: nobody is at it any more
            fix_runs.mark_dead()
            fix_runs.give_up(before, scrubbed(said, ()))
            log.info("%s is %s", run_id, fix_runs.get(run_id).status)
            return fix_runs.standing(run_id, task_id) != BUSY
        return standing not in (FREE, BUSY)
