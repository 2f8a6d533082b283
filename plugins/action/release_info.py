# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: returns the releases of the ledger."""

from __future__ import annotations

from typing import Any

from ansible_collections.pifleet.ops.plugins.action.release import ReleaseAction
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.release_info import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import text


class ActionModule(ReleaseAction):
    """See the documented module of the same name."""

    reads = True
    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_releases()
        environment = params["environment"]
        if params["id"]:
            release = self._releases.get(params["id"])
            if environment and release.environment != environment:
                raise PifleetError(f"{release.id} is a release of {release.environment}, not of {environment}.")
            found = {release.environment: [release]}
            shown = text.show(release)
        else:
            if params["limit"] < 1:
                raise PifleetError(f"limit is {params['limit']}.", "Give 1 or more.")
            names = [environment] if environment else self._releases.environments()
            found = {name: list(reversed(self._releases.of_environment(name)))[: params["limit"]] for name in names}
            shown = text.listing(found)
        tables = {name: [text.as_table(release) for release in releases] for name, releases in found.items()}
        return {"changed": False, "ledger": place, "releases": tables, "lines": shown.splitlines()}
