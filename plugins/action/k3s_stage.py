# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: copies the files of a k3s release to a node."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.k3s_stage import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

_File = Mapping[str, Any]


#: a forked process may use these: each of their commands is a process of its own, and none shares a connection with another
_FORKABLE = ("ssh", "local")
#: seconds between two looks whether the run that a copy ahead belongs to goes on
_LOOK = 1.0


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["ahead"]:
            self._begin(params["files"])
            return {"changed": False, "copied": []}
        sent = self._sent_ahead()
        missing = self._missing([file for file in params["files"] if file["dest"] not in sent])
        if missing and not self._task.check_mode:
            self._send(missing)
        copied = {*sent, *(file["dest"] for file in missing)}
        return {"changed": bool(copied), "copied": [file["dest"] for file in params["files"] if file["dest"] in copied]}

    @property
    def _ahead(self) -> Path:
        """Whoever copies ahead to this host holds a lock on it until it ends, and writes there what arrived. Ansible removes its folder."""
        host = hashlib.sha256(str(self.task_vars["inventory_hostname"]).encode()).hexdigest()[:16]
        return Path(constants.DEFAULT_LOCAL_TMP, f"k3s-stage-{host}")

    def _begin(self, files: Sequence[_File]) -> None:
        missing = self._missing(files)
        if not missing or self._task.check_mode or self._connection.transport not in _FORKABLE:
            return
        run = os.getppid()
        with self._ahead.open("w") as report:
            fcntl.flock(report, fcntl.LOCK_EX)
            if os.fork() == 0:
                # nothing of this process may come after the copy: it is the worker's twin
                with suppress(BaseException):
                    self._copy_ahead(missing, report, run)
                os._exit(0)

    def _copy_ahead(self, files: Sequence[_File], report: TextIO, run: int) -> None:
        """Send *files* while the process *run* lives. What fails is sent again by the task that waits for this, and told there."""
        os.setsid()
        signal.signal(signal.SIGALRM, lambda *_: _end_without(run))
        signal.setitimer(signal.ITIMER_REAL, _LOOK, _LOOK)
        if self._connection.transport == "ssh":
            # a connection of its own: over the shared one all that the run asks the node meanwhile would queue behind the files
            own = f"-o ControlMaster=no -o ControlPath=none {self._connection.get_option('ssh_args') or ''}"
            self._connection.set_option("ssh_args", own)
        folder = self._connection._shell.tmpdir = None
        try:
            folder = self._make_tmp_path()
            for file in files:
                self._send([file])
                print(file["dest"], file=report, flush=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            # a copy that was cut off runs on by itself
            os.killpg(0, signal.SIGTERM)
            self._remove_tmp_path(folder)

    def _sent_ahead(self) -> set[str]:
        """What a copy ahead has brought to the node, when it has ended."""
        try:
            with self._ahead.open() as report:
                fcntl.flock(report, fcntl.LOCK_SH)
                # told once: who asks again looks at the node
                self._ahead.unlink()
                return set(report.read().splitlines())
        except FileNotFoundError:
            return set()

    def _missing(self, files: Sequence[_File]) -> list[_File]:
        there = self._checksums([file["dest"] for file in files]) if files else {}
        return [file for file in files if not file["sha256"] or there.get(file["dest"]) != file["sha256"]]

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


def _end_without(run: int) -> None:
    try:
        os.kill(run, 0)
    except OSError:  # gone, or its number is another user's now
        # no Exception, which a connection may catch
        raise SystemExit from None


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
