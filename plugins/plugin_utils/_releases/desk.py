# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the parts of releases meet on the controller: configuration, checkout and ledger in, plans and recorded releases out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import Engine, Login
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.process import Process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import backends, base, config, executor, history, planner, version
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.history import Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.images import Images
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import (
    BUILD,
    COMPLETED,
    FAILED,
    FINALIZE,
    PUSH,
    ROLLOUT,
    Image,
    Migration,
    Plan,
    Release,
)

if TYPE_CHECKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.config import Config, EnvironmentOf


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks for. *unattended*: nobody does, a run of site.yml."""

    environment: str
    version: str = ""
    rebuild: bool = False
    unattended: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """*nothing*: why there is nothing to do; *rendered*: SHA-256 by project, empty where digests are not known yet."""

    plan: Plan
    rendered: Mapping[str, str]
    nothing: str = ""


class Desk:
    """Releases of the fleet at *root*."""

    def __init__(self, root: Path, releases: Releases, run: argv.Runner = argv.run) -> None:
        self._root, self._releases, self._run = root, releases, run
        self._checkout = version.Checkout(root, run)

    # -- planning: no state ---------------------------------------------------------------------------------------------------------
    def plan_deploy(self, asked: Asked, groups: Mapping[str, Sequence[str]]) -> Planned:
        """Return the plan of a deploy. Raises PifleetError for whatever stands against it; nothing is recorded or changed."""
        whole = config.load(self._root)
        wanted = whole.environment(asked.environment)
        source = self._checkout.source(asked.version)
        found = version.resolve(source, asked.version)
        self._refuse_dirty(wanted)
        self._refuse_backends(whole, wanted)
        past = self._releases.of_environment(asked.environment)
        if not asked.version and (by := history.quarantined(past, source.commit)):
            what = f"The commit {source.commit[:12]} was taken back by {by}."
            hint = "The next commit goes out as usual; to have this one again, name its version (-e version=…)."
            if not asked.unattended:
                raise PifleetError(what, f"{hint} Nothing was recorded.")
            plan = self._plan(asked, wanted, found, source.commit, groups, past)
            return Planned(plan, {}, f"{what} {hint}")
        plan = self._plan(asked, wanted, found, source.commit, groups, past)
        rendered = self._rendered(plan, plan.images)
        same = asked.unattended and history.is_as(history.current(past), plan, rendered)
        return Planned(plan, rendered, "This version is live already." if same else "")

    def plan_rollback(self, environment: str, wanted: Wanted, groups: Mapping[str, Sequence[str]], *, accept: bool) -> Planned:
        """Return the plan of a rollback. *accept*: migrations that are not marked reversible may be crossed. Raises PifleetError."""
        settings = config.load(self._root).environment(environment)
        past = self._releases.of_environment(environment)
        target = history.target(past, wanted, environment)
        crossed = history.irreversible(past, target)
        if crossed and not accept:
            raise PifleetError(
                f"Between here and {target.id} there are migrations that are not marked reversible: {', '.join(crossed)}.",
                "A rollback runs none. Where the older version can work with the data as it is, add -e accept_irreversible=true.",
            )
        plan = planner.rollback(target, groups, settings.batches.canary, settings.batches.size)
        if not plan.hosts:
            raise PifleetError(f"No host has a role of {target.id} any more.", "Deploy instead.")
        return Planned(plan, self._rendered(plan, plan.images))

    def _plan(
        self,
        asked: Asked,
        wanted: EnvironmentOf,
        found: str,
        commit: str,
        groups: Mapping[str, Sequence[str]],
        past: Sequence[Release],
    ) -> Plan:
        trees = {s.build.context: self._checkout.tree(commit, s.build.context) for s in wanted.services.values() if s.build}
        known = {} if asked.rebuild else history.known_images(past)
        services = base.read(self._root, wanted.base, commit).services
        return planner.deploy(asked.environment, wanted, found, commit, trees, groups, services, known)

    def _refuse_dirty(self, wanted: EnvironmentOf) -> None:
        places = sorted({config.FILE, wanted.base, *(s.build.context for s in wanted.services.values() if s.build)})
        if dirty := self._checkout.dirty(tuple(places)):
            more = f" and {len(dirty) - 5} more" if len(dirty) > 5 else ""
            raise PifleetError(
                f"Not committed as it is: {', '.join(dirty[:5])}{more}. A release is made of a commit.",
                "Commit it, or put it into .gitignore. Nothing was recorded.",
            )

    def _refuse_backends(self, whole: Config, wanted: EnvironmentOf) -> None:
        registry = self._backends(whole)
        for identity in sorted({s.build.backend for s in wanted.services.values() if s.build}):
            registry.of(identity).check(self._run)

    def _backends(self, whole: Config) -> backends.Registry:
        return backends.with_files(backends.shipped(), self._root, whole.backends)

    # -- what is rendered -------------------------------------------------------------------------------------------------------------
    def _rendered(self, plan: Plan, images: Sequence[Image]) -> dict[str, str]:
        """SHA-256 of each project, nothing as long as a digest is missing."""
        if any(not image.digest for image in images):
            return {}
        return {name: base.sha256(files[base.RENDERED][1].decode()) for name, files in self.files(plan, images).items()}

    def files(self, plan: Plan, images: Sequence[Image], projects: Sequence[str] | None = None) -> dict[str, dict[str, tuple[str, bytes]]]:
        """Return the files of *projects* (default: all) by project and path, each with its mode."""
        found = base.read(self._root, plan.base, plan.commit_sha)
        by_service = {image.service: image for image in images}
        wanted = [project for project in plan.projects if projects is None or project.name in projects]
        return {project.name: base.files_of(found, base.render(found, project, by_service)) for project in wanted}

    # -- recorded ---------------------------------------------------------------------------------------------------------------------
    def create(self, process: Process, planned: Planned) -> Release:
        """Record the release. Raises PifleetError where the environment is being released to, and where its projects turn out not to be
        such that they can be rendered: then every phase is recorded as failed."""
        release = self._releases.create(process, planned.plan, planned.rendered)
        try:
            self.files(release.plan, release.images)
        except PifleetError as error:
            executor.Executor(self._releases, release.id).fail_all(str(error))
            raise
        return release

    def build(self, release: Release) -> Release:
        """Run the phase build of *release*, unless it is over."""
        return self._images_phase(release, BUILD)

    def push(self, release: Release) -> Release:
        """Run the phase push of *release*, unless it is over."""
        return self._images_phase(release, PUSH)

    def _images_phase(self, release: Release, name: str) -> Release:
        steps = executor.Executor(self._releases, release.id)

        def work(found: Release) -> tuple[Mapping[str, Any], Sequence[Image]]:
            whole = config.load(self._root)
            wanted = whole.environment(found.environment)
            timeouts = {service: s.build.timeout for service, s in wanted.services.items() if s.build}
            images = Images(self._root, self._backends(whole), self.login(wanted), timeouts, self._run)
            if name == BUILD and (head := self._checkout.source().commit) != found.commit_sha:
                raise PifleetError(
                    f"The release is of the commit {found.commit_sha[:12]}, and {head[:12]} is checked out.",
                    "Check that one out, and resume.",
                )
            done = [images.build(image) if name == BUILD else images.push(image) for image in found.images]
            return {"reused": [image.service for image in found.images if image.digest and image.backend]}, done

        return steps.run(name, work)

    def login(self, wanted: EnvironmentOf) -> Login | None:
        """Return who logs in to the environment's registry. Raises PifleetError where the password cannot be read."""
        if wanted.login is None or not wanted.registry:
            return None
        path = self._root / Path(wanted.login.password_file).expanduser()
        password = (atomic_file.read_text(path) or "").strip()
        if not password:
            raise PifleetError(f"{path}, which `password_file` of the registry names, is missing or empty.", "It holds the password alone.")
        return Login(wanted.registry.partition("/")[0], wanted.login.user, password)

    def login_of(self, environment: str) -> Login | None:
        """Return who logs in, by the environment's name; nobody where the configuration has it no more."""
        found = config.load(self._root).environments.get(environment)
        return self.login(found) if found else None

    # -- phases on hosts --------------------------------------------------------------------------------------------------------------
    def begin(self, release_id: str, name: str) -> Release:
        """Record that a phase on hosts begins, or goes on; with the rollout, what is rendered."""
        release = self._releases.get(release_id)
        if name == ROLLOUT and not release.phase(ROLLOUT).started_at:
            try:
                rendered = self._rendered(release.plan, release.images)
            except PifleetError as error:
                executor.Executor(self._releases, release_id).fail(name, str(error))
                raise
            return self._releases.change(
                release_id, "release.phase", lambda found, now: replace(executor.begin(found, name, now), rendered=rendered)
            )
        return executor.Executor(self._releases, release_id).begin(name)

    def record(self, release_id: str, name: str, results: Mapping[str, Mapping[str, Any]]) -> Release:
        """Record what the hosts of one batch returned (``outcome``, ``error``, by host), and end the phase where it is over.

        A host of the batch that returned nothing failed. With a failed host the phase fails.
        """
        steps = executor.Executor(self._releases, release_id)
        release = self._releases.get(release_id)
        before: Mapping[str, Any] = release.phase(name).detail.get("hosts", {})
        due = _batch(release, name, before)
        found = {host: _outcome(results.get(host)) for host in due}
        hosts = {**before, **found}
        bad = {host: entry["error"] for host, entry in found.items() if entry["status"] == FAILED}
        if bad and name != FINALIZE:
            return steps.fail(name, "; ".join(f"{host}: {error}" for host, error in sorted(bad.items())), {"hosts": hosts})
        if _batch(release, name, hosts) and name != FINALIZE:
            return steps.note(name, {"hosts": hosts})
        return steps.complete(name, {"hosts": hosts, **({"removed": self._prune(release)} if name == FINALIZE else {})})

    def removable(self, release: Release) -> list[str]:
        """Return the pinned references of images that hosts need no more once *release* is the live one."""
        return list(history.removable(self._past_with(release), release.plan.retain))

    def _prune(self, release: Release) -> list[str]:
        """Remove from the controller's engine what was built for releases that are not retained. What cannot be removed stays."""
        return Engine(self._run).remove(history.removable_builds(self._past_with(release), release.plan.retain))

    def _past_with(self, release: Release) -> list[Release]:
        """All releases of the environment, with *release* as it is about to be: completed."""
        past = self._releases.of_environment(release.environment)
        return [replace(found, status=COMPLETED) if found.id == release.id else found for found in past]


def batches_left(release: Release) -> list[list[str]]:
    """Return the batches of hosts that do not have the version yet, in order."""
    done = {host for host, entry in release.phase(ROLLOUT).detail.get("hosts", {}).items() if entry["status"] == COMPLETED}
    left = [[host for host in batch if host not in done] for batch in release.plan.batches]
    return [batch for batch in left if batch]


def migration_hosts(release: Release, name: str) -> list[str]:
    """Return the hosts on which migrations of the phase are still to run, in order."""
    done = release.phase(name).detail.get("hosts", {})
    hosts = dict.fromkeys(m.host for m in release.plan.migrations_of(name))
    return [host for host in hosts if done.get(host, {}).get("status") != COMPLETED]


def migrations_on(release: Release, name: str, host: str) -> list[Migration]:
    """Return the migrations of the phase that run on *host*, in order."""
    return [m for m in release.plan.migrations_of(name) if m.host == host]


def _batch(release: Release, name: str, recorded: Mapping[str, Any]) -> list[str]:
    """The hosts whose turn it is in a phase: the first batch of which not all succeeded."""
    done = {host for host, entry in recorded.items() if entry["status"] == COMPLETED}
    if name == ROLLOUT:
        order = [list(batch) for batch in release.plan.batches]
    elif name == FINALIZE:
        order = [list(release.plan.hosts)]
    else:
        order = [[host] for host in dict.fromkeys(m.host for m in release.plan.migrations_of(name))]
    left = [[host for host in batch if host not in done] for batch in order]
    return next((batch for batch in left if batch), [])


def _outcome(result: Mapping[str, Any] | None) -> dict[str, Any]:
    if not result or result.get("outcome") not in (COMPLETED, FAILED):
        return {"status": FAILED, "error": str((result or {}).get("msg") or "it returned nothing: unreachable, or its task was ended")}
    error = str(result.get("error") or "")
    extra = {key: result[key] for key in ("taken_back", "said", "removed") if result.get(key)}
    return {"status": result["outcome"], **({"error": error} if error else {}), **extra}
