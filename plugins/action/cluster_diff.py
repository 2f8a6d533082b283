# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: compares the cluster with the manifests, through the module k3s_manifests on a server, and with the charts, through helm here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING
from ansible_collections.pifleet.ops.plugins.lookup.k8s_manifests import objects_in, objects_of
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import manifests
from ansible_collections.pifleet.ops.plugins.modules.cluster_diff import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils import _cluster_diff, _fleet_root, _helm
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

if not MISSING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.policy import FILE as POLICY
    from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.sops import Sops

_Objects = list[dict[str, Any]]


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        root = _fleet_root.of_task(self._templar, self.task_vars)
        objects, hidden, left_out = self._desired(root, params["directories"], params["left_out"])
        asked = self._ask(objects, params["kubeconfig"])
        if asked.get("failed") or asked.get("unreachable"):
            return asked
        charts = params["charts"]
        states, diff = list(_cluster_diff.plain(asked["objects"])), asked["diff_text"]
        if hidden:
            # what the module says of them has their difference, in plain text
            with self.unshown():
                asked = self._ask(hidden, params["kubeconfig"])
            if asked.get("unreachable"):
                return asked
            if asked.get("failed"):
                # an API that refuses an object quotes its values
                raise PifleetError(
                    "The cluster cannot be asked about the encrypted objects; what it said is not shown, because it may quote them.",
                    "Ask by hand: `sops decrypt FILE | kubectl apply --dry-run=server -f -`.",
                )
            unseen = _cluster_diff.plain(asked["objects"])
            states += unseen
            diff += _cluster_diff.not_shown(unseen)
        for name in charts:
            found_states, found_diff = self._release(root, name, params)
            states += found_states
            diff += found_diff
        found = _cluster_diff.Comparison(
            run_id=params["run_id"],
            revision=self._revision(root),
            server=str(self._task.delegate_to or self.task_vars["inventory_hostname"]),
            at=datetime.now(tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            objects=tuple(states),
            diff=diff,
            left_out=(*left_out, *_cluster_diff.charts_left_out(_helm.names_below(root / "charts"), charts)),
        )
        path = "" if self._task.check_mode else self._write(root, found)
        return {
            "changed": bool(path),
            "status": found.status,
            "exit_code": found.exit_code,
            "objects": [{"ref": ref, "state": state} for ref, state in found.objects],
            "diff_text": found.diff,
            "summary": _cluster_diff.markdown(found),
            "left_out": list(found.left_out),
            "path": path,
        }

    def _release(self, root: Path, name: str, params: dict[str, Any]) -> tuple[Sequence[tuple[str, str]], str]:
        """What an upgrade of the release *name* would change, and what somebody edited of it: (ref, state) of all, and the diff."""
        release = _helm.read(root / "charts" / name)
        helm = _helm.Helm(argv.run, params["helm_kubeconfig"], params["helm_context"])
        with _helm.chart_of(helm, release, params["chart_dir"], _fleet_root.state_dir(root) / "charts", check=True) as chart:
            found = _helm.look(helm, release, chart, params["kube_version"], expected=True)
        states = dict(found.comparison.states)
        same = [ref for ref, state in states.items() if state == _helm.UNCHANGED]
        kept = _helm.kept_objects(found.manifest, release.namespace, same)
        asked = (
            self._ask(list(kept.values()), params["kubeconfig"], field_manager="pifleet-diff", marked=False) if kept else {"objects": []}
        )
        if asked.get("failed") or asked.get("unreachable"):
            raise PifleetError(str(asked.get("msg", "The server does not answer.")))
        live = dict(_cluster_diff.plain(asked["objects"]))
        states.update({ref: live[manifests.ref(entry)] for ref, entry in kept.items() if manifests.ref(entry) in live})
        return _cluster_diff.release_states(name, found.state, list(states.items())), found.comparison.diff + asked.get("diff_text", "")

    def _desired(self, root: Path, directories: list[str], apart: list[str]) -> tuple[_Objects, _Objects, list[str]]:
        """The objects, those whose difference may not be shown, because they are encrypted and no Secrets, and what is left out."""
        objects: _Objects = []
        hidden: _Objects = []
        left_out: list[str] = []
        for directory in directories:
            paths, said = _cluster_diff.manifests_below(root / directory, [root / one for one in apart])
            left_out += said
            for path in paths:
                name = os.path.relpath(path, root)
                try:
                    if not _cluster_diff.is_encrypted(path):
                        objects += objects_of(path)
                        continue
                    if name.startswith("../"):
                        raise PifleetError(
                            "It lies outside the fleet's folder.", "Move it there, or take its folder out of collect_diff_dirs."
                        )
                    text = self._decrypted(root, name)
                    found = objects_in(text, path)
                except AnsibleError as error:
                    raise PifleetError(str(error), "Correct the manifest.") from None
                except yaml.YAMLError:
                    raise PifleetError(f"{path} is no valid YAML once it is decrypted.", "Correct it: `sops edit`.") from None
                except PifleetError as error:
                    left_out.append(f"{name}, which is encrypted. {error}")
                    continue
                objects += [one for one in found if one["kind"] == "Secret"]
                hidden += [one for one in found if one["kind"] != "Secret"]
        if not (objects or hidden):
            raise PifleetError(f"There is no manifest below {', '.join(directories)} of {root}.", "Correct collect_diff_dirs.")
        return objects, hidden, left_out

    def _decrypted(self, root: Path, name: str) -> str:
        """The plaintext of a manifest, in memory. Raises PifleetError where it cannot be had here."""
        if MISSING:
            raise PifleetError(
                f"Reading it needs libraries on the controller: {MISSING}.", "Install them: `make env`, or `pip install pydantic`."
            )
        policy = root / POLICY
        return Sops(policy.read_text() if policy.is_file() else "").decrypt(name, (root / name).read_text())

    def _ask(self, objects: list[dict[str, Any]], kubeconfig: str, **more: Any) -> dict[str, Any]:
        """What the module would change: in check mode it asks the API for a server-side diff, and does nothing more."""
        mode, self._task.check_mode = self._task.check_mode, True
        try:
            args = {"objects": objects, "kubeconfig": kubeconfig, "api_expected": True, "joining": [], **more}
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
