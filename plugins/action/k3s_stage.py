# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: copies the files of a k3s release to a node."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.k3s_stage import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

_File = Mapping[str, Any]


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        there = self._checksums([file["dest"] for file in params["files"]])
        missing = [file for file in params["files"] if not file["sha256"] or there.get(file["dest"]) != file["sha256"]]
        if missing and not self._task.check_mode:
            self._send(missing)
        return {"changed": bool(missing), "copied": [file["dest"] for file in missing]}

    def _checksums(self, paths: Sequence[str]) -> dict[str, str]:
        """The SHA-256 of those of *paths* that are on the node. sha256sum says ``<hex>  <path>``."""
        said = self._low_level_execute_command(f"sha256sum {_quoted(paths)} 2>/dev/null || true")
        lines = (line.partition("  ") for line in said["stdout"].splitlines())
        return {path: checksum for checksum, _gap, path in lines}

    def _send(self, files: Sequence[_File]) -> None:
        """Send each file into a folder of the user of the connection, and let the one whom the task becomes move it from there."""
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        moves = []
        for number, file in enumerate(files):
            arrived = self._connection._shell.join_path(folder, str(number))
            self._transfer(file, arrived)
            moves.append(_move(arrived, file))
        done = self._low_level_execute_command(" && ".join(moves))
        if done["rc"] != 0:
            raise _not_copied(files[0]["dest"], done["stderr"] or done["stdout"])

    def _transfer(self, file: _File, arrived: str) -> None:
        if not Path(file["src"]).is_file():
            raise PifleetError(f"{file['src']} is not on the controller.", "Run the whole play again: the role k3s_artifacts gets it.")
        try:
            self._transfer_file(file["src"], arrived)
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as error:
            raise _not_copied(file["dest"], str(error)) from error


def _move(arrived: str, file: _File) -> str:
    """The user's whom the task becomes, with its permissions, before it is in its place: whoever finds it there finds it whole."""
    at, to = shlex.quote(arrived), shlex.quote(file["dest"])
    return f'chown "$(id -u):$(id -g)" {at} && chmod {shlex.quote(file["mode"])} {at} && mv -fT {at} {to}'


def _quoted(paths: Sequence[str]) -> str:
    return " ".join(shlex.quote(path) for path in paths)


def _not_copied(dest: str, said: str) -> PifleetError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return PifleetError(
        f"{dest} cannot be copied to the node: {' | '.join(lines[-2:]) or 'no reason given'}.",
        "Is its storage full or read-only (`df -h`, `dmesg`)? Nothing was installed.",
    )
