# SPDX-License-Identifier: GPL-3.0-or-later
"""From an instruction to a plan. Pure: the same input gives the same plan, and nothing is carried out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import policy
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import (
    ANALYZE,
    BUILD,
    PATCH,
    RESTART,
    ROLLBACK,
    VERIFY,
    ActionPlan,
    FileChange,
)
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Profile
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Proposal, Registry, diff


def propose(case: Case, registry: Registry) -> Proposal | None:
    """Return the patch, None where it hangs on what the analysis has yet to see. Raises PifleetError for one that may not be made."""
    _checks(case)
    strategy = registry.of(case.wanted.kind)
    if strategy.needs_look and case.seen is None:
        return None
    proposal = strategy.propose(case)
    policy.refuse_edits(proposal.edits, case.tree, case.profile)
    return proposal


def plan(service: str, base: str, profile_sha256: str, case: Case, proposal: Proposal, others: tuple[str, ...] = ()) -> ActionPlan:
    """Return the plan that carries *proposal* out. *base*: the revision that it is made against; *others*: services of the stack that are
    left alone."""
    profile, health = case.profile, case.profile.health
    edits = tuple(sorted(proposal.edits, key=lambda edit: edit.path))
    return ActionPlan(
        service=service,
        stack=profile.stack,
        compose_service=profile.service,
        node=profile.node,
        instruction=case.wanted.text,
        strategy=case.wanted.kind,
        summary=proposal.summary,
        base=base,
        profile=profile_sha256,
        requirement=policy.requirement(edits, case.tree, profile),
        diff_sha256=sha256(diff.render(edits)),
        files=tuple(FileChange(e.path, "" if e.before is None else sha256(e.before), sha256(e.after)) for e in edits),
        approver_roles=tuple(profile.approval.approver_roles),
        valid_for_minutes=profile.approval.valid_for_minutes,
        keep=profile.keep,
        steps={
            ANALYZE: {"stack": profile.stack, "service": profile.service, "files": list(profile.files)},
            PATCH: {"base": base, "files": [edit.path for edit in edits]},
            BUILD: {"service": profile.service, "timeout": profile.timeouts.build},
            RESTART: {"service": profile.service, "others": list(others), "timeout": profile.timeouts.restart},
            VERIFY: {
                "url": health.url,
                "interval": health.interval,
                "timeout": health.timeout,
                "samples": health.samples,
                "checks": _checks(case),
            },
            # what the instruction asks for besides need not have held before
            ROLLBACK: {"base": base, "files": [edit.path for edit in edits], "checks": checks_of(profile)},
        },
    )


def checks_of(profile: Profile) -> list[dict[str, object]]:
    """Return the commands of the profile that verify the service, as they are run."""
    return _filled_in(profile, _of_profile(profile))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checks(case: Case) -> list[dict[str, object]]:
    """The commands that verify the service, each filled in: those of the profile, and the one of the instruction."""
    profile, wanted = case.profile, case.wanted
    named = _of_profile(profile)
    if wanted.check:
        if wanted.check not in profile.commands:
            raise PifleetError(
                f"{wanted.check} is no command that the profile allows: {', '.join(sorted(profile.commands)) or 'it allows none'}.",
                "Nothing was recorded.",
            )
        named = [*named, (wanted.check, dict(wanted.parameters))]
    return _filled_in(profile, named)


def _of_profile(profile: Profile) -> list[tuple[str, dict[str, str]]]:
    return [(name, {}) for name in profile.health.checks]


def _filled_in(profile: Profile, named: Sequence[tuple[str, dict[str, str]]]) -> list[dict[str, object]]:
    return [
        {"name": name, "argv": profile.commands[name].filled(name, given), "timeout": profile.commands[name].timeout}
        for name, given in named
    ]
