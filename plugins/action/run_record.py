# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: records a run in the controller's ledger."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import BOOLEANS
from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.run_record import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import recording

# SQLAlchemy takes most of the time of a record. ansible-playbook itself imports this file, before it forks a process for each task:
# imported here it is paid for once a run, and not once a task.
try:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import anchor, attestation, gate, identity, stack_events, textfile
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned, is_secret_variable, scrubbed
    from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.verify import Anchor
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import origin, process
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import Head, hash_at, head_of, text_of, utc_now
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.rebuilds import Rebuilds
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Artifact, Header, Interrupted, Runs
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import Statements
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
except ImportError as error:
    MISSING: str | None = str(error)
else:
    MISSING = None
    # all this stays: nothing of it is to be gone through by the garbage collector, of ansible-playbook or of each task's process
    gc.freeze()

CALLBACK = "pifleet.ops.evidence"
ENABLE = f"Put `callbacks_enabled = {CALLBACK}` under [defaults] of ansible.cfg, or set ANSIBLE_CALLBACKS_ENABLED={CALLBACK}."

display = Display()


class LedgerAction(ControllerAction):
    """The base of the actions that use the ledger of the fleet that the playbook works on.

    *reads*: whether it only reads, and so may be shown another ledger by the variable ``ledger_url``.
    """

    reads: ClassVar[bool] = False

    def use_ledger(self) -> str:
        """Find the ledger and the run's process, and return the ledger's place. Nothing is created yet."""
        if MISSING:
            raise PifleetError(
                f"The ledger needs libraries on the controller: {MISSING}.",
                "Install them for the Python of ansible-playbook (`make env` in a checkout, else `pip install sqlalchemy alembic rfc8785 "
                "'securesystemslib[crypto]' detect-secrets`, and `'psycopg[binary]'` for a ledger in PostgreSQL).",
            )
        given = self._variable("fleet_root")
        self._root = _fleet_root.resolve(str(given) if given else None, self.task_vars.get("playbook_dir"), os.getcwd())
        self._state = _fleet_root.state_dir(self._root)
        self._store = self._ledger(str(self._variable("ledger_url") or ""))
        # the task's process is a child of ansible-playbook, whose run this is
        self._process = process.identify(os.getppid())
        return self._store.name

    def need(self, what: str, lacking: str | None) -> None:
        """Raise PifleetError where *what* needs a library that is *lacking* beside those of the ledger."""
        if lacking:
            raise PifleetError(
                f"{what} need libraries on the controller: {lacking}.", "Install them: `make env`, or `pip install pydantic`."
            )

    def _ledger(self, url: str) -> Store:
        """The ledger that ``evidence.yml`` names, where sync and the service look as well; *url*: of a variable."""
        settings = identity.load(self._root)
        if url and self.reads:
            return Store(url, self._state)
        if url and url != settings.ledger_url:
            raise PifleetError(
                f"The variable ledger_url names another ledger than {self._root / identity.FILE}, so that sync would not see this run.",
                f"Put `ledger_url` into {identity.FILE}, and take it out of the inventory and the command line.",
            )
        return ledger_of(settings)

    def _variable(self, name: str) -> Any:
        return self._templar.template(self.task_vars[name]) if name in self.task_vars else None

    def _inventory(self) -> tuple[str, ...]:
        """The sources of the inventory, which tell a fleet from others of the same folder."""
        return tuple(self._shown(s) for s in self.task_vars.get("ansible_inventory_sources") or ())

    def _shown(self, path: str) -> str:
        """*path* below the fleet's folder as seen from there: a record reads the same on every machine."""
        whole = Path(os.path.abspath(path))
        return str(whole.relative_to(self._root)) if whole.is_relative_to(self._root) else path

    def _secrets(self) -> Iterator[str]:
        """The values of this host's variables that are secrets by their name. One that says yes or no is none."""
        for name, value in self.task_vars.items():
            if isinstance(value, str) and is_secret_variable(name):
                shown = str(self._templar.template(value))
                if shown.lower() not in BOOLEANS:
                    yield shown


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    # a connection that nothing goes over but an anchor, at the end
    _requires_connection = True
    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_ledger()
        self._runs = Runs(self._store)
        does = {"opened": self._open, "noted": self._note, "closed": self._close}[params["state"]]
        return {"changed": False, "ledger": place, **does(params)}

    def _open(self, _params: dict[str, Any]) -> dict[str, Any]:
        if CALLBACK not in constants.CALLBACKS_ENABLED:
            display.warning(f"The callback {CALLBACK} is not enabled, so that this run will have no evidence and fail at its end. {ENABLE}")
        if key := self._gnupg_key():
            # not found out at the end, when all is done and cannot be signed for
            attestation.gnupg_key(key)
        header = self._header()
        opened = self._runs.open(header, self._process, self.task_vars["ansible_play_hosts_all"])
        for run in opened.interrupted:
            display.warning(
                f"The run {run.run_id} of {run.playbook} by {run.requester} never ended: it was interrupted. Run it again to its end."
            )
        return {
            "run_id": opened.run_id,
            "previous_interrupted": [asdict(run) for run in opened.interrupted],
            "rebuilds": self._unfinished(opened.interrupted),
            "fleet_root": str(self._root),
            "gnupg_key": self._gnupg_key(),
            # a check does other work, so that its time would be compared with what it is not
            "last_run": asdict(last) if not header.check_mode and (last := self._runs.last_like(header)) else None,
        }

    def _unfinished(self, interrupted: tuple[Interrupted, ...]) -> dict[str, dict[str, Any]]:
        """The rebuilds that may be resumed, by host. A check marks nothing, so it says itself what was interrupted."""
        gone = {run.run_id for run in interrupted}
        shown = {}
        for found in Rebuilds(self._store).unfinished(self._inventory()):
            status = "interrupted" if found.status == "running" and found.run_id in gone else found.status
            table = {**asdict(found), "status": status, "reasons": list(found.reasons)}
            shown[table.pop("host")] = table
        return shown

    def _note(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return {"run_id": None, "sha256": None, "recorded": {}}
        secrets = tuple(self._secrets())
        kept = self._keep(params, secrets) if params["artifact"] else None
        return {"sha256": kept.sha256 if kept else None, "recorded": self._collect(params["unattended"] or {}, secrets)}

    def _keep(self, params: dict[str, Any], secrets: tuple[str, ...]) -> Artifact | None:
        artifact = params["artifact"]
        content = scrubbed(artifact["content"], secrets).encode()
        events = stack_events.told(cleaned(params["stacks"] or {}, secrets))
        kept = self._runs.attach(self._process, artifact["name"], artifact["media_type"], content, events)
        if kept is None:
            display.warning(
                f"{artifact['name']} is not kept as evidence, because no run was opened in the ledger (run_record state=opened)."
            )
        return kept

    def _collect(self, unattended: dict[str, list[dict[str, Any]]], secrets: tuple[str, ...]) -> dict[str, list[str]]:
        """Keep what nodes did by themselves, and return by host the ids of what is evidence now, whoever made it so."""
        found = stack_events.attempts(unattended)
        clean = [replace(one, event=replace(one.event, data=cleaned(one.event.data, secrets))) for one in found]
        if not self._runs.collect(self._process, clean):
            display.warning(
                "What nodes did by themselves stays with them, because no run was opened in the ledger (run_record state=opened)."
            )
            return {}
        return {host: [one.id for one in found if one.event.host == host] for host in unattended}

    def _close(self, params: dict[str, Any]) -> dict[str, Any]:
        """The gate: a run whose evidence is missing has failed, because Ansible itself only warns of a callback that fails."""
        recorded = recording.current()
        running = set(self.task_vars["ansible_play_hosts"])
        outcomes = {host: self._outcome(host, running) for host in sorted(self.task_vars["ansible_play_hosts_all"])}
        bad = [host for host, outcome in outcomes.items() if outcome != "ok"]
        if self._task.check_mode:
            self._refuse(_problem(recorded, recorded.run_id if recorded else "", bad))
            return {"run_id": None}
        open_run = self._runs.current(self._process)
        problem = _problem(recorded, open_run or "", bad) if open_run else ""
        if recorded and not problem:
            # this very task, which is about to succeed; the parent's count is another process's
            recorded.count(self.task_vars["inventory_hostname"], "ok")
        run_id, status = self._runs.close(self._process, outcomes, recorded, problem)
        statement = Statements(self._store, self._state, self._gnupg_key()).sign(run_id)
        self._refuse(problem)
        head = self._anchor(statement or {}, params)
        self._queue()
        if why := textfile.publish(identity.load(self._root), self._store):
            display.warning(why)
        return {"run_id": run_id, "status": status, "hosts": outcomes, "head": head}

    def _queue(self) -> None:
        """Queue the evidence for the hub, where the sync boundary is clean. Else the run goes on, and a later one queues it."""
        try:
            gate.queue_evidence(self._root)
        except PifleetError as error:
            display.warning(f"The evidence of this run stays in the ledger: {error}")

    def _refuse(self, problem: str) -> None:
        if problem:
            raise PifleetError(f"The evidence of this run is missing: the callback {CALLBACK} did not record it: {problem}.", ENABLE)

    def _outcome(self, host: str, running: set[str]) -> str:
        """Hosts that failed in any play before are missing from a later one; only the callback knows which of them were unreachable."""
        recorded = recording.current()
        if host in running:
            return "ok"
        return "unreachable" if recorded and host in recorded.unreachable else "failed"

    def _gnupg_key(self) -> str | None:
        return str(self._variable("evidence_gnupg_key") or "") or None

    def _anchor(self, statement: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Write the head down outside of the ledger: in git, and on the task's host. What fails is a warning: the next run does it."""
        with self._store.read() as db:
            head = head_of(db)
        if params["anchor"]:
            at = text_of(utc_now())
            self._anchor_in_git(head, statement, at)
            self._anchor_on_node(head, at, params["anchor_path"])
        return asdict(head)

    def _anchor_in_git(self, head: Head, statement: dict[str, Any], at: str) -> None:
        try:
            anchor.Git(self._root).write(Anchor(anchor.PLACE, head.chain, head.seq, head.sha256), statement, origin.login(), at)
        except PifleetError as error:
            display.warning(str(error))

    def _anchor_on_node(self, head: Head, at: str, path: str) -> None:
        host = self.task_vars["inventory_hostname"]
        try:
            result = self._execute_module(
                module_name="pifleet.ops.evidence_anchor", module_args={**asdict(head), "at": at, "path": path}, task_vars=self.task_vars
            )
        except AnsibleError as error:
            result = {"failed": True, "msg": str(error)}
        if result.get("failed") or result.get("unreachable"):
            said = scrubbed(" ".join(str(result.get("msg")).split()))[:300]
            display.warning(f"The head of the evidence could not be written down on {host}: {said}")
            return
        seen = result.get("last")
        with self._store.read() as db:
            if seen and seen["chain"] == head.chain and hash_at(db, seen["seq"]) != seen["sha256"]:
                display.warning(
                    f"{host} has seen another end of this ledger (number {seen['seq']}): it was rewritten or cut off. "
                    "Run playbooks/evidence_verify.yml."
                )

    def _header(self) -> Header:
        revision = origin.revision_of(self._root)
        seen = self.task_vars
        return Header(
            playbook=" ".join(self._shown(p) for p in context.CLIARGS.get("args") or ("unknown",)),
            revision=revision.commit,
            dirty=revision.dirty,
            host_limit=seen.get("ansible_limit"),
            tags=tuple(seen.get("ansible_run_tags") or ()),
            skip_tags=tuple(seen.get("ansible_skip_tags") or ()),
            inventory=self._inventory(),
            check_mode=bool(self._task.check_mode),
            requester=origin.login(),
            ansible_version=seen["ansible_version"]["full"],
            collection_version=origin.collection_version(),
        )


def _problem(recorded: recording.Recording | None, run_id: str, bad: list[str]) -> str:
    return recorded.problem(run_id, bad) if recorded else "it is not enabled, or could not be loaded"
