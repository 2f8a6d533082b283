# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: gets and verifies the files of a k3s release, on the controller."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.utils.display import Display
from ansible_collections.pifleet.ops.plugins.modules.k3s_release_artifacts import ARGUMENT_SPEC
from ansible_collections.pifleet.ops.plugins.plugin_utils._controller_action import ControllerAction

display = Display()


def _show_progress(name: str, done: int, total: int | None) -> None:
    of = f" of {total >> 20}" if total else ""
    display.display(f"  {name}: {done >> 20}{of} MB")


class ActionModule(ControllerAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        # urllib costs tens of milliseconds to import, and most runs load nothing else of this
        from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release import download, store

        request = store.Request(
            version=params["version"],
            architectures=tuple(sorted(set(params["architectures"]))),
            images=params["images"],
            artifact_dir=Path(params["artifact_dir"]) if params["artifact_dir"] else None,
            cache_dir=Path(params["cache_dir"]),
            release_url=params["release_url"],
            check=bool(self._task.check_mode),
        )
        found = store.obtain(request, download.Downloader(progress=_show_progress))
        for warning in found.warnings:
            display.warning(warning)
        return {
            "changed": bool(found.fetched),
            "artifacts": {arch: asdict(artifact) for arch, artifact in found.artifacts.items()},
            "fetched": list(found.fetched),
        }
