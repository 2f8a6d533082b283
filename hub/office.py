# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet that a hub works for: its ledger, its repository, and the queue of its fix runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ansible_collections.pifleet.ops.hub.links import Links, key_of
from ansible_collections.pifleet.ops.hub.plays import Player
from ansible_collections.pifleet.ops.hub.queue import Queue
from ansible_collections.pifleet.ops.hub.refresh import Fleet
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.desk import Desk
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.fix_runs import FixRuns, Told, untold
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from fastapi import Depends, Request
from securesystemslib.signer import Signer


@dataclass(frozen=True, slots=True)
class Office:
    """*store*: the controller's own ledger, so that an approval lives in one place; *desk*: of the fleet's repository;
    *asking*: makes the one for what comes from outside, which refuses the secrets that are known at that moment. It raises PifleetError."""

    store: Store
    desk: Desk
    asking: Callable[[], Desk]
    fix_runs: FixRuns
    releases: Releases
    links: Links
    state: Path
    queue: Queue
    fleet: Fleet
    webhook_secret: bytes = b""

    def signer(self) -> Signer:
        """Return who signs approvals here. Raises SigningError."""
        return attestation.own_signer(self.state / attestation.KEY_FILE)


def open_office(
    root: Path,
    store: Store,
    queue: Queue,
    play: Player,
    *,
    stacks_folder: str = "stacks",
    webhook_secret: bytes = b"",
    told: Told = untold,
    secrets: Callable[[], Sequence[str]] = tuple,
) -> Office:
    """Return the office of the fleet in *root*, whose ledger is *store*.

    *queue*: does its fix runs; *play*: runs its other playbooks; *webhook_secret*: empty where no webhook is taken;
    *told*: see ``FixRuns``; *secrets*: says what must not be recorded, see ``KnownSecrets``.
    """
    state = _fleet_root.state_dir(root)
    return Office(
        store=store,
        desk=Desk(root, stacks_folder),
        asking=lambda: Desk(root, stacks_folder, secrets()),
        fix_runs=FixRuns(store, told=told),
        releases=Releases(store),
        links=Links(key_of(state)),
        state=state,
        queue=queue,
        fleet=Fleet(state, play),
        webhook_secret=webhook_secret,
    )


def _office(request: Request) -> Office:
    found: Office = request.app.state.office
    return found


InOffice = Annotated[Office, Depends(_office)]
