# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the parts of fix runs meet on the controller: profiles and checkout in, plans, candidates and artifacts out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import cleaned, scrubbed
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import instruction, planner, profile, runner
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.artifacts import Artifacts
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.checkout import Checkout
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import ANALYZE, ActionPlan, Artifact, Edit, FixRun
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import PLAIN, allowed
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Fleet, Profile
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Registry, diff, shipped

_NOTHING = "Nothing was recorded."
#: of the environment: where artifacts are, in the place of what fix_runs.yml says; the hub and all workers need the same
ARTIFACTS = "FIX_RUNS_ARTIFACTS"
#: a commit, as a node names it
_HASH = re.compile(r"[0-9a-f]{40,64}")
#: bytes of a diff that a person gives
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks for, checked as far as that can be before the service is looked at. *base*: the commit that is checked out."""

    service: str
    case: Case
    base: str
    profile_sha256: str

    @property
    def profile(self) -> Profile:
        return self.case.profile


@dataclass(frozen=True, slots=True)
class Planned:
    """*diff*: of the patch, which may hold secrets that the files hold."""

    plan: ActionPlan
    edits: tuple[Edit, ...]
    diff: str
    evidence: Mapping[str, Any]


class Desk:
    """Fix runs of the fleet at *root*. *folder*: of stacks in its repository; *secrets*: values that are masked wherever they appear."""

    def __init__(self, root: Path, folder: str, secrets: Sequence[str] = (), registry: Registry | None = None) -> None:
        self._root, self._folder, self._secrets = root, folder.strip("/"), tuple(secrets)
        self._registry = registry or shipped()
        self.checkout = Checkout(root)

    def fleet(self, base: str = "") -> Fleet:
        """Return the fleet's settings as they are committed."""
        text = self.checkout.text(base or self.checkout.head(), profile.FLEET)
        return profile.parse_fleet(text) if text is not None else Fleet()

    def artifacts(self) -> Artifacts:
        return Artifacts(self._root, os.environ.get(ARTIFACTS) or self.fleet().artifacts)

    # -- before there is any state ----------------------------------------------------------------------------------------------------
    def ask(self, service: str, text: str, patch: str = "") -> Asked:
        """Return what is asked for. Raises PifleetError for whatever stands against it; nothing is recorded or changed."""
        base = self.checkout.head()
        place = profile.place(service)
        found = self._committed(base, service)
        made = profile.parse(found, place)
        self._refuse_secret(text, "The instruction")
        wanted = instruction.parse(text)
        if patch:
            self._refuse_secret(patch, "The diff")
        stack = f"{self._folder}/{made.stack}"
        if dirty := self.checkout.dirty([place, stack]):
            raise PifleetError(
                f"Not committed as it is: {', '.join(dirty[:5])}. A fix run patches what is committed.",
                f"checkout_dirty: commit it, or take it back. {_NOTHING}",
            )
        case = Case(wanted, made, self.checkout.tree(base, stack), patch=patch)
        if self._registry.of(wanted.kind).needs_look:
            case = self._with_earlier(case, self.checkout.before(base, stack), synced=False)
        planner.propose(case, self._registry)
        return Asked(service, case, base, planner.sha256(found))

    def _with_earlier(self, case: Case, revision: str, *, synced: bool) -> Case:
        """Return *case* with its folder as it was at *revision*, where it was there."""
        stack = case.tree.folder
        if not revision or not self.checkout.names(revision, stack):
            return case
        return replace(case, earlier=self.checkout.tree(revision, stack), earlier_revision=revision, synced=synced)

    def _with_last_synced(self, asked: Asked, case: Case, revision: str) -> Case:
        """Return *case* with what the node last made of the stack and saw running, where that is known here and is not what fails."""
        if case.earlier is None or not _HASH.fullmatch(revision) or self.checkout.same(revision, asked.base, case.tree.folder):
            return case
        return self._with_earlier(case, revision, synced=True)

    def profile_of(self, service: str) -> Profile:
        """Return the profile of a service as it is committed. Raises PifleetError where there is none."""
        return profile.parse(self._committed(self.checkout.head(), service), profile.place(service))

    def _committed(self, base: str, service: str) -> str:
        """The text of a profile."""
        place = profile.place(service)
        found = self.checkout.text(base, place)
        if found is None:
            known = sorted(name.removesuffix(".yml") for name in self.checkout.names(base, profile.FOLDER) if name.endswith(".yml"))
            raise PifleetError(
                f"There is no service {service}: {place} is not in the commit {base[:12]}.",
                f"unknown_service: there are {', '.join(known) or 'no profiles at all'}. {_NOTHING}",
            )
        return found

    def _refuse_secret(self, text: str, what: str) -> None:
        if scrubbed(text, self._secrets) != text:
            raise PifleetError(
                f"{what} holds what looks like a secret, and would be kept as evidence.",
                f"Put secrets into a `*.sops.*` file of the stack, encrypted. {_NOTHING}",
            )

    def read_patch(self, path: str) -> str:
        """Return the text of a diff that a person gives as a file of the controller."""
        whole = self._root / Path(path).expanduser()
        content = atomic_file.read_bytes(whole)
        if content is None:
            raise PifleetError(f"There is no diff {whole}.", _NOTHING)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text or len(content) > _MOST:
            raise PifleetError(f"{whole} is no text, or has more than {_MOST >> 20} MB.", _NOTHING)
        return text

    # -- the analysis -----------------------------------------------------------------------------------------------------------------
    def plan(self, asked: Asked, seen: Mapping[str, Any]) -> Planned:
        """Return the plan that follows from what was *seen* on the node. Raises PifleetError where there is none."""
        stack = asked.case.tree.folder
        if not seen["revision"]:
            raise PifleetError(f"{asked.profile.node} has no desired state yet.", "Run playbooks/stacks.yml first. Nothing was changed.")
        if not self.checkout.same(seen["revision"], asked.base, self._folder):
            raise PifleetError(
                f"{asked.profile.node} has the revision {seen['revision'][:12]}, whose {self._folder}/ differs from what is checked out "
                f"({asked.base[:12]}).",
                f"Bring it there first (playbooks/stacks.yml), so that {stack} alone changes. Nothing was changed.",
            )
        if (seen.get("stack") or {}).get("pinned"):
            raise PifleetError(
                f"The stack {asked.profile.stack} is pinned on {asked.profile.node}, as an earlier fix run left it.",
                "Let go of it first: playbooks/fix.yml -e unpin=ID, of that fix run. Nothing was changed.",
            )
        case = self._with_last_synced(asked, replace(asked.case, seen=seen), (seen.get("stack") or {}).get("revision") or "")
        proposal = planner.propose(case, self._registry)
        if proposal is None:
            raise PifleetError("No patch was proposed.")
        made = planner.plan(asked.service, asked.base, asked.profile_sha256, case, proposal, tuple(seen.get("others", ())))
        return Planned(made, proposal.edits, diff.render(proposal.edits), proposal.evidence)

    def files(self, asked: Asked) -> list[str]:
        """Return the files that a fix run may change, below the stack's folder."""
        return allowed(asked.case.tree, asked.profile)

    def candidate(self, run: FixRun, planned: Planned) -> str:
        """Make the commit with the patch, on no branch, and return it."""
        message = f"Fix {run.service}: {planned.plan.summary}\n\n{run.instruction}\n\nFix-Run: {run.id}\n"
        return self.checkout.commit(run.id, planned.plan.base, planned.edits, message, run.created_at)

    def renewed(self, run: FixRun) -> FixRun:
        """Return *run* with the candidate that its patch is brought with: another one where that was committed and taken back."""
        plan = run.plan
        if plan is None or not run.candidate:
            return run
        return replace(run, candidate=self.checkout.renewed(run.id, run.candidate, plan.base, run.created_at))

    def message(self, run: FixRun) -> str:
        """Return the message of the candidate as a node shows it."""
        return f"Fix {run.service}: {run.plan.summary if run.plan else ''}"

    def refuse_other_patch(self, run: FixRun) -> None:
        """Raise PifleetError where the candidate is not the patch of the plan."""
        plan = run.plan
        if plan is None or not run.candidate:
            raise PifleetError(f"The fix run {run.id} has no plan.")
        edits = [self._edit_of(plan.base, run.candidate, change.path) for change in plan.files]
        others = self.checkout.changed(plan.base, run.candidate)
        if planner.sha256(diff.render(edits)) != plan.diff_sha256 or others != sorted(change.path for change in plan.files):
            raise PifleetError(f"The commit {run.candidate[:12]} is not the patch of the plan {plan.digest[:12]}.", "It was changed since.")

    def _edit_of(self, base: str, candidate: str, path: str) -> Edit:
        modes = [self.checkout.mode(commit, path) for commit in (base, candidate)]
        mode = modes[1] if modes[1] != (modes[0] or PLAIN) else ""
        return Edit(path, self.checkout.text(base, path), self.checkout.text(candidate, path) or "", mode)

    # -- artifacts --------------------------------------------------------------------------------------------------------------------
    def keep(self, run: FixRun, name: str, step: str, text: str) -> Artifact:
        """Write an artifact, scrubbed."""
        return self.artifacts().write(run.id, name, step, scrubbed(text, self._secrets))

    def keep_analysis(self, run: FixRun, seen: Mapping[str, Any], log: str, planned: Planned | None) -> list[Artifact]:
        """Write what an analysis found, and led to."""
        told = {**cleaned(seen, self._secrets), "log": log.splitlines(), "evidence": dict(planned.evidence) if planned else {}}
        texts = {"analyze.json": _json(told)}
        if planned:
            texts["plan.json"] = _json({**planned.plan.as_table(), "digest": planned.plan.digest})
            texts["patch.diff"] = planned.diff
        place = self.artifacts()
        return [place.write(run.id, name, ANALYZE, scrubbed(text, self._secrets)) for name, text in texts.items()]

    def shown_diff(self, planned: Planned) -> str:
        return scrubbed(planned.diff, self._secrets)

    def cleaned(self, value: Any) -> Any:
        return cleaned(value, self._secrets)

    def told(self, text: str) -> str:
        """Return *text* as it may be kept."""
        return scrubbed(text, self._secrets)[: runner.LONGEST]


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
