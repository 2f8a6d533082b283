# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: compares a release of charts/ with the cluster, and upgrades it, through the program helm on the controller."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, plan
from ansible_collections.pifleet.ops.plugins.modules.helm_release import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root, _helm
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        check = bool(self._task.check_mode)
        root = _fleet_root.of_task(self._templar, self.task_vars)
        release = _helm.read(root / "charts" / params["name"])
        helm = _helm.Helm(argv.run, params["kubeconfig"], params["context"])
        expected = not check if params["api_expected"] is None else params["api_expected"]
        with _helm.chart_of(helm, release, params["chart_dir"], _fleet_root.state_dir(root) / "charts", check) as chart:
            found = _helm.look(helm, release, chart, params["kube_version"], expected)
            if found.changes and not check:
                self._upgrade(helm, release, chart, found.deployed, params["timeout"])
        return {
            "changed": found.changes,
            "state": found.state,
            "chart": found.chart,
            "objects": [{"ref": ref, "state": state} for ref, state in found.comparison.states],
            "manifest": _helm.scrubbed(found.manifest),
            "diff_text": found.comparison.diff,
            "plan": plan.as_result(found.comparison.changes),
            "plan_digest": plan.digest(found.comparison.changes),
            "reachable": found.reachable,
            **({"diff": plan.as_diff(found.comparison.changes)} if found.changes else {}),
        }

    def _upgrade(self, helm: _helm.Helm, release: _helm.Release, chart: Path, deployed: _helm.Deployed, timeout: int) -> None:
        if deployed.pending:
            _helm.require_dead(release, deployed, timeout, datetime.now(tz=timezone.utc))
            helm.recover(release, deployed, timeout)
        helm.upgrade(release, chart, timeout)
