# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a patch comes from: a registry of strategies by the kind of the instruction.

Whatever one proposes goes through the same allow-list and approval, so that another one (which asks a language model, say) can be added
without being trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.instruction import FORMS, Instruction
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.policy import Tree
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Profile


@dataclass(frozen=True, slots=True)
class Case:
    """All that a strategy may know. *tree*: the stack's folder; *seen*: what the analysis found on the node (see ``fix_run_host``), None
    before there was one; *earlier*: the folder at *earlier_revision*, for strategies that need a look, None where there is none: what the
    node last synced, where *synced* says so, else what was there before the last change; *patch*: the text of a diff."""

    wanted: Instruction
    profile: Profile
    tree: Tree
    seen: Mapping[str, Any] | None = None
    earlier: Tree | None = None
    earlier_revision: str = ""
    synced: bool = False
    patch: str = ""


@dataclass(frozen=True, slots=True)
class Proposal:
    """*edits*: with paths of the repository; *summary*: one line for a person; *evidence*: what it was concluded from."""

    edits: tuple[Edit, ...]
    summary: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Strategy(Protocol):
    """What makes a patch. *needs_look*: it works on what the analysis found, and so cannot be asked before it."""

    needs_look: bool

    def propose(self, case: Case) -> Proposal:
        """Return the smallest patch. The same case gives the same proposal. Raises PifleetError where it knows none."""


class Registry:
    """Strategies by the kind of instruction that they serve."""

    def __init__(self) -> None:
        self._known: dict[str, Callable[[], Strategy]] = {}

    def register(self, kind: str, strategy: Callable[[], Strategy]) -> None:
        """Let *strategy* serve instructions of that kind. Raises PifleetError for one that is served already."""
        if kind in self._known:
            raise PifleetError(f"Two strategies serve the instruction {kind}.")
        self._known[kind] = strategy

    def of(self, kind: str) -> Strategy:
        """Return the strategy of a kind. Raises PifleetError where there is none."""
        if kind not in self._known:
            raise PifleetError(f"No strategy serves `{FORMS.get(kind, kind)}`.")
        return self._known[kind]()


def shipped() -> Registry:
    """Return a registry with the strategies of the collection."""
    from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import instruction
    from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import auto, compose, dependencies, diff

    registry = Registry()
    registry.register(instruction.BUMP, dependencies.Bump)
    registry.register(instruction.ADD, dependencies.Add)
    for kind in (instruction.IMAGE_TAG, instruction.IMAGE, instruction.ENV, instruction.KEY):
        registry.register(kind, compose.Set)
    registry.register(instruction.DIFF, diff.Apply)
    registry.register(instruction.AUTO, auto.Auto)
    return registry
