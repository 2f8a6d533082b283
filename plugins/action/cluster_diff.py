# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: compares the cluster with the manifests, through the module k3s_manifests on a server, and writes the bundle here."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.pifleet.ops.plugins.lookup.k8s_manifests import objects_of
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.cluster_diff import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils import _cluster_diff, _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        root = _fleet_root.of_task(self._templar, self.task_vars)
        objects, left_out = self._desired(root, params["directories"])
        asked = self._ask(objects, params["kubeconfig"])
        if asked.get("failed") or asked.get("unreachable"):
            return asked
        found = _cluster_diff.Comparison(
            run_id=params["run_id"],
            revision=self._revision(root),
            server=str(self._task.delegate_to or self.task_vars["inventory_hostname"]),
            at=datetime.now(tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            objects=_cluster_diff.plain(asked["objects"]),
            diff=asked["diff_text"],
            left_out=(*left_out, *_cluster_diff.charts_left_out(root / "charts", shutil.which("helm"))),
        )
        path = "" if self._task.check_mode else self._write(root, found)
        return {
            "changed": bool(path),
            "status": found.status,
            "exit_code": found.exit_code,
            "objects": asked["objects"],
            "diff_text": found.diff,
            "summary": _cluster_diff.markdown(found),
            "left_out": list(found.left_out),
            "path": path,
        }

    def _desired(self, root: Path, directories: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
        objects: list[dict[str, Any]] = []
        left_out: list[str] = []
        for directory in directories:
            paths, said = _cluster_diff.manifests_below(root / directory)
            left_out += said
            try:
                objects += [one for path in paths for one in objects_of(path)]
            except AnsibleError as error:
                raise PifleetError(str(error), "Correct the manifest.") from None
        if not objects:
            raise PifleetError(f"There is no manifest below {', '.join(directories)} of {root}.", "Correct collect_diff_dirs.")
        return objects, left_out

    def _ask(self, objects: list[dict[str, Any]], kubeconfig: str) -> dict[str, Any]:
        """What the module would change: in check mode it asks the API for a server-side diff, and does nothing more."""
        mode, self._task.check_mode = self._task.check_mode, True
        try:
            args = {"objects": objects, "kubeconfig": kubeconfig, "api_expected": True, "joining": []}
            found: dict[str, Any] = self._execute_module(
                module_name="pifleet.ops.k3s_manifests", module_args=args, task_vars=self.task_vars
            )
        finally:
            self._task.check_mode = mode
        return {key: value for key, value in found.items() if key != "diff"}

    def _revision(self, root: Path) -> str:
        done = argv.run(["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--match=", "--dirty"], timeout=20)
        return done.stdout.strip() if done.ok else "not under git"

    def _write(self, root: Path, found: _cluster_diff.Comparison) -> str:
        folder = root / found.folder
        try:
            for name, text in _cluster_diff.files(found).items():
                atomic_file.write_atomic(folder / name, text)
        except OSError as error:
            raise PifleetError(
                f"The bundle {folder} cannot be written: {error.strerror}.", "Make room, or correct the folder's mode."
            ) from error
        return str(folder)
