# SPDX-License-Identifier: GPL-3.0-or-later
"""``auto``: known failures, matched against what the analysis saw. Each proposes the smallest patch; where none fits, that is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
#: https://github.com/moby/moby: daemon/libnetwork/portallocator, drivers/bridge; https://nodejs.org/api/errors.html#common-system-errors
_PORT = re.compile(
    r"Bind for \S*:(\d+) failed: port is already allocated"
    r"|(?:listen \w+ |host port (?:for )?)\S*?:(\d+)\b\S*: (?:bind: )?address already in use"
    r"|EADDRINUSE[^\n]*:(\d+)\b"
    r"|\[Errno 98\] Address already in use",
    re.I,
)
_DENIED = re.compile(
    r"permission denied[^\n'\"]*'([^'\n]+)'|exec: \"([^\"\n]+)\": permission denied|([^\s:'\"]*[./][^\s:'\"]*): permission denied", re.I
)
_ABSENT = re.compile(
    r"(?:no such file or directory|can't open file)[^\n'\"]*'([^'\n]+)'"
    r"|\"(/[^\"\n]+)\": not found|stat (\S+): (?:file does not exist|no such file)|([^\s:'\"]*[./][^\s:'\"]*): no such file or directory",
    re.I,
)
_MEMORY = re.compile(r"(\d+)([bkmg]?)b?", re.I)
#: drift that a service which cannot run makes by itself: ``_stacks/model.py``
_BY_ITSELF = frozenset({"crash_looping", "unhealthy", "never_started", "stack_missing", "image_digest_changed"})
#: exit codes of a container that was stopped: its own word, and signals TERM and KILL
_STOPPED = (0, 143, 137)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Auto:
    """Asks each of the known failures in order; the first one that can propose does. What follows from a state alone is not asked where
    something is named that no patch is known for."""

    needs_look = True

    def propose(self, case: Case) -> Proposal:
        if case.seen is None:
            raise PifleetError("What is wrong is not known before the service was looked at.")
        told: PifleetError | None = None
        for known in _NAMED:
            try:
                if found := known(case, case.seen):
                    return found
            except PifleetError as error:  # it is there, and this patch is not to be had; another failure may have one
                told = told or error
        if told:
            raise told
        for known in _UNNAMED:
            if found := known(case, case.seen):
                return found
        raise PifleetError(
            f"No known failure was found in what {case.profile.service} says: {_summary(case.seen)}.",
            f"Read analyze.json of this fix run, and give an instruction. {_NOTHING}",
        )


def _summary(seen: Mapping[str, Any]) -> str:
    states = ", ".join(f"{c['state']} with exit code {c['exit_code']}" for c in seen["containers"]) or "it has no container"
    health = "" if seen["health"].get("ok") else f"; health: {seen['health'].get('said') or 'unknown'}"
    stack = _stack(seen)
    drift = f"; drift: {', '.join(found['reason'] for found in stack['drift'])}" if stack.get("drift") else ""
    failed = f"; last sync: {stack['last_error']}" if _sync_failed(seen) else ""
    return f"{states}{health}{drift}{failed}"


def _stack(seen: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``stack_info`` says of the stack; of its drift, what is the service's own."""
    return seen.get("stack") or {}


def _sync_failed(seen: Mapping[str, Any]) -> bool:
    """Whether the last attempt to make the service as desired failed: its containers, if any, are those of before."""
    return bool(_stack(seen).get("last_error"))


def _ailing(seen: Mapping[str, Any]) -> bool:
    containers = seen["containers"]
    return _sync_failed(seen) or not seen["health"].get("ok") or not containers or any(c["state"] != "running" for c in containers)


def _log(seen: Mapping[str, Any]) -> str:
    """All that was said of the service: by itself, by Docker of its containers, by the last sync of its stack."""
    return "\n".join(
        [str(seen.get("log") or ""), *(str(c.get("error") or "") for c in seen["containers"]), _stack(seen).get("last_error") or ""]
    )


def _last(pattern: re.Pattern[str], seen: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the service, which is not well, said *pattern*, and what it named last."""
    found = pattern.findall(_log(seen)) if _ailing(seen) else []
    words = found[-1] if found else ""
    return bool(found), next(filter(None, words), "") if isinstance(words, tuple) else words


# -- known failures -------------------------------------------------------------------------------------------------------------------
def _missing_python_module(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    return _missing_module(case, _last(_PYTHON, seen)[1], ("requirements.txt", "pyproject.toml"), "Python", _PROJECTS)


def _missing_node_module(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    return _missing_module(case, _last(_NODE, seen)[1], ("package.json",), "Node", {})


def _missing_module(case: Case, module: str, kinds: tuple[str, ...], what: str, others: Mapping[str, str]) -> Proposal | None:
    if not module:
        return None
    project = others.get(module, module)
    path = dependencies.manifest(case, kinds)
    if dependencies.has(case.tree.texts[path], path, project):
        return None
    evidence = {"failure": f"missing {what} module", "module": module, "project": project}
    if line := _earlier_line(case, path, project):
        # as it was before somebody took it out
        return Proposal((line,), f"bring {project} back to {path}", evidence)
    before = case.earlier.texts.get(path) if case.earlier else None
    had = before is not None and dependencies.has(before, path, project)
    nor = (
        f"{'and had it in no single version' if had else 'nor had it'} at {_at(case)}"
        if case.earlier
        else "and nothing earlier is committed"
    )
    raise PifleetError(
        f"The {what} module {module} is missing, and which version of {project} is wanted is not known: {path} does not have it, {nor}.",
        f"Give an instruction: add {project} VERSION. {_NOTHING}",
    )


def _earlier_line(case: Case, path: str, project: str) -> Edit | None:
    """The edit that brings the dependency back with the version that the file had earlier."""
    before = case.earlier.texts.get(path) if case.earlier else None
    if before is None or not dependencies.has(before, path, project):
        return None
    name = "[-_.]+".join(re.escape(part) for part in re.split(r"[-_.]+", project))
    version = re.search(rf"(?i){name}\"?(?:\[[^\]]*\])?\s*(?:==|:\s*\")\s*[\^~]?([\w.+!-]+)", before)
    return dependencies.add(case, path, project, version[1]) if version else None


def _missing_variable(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    missing, name = _last(_VARIABLE, seen)
    if not missing:
        return None
    return _taken_back(
        case,
        f"{name} is missing: the compose file as it was at {_at(case)}",
        {"failure": "missing variable", "variable": name},
        lambda path, before, _now: policy.is_compose(path) and name in before,
    )


def _image_not_found(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    if seen.get("image", {}).get("id") or seen.get("built") or not _ailing(seen):
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


def _port_taken(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    taken, port = _last(_PORT, seen)
    if not taken:
        return None
    number = re.compile(rf"\b{port}\b")
    found = _taken_back(
        case,
        f"the port {port or 'it listens on'} is taken: the compose file as it was at {_at(case)}",
        {"failure": "port taken", "port": port},
        lambda path, before, now: policy.is_compose(path) and (not port or bool(number.search(now)) > bool(number.search(before))),
    )
    if found:
        return found
    raise PifleetError(
        f"The port {port or 'that it listens on'} is taken on {case.profile.node}, and {_since(case)} brought it.",
        f"`ss -ltnp` there says by whom. Free it, or give the service another one. {_NOTHING}",
    )


def _missing_file(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    """A file that was removed comes back."""
    absent, named = _last(_ABSENT, seen)
    gone = {path: text for path, text in (case.earlier.texts if case.earlier else {}).items() if path not in case.tree.modes}
    found = [path for path in sorted(gone) if _is_named(path, named)] if absent else []
    if not found:
        return None
    path = found[0]
    mode = policy.EXECUTABLE if case.earlier and case.earlier.modes[path] == policy.EXECUTABLE else ""
    evidence = {"failure": "missing file", "file": named}
    return Proposal((Edit(f"{case.tree.folder}/{path}", None, gone[path], mode),), f"bring {path} back as it was at {_at(case)}", evidence)


def _wrong_permission(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    """A script that may not be executed may be; else what was done to that file, and to who reads it, goes back."""
    denied, named = _last(_DENIED, seen)
    if not denied:
        return None
    evidence = {"failure": "wrong file permission", "file": named}
    for path in policy.allowed(case.tree, case.profile):
        text = case.tree.texts[path]
        if _is_named(path, named) and text.startswith("#!") and case.tree.modes[path] == policy.PLAIN:
            edit = Edit(f"{case.tree.folder}/{path}", text, text, policy.EXECUTABLE)
            return Proposal((edit,), f"let {path} be executed", evidence)
    found = _taken_back(
        case,
        f"{named} may not be used: files as they were at {_at(case)}",
        evidence,
        lambda path, *_texts: policy.is_compose(path) or _is_named(path, named),
    )
    if found:
        return found
    raise PifleetError(
        f"{named} may not be used by the user that {case.profile.service} runs as, and {_since(case)} brought that.",
        f"Look at owner and mode of what is mounted there. {_NOTHING}",
    )


def _is_named(path: str, named: str) -> bool:
    """Whether a message that names a file, by its path in the container, may mean *path*."""
    return path.rpartition("/")[2] == named.rpartition("/")[2]


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


def _changed_by_hand(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    """What runs is not what is desired, and not because that would not run: no patch is what it needs."""
    stack = _stack(seen)
    if _sync_failed(seen) or not _ailing(seen):
        return None
    stopped = all(c["exit_code"] in _STOPPED and not c.get("oom_killed") for c in seen["containers"] if c["state"] != "running")
    found = [d["reason"] for d in stack.get("drift", ()) if d["reason"] not in _BY_ITSELF and (d["reason"] != "stopped" or stopped)]
    if not found:
        return None
    raise PifleetError(
        f"{case.profile.service} is not as its files say ({', '.join(found)}): somebody changed it on {case.profile.node}.",
        f"No patch is needed: playbooks/stacks.yml --limit {case.profile.node} brings it back. {_NOTHING}",
    )


def _bad_after_a_change(case: Case, seen: Mapping[str, Any]) -> Proposal | None:
    """The service does not run, is not healthy, or cannot be made, and its files changed: the last good revision."""
    if not _ailing(seen):
        return None
    return _taken_back(case, f"not healthy after a change: files as they were at {_at(case)}", {"failure": "bad after a change"})


def _at(case: Case) -> str:
    """What *earlier* is, for a person: what is known of it, and what is not."""
    if case.synced:
        return f"{case.earlier_revision[:12]}, which {case.profile.node} synced last"
    return f"{case.earlier_revision[:12]}, before the last change; whether it was well then is not known"


def _since(case: Case) -> str:
    return f"no change since {case.earlier_revision[:12]}" if case.earlier else "no change of its files"


def _taken_back(
    case: Case, summary: str, evidence: Mapping[str, Any], wanted: Callable[[str, str, str], bool] = lambda *_of: True
) -> Proposal | None:
    """A proposal of the stack's files as they were earlier, as far as the allow-list goes. *wanted*: whether a file, by
    its path with its text before and now, is one of those."""
    if case.earlier is None:
        return None
    edits = []
    for path in policy.allowed(case.tree, case.profile):
        before, now = case.earlier.texts.get(path), case.tree.texts[path]
        mode = case.earlier.modes.get(path, "")
        mode = "" if mode == case.tree.modes[path] else mode
        if before is not None and (before != now or mode) and wanted(path, before, now):
            edits.append(Edit(f"{case.tree.folder}/{path}", now, before, mode))
    return Proposal(tuple(edits), summary, evidence) if edits else None


_Known = Callable[[Case, Mapping[str, Any]], Proposal | None]
#: in the order in which they are asked: what is named comes before what follows from a state
_NAMED: tuple[_Known, ...] = (
    _missing_python_module,
    _missing_node_module,
    _missing_variable,
    _port_taken,
    _missing_file,
    _wrong_permission,
    _image_not_found,
    _out_of_memory,
)
_UNNAMED: tuple[_Known, ...] = (
    _changed_by_hand,
    _bad_after_a_change,
)
