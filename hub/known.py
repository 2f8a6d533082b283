# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets that the hub knows: of the fleet's inventory, as ``ansible-inventory`` shows it, whose vars plugins decrypt SOPS files.

What a variable says by a template is not among them: only a playbook can tell. The analysis of a fix run knows those too, and fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

from ansible.module_utils.parsing.convert_bool import BOOLEANS
from ansible_collections.pifleet.ops.hub.execution import beside, config_of
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import is_secret_variable, scrubbed

#: seconds for which they are kept: many requests at once are one look
KEPT = 10.0
#: seconds that the inventory may take to be read
_LONGEST = 60
_TEMPLATE = "{{"


class KnownSecrets:
    """*root*: of the fleet; *inventory*: its inventories, as ``-i`` takes them; none: those of its ``ansible.cfg``."""

    def __init__(self, root: Path, inventory: tuple[str, ...] = ()) -> None:
        self._root, self._inventory = root, inventory
        self._lock = threading.Lock()
        self._found: tuple[str, ...] = ()
        self._until = 0.0

    def __call__(self) -> tuple[str, ...]:
        """Return the values. Raises PifleetError where the inventory cannot be read."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._found = self._read()
                self._until = time.monotonic() + KEPT
            return self._found

    def _read(self) -> tuple[str, ...]:
        given = [word for place in self._inventory for word in ("-i", place)]
        environment = {"ANSIBLE_CONFIG": config_of(self._root), "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True", "ANSIBLE_NOCOLOR": "1"}
        try:
            done = subprocess.run(
                [beside("ansible-inventory"), "--list", *given],
                cwd=self._root, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=_LONGEST, check=True,
            )  # fmt: skip
            hosts = json.loads(done.stdout)["_meta"]["hostvars"].values()
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            said = " ".join(scrubbed(str(getattr(error, "stderr", "") or error)).split())[-300:]
            raise PifleetError("The inventory cannot be read, so that its secrets are not known: nothing was recorded.", said) from error
        named = (value for variables in hosts for name, value in variables.items() if is_secret_variable(name) and isinstance(value, str))
        # one that says yes or no is none, as for the actions
        return tuple(sorted({value for value in named if _TEMPLATE not in value and value.lower() not in BOOLEANS}))
