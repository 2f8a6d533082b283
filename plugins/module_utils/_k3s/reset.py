# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes of a reset leave a cluster that lives on, and which resets are refused. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the inventory.

    *node*: its name in the API; *api*: its API answers (only servers outside the run are asked); *silent*: it is in the run and does not
    answer, so that nothing can be removed from it.
    """

    name: str
    node: str
    server: bool
    in_run: bool
    api: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class ResetPlan:
    """*whole*: the cluster goes with the run; else *api* is the server that stays and is asked, and *leaving* the hosts that leave it."""

    whole: bool
    api: str
    leaving: tuple[str, ...]


def plan_reset(hosts: Sequence[Host], nodes: Sequence[str], *, forced: bool = False) -> ResetPlan:
    """Return how the hosts of the run are reset.

    *hosts*: the whole inventory, in order; *nodes*: names of the API's nodes, empty where no API was asked; *forced*: reset them
    whatever it leaves behind.

    Raises PifleetError where the reset would leave the nodes' traces in a cluster that lives on, agents without one, or a server with
    what is left of a cluster that a later run would take for the fleet's.
    """
    run = [h for h in hosts if h.in_run]
    staying = [h for h in hosts if h.server and not h.in_run]
    asked = next((h for h in staying if h.api), None)
    if asked is not None:
        return ResetPlan(False, asked.name, tuple(h.name for h in run if h.node in nodes))
    if staying and not forced:
        names = ", ".join(h.name for h in staying)
        raise PifleetError(
            f"No API answers on {names}, which stays: the nodes of this run could not be taken out of its cluster.",
            "Bring it up first, run without --limit to reset the whole fleet, or reset the nodes alone with -e k3s_reset_force=true.",
        )
    orphans = [h.name for h in hosts if not h.in_run and not h.server]
    if not staying and orphans and any(h.server for h in run) and not forced:
        raise PifleetError(
            f"Without its servers the cluster is gone, and {', '.join(orphans)} would be left without one.",
            "Run without --limit to reset the whole fleet, or leave them behind with -e k3s_reset_force=true. Nothing was changed.",
        )
    silent = [h.name for h in run if h.server and h.silent]
    if silent and not forced:
        names = ", ".join(silent)
        raise PifleetError(
            f"{names} did not answer and would keep the cluster's data, which the next bootstrap would build on.",
            f"Make it reachable, or reset the others without {names} with -e k3s_reset_force=true. Nothing was changed.",
        )
    return ResetPlan(True, "", ())
