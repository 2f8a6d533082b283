# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fix run may touch: files of the allow-list, below the stack's folder, and of the compose file its own service alone. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import PRE_RUN, Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.profile import Profile

#: git's modes of a symbolic link and of files: https://git-scm.com/docs/git-fast-import (filemodify)
LINK, PLAIN, EXECUTABLE = "120000", "100644", "100755"
#: characters of a file that is patched; a person reads the diff of it
MOST = 1 << 20
_COMPOSE = re.compile(r"(docker-)?compose(\.[\w.-]+)?\.ya?ml")
_NOTHING = "Nothing was changed."


@dataclass(frozen=True, slots=True)
class Tree:
    """The stack's folder at one revision. *folder*: its path in the repository; *modes*: git's mode of each file by path below it;
    *texts*: content of those that are text."""

    folder: str
    modes: Mapping[str, str]
    texts: Mapping[str, str]


def is_compose(path: str) -> bool:
    """Whether a file, by its path below the stack's folder, is one that Compose reads."""
    return bool(_COMPOSE.fullmatch(path))


def allowed(tree: Tree, profile: Profile) -> list[str]:
    """Return the files of the allow-list that are there, in order."""
    listed = (path for path, mode in sorted(tree.modes.items()) if mode != LINK and _is_listed(path, profile.files))
    return [path for path in listed if path in tree.texts]


def refuse_path(path: str, tree: Tree, profile: Profile) -> None:
    """Raise PifleetError where the fix run may not change the file *path*, given below the stack's folder."""
    parts = path.split("/")
    if path.startswith("/") or not path or {"", ".", ".."} & set(parts) or re.search(r"[\x00-\x1f\\\x7f]", path):
        raise PifleetError(f"{path!r} is no file below {tree.folder}/.", _NOTHING)
    if not _is_listed(path, profile.files):
        raise PifleetError(
            f"{tree.folder}/{path} is not among the files that the profile allows: {', '.join(profile.files)}.",
            f"Change it yourself, or let the profile list it. {_NOTHING}",
        )
    above = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
    if links := sorted(name for name in above if tree.modes.get(name) == LINK):
        raise PifleetError(f"{tree.folder}/{links[0]} is a symbolic link, which may lead anywhere.", _NOTHING)
    # two names that one file system takes for the same: the second would write into the first
    folded = {name.casefold(): name for name in tree.modes}
    if (other := folded.get(path.casefold(), path)) != path:
        raise PifleetError(f"{tree.folder}/{path} differs from {other} in nothing but case.", _NOTHING)
    if path in tree.modes and path not in tree.texts:
        raise PifleetError(f"{tree.folder}/{path} is no text.", _NOTHING)


def refuse_edits(edits: Iterable[Edit], tree: Tree, profile: Profile) -> None:
    """Raise PifleetError where the fix run may not make *edits*, whose paths are those of the repository."""
    for edit in edits:
        if not edit.path.startswith(f"{tree.folder}/"):
            raise PifleetError(f"{edit.path} is not below {tree.folder}/, the folder of the stack.", _NOTHING)
        path = edit.path.removeprefix(f"{tree.folder}/")
        refuse_path(path, tree, profile)
        if edit.mode not in ("", PLAIN, EXECUTABLE):
            raise PifleetError(f"{edit.path} would be no plain file.", _NOTHING)
        if len(edit.after) > MOST:
            raise PifleetError(f"{edit.path} would have more than {MOST >> 20} MB.", _NOTHING)
        if is_compose(path):
            _refuse_compose(edit, profile)


def requirement(edits: Sequence[Edit], tree: Tree, profile: Profile) -> str:
    """Return when an approval is needed: as the profile says, and before the run where a file is risky."""
    paths = [edit.path.removeprefix(f"{tree.folder}/") for edit in edits]
    if any(_is_listed(path, profile.approval.risky) for path in paths):
        return PRE_RUN
    return profile.approval.requirement


def _is_listed(path: str, globs: Sequence[str]) -> bool:
    return any(_matches(path.split("/"), glob.split("/")) for glob in globs)


def _matches(parts: Sequence[str], globs: Sequence[str]) -> bool:
    """Whether a path fits a glob, of which ``**`` alone crosses folders."""
    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_matches(parts[n:], globs[1:]) for n in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _matches(parts[1:], globs[1:])


# -- the compose file -----------------------------------------------------------------------------------------------------------------
def _refuse_compose(edit: Edit, profile: Profile) -> None:
    before, after = (_compose(text, edit.path) for text in (edit.before or "", edit.after))
    others = [dict(table, services={n: s for n, s in _services(table).items() if n != profile.service}) for table in (before, after)]
    if others[0] != others[1]:
        raise PifleetError(f"{edit.path}: the patch changes more than the service {profile.service}.", f"That is not its own. {_NOTHING}")
    tables = [_flat(_services(table).get(profile.service)) for table in (before, after)]
    changed = sorted(key for key in {*tables[0], *tables[1]} if tables[0].get(key, _MISSING) != tables[1].get(key, _MISSING))
    if bad := [key for key in changed if not any(fnmatchcase(key, glob) for glob in profile.compose_keys)]:
        raise PifleetError(
            f"{edit.path}: the patch changes {', '.join(bad)} of {profile.service}, and the profile allows "
            f"{', '.join(profile.compose_keys)} (compose_keys).",
            _NOTHING,
        )


_MISSING = object()


def _compose(text: str, path: str) -> dict[str, Any]:
    try:
        table = yaml.load(text, Loader=_Loader) if text else {}  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise PifleetError(f"{path} would be no YAML: {' '.join(str(error).split())}.", _NOTHING) from error
    if not isinstance(table, dict) or not isinstance(table.get("services", {}), dict):
        raise PifleetError(f"{path} would be no compose file.", _NOTHING)
    return table


def _services(table: Mapping[str, Any]) -> Mapping[str, Any]:
    found = table.get("services")
    return found if isinstance(found, Mapping) else {}


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """Everything in a table, by its path with dots. A list of ``NAME=value`` counts as a table, as it does for Compose."""
    if isinstance(value, list) and value and at in ("environment", "labels") and all(isinstance(part, str) for part in value):
        value = {name: text for name, _equals, text in (part.partition("=") for part in value)}
    if at in ("environment", "labels") and not value:
        return {}
    if isinstance(value, Mapping) and value:
        return {key: part for name, entry in value.items() for key, part in _flat(entry, f"{at}.{name}" if at else str(name)).items()}
    return {at: value}


class _Tagged(str):
    """A value with a tag of Compose (``!reset``, ``!override``): one that changes is a change."""


class _Loader(yaml.SafeLoader):
    pass


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> _Tagged:
    del loader
    return _Tagged(f"!{suffix} {yaml.serialize(node)}")


_Loader.add_multi_constructor("!", _tagged)
