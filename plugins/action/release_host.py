# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: gives a node its part of a release, and returns the outcome instead of failing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible_collections.pifleet.ops.plugins.action.release import LACKING, ReleaseAction
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.project import Places
from ansible_collections.pifleet.ops.plugins.modules.release_host import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import COMPLETED, FAILED, FINALIZE, ROLLOUT, Release

if not LACKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import desk

_PHASES = {"rollout": ROLLOUT, "prune": FINALIZE, "images": ""}


class _ModuleError(PifleetError):
    """A module on the node failed."""


class ActionModule(ReleaseAction):
    """See the documented module of the same name."""

    _requires_connection = True
    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        self._params = params
        self._host = str(self.task_vars["inventory_hostname"])
        found: dict[str, Any] = {"changed": False, "release_id": params["release_id"], "phase": _PHASES.get(params["do"], params["phase"])}
        self._taken_back = False
        try:
            self.use_releases()
            found.update(outcome=COMPLETED, error="", **self._does())
        except PifleetError as error:
            found.update(outcome=FAILED, error=str(error), changed=True)
        except AnsibleConnectionFailure as error:
            found.update(outcome=FAILED, error=f"unreachable: {' '.join(str(error).split())}")
        except AnsibleError as error:
            found.update(outcome=FAILED, error=" ".join(str(error).split()))
        return {**found, "taken_back": self._taken_back}

    def _does(self) -> dict[str, Any]:
        if self._params["do"] == "images":
            return self._picked("missing", do="images", images=self._params["images"])
        release = self._releases.get(self._params["release_id"])
        if self._params["do"] == "prune":
            return self._prune(release)
        if self._params["do"] == "migrate":
            return self._migrate(release)
        return self._roll_out(release)

    # -- phases ----------------------------------------------------------------------------------------------------------------------
    def _migrate(self, release: Release) -> dict[str, Any]:
        todo = desk.migrations_on(release, self._params["phase"], self._host)
        names = {project.role: project.name for project in release.plan.projects}
        services = {migration.service for migration in todo}
        return self._picked(
            "said",
            do="migrate",
            phase=self._params["phase"],
            release_id=release.id,
            environment=release.environment,
            images=[image.pinned for image in release.images if image.service in services],
            projects=self._files(release, sorted({names[m.role] for m in todo})),
            migrations=[{"project": names[m.role], "service": m.service, "argv": list(m.argv), "timeout": m.timeout} for m in todo],
            login=self._login(release),
        )

    def _roll_out(self, release: Release) -> dict[str, Any]:
        names = self._projects(release)
        try:
            brought = self._bring(release, names)
            applied = self._apply(release, names)
        except _ModuleError as error:
            earlier = self._earlier(release)
            if earlier is None:
                raise
            raise PifleetError(f"{error} {self._take_back(earlier, names)}") from error
        return {"changed": brought["changed"] or applied["changed"]}

    def _take_back(self, earlier: Release, names: Sequence[str]) -> str:
        """Bring back what the host had, and say how that went."""
        mine = [name for name in self._projects(earlier) if name in names]
        try:
            self._bring(earlier, mine)
            self._apply(earlier, mine)
        except PifleetError as error:
            return f"Taking it back to {earlier.id} failed too: {error}"
        self._taken_back = True
        return f"The host was taken back to {earlier.id}."

    def _prune(self, release: Release) -> dict[str, Any]:
        return self._picked("removed", do="prune", release_id=release.id, images=self._desk.removable(release))

    # -- the parts -------------------------------------------------------------------------------------------------------------------
    def _bring(self, release: Release, names: Sequence[str]) -> dict[str, Any]:
        services = {service for project in release.plan.projects if project.name in names for service in project.services}
        return self._module(
            do="files",
            environment=release.environment,
            images=[image.pinned for image in release.images if image.service in services],
            projects=self._files(release, names),
            login=self._login(release),
        )

    def _apply(self, release: Release, names: Sequence[str]) -> dict[str, Any]:
        places = Places(self._params["root"], release.environment, names[0])
        return self._run_module(
            "pifleet.ops.stack_reconcile",
            {
                "path": places.projects,
                "scope": list(names),
                "revision": release.commit_sha,
                "commit_message": f"release {release.id}",
                "owner": f"release/{release.environment}",
                "node_name": self._host,
                "timeout": release.plan.health_timeout,
                "stable_seconds": release.plan.health_stable,
            },
        )

    def _files(self, release: Release, names: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
        found = self._desk.files(release.plan, release.images, names)
        return {name: {path: _encoded(mode, data) for path, (mode, data) in files.items()} for name, files in found.items()}

    def _projects(self, release: Release) -> list[str]:
        return [project.name for project in release.plan.projects if self._host in project.hosts]

    def _earlier(self, release: Release) -> Release | None:
        """The release that this host had before: the newest other one that was rolled out here with success."""
        for found in reversed(self._releases.of_environment(release.environment)):
            entry = found.phase(ROLLOUT).detail.get("hosts", {}).get(self._host, {})
            if found.id != release.id and entry.get("status") == COMPLETED:
                return found
        return None

    def _login(self, release: Release) -> dict[str, str] | None:
        login = self._desk.login_of(release.environment)
        return {"server": login.server, "user": login.user, "password": login.password} if login else None

    def _picked(self, key: str, **args: Any) -> dict[str, Any]:
        result = self._module(**args)
        return {"changed": result["changed"], **({key: result[key]} if key in result else {})}

    def _module(self, **args: Any) -> dict[str, Any]:
        given = {name: value for name, value in args.items() if value is not None}
        return self._run_module("pifleet.ops.release_host", {"root": self._params["root"], **given})

    def _run_module(self, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
        shown = self._play_context.no_log
        # with -vvv a connection shows all that goes over it, and a registry's password is in it
        self._play_context.no_log = bool(args.get("login")) or shown
        try:
            result: dict[str, Any] = self._execute_module(module_name=name, module_args=dict(args), task_vars=self.task_vars)
        finally:
            self._play_context.no_log = shown
        if result.get("failed"):
            raise _ModuleError(" ".join(str(result.get("msg") or "it failed and said nothing").split()))
        return result


def _encoded(mode: str, data: bytes) -> dict[str, str]:
    return {"mode": mode, "content": base64.b64encode(data).decode()}
