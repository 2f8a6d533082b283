# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run changed and why, and what failed, from the results that Ansible hands to a callback. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: reasons of one change that are named, and letters of one text
NAMED, LENGTH = 4, 160
HIDDEN = "hidden: the task has no_log"


@dataclass(slots=True)
class Changed:
    """One task that changed something for the same reason on *hosts*."""

    task: str
    why: str
    hosts: list[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """One result that failed. *kind*: ``failed``, ``unreachable``, ``ignored`` or ``rescued``; *hint*: what to do about it."""

    host: str
    task: str
    kind: str
    cause: str
    hint: str


@dataclass(slots=True)
class Outcome:
    """A playbook's results, as far as a person wants to read of them in the end."""

    changes: dict[tuple[str, str], Changed] = field(default_factory=dict)
    failures: list[Failed] = field(default_factory=list)

    def change(self, host: str, task: str, result: Mapping[str, Any], *, hidden: bool) -> None:
        why = HIDDEN if hidden else why_of(result)
        row = self.changes.setdefault((task, why), Changed(task, why, []))
        if host not in row.hosts:
            row.hosts.append(host)

    def fail(self, host: str, task: str, kind: str, result: Mapping[str, Any], *, where: str, hidden: bool) -> None:
        cause = HIDDEN if hidden else cause_of(result)
        hint = "" if hidden else hint_of(result)
        fallback = (
            "Is it switched on, and does `ssh` reach it?" if kind == "unreachable" else f"The task stands in {where}." if where else ""
        )
        self.failures.append(Failed(host, task, kind, cause, hint or fallback))

    @property
    def fatal(self) -> list[Failed]:
        return [one for one in self.failures if one.kind in ("failed", "unreachable")]

    @property
    def survived(self) -> list[Failed]:
        """What failed and was ignored or rescued."""
        return [one for one in self.failures if one.kind not in ("failed", "unreachable")]


def why_of(result: Mapping[str, Any]) -> str:
    """Return why a task changed something, from its plan, its diff, what it says or what it worked on; "" where nothing tells."""
    for tell in (_of_items, _of_plan, _of_diff, _of_message, _of_place):
        if found := tell(result):
            return found
    return "the command ran" if "rc" in result else ""


def cause_of(result: Mapping[str, Any]) -> str:
    """Return why a task failed, whole: an error is never cut off."""
    items = [one for one in result.get("results") or () if isinstance(one, Mapping) and (one.get("failed") or one.get("unreachable"))]
    if items:
        return "\n".join(f"{_label(one)}: {cause_of(one)}" for one in items)
    message = str(result.get("msg") or "").strip()
    said = [str(result.get(name) or "").strip() for name in ("stderr", "module_stderr", "module_stdout")]
    if not said[0] and "rc" in result:
        said.append(str(result.get("stdout") or "").strip())
    more = [text for text in said if text and text not in message]
    return "\n".join(text for text in (message or str(result.get("exception") or ""), *more) if text) or "it did not say why"


def hint_of(result: Mapping[str, Any]) -> str:
    """Return what a module says is to be done about its failure."""
    hints = [result.get("hint"), *(one.get("hint") for one in result.get("results") or () if isinstance(one, Mapping))]
    return " ".join(dict.fromkeys(str(hint).strip() for hint in hints if hint))


def _of_items(result: Mapping[str, Any]) -> str:
    items = [one for one in result.get("results") or () if isinstance(one, Mapping)]
    told = []
    for one in items:
        if one.get("changed"):
            label, why = _label(one), "" if one.get("_ansible_no_log") else why_of(one)
            told.append(f"{label}: {why}" if why and why != label else label)
    return _some(told)


def _of_plan(result: Mapping[str, Any]) -> str:
    plan = result.get("plan")
    if isinstance(plan, Mapping):
        plan = plan.get("actions")
    if not isinstance(plan, Sequence) or isinstance(plan, str):
        return ""
    return _some([_action(one) for one in plan if isinstance(one, Mapping)])


def _action(action: Mapping[str, Any]) -> str:
    reasons = action.get("reasons") or action.get("reason") or ()
    if isinstance(reasons, str):
        reasons = [reasons]
    told = [str(one.get("reason", one) if isinstance(one, Mapping) else one) for one in reasons]
    words = [str(action[name]) for name in ("stack", "kind", "target") if action.get(name)]
    return " ".join(dict.fromkeys(words)) + (f" ({', '.join(dict.fromkeys(told))})" if told else "")


def _of_diff(result: Mapping[str, Any]) -> str:
    diffs = result.get("diff")
    told = []
    for one in [diffs] if isinstance(diffs, Mapping) else diffs if isinstance(diffs, list) else []:
        if not isinstance(one, Mapping):
            continue
        before, after = one.get("before"), one.get("after")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            keys = [str(key) for key in after if before.get(key) != after[key]]
            place = after.get("path") or result.get("path") or result.get("dest") or ""
            told.append(f"{place} ({', '.join(keys)})" if place and keys else ", ".join(keys))
        else:
            told.append(str(one.get("after_header") or one.get("before_header") or ""))
    return _some([text for text in told if text])


def _of_message(result: Mapping[str, Any]) -> str:
    message = result.get("msg")
    return _some([line for line in message.strip().splitlines() if line][:1]) if isinstance(message, str) else ""


def _of_place(result: Mapping[str, Any]) -> str:
    for name in ("dest", "path", "name"):
        if isinstance(result.get(name), str):
            return _some([result[name]])
    return ""


def _label(item: Mapping[str, Any]) -> str:
    if item.get("_ansible_no_log"):
        return "an item"
    return _short(str(item.get("_ansible_item_label", item.get("item", "an item"))))


def _some(told: Iterable[str]) -> str:
    known = list(dict.fromkeys(told))
    more = [f"and {len(known) - NAMED} more"] if len(known) > NAMED else []
    return ", ".join([*(_short(text) for text in known[:NAMED]), *more])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
