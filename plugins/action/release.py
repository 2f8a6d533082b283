# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Façade: plans a release, and takes it through its phases in the controller's ledger."""

from __future__ import annotations

from typing import Any

from ansible_collections.pifleet.ops.plugins.action.run_record import MISSING, LedgerAction
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.modules.release import ARGUMENT_SPEC, REQUIRED_IF
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import DEPLOY, MIGRATE_POST, MIGRATE_PRE, ROLLBACK, Plan, Release

LACKING = MISSING
if not LACKING:
    try:
        from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
        from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
        from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import desk, text
        from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.desk import Asked, Desk, Planned
        from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.history import Wanted
    except ImportError as error:
        LACKING = str(error)


class ReleaseAction(LedgerAction):
    """The base of the actions that work on releases."""

    def use_releases(self) -> str:
        """Find the ledger and the fleet, and return the ledger's place."""
        place = self.use_ledger()
        self.need("Releases", LACKING)
        if not self.reads:
            process.end_with_parent()
        self._releases = Releases(self._store)
        self._desk = Desk(self._root, self._releases)
        return place


class ActionModule(ReleaseAction):
    """See the documented module of the same name."""

    spec = ARGUMENT_SPEC
    required_if = REQUIRED_IF

    def act(self, params: dict[str, Any]) -> dict[str, Any]:
        place = self.use_releases()
        does = {
            "plan": self._plan,
            "create": self._create,
            "build": self._build,
            "push": self._push,
            "begin": self._begin,
            "record": self._record,
        }
        if self._task.check_mode and params["do"] != "plan":
            return {"changed": False, "ledger": place}
        return {"changed": False, "ledger": place, **does[params["do"]](params)}

    # -- before there is any state ----------------------------------------------------------------------------------------------------
    def _plan(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["resume"]:
            release = self._releases.get(params["resume"])
            if release.environment != params["environment"]:
                raise PifleetError(f"{release.id} is a release of {release.environment}, not of {params['environment']}.")
            planned = Planned(release.plan, release.rendered)
            note = f"Resumes {release.id}."
        else:
            planned = self._planned(params)
            note = planned.nothing
        self._refuse_limit(planned)
        check = bool(self._task.check_mode)
        wanted = _images_by_host(planned.plan) if planned.plan.kind == ROLLBACK and not params["resume"] else {}
        shown = text.plan(planned.plan, check=check, note=note)
        return {
            "changed": check and not planned.nothing,
            "plan": planned.plan.as_table(),
            "digest": planned.plan.digest,
            "text": shown,
            "lines": shown.splitlines(),
            "nothing": planned.nothing,
            "to_do": not planned.nothing and not check,
            "hosts": list(planned.plan.hosts),
            "wanted_images": wanted,
        }

    def _planned(self, params: dict[str, Any]) -> Planned:
        groups = {name: [str(host) for host in hosts] for name, hosts in self.task_vars["groups"].items()}
        environment = params["environment"] or ""
        if params["kind"] == DEPLOY:
            return self._desk.plan_deploy(Asked(environment, params["version"] or "", params["rebuild"], params["unattended"]), groups)
        wanted = Wanted(params["to_release"] or "", params["to_version"] or "", params["to_previous"])
        return self._desk.plan_rollback(environment, wanted, groups, accept=params["accept_irreversible"])

    def _refuse_limit(self, planned: Planned) -> None:
        left_out = sorted(set(planned.plan.hosts) - set(self.task_vars["ansible_play_hosts_all"]))
        if left_out and not planned.nothing:
            raise PifleetError(
                f"A release goes to all hosts of its roles, and this run leaves out {', '.join(left_out)}.",
                "Run it without --limit. Nothing was recorded.",
            )

    # -- recorded ---------------------------------------------------------------------------------------------------------------------
    def _create(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["resume"]:
            return self._result(self._releases.resume(self._process, params["resume"]))
        planned = self._planned(params)
        if planned.plan.digest != params["digest"]:
            raise PifleetError("What would be released changed since it was planned.", "Run again. Nothing was recorded.")
        self._refuse_missing(planned, params["results"])
        return self._result(self._desk.create(self._process, planned))

    def _refuse_missing(self, planned: Planned, results: dict[str, Any]) -> None:
        """Images of a rollback have to be on every host before anything is touched."""
        if planned.plan.kind != ROLLBACK:
            return
        problems = []
        for host in planned.plan.hosts:
            result = results.get(host) or {}
            if result.get("outcome") != "completed":
                problems.append(f"{host}: {result.get('error') or 'it returned nothing'}")
            elif result.get("missing"):
                problems.append(f"{host} lacks {', '.join(result['missing'])}")
        if problems:
            raise PifleetError(
                f"Not every host can go back: {'; '.join(problems)}.",
                "Bring the image there (`docker pull`), go back to another release, or deploy. Nothing was recorded.",
            )

    def _build(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._result(self._desk.build(self._releases.get(params["release_id"])))

    def _push(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._result(self._desk.push(self._releases.get(params["release_id"])))

    def _begin(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._result(self._desk.begin(params["release_id"], params["phase"]))

    def _record(self, params: dict[str, Any]) -> dict[str, Any]:
        mine = {
            host: cleaned(result, tuple(self._secrets()))
            for host, result in params["results"].items()
            if result.get("release_id") == params["release_id"] and result.get("phase") == params["phase"]
        }
        release = self._desk.record(params["release_id"], params["phase"], mine)
        result = self._result(release)
        if release.phase(params["phase"]).status == "failed":
            result.update(failed=True, msg=text.outcome(release))
        return result

    def _result(self, release: Release) -> dict[str, Any]:
        shown = text.show(release if release.status != "completed" else self._releases.get(release.id))
        return {
            "release_id": release.id,
            "environment": release.environment,
            "status": release.status,
            "phases": {phase.name: phase.status for phase in release.phases},
            "pre_hosts": desk.migration_hosts(release, MIGRATE_PRE) if not release.phase(MIGRATE_PRE).is_over else [],
            "post_hosts": desk.migration_hosts(release, MIGRATE_POST) if not release.phase(MIGRATE_POST).is_over else [],
            "batches": desk.batches_left(release),
            "lines": shown.splitlines(),
        }


def _images_by_host(plan: Plan) -> dict[str, list[str]]:
    """References of the images that each host runs."""
    found: dict[str, set[str]] = {host: set() for host in plan.hosts}
    for project in plan.projects:
        for host in project.hosts:
            found[host] |= {image.pinned for image in plan.images if image.service in project.services}
    return {host: sorted(images) for host, images in found.items()}
