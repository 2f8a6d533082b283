# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: returns what the controller's ledger has."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.evidence_info import ARGUMENT_SPEC, REQUIRED_IF

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import MAX_PAGE, Queries, Wanted, as_table

_TIME = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d(\.\d{1,6})?)?)?)?)?)?Z?")


class ActionModule(LedgerAction):
    """See the documented module of the same name."""

    reads = True
    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_ledger()
        wanted = wanted_of(params)
        queries = Queries(self._store)
        if params["what"] == "show":
            run_id = newest(queries, self._inventory()) if wanted.run_id == "last" else wanted.run_id
            return {"changed": False, "ledger": place, "run": queries.show(run_id)}
        page = queries.runs(wanted) if params["what"] == "runs" else queries.events(wanted)
        return {"changed": False, "ledger": place, **as_table(page)}


def newest(queries: Queries, inventory: tuple[str, ...]) -> str:
    """Return the id of the newest run of an inventory: several fleets share a ledger. Raises PifleetError where there is none."""
    found = queries.runs(Wanted(inventory=inventory, limit=1)).items
    if not found:
        raise PifleetError(
            f"The ledger has no run of the inventory {' '.join(inventory)} yet.",
            "Run a playbook with it first, or name a run by its id (`playbooks/evidence.yml` lists them).",
        )
    return str(found[0]["run_id"])


def wanted_of(params: dict[str, Any]) -> Wanted:
    """Return what is asked for. Raises PifleetError for what cannot be asked."""
    if not 1 <= params["limit"] <= MAX_PAGE or params["offset"] < 0:
        raise PifleetError(f"limit is {params['limit']} and offset {params['offset']}.", f"limit is 1 to {MAX_PAGE}, offset 0 or more.")
    for name in ("since", "until"):
        if params[name] and not _TIME.fullmatch(params[name]):
            raise PifleetError(
                f"{name} is {params[name]!r}, which is no time.", "Give UTC as 2025-01-02T03:04:05Z, or the beginning of it."
            )
    texts: dict[str, Any] = {name: params[name] or "" for name in ("run_id", "host", "kind", "status", "since", "until")}
    texts |= {name: texts[name].removesuffix("Z") for name in ("since", "until")}
    return Wanted(**texts, limit=params["limit"], offset=params["offset"])
