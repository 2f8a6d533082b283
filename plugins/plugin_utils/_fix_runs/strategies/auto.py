# SPDX-License-Identifier: GPL-3.0-or-later
"""``auto``: known failures, matched against what the analysis saw. Each proposes the smallest patch; where none fits, that is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import policy
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Proposal, compose, dependencies

_NOTHING = "Nothing was changed."
#: the project whose module has another name, of those that are met most: https://pypi.org/
_PROJECTS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "serial": "pyserial",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
_PYTHON = re.compile(r"ModuleNotFoundError: No module named '([A-Za-z_][A-Za-z0-9_]*)(?:\.[\w.]+)?'")
_NODE = re.compile(r"Cannot find (?:module|package) '((?:@[a-z0-9._-]+/)?[a-z0-9._-]+)(?:/[^']*)?'")
_VARIABLE = re.compile(
    r"(?:environment variable|env var)\s+[\"'`]?([A-Z][A-Z0-9_]{1,63})[\"'`]?\s+(?:is\s+)?(?:not set|missing|required|undefined)"
    r"|[\"'`]?\b([A-Z][A-Z0-9_]{1,63})\b[\"'`]?\s+(?:environment variable )?(?:is not set|must be set|is required)"
    r"|KeyError: '([A-Z][A-Z0-9_]{1,63})'"
)
_MEMORY = re.compile(r"(\d+)([bkmg]?)b?", re.I)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Auto:
    """Asks each of the known failures in order; the first one that fits proposes."""

    needs_look = True

    def propose(self, case: Case) -> Proposal:
        if case.seen is None:
            raise PifleetError("What is wrong is not known before the service was looked at.")
        for known in _KNOWN:
            if found := known(case, case.seen):
                return found
        raise PifleetError(
            f"No known failure was found in what {case.profile.service} says: {_summary(case.seen)}.",
            f"Read analyze.json of this fix run, and give an instruction. {_NOTHING}",
        )


def _summary(seen: Mapping[str, Any]) -> str:
    states = ", ".join(f"{c['state']} with exit code {c['exit_code']}" for c in seen["containers"]) or "it has no container"
    health = "" if seen["health"].get("ok") else f"; health: {seen['health'].get('said') or 'unknown'}"
    return f"{states}{health}"


def _log(seen: Mapping[str, Any]) -> str:
    return str(seen.get("log") or "")


# -- known failures -------------------------------------------------------------------------------------------------------------------
def _missing_python_module(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    return _missing_module(case, _PYTHON.findall(_log(seen)), ("requirements.txt", "pyproject.toml"), "Python", _PROJECTS)


def _missing_node_module(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    return _missing_module(case, _NODE.findall(_log(seen)), ("package.json",), "Node", {})


def _missing_module(case: Case, names: Sequence[str], kinds: tuple[str, ...], what: str, others: Mapping[str, str]) -> Proposal | None:
    if not names:
        return None
    project = others.get(names[-1], names[-1])
    path = dependencies.manifest(case, kinds)
    if dependencies.has(case.tree.texts[path], path, project):
        return None
    evidence = {"failure": f"missing {what} module", "module": names[-1], "project": project}
    if line := _earlier_line(case, path, project):
        # as it was before somebody took it out
        return Proposal((line,), f"bring {project} back to {path}", evidence)
    raise PifleetError(
        f"The {what} module {names[-1]} is missing, and which version of {project} is wanted is not known: {path} never had it.",
        f"Give an instruction: add {project} VERSION. {_NOTHING}",
    )


def _earlier_line(case: Case, path: str, project: str) -> Edit | None:
    """The edit that brings the dependency back with the version that the file had before its last change."""
    before = case.earlier.texts.get(path) if case.earlier else None
    if before is None or not dependencies.has(before, path, project):
        return None
    name = "[-_.]+".join(re.escape(part) for part in re.split(r"[-_.]+", project))
    version = re.search(rf"(?i){name}\"?(?:\[[^\]]*\])?\s*(?:==|:\s*\")\s*[\^~]?([\w.+!-]+)", before)
    return dependencies.add(case, path, project, version[1]) if version else None


def _missing_variable(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    found = [next(filter(None, names)) for names in _VARIABLE.findall(_log(seen))]
    if not found:
        return None
    evidence = {"failure": "missing variable", "variable": found[-1]}
    return _taken_back(
        case, f"{found[-1]} is missing: take the last change of the compose file back", evidence, only_compose=True, mention=found[-1]
    )


def _image_not_found(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    if seen.get("image", {}).get("id") or seen.get("built"):
        return None
    evidence = {"failure": "image not found", "image": seen.get("image", {}).get("reference", "")}
    if not case.earlier:
        return None
    name, text = compose.file_of(case)
    before = case.earlier.texts.get(name)
    if before is None:
        return None
    old, new = (compose.image_of(t, case.profile.service, name) for t in (before, text))
    if old == new:
        return None
    after = compose.set_value(text, case.profile.service, ("image",), old)
    return Proposal((compose.edit(case, name, text, after),), f"{new} is not to be had: back to {old}", evidence)


def _out_of_memory(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    if not any(container.get("oom_killed") for container in seen["containers"]):
        return None
    name, text = compose.file_of(case)
    limit = str(seen.get("memory") or "")
    match = _MEMORY.fullmatch(limit)
    if not match or not int(match[1]):
        return None
    doubled = f"{int(match[1]) * _UNITS[match[2].lower()] * 2 // (1 << 20)}m"
    after = compose.set_value(text, case.profile.service, ("mem_limit",), doubled)
    evidence = {"failure": "out of memory", "limit": limit}
    return Proposal(
        (compose.edit(case, name, text, after),), f"killed for want of memory: mem_limit {doubled} instead of {limit}", evidence
    )


def _bad_after_a_change(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    """The service does not run, or is not healthy, and its files changed: the last good revision."""
    ailing = not seen["health"].get("ok") or any(c["state"] != "running" for c in seen["containers"]) or not seen["containers"]
    if not ailing:
        return None
    return _taken_back(case, "not healthy since the last change: take it back", {"failure": "bad after a change"})


def _taken_back(case: Case, summary: str, evidence: Mapping[str, Any], *, only_compose: bool = False, mention: str = "") -> Proposal | None:
    """A proposal of the stack's files as they were before their last change, as far as the allow-list goes."""
    if case.earlier is None:
        return None
    edits = []
    for path in policy.allowed(case.tree, case.profile):
        before, now = case.earlier.texts.get(path), case.tree.texts[path]
        if before is None or before == now or (only_compose and not policy.is_compose(path)) or (mention and mention not in before):
            continue
        edits.append(Edit(f"{case.tree.folder}/{path}", now, before))
    return Proposal(tuple(edits), summary, evidence) if edits else None


#: in the order in which they are asked: what a log says by name comes before what follows from a state
_KNOWN: tuple[Callable[[Case, Mapping[str, Any]], Proposal | None], ...] = (
    _missing_python_module,
    _missing_node_module,
    _missing_variable,
    _image_not_found,
    _out_of_memory,
    _bad_after_a_change,
)
