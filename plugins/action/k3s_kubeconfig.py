# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: merges a k3s server's kubeconfig into one of the controller."""

from __future__ import annotations

import base64
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.k3s_kubeconfig import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils import _kubeconfig
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        server = _kubeconfig.check_server(params["server"])
        path = Path(params["path"])
        fetched = _kubeconfig.held(path, params["context"], params["credentials_sha256"]) or self._fetch(params["src"])
        if self._task.check_mode and fetched and params["ca_sha256"] not in ("", _kubeconfig.ca_sha256(fetched)):
            fetched = None
        change = partial(_kubeconfig.merge, where=str(path), fetched=fetched, context=params["context"], server=server)
        merged = _kubeconfig.replace_file(path, change, check=bool(self._task.check_mode))
        result = {"changed": merged.changed, "path": str(path), "context": params["context"], "server": server}
        if merged.changed:
            headers = {"before_header": str(path), "after_header": str(path)}
            result["diff"] = {**headers, "before": merged.before, "after": merged.after}
        return result

    def _fetch(self, src: str) -> _kubeconfig.Fetched | None:
        """Return what the task's host has, None in check mode where it has nothing yet."""
        found = self.slurp(src)
        where = f"{src} of {self._host_name()}"
        if not found.get("failed"):
            text = base64.b64decode(found["content"]).decode("utf-8", errors="replace")
            return _kubeconfig.parse_fetched(text, where)
        said = str(found.get("msg", "it cannot be read"))
        if "not found" not in said.lower():
            raise PifleetError(f"{where}: {said}", "Reading it needs root: use become.")
        if self._task.check_mode:
            return None
        raise PifleetError(f"{where} does not exist.", "k3s writes it when it is up as a server: look at `systemctl status k3s` there.")

    def _host_name(self) -> str:
        return str(self._task.delegate_to or self.task_vars.get("inventory_hostname", "the host"))
