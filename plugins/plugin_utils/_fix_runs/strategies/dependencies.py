# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed edits of what a service is built from: one dependency is added, or gets another version, and every other character stays."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import tomllib
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import policy
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Proposal

_NOTHING = "Nothing was changed."
_SPEC = r"(?:===|==|~=|>=|<=|!=|<|>)\s*[A-Za-z0-9.*+!-]+(?:\s*,\s*(?:===|==|~=|>=|<=|!=|<|>)\s*[A-Za-z0-9.*+!-]+)*"


class Bump:
    """``bump NAME to VERSION [in FILE]``: where the file is not named, the one of the allow-list that has the dependency."""

    needs_look = False

    def propose(self, case: Case) -> Proposal:
        name, version = case.wanted.values["name"], case.wanted.values["version"]
        found = {path: new for path in _candidates(case) if (new := _kind(path).bump(case.tree.texts[path], name, version)) is not None}
        if not found:
            raise PifleetError(f"{name} is in none of {_listed(case)}.", f"`add {name} {version}` adds it. {_NOTHING}")
        if len(found) > 1:
            raise PifleetError(f"{name} is in {', '.join(found)}.", f"Say which one: bump {name} to {version} in FILE. {_NOTHING}")
        return Proposal((_edit(case, *found.popitem()),), f"bump {name} to {version}")


class Add:
    """``add NAME VERSION [to FILE]``: where the file is not named, the only one of the allow-list that lists dependencies."""

    needs_look = False

    def propose(self, case: Case) -> Proposal:
        name, version = case.wanted.values["name"], case.wanted.values["version"]
        path = manifest(case)
        return Proposal((add(case, path, name, version),), f"add {name} {version} to {path}")


def manifest(case: Case, kinds: tuple[str, ...] = ("requirements.txt", "pyproject.toml", "package.json", "go.mod")) -> str:
    """Return the one file of *kinds* that the allow-list has. Raises PifleetError where there is none, or more than one."""
    found = [path for path in _candidates(case) if _base(path) in kinds]
    if len(found) != 1:
        what = "No file that lists dependencies is among" if not found else f"There are {', '.join(found)} among"
        raise PifleetError(f"{what} the files that the profile allows.", f"Say which one: add NAME VERSION to FILE. {_NOTHING}")
    return found[0]


def add(case: Case, path: str, name: str, version: str) -> Edit:
    """Return the edit that adds a dependency to the file *path* of the stack. Raises PifleetError where it has it already."""
    text = case.tree.texts[path]
    if _kind(path).bump(text, name, version) is not None:
        raise PifleetError(f"{path} has {name} already.", f"`bump {name} to {version}` gives it another version. {_NOTHING}")
    return _edit(case, path, _kind(path).add(text, name, version))


def has(text: str, path: str, name: str) -> bool:
    """Whether the file *path* with this *text* lists the dependency *name*."""
    return _kind(path).bump(text, name, "0") is not None


def _edit(case: Case, path: str, after: str) -> Edit:
    before = case.tree.texts[path]
    if before == after:
        raise PifleetError(f"{case.tree.folder}/{path} is so already.", _NOTHING)
    return Edit(f"{case.tree.folder}/{path}", before, after)


def _candidates(case: Case) -> list[str]:
    named = case.wanted.values.get("file", "")
    if named:
        path = named.removeprefix(f"{case.tree.folder}/")
        policy.refuse_path(path, case.tree, case.profile)
        if path not in case.tree.texts:
            raise PifleetError(f"{case.tree.folder}/{path} is not there.", _NOTHING)
        if _base(path) not in _KINDS:
            raise PifleetError(f"{path} is no file that lists dependencies: {', '.join(_KINDS)}.", _NOTHING)
        return [path]
    return [path for path in policy.allowed(case.tree, case.profile) if _base(path) in _KINDS]


def _listed(case: Case) -> str:
    return ", ".join(_candidates(case)) or "the files that the profile allows, of which none lists dependencies"


def _base(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    if re.fullmatch(r"requirements[\w.-]*\.txt", name):
        return "requirements.txt"
    return "Dockerfile" if re.fullmatch(r"Dockerfile(\.[\w.-]+)?", name) else name


def _kind(path: str) -> Any:
    return _KINDS[_base(path)]


def _same(one: str, other: str) -> bool:
    """Whether two names are the same Python project: https://packaging.python.org/en/latest/specifications/name-normalization/."""
    return _normal(one) == _normal(other)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- the kinds of files: each returns the new text, `bump` None where the dependency is not there --------------------------------------
class _Requirements:
    # https://pip.pypa.io/en/stable/reference/requirements-file-format/
    _LINE = re.compile(
        rf"(?P<head>\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\s*\[[^\]]*\])?\s*)(?P<spec>{_SPEC})?(?P<tail>\s*(?:[;#\\].*)?)"
    )

    def bump(self, text: str, name: str, version: str) -> str | None:
        lines = text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            body = line.rstrip("\r\n")
            if (found := self._LINE.fullmatch(body)) and _same(found["name"], name):
                if "--hash" in "".join(lines[number : number + 2]):
                    raise PifleetError(f"{name} is pinned with hashes, which would not fit another version.", f"Give a diff. {_NOTHING}")
                lines[number] = f"{found['head']}=={version}{found['tail']}{line[len(body) :]}"
                return "".join(lines)
        return None

    def add(self, text: str, name: str, version: str) -> str:
        end = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{end}{name}=={version}\n"


class _Dockerfile:
    def bump(self, text: str, name: str, version: str) -> str | None:
        short = re.escape(name)
        patterns = (
            rf"(?im)^(?P<head>\s*FROM\s+(?:--\S+\s+)*{short}:)(?P<old>[\w.-]+)(?P<tail>(?:\s.*)?)$",
            rf"(?m)^(?P<head>.*[\s\"']{short}(?:\[[^\]]*\])?==)(?P<old>[\w.+!-]+)(?P<tail>.*)$",
            rf"(?m)^(?P<head>\s*ARG\s+{short}=)(?P<old>[\w.+-]+)(?P<tail>.*)$",
        )
        for pattern in patterns:
            if found := re.search(pattern, text):
                return text[: found.start("old")] + version + text[found.end("old") :]
        return None

    def add(self, text: str, name: str, version: str) -> str:
        del text, version
        raise PifleetError(f"{name} cannot be added to a Dockerfile by itself.", f"Give a diff. {_NOTHING}")


class _Package:
    # https://docs.npmjs.com/cli/configuring-npm/package-json#dependencies
    _TABLES = ("dependencies", "devDependencies", "optionalDependencies", "peerDependencies")

    def bump(self, text: str, name: str, version: str) -> str | None:
        table = self._parsed(text)
        holder = next((key for key in self._TABLES if name in (table.get(key) or {})), None)
        if holder is None:
            return None
        start = self._inside(text, holder)
        found = re.compile(rf'({re.escape(json.dumps(name))}\s*:\s*")([\^~]?)([^"]*)(")').search(text, start)
        if not found:
            raise PifleetError(f"{name} stands in package.json in a way that this edit cannot follow.", f"Give a diff. {_NOTHING}")
        new = f"{text[: found.start(3)]}{version}{text[found.end(3) :]}"
        return self._checked(new, table, holder, name, f"{found[2]}{version}")

    def add(self, text: str, name: str, version: str) -> str:
        table = self._parsed(text)
        entry = f"{json.dumps(name)}: {json.dumps(version)}"
        if not table.get("dependencies"):
            raise PifleetError("package.json has no dependencies to which one could be added.", f"Give a diff. {_NOTHING}")
        at = self._inside(text, "dependencies")
        gap = re.compile(r"\s*").match(text, at)
        blank = gap[0] if gap else ""
        return self._checked(f"{text[:at]}{blank}{entry},{text[at:]}", table, "dependencies", name, version)

    def _parsed(self, text: str) -> Mapping[str, Any]:
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PifleetError(f"package.json is no JSON: {error}.", _NOTHING) from error
        return table if isinstance(table, dict) else {}

    def _inside(self, text: str, key: str) -> int:
        found = re.search(rf'"{key}"\s*:\s*\{{', text)
        return found.end() if found else 0

    def _checked(self, text: str, before: Mapping[str, Any], holder: str, name: str, version: str) -> str:
        if self._parsed(text) != {**before, holder: {**before[holder], name: version}}:
            raise PifleetError(f"{name} stands in package.json in a way that this edit cannot follow.", f"Give a diff. {_NOTHING}")
        return text


class _Pyproject:
    # https://packaging.python.org/en/latest/specifications/pyproject-toml/#dependencies-optional-dependencies
    # https://packaging.python.org/en/latest/specifications/dependency-groups/
    _ENTRY = re.compile(
        rf"(?P<quote>[\"'])(?P<head>(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*)(?P<spec>{_SPEC})?(?P<tail>\s*(?:;.*?)?)(?P=quote)"
    )

    def bump(self, text: str, name: str, version: str) -> str | None:
        table = self._parsed(text)
        for number, entries in enumerate(self._lists(table)):
            if any(_same(self._name(entry), name) for entry in entries):
                return self._bump_entry(text, number, name, version)
        return _Poetry().bump(text, table, name, version)

    def _bump_entry(self, text: str, number: int, name: str, version: str) -> str:
        """Give *name* another version in the list *number* of ``_lists``."""
        for found in self._ENTRY.finditer(text):
            if _same(found["name"], name):
                entry = f"{found['quote']}{found['head']}=={version}{found['tail']}{found['quote']}"
                new = text[: found.start()] + entry + text[found.end() :]
                # the same text may stand elsewhere, as the project's own name
                if new == text or self._lists(self._parsed(new))[number] != self._lists(self._parsed(text))[number]:
                    return self._checked(text, new, name)
        raise _cannot_follow(name)

    def add(self, text: str, name: str, version: str) -> str:
        self._parsed(text)
        found = re.search(r"(?m)^dependencies\s*=\s*\[(?P<gap>\s*)", text)
        if not found:
            raise PifleetError("pyproject.toml has no dependencies to which one could be added.", f"Give a diff. {_NOTHING}")
        entry = f'"{name}=={version}"'
        empty = text[found.end() :].startswith("]")
        more = entry if empty else f"{entry},{found['gap'] or ' '}"
        return self._checked(text, text[: found.end()] + more + text[found.end() :], name)

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PifleetError(f"pyproject.toml is no TOML: {error}.", _NOTHING) from error

    def _lists(self, table: Mapping[str, Any]) -> list[list[str]]:
        """The lists of dependencies: the service's own, its extras, and groups, which are for those who work on it."""
        project = _table(table, "project")
        further = [*_table(project, "optional-dependencies").values(), *_table(table, "dependency-groups").values()]
        lists = (entries if isinstance(entries, list) else [] for entries in (project.get("dependencies"), *further))
        return [[entry for entry in entries if isinstance(entry, str)] for entries in lists]

    def _name(self, entry: str) -> str:
        found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", entry)
        return found[0] if found else ""

    def _checked(self, before: str, after: str, name: str) -> str:
        """Nothing but this one dependency may differ."""
        tables = [self._parsed(text) for text in (before, after)]
        kept = [[[e for e in entries if not _same(self._name(e), name)] for entries in self._lists(table)] for table in tables]
        rest = [{**table, "project": None, "dependency-groups": None} for table in tables]
        if kept[0] != kept[1] or rest[0] != rest[1]:
            raise _cannot_follow(name)
        return after


class _Poetry:
    # https://python-poetry.org/docs/pyproject/#dependencies-and-dependency-groups
    _VALUE = r"(?P<quote>[\"'])(?P<like>[\^~]?)(?P<old>[^\"'\n]*)(?P=quote)"

    def bump(self, text: str, table: Mapping[str, Any], name: str, version: str) -> str | None:
        """Return *text* with another version of *name*, with ``^`` or ``~`` where it has that; None where it is not there."""
        if _normal(name) == "python":  # says which Python the project is for
            return None
        at = next((place for place in self._places(table) if _same(place[-1], name)), None)
        if at is None:
            return None
        wanted = rf"[\"']?{re.escape(at[-1])}[\"']?"
        entry = re.compile(rf"\s*{wanted}\s*=\s*(?:\{{[^\n]*?\bversion\s*=\s*)?{self._VALUE}")
        alone = re.compile(rf"\s*version\s*=\s*{self._VALUE}")
        holder, offset = "", 0
        for line in text.splitlines(keepends=True):
            if header := re.match(r"\s*\[([^\[\]]+)\]", line):
                holder = header[1].replace('"', "").replace("'", "").strip()
            pattern = {".".join(at[:-1]): entry, ".".join(at): alone}.get(holder)
            if pattern and (found := pattern.match(line)):
                new = f"{text[: offset + found.start('old')]}{version}{text[offset + found.end('old') :]}"
                return self._checked(table, new, at, f"{found['like']}{version}")
            offset += len(line)
        raise _cannot_follow(name)

    def _places(self, table: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """Where each dependency stands, by its keys: the service's own first."""
        poetry = ("tool", "poetry")
        groups = [(*poetry, "group", name, "dependencies") for name in _table(table, *poetry, "group")]
        holders = [(*poetry, "dependencies"), *groups, (*poetry, "dev-dependencies")]
        return [(*keys, entry) for keys in holders for entry in _table(table, *keys)]

    def _checked(self, before: Mapping[str, Any], after: str, at: tuple[str, ...], version: str) -> str:
        """Nothing but the version of this one dependency may differ."""
        wanted = copy.deepcopy(dict(before))
        holder = wanted
        for key in at[:-1]:
            holder = holder[key]
        if isinstance(holder[at[-1]], dict):
            holder[at[-1]]["version"] = version
        else:
            holder[at[-1]] = version
        if tomllib.loads(after) != wanted:
            raise _cannot_follow(at[-1])
        return after


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The table at *keys*, empty where there is none."""
    for key in keys:
        found = table.get(key)
        table = found if isinstance(found, dict) else {}
    return table


def _cannot_follow(name: str) -> PifleetError:
    return PifleetError(f"{name} stands in pyproject.toml in a way that this edit cannot follow.", f"Give a diff. {_NOTHING}")


class _GoMod:
    # https://go.dev/ref/mod#go-mod-file
    def bump(self, text: str, name: str, version: str) -> str | None:
        entry = re.compile(rf"\s*(?:(?P<verb>\w+)\s+)?{re.escape(name)}\s+(?P<old>v\S+)")
        block, offset = "", 0
        for line in text.splitlines(keepends=True):
            if opened := re.match(r"\s*(\w+)\s*\(", line):
                block = opened[1]
            elif re.match(r"\s*\)", line):
                block = ""
            elif (found := entry.match(line)) and (found["verb"] or block) == "require":
                return text[: offset + found.start("old")] + _go(version) + text[offset + found.end("old") :]
            offset += len(line)
        return None

    def add(self, text: str, name: str, version: str) -> str:
        end = "" if text.endswith("\n") else "\n"
        return f"{text}{end}\nrequire {name} {_go(version)}\n"


def _go(version: str) -> str:
    return version if version.startswith("v") else f"v{version}"


_KINDS: Mapping[str, Any] = {
    "requirements.txt": _Requirements(),
    "pyproject.toml": _Pyproject(),
    "package.json": _Package(),
    "go.mod": _GoMod(),
    "Dockerfile": _Dockerfile(),
}
