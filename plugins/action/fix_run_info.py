# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: returns the fix runs of the ledger."""

from __future__ import annotations

from typing import Any

from ansible_collections.pifleet.ops.plugins.action.fix_run import LACKING, FixRunAction
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.fix_run_info import ARGUMENT_SPEC

if not LACKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import text
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now


class ActionModule(FixRunAction):
    """See the documented module of the same name."""

    reads = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_fix_runs()
        now = text_of(utc_now())
        if params["id"]:
            run = self._fix_runs.get(params["id"])
            contents = {a.name: self._desk.artifacts().read(a) for a in run.artifacts} if params["artifacts"] else {}
            shown = text.show(run)
            return self._found(place, [text.as_table(run, now)], 1, shown, contents)
        if not 1 <= params["limit"] <= 100 or params["offset"] < 0:
            raise PifleetError(
                f"limit is {params['limit']} and offset is {params['offset']}.", "Give a limit of 1 to 100, an offset of 0 or more."
            )
        given = {name: params[name] or "" for name in ("service", "status", "since")}
        found, total = self._fix_runs.listed(**given, limit=params["limit"], offset=params["offset"])
        return self._found(place, [text.as_table(run, now) for run in found], total, text.listing(found), {})

    def _found(self, place: str, runs: list[dict[str, Any]], total: int, shown: str, contents: dict[str, str]) -> dict[str, Any]:
        return {"changed": False, "ledger": place, "fix_runs": runs, "total": total, "lines": shown.splitlines(), "contents": contents}
