# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: runs the module of the same name, and sends it what it asks for from the controller."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import git, prepare, refresh
from ansible_collections.pifleet.ops.plugins.modules.stack_host import ARGUMENTS
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root, _node_program, _stacks_source
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

display = Display()


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENTS
    own = ("checkout", "program_sha256", "debs", "images", "sent")

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        git.refuse_folder(params["folder"])
        self._artifact_dir = Path(params["artifact_dir"]) if params["artifact_dir"] else None
        artifacts = _stacks_source.artifacts(self._artifact_dir)
        target = None if params["repository"] else self._checkout(params["folder"]).target()
        arguments = {
            **params,
            "checkout": asdict(target) if target else None,
            "program_sha256": hashlib.sha256(_node_program.stacks()).hexdigest(),
            "debs": list(artifacts.debs),
            "images": dict(artifacts.images),
        }
        arguments.pop("artifact_dir")
        result = self._call(arguments)
        if result.get("wanted"):
            with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
                result = self._call(self._with_files(arguments, result["wanted"], Path(folder)))
        return result

    def _call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="pifleet.ops.stack_host",
            module_args={k: v for k, v in arguments.items() if v is not None},
            task_vars=self.task_vars,
        )
        return result

    def _with_files(self, arguments: dict[str, Any], wanted: list[str], folder: Path) -> dict[str, Any]:
        """Send the files, and return the arguments with where they are."""
        remote = self._connection._shell.join_path
        where = self._connection._shell.tmpdir or self._make_tmp_path()
        sent = {}
        for number, name in enumerate(wanted):
            local = self._file(name, arguments, folder)
            sent[name] = self._transfer_file(str(local), remote(where, f"{number}-{os.path.basename(name)}"))
        self._fixup_perms2((where, *sent.values()))
        return {**arguments, "sent": sent}

    def _file(self, name: str, arguments: dict[str, Any], folder: Path) -> Path:
        path = folder / "file"
        if name == prepare.PROGRAM:
            path.write_bytes(_node_program.stacks())
        elif name == prepare.ARCHIVE:
            arguments["checkout"] = asdict(self._archive(arguments, path))
        elif self._artifact_dir:
            return self._artifact_dir / name
        return path

    def _archive(self, arguments: dict[str, Any], path: Path) -> refresh.Target:
        if not arguments["repository"]:
            target = refresh.Target(**arguments["checkout"])
            self._checkout(arguments["folder"]).archive(target.revision, path)
            return target
        return self._fetched(arguments, path)

    def _fetched(self, arguments: dict[str, Any], path: Path) -> refresh.Target:
        """A check of a node without git: the controller fetches what the node will."""
        display.vv(f"fetching {arguments['repository']} here, because the node has no git yet", host=self.task_vars["inventory_hostname"])
        files = {}
        for name in ("repository_ssh_key", "repository_known_hosts"):
            if arguments[name].strip():
                files[name] = path.parent / name
                files[name].touch(mode=0o600)
                files[name].write_text(arguments[name].strip() + "\n")
        access = git.Access(
            arguments["repository"],
            arguments["repository_token"],
            str(files.get("repository_ssh_key", "")),
            str(files.get("repository_known_hosts", "")),
        )
        revision, limit = arguments["repository_revision"], arguments["refresh_timeout"]
        source = git.RemoteRepository(argv.run, access, revision, arguments["folder"], path.parent / "clone.git", limit)
        return source.archive(source.target(), path)

    def _checkout(self, folder: str) -> _stacks_source.Checkout:
        return _stacks_source.Checkout(_fleet_root.of_task(self._templar, self.task_vars), folder)
