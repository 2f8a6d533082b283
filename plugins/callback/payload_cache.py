# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Saves a run the packing of modules that an earlier one packed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: payload_cache
type: notification
short_description: Pack the modules of this collection once, not in every run
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Keeps what Ansible sends to the nodes for each module of C(pifleet.ops), and hands it to later runs, which then need not read
    some hundred files to pack it anew. A run with nothing to do is quicker by a fifth.
  - A change of the collection, of Ansible or of Python makes new payloads.
  - Where anything stands in the way the run packs the modules itself, as without this callback.
options:
  cache_dir:
    description: Folder of the payloads. Only its owner may write into it.
    type: path
    default: ~/.cache/pifleet/payloads
    env:
      - name: PIFLEET_PAYLOAD_CACHE
    ini:
      - section: callback_payload_cache
        key: cache_dir
requirements:
  - C(callbacks_enabled = pifleet.ops.payload_cache) in C(ansible.cfg), as in the one of the checkout
"""

import os
from pathlib import Path
from typing import Any

from ansible import constants, module_utils
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import module_utils_loader
from ansible.release import __version__
from ansible_collections.pifleet.ops.plugins.plugin_utils._payload_cache import PayloadCache


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """One for each ansible-playbook process."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "pifleet.ops.payload_cache"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._cache: PayloadCache | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        del playbook
        # files there would stand before Ansible's own in a payload, and no digest here knows of them
        own = os.path.dirname(module_utils.__file__)
        if any(os.path.isdir(path) and path != own for path in module_utils_loader._get_paths(subdirs=False)):
            self._cache = None
            return
        self._cache = PayloadCache(Path(self.get_option("cache_dir")), Path(__file__).resolve().parents[1], __version__)
        self._cache.restore(self._run())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        del stats
        if self._cache:
            try:
                self._cache.keep(self._run())
            except OSError as error:
                self._display.vv(f"The payloads of this run are not kept: {error}")

    def _run(self) -> Path:
        return Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache"
