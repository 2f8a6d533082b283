# SPDX-License-Identifier: GPL-3.0-or-later
"""How the stacks of the fleet are: asked of the nodes by ``playbooks/stacks_status.yml``, kept, and asked again when somebody wants it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ansible_collections.pifleet.ops.hub.plays import Played, Player
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now

log = logging.getLogger("pifleet.hub")

#: below the fleet's ``.pifleet``
FILE = Path("hub") / "stacks.json"
_LOOKS = ("pifleet.ops.stack_info", "ansible_collections.pifleet.ops.plugins.modules.stack_info")


@dataclass(frozen=True, slots=True)
class Observed:
    """A node as it was seen. *observed_at*: when its stacks were last told, empty where they never were; *problem*: why not this time."""

    node: str
    observed_at: str
    problem: str
    stacks: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """*state*: of the last refresh; *requester*: who wanted it. Times are UTC, ISO 8601, empty where they have not come."""

    state: Literal["never", "running", "succeeded", "failed"] = "never"
    requester: str = ""
    started_at: str = ""
    ended_at: str = ""
    problem: str = ""


class Fleet:
    """What is known of the nodes. *state*: the fleet's ``.pifleet``; *play*: runs playbooks, one at a time, in a thread of its own."""

    def __init__(self, state: Path, play: Player, now: Callable[[], datetime] = utc_now) -> None:
        self._path, self._play, self._now = state / FILE, play, now
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "plays")
        self._status = Status()
        self._wanted = False

    def status(self) -> Status:
        with self._lock:
            return self._status

    def observed(self) -> list[Observed]:
        """Return the nodes as they were last seen, by name."""
        text = atomic_file.read_text(self._path)
        return [Observed(**{**entry, "stacks": tuple(entry["stacks"])}) for entry in json.loads(text or "[]")]

    def refresh(self, requester: str) -> Status:
        """Let the nodes be asked. One that is asked for while another goes on is done after it, once."""
        with self._lock:
            if not self._wanted:
                self._wanted = True
                self._worker.submit(self._refresh, requester)
            return self._status

    def carry_out(self, playbook: str, variables: dict[str, str], requester: str) -> None:
        """Run a playbook that changes nodes, and look at them after it."""
        self._worker.submit(self._carry_out, playbook, variables)
        self.refresh(requester)

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    # -- in the thread ----------------------------------------------------------------------------------------------------------------
    def _carry_out(self, playbook: str, variables: dict[str, str]) -> None:
        played = self._played(playbook, variables)
        if not played.ok:
            log.error("%s: %s", playbook, played.problem())

    def _refresh(self, requester: str) -> None:
        with self._lock:
            self._wanted = False
            self._status = Status("running", requester, text_of(self._now()))
        played = self._played("stacks_status.yml", {})
        problem = played.problem()
        try:
            self._keep(played)
        except OSError as error:
            problem = f"{self._path} cannot be written: {error.strerror}"
        with self._lock:
            self._status = replace(self._status, state="failed" if problem else "succeeded", ended_at=text_of(self._now()), problem=problem)

    def _played(self, playbook: str, variables: dict[str, str]) -> Played:
        try:
            return self._play(playbook, variables)
        except Exception:  # whatever ansible-runner raises: the thread goes on
            log.exception("%s", playbook)
            return Played()

    def _keep(self, played: Played) -> None:
        """Keep what was seen; of a node that did not answer, what was seen before, with the reason."""
        known = {seen.node: seen for seen in self.observed()}
        answered: set[str] = set()
        for one in played.results:
            before = known.get(one.host, Observed(one.host, "", "", ()))
            if one.ok and one.action in _LOOKS and "stacks" in one.result:
                answered.add(one.host)
                known[one.host] = Observed(one.host, text_of(self._now()), "", tuple(cleaned(one.result["stacks"])))
            elif not one.ok and one.host not in answered:
                known[one.host] = replace(before, problem=Played(results=[one]).problem())
        made = json.dumps([asdict(known[node]) for node in sorted(known)])
        atomic_file.write_atomic(self._path, made, 0o600, folder_mode=0o700)
