# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: shows and replaces the SSH host key of a node that was set up anew."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.modules.ssh_host_key import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils import _ssh_host_key as keys
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction
from ansible_collections.pifleet.ops.plugins.plugin_utils._ssh_host_key import Entry, HostKeyError, Key, Marker, Target, Verdict

#: what ssh says when it refuses a key
_REFUSALS = ("host key verification failed", "host identification has changed")


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        self._ssh = keys.Ssh(argv.run)
        self._host = str(self.task_vars["inventory_hostname"])
        return {"inspected": self._inspect, "replaced": self._replace}[params["state"]](params)

    def _inspect(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._connection.transport != "ssh":
            return self._unreachable(params)
        target = self._target(keys.split_args(self._option("ssh_args")))
        entries = self._ssh.entries(target)
        if not entries:
            return self._unreachable(params)
        if target.proxy:
            return self._behind_proxy(params, target, entries)
        offered = keys.parse_scan(self._ssh.scan(target))
        verdict = keys.judge(entries, offered, target.key_types)
        if verdict is Verdict.REVOKED:
            return self._revoked(entries, offered)
        certified = bool(offered) and self._ssh.is_certified(target, entries)
        if verdict is Verdict.CHANGED and not certified:
            return self._pin(target, entries, offered) if params["accept"] else self._refused(target, entries, offered)
        note = "" if certified or not offered or verdict is not Verdict.UNKNOWN else _uncertified(entries)
        return self._unreachable(params, note)

    def _unreachable(self, params: dict[str, Any], note: str = "") -> dict[str, Any]:
        said = params["failure"] or f"{self._host} is unreachable."
        return {"changed": False, "unreachable": True, "host_key_changed": False, "msg": f"{said} {note}".strip()}

    def _behind_proxy(self, params: dict[str, Any], target: Target, entries: Sequence[Entry]) -> dict[str, Any]:
        """ssh-keyscan knows no proxies: only what ssh said tells a changed key from a host that is down, or from a proxy's own key."""
        said = params["failure"].lower()
        refused = any(text in said for text in _REFUSALS) and any(name in said for name in target.names)
        where = next((e for e in entries if e.marker is Marker.KNOWN), None)
        if where is None or (said and not refused):
            return self._unreachable(params)
        remove = shlex.join(["ssh-keygen", "-R", target.names[0], "-f", where.file])
        raise HostKeyError(
            f"The SSH host key of {self._host} ({target.names[0]}) is not the known one ({where.where}), and it cannot be asked for: "
            f"the host is reached through a proxy ({target.proxy}). Nothing was touched.",
            f"If its card was replaced: remove the old key (`{remove}`), connect once with ssh, compare the fingerprint it shows with "
            f"`ssh-keygen -lf {keys.public_key_file('ed25519')}` on the node's own screen, and run again.",
        )

    def _revoked(self, entries: Sequence[Entry], offered: Sequence[Key]) -> dict[str, Any]:
        lines = "\n".join(f"revoked: {e.key} ({e.where})" for e in keys.revoked_by(entries, offered))
        msg = (
            f"{self._host} offers an SSH host key that is marked as revoked; it is never accepted. Nothing was touched.\n{lines}\n"
            "Give the node new host keys on its own screen (`rm /etc/ssh/ssh_host_*; ssh-keygen -A`, restart ssh), and run again."
        )
        return {"changed": False, "failed": True, "msg": msg, "host_key_changed": True, **_shown(entries, offered)}

    def _refused(self, target: Target, entries: Sequence[Entry], offered: Sequence[Key]) -> dict[str, Any]:
        msg = (
            f"The SSH host key of {self._host} ({target.address}, port {target.port}) is not the one that this controller knows. "
            f"Nothing was touched.\n{keys.described(offered, entries)}\n"
            f"If its card was replaced or written anew, compare on the node's own screen: `ssh-keygen -lf {_compared(target, offered)}`. "
            f"If it shows an offered fingerprint, run again with `--limit {self._host} -e rebuild_accept_new_host_key=true`.\n"
            "If the card was not replaced, somebody else may be answering in the node's place: do not accept the key."
        )
        return {"changed": False, "failed": True, "msg": msg, "host_key_changed": True, **_shown(entries, offered)}

    def _pin(self, target: Target, entries: Sequence[Entry], offered: Sequence[Key]) -> dict[str, Any]:
        keys.check_replaceable(target, entries)
        # in check mode too: nothing can be predicted of a node that is not reached; ansible-playbook removes the folder at its end
        path = Path(constants.DEFAULT_LOCAL_TMP, f"known_hosts-{hashlib.sha256(self._host.encode()).hexdigest()[:16]}")
        try:
            atomic_file.write_atomic(path, keys.pinned_text(target.names, offered), mode=0o600, folder_mode=0o700)
        except OSError as error:
            raise HostKeyError(f"{path} cannot be written: {error.strerror or error}.", "Make room there, and run again.") from error
        pin = shlex.join([*keys.pin_words(str(path), has_command=target.has_command), "-o", f"ControlPath={self._own_control_path(path)}"])
        own = str(self._option("ssh_args") or "")
        pinned = {"pinned": str(path), "ssh_args": f"{pin} {own}".strip()}
        return {"changed": False, "host_key_changed": True, **_shown(entries, offered), **pinned}

    def _own_control_path(self, pinned: Path) -> str:
        """A socket for this run's connections alone. Over a shared one a later run would reach the node without a look at its key."""
        folder = Path(str(self._option("control_path_dir") or "~/.ansible/cp")).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # as long as Ansible's own names: a socket's path must not exceed about a hundred characters
        return str(folder / hashlib.sha256(str(pinned).encode()).hexdigest()[:10])

    def _replace(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._connection.transport != "ssh":
            raise HostKeyError(f"{self._host} is not reached by ssh, so that it has no host key.", "Leave this task out for it.")
        pinned = params["pinned"]
        # by now the connection is pinned: the files to be changed are those that ssh would use without
        target = self._target(keys.unpinned(keys.split_args(self._option("ssh_args")), pinned))
        if pinned in target.user_files:
            raise HostKeyError("ansible_ssh_args is not what `state: inspected` returned.", "Set it to that, unchanged.")
        wanted = keys.pinned_keys(pinned, target.names)
        entries = self._ssh.entries(target)
        if keys.revoked_by(entries, wanted):
            return self._revoked(entries, wanted)
        done = keys.replace_files(target, wanted, self._ssh.find, check=bool(self._task.check_mode))
        stale = [e for e in entries if e.file in target.global_files and e.marker is Marker.KNOWN and e.key not in wanted]
        result = {
            "changed": bool(done),
            "removed": [_entry(e) for r in done for e in r.removed],
            "added": [{"name": name, **_key(key), "file": r.file} for r in done for name, key in r.added],
        }
        if done:
            result["diff"] = [{"before_header": r.file, "after_header": r.file, "before": r.before, "after": r.after} for r in done]
        if stale:
            lines = ", ".join(e.where for e in stale)
            result["warnings"] = [
                f"The old key of {self._host} is still trusted by all users of this controller: {lines}. Remove it there."
            ]
        return result

    def _target(self, ssh_args: Sequence[str]) -> Target:
        """What ssh makes of the connection, its arguments in the order in which the connection plugin gives them."""
        port, user = self._option("port"), self._option("remote_user")
        words = [*ssh_args, *(["-o", f"Port={port}"] if port is not None else []), *(["-o", f'User="{user}"'] if user else [])]
        for name in ("ssh_common_args", "ssh_extra_args"):
            words += keys.split_args(self._option(name))
        target = self._ssh.target(str(self._option("ssh_executable")), words, str(self._option("host")))
        # by its name in the inventory a person may have reached the same machine: what stood for both is stale for both
        name = keys.name_of(self._host, target.port)
        known = {e.key for e in self._ssh.entries(target) if e.marker is Marker.KNOWN}
        also = self._ssh.entries(replace(target, names=(name,), global_files=()))
        return (
            replace(target, names=(*target.names, name)) if known.intersection(e.key for e in also) and name not in target.names else target
        )

    def _option(self, name: str) -> Any:
        value = self._connection.get_option(name)
        return str(value) if isinstance(value, str) else value


def _key(key: Key) -> dict[str, Any]:
    return {"type": key.type, "fingerprint": key.fingerprint}


def _entry(entry: Entry) -> dict[str, Any]:
    return {**_key(entry.key), "file": entry.file, "line": entry.line}


def _shown(entries: Sequence[Entry], offered: Sequence[Key]) -> dict[str, Any]:
    return {"known": [_entry(e) for e in entries if e.marker is Marker.KNOWN], "offered": [_key(key) for key in offered]}


def _compared(target: Target, offered: Sequence[Key]) -> str:
    """The file on the node with the key that ssh would have used."""
    kinds = {key.type for key in offered}
    return keys.public_key_file(next((kind for kind in target.key_types if kind in kinds), offered[0].type))


def _uncertified(entries: Sequence[Entry]) -> str:
    where = next((e.where for e in entries if e.marker is Marker.AUTHORITY), "")
    hint = "Sign its host key (`ssh-keygen -s … -h`), if its card was replaced, and run again."
    return f"It is known by a certificate authority ({where}), and offers no certificate of it. {hint}" if where else ""
