# SPDX-License-Identifier: GPL-3.0-or-later
"""Who starts the cluster, and whom everyone else joins: decided once a run, from the state of all servers of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


@dataclass(frozen=True, slots=True)
class Server:
    """A host of ``control_plane``. *datastore*: it holds cluster data; *active*: its unit runs; both None when it is unreachable."""

    name: str
    address: str
    in_play: bool
    reachable: bool
    datastore: bool = False
    active: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """*init*: the server that starts the cluster in this run, or None; *peer*: the server whom the others join;
    *exists*: there is a cluster already; *urls*: every server's URL, in inventory order."""

    init: str | None
    peer: str
    peer_address: str
    exists: bool
    urls: tuple[str, ...]

    def url_for(self, name: str) -> str:
        """Return the URL that *name* joins, empty for the server that starts the cluster."""
        return "" if name in (self.init, self.peer) else f"https://{self.peer_address}:6443"


def decide(servers: Sequence[Server], joined_agents: Sequence[str], *, force_init: bool = False, restored: str = "") -> Topology:
    """Return the topology of this run.

    *servers*: all hosts of ``control_plane``, in inventory order; *joined_agents*: nodes that hold an agent's certificates;
    *restored*: the server that a snapshot is restored on: it starts the cluster, and everyone else joins it.

    A cluster is started only when it is certain that there is none: every server answered and holds no data, no agent has ever
    joined, and the first server is in the play. ``--limit`` therefore can never start a second one.
    Raises PifleetError when that is not certain, or when there is no server to join.
    """
    if not servers:
        raise PifleetError("The group control_plane has no host.", "Put at least one host into it.")
    urls = tuple(f"https://{s.address}:6443" for s in servers if s.address)
    if restored:
        chosen = next(s for s in servers if s.name == restored)
        return Topology(chosen.name, chosen.name, chosen.address, True, urls)
    holders = [s for s in servers if s.reachable and s.datastore]
    living = [s for s in holders if s.active] or [s for s in holders if s.in_play]
    if living:
        return Topology(None, living[0].name, living[0].address, True, urls)
    if holders:
        names = ", ".join(s.name for s in holders)
        raise PifleetError(
            f"The cluster's data is on {names}, where k3s does not run and this run does not go.",
            f"Run without --limit, or start it first: `ansible-playbook site.yml --limit {holders[0].name}`.",
        )
    first = servers[0]
    _refuse_doubtful_init(servers, joined_agents, force_init)
    return Topology(first.name, first.name, first.address, False, urls)


def _refuse_doubtful_init(servers: Sequence[Server], joined_agents: Sequence[str], force_init: bool) -> None:
    first = servers[0]
    silent = [s.name for s in servers if not s.reachable]
    if silent and (not force_init or first.name in silent):
        raise PifleetError(
            f"No reachable server holds a cluster, and {', '.join(silent)} did not answer: it may hold one.",
            "Make it reachable, or, when it certainly holds no cluster, set k3s_force_init=true. No cluster was started.",
        )
    if joined_agents and not force_init:
        raise PifleetError(
            f"No server holds a cluster, but {', '.join(joined_agents)} joined one before: its server has lost its data.",
            "Restore its latest snapshot (playbooks/restore.yml -e snapshot=latest), reset the nodes (playbooks/reset.yml), "
            "or set k3s_force_init=true to start anew. Nothing was changed.",
        )
    if not first.in_play:
        raise PifleetError(
            f"There is no cluster yet, and {first.name}, which would start it, is not part of this run.",
            "Run without --limit first, or include it in --limit.",
        )
