# SPDX-License-Identifier: GPL-3.0-or-later
"""The desired state as files: which folders are stacks, and what their content is. Nothing is parsed here, and no Compose started."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: The file names that Compose looks for, in its order, and those it adds to them:
#: https://github.com/compose-spec/compose-go/blob/main/cli/options.go (DefaultFileNames, DefaultOverrideFileNames).
COMPOSE_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_FILES = ("compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml")

#: https://github.com/compose-spec/compose-go/blob/main/loader/loader.go (NormalizeProjectName)
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OUTSIDE = re.compile(rb"""(?:^|[\s"'=:,\[{-])((?:/|(?:[^\s"',:\[\]{}]+/)?\.\./)[^\s"',:\[\]{}]+)""", re.M)
#: Files outside of the desired state above this size are taken by size and time, not by content.
_LARGE = 4 << 20
#: Nobody writes a larger compose file; Compose would take many times its size in memory.
_LARGEST_COMPOSE = 1 << 20
_NEVER = ("/dev/", "/proc/", "/sys/", "/run/", "/var/run/")


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one stack.

    *files*: the compose files in Compose's order; *content*: digests of all its files, by path below the folder; *outside*: digests of
    files elsewhere that its compose files name; *error*: why it cannot be used, empty otherwise.
    """

    name: str
    project: str
    path: str
    files: tuple[str, ...] = ()
    content: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def inputs(self) -> str:
        """Digest of everything that the stack is made of, whatever Compose makes of it."""
        parts = [self.name, *(f"{k}\0{v}" for table in (self.content, self.outside) for k, v in sorted(table.items()))]
        return digest("\n".join([*parts, *(os.path.relpath(file, self.path) for file in self.files)]))


def digest(text: str | bytes) -> str:
    """Return the SHA-256 (hex) of *text*."""
    return hashlib.sha256(text.encode(errors="surrogateescape") if isinstance(text, str) else text).hexdigest()


def short(text: str | bytes) -> str:
    """Return the first 16 digits of the SHA-256 of *text*: enough to tell two versions apart."""
    return digest(text)[:16]


def file_digest(path: str) -> str:
    """Return the digest of a file's content, and of whether it may be executed."""
    with open(path, "rb") as stream:
        found, read = hashlib.sha256(b"x" if os.fstat(stream.fileno()).st_mode & 0o111 else b"-"), stream.read(1 << 16)
        while read:
            found.update(read)
            read = stream.read(1 << 16)
    return found.hexdigest()[:16]


def find(path: str, roles: Sequence[str] = (), tracked: Collection[str] | None = None) -> list[Folder]:
    """Return the folders of stacks below *path* in the order of names. Files for one of *roles* count as compose files.

    *tracked*: paths below *path* of the files that belong to the desired state; all others, such as what containers write into bind-mounted
    folders, are not looked at. None: all files do. Raises PifleetError where *path* is no folder that can be read.
    """
    try:
        if not os.path.isdir(path):
            raise PifleetError(f"{path}: the folder of stacks is not there.", "Refresh the desired state of this node.")
        shared: dict[str, str] = {}
        only = Only(tracked)
        found = [_folder(os.path.join(path, name), name, roles, path, only) for name in sorted(_names(path, "", shared, only))]
    except OSError as error:
        raise PifleetError(f"{error.filename or path}: the desired state cannot be read: {error.strerror}.") from None
    return _without_collisions(_with_outside(found, path, shared))


class Only:
    """Which files and folders are looked at."""

    def __init__(self, tracked: Collection[str] | None) -> None:
        self._files = tracked
        self._folders = {part for path in tracked or () for part in _above(path)}

    def __contains__(self, path: str) -> bool:
        return self._files is None or path in self._files or path in self._folders


def _above(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path


def _names(path: str, below: str, shared: dict[str, str], only: Only) -> Iterator[str]:
    """Names of stacks below *path*; the files that belong to none are put into *shared*."""
    for entry in sorted(os.scandir(os.path.join(path, below)), key=lambda e: e.name):
        name = os.path.join(below, entry.name)
        if entry.name == ".git" or name not in only:
            continue
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and entry.is_dir()):
            if any(os.path.lexists(os.path.join(entry.path, file)) for file in COMPOSE_FILES):
                yield name
            elif not entry.is_symlink():
                yield from _names(path, name, shared, only)
        elif entry.is_file():
            shared[name] = file_digest(entry.path)


def _folder(folder: str, name: str, roles: Sequence[str], root: str, only: Only) -> Folder:
    project = name.replace(os.sep, "-")
    if not _PROJECT.fullmatch(project):
        taken = re.sub(r"[^-_a-z0-9]", "", project.lower()).lstrip("_-")
        would = f"it would take {taken}" if taken else "it has none of the letters that it takes"
        return Folder(
            name, project, folder, error=f"{folder}: Compose refuses {project} as the name of a project; {would}. Rename the folder."
        )
    if not _within(folder, root):
        return Folder(
            name, project, folder, error=f"{folder}: a symbolic link that leads out of the desired state. Copy what it points to."
        )
    content: dict[str, str] = {}
    for path, entry in _entries(folder, "", name, only):
        if entry.is_symlink():
            if not _within(entry.path, folder):
                return Folder(
                    name, project, folder, error=f"{entry.path}: a symbolic link that leads out of the stack's folder. Copy the file."
                )
            content[path] = f"-> {os.readlink(entry.path)}"
        elif entry.is_file():
            content[path] = file_digest(entry.path)
    chosen = compose_files(folder, roles)
    for file in chosen:
        if (size := os.path.getsize(file)) > _LARGEST_COMPOSE:
            error = (
                f"{file}: a compose file of {size / (1 << 20):.1f} MB; at most {_LARGEST_COMPOSE >> 20} MB is taken. Mount large content."
            )
            return Folder(name, project, folder, error=error)
    return Folder(name, project, folder, chosen, content)


def compose_files(folder: str, roles: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the compose files of a stack's folder as Compose would choose them, with those for *roles* after them."""
    chosen = [next((f for f in names if os.path.isfile(os.path.join(folder, f))), "") for names in (COMPOSE_FILES, OVERRIDE_FILES)]
    for role in roles:
        chosen += [f for f in (f"compose.{role}.yaml", f"compose.{role}.yml") if os.path.isfile(os.path.join(folder, f))][:1]
    return tuple(os.path.join(folder, file) for file in dict.fromkeys(chosen) if file)


def _entries(folder: str, below: str, name: str, only: Only) -> Iterator[tuple[str, os.DirEntry[str]]]:
    for entry in os.scandir(os.path.join(folder, below)):
        path = os.path.join(below, entry.name)
        if os.path.join(name, path) not in only:
            continue
        if entry.is_dir(follow_symlinks=False):
            if entry.name != ".git":
                yield from _entries(folder, path, name, only)
        else:
            yield path, entry


def _within(path: str, folder: str) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return real == root or real.startswith(root + os.sep)


# -- what a stack takes from elsewhere --------------------------------------------------------------------------------------------
def _with_outside(folders: Sequence[Folder], root: str, shared: Mapping[str, str]) -> list[Folder]:
    """The folders with what their compose files name outside of them. One that reaches upwards depends on the whole desired state."""
    everything = ""
    found = []
    for folder in folders:
        named = _named_outside(folder) if not folder.error else {}
        inside = [key for key in named if key == ".." or key.startswith(os.path.join(root, ""))]
        if inside:
            everything = everything or _everything(folders, shared)
            named = {**{key: value for key, value in named.items() if key not in inside}, "the desired state": everything}
        found.append(replace(folder, outside=named) if named else folder)
    return found


def _everything(folders: Sequence[Folder], shared: Mapping[str, str]) -> str:
    tables = [("", shared), *((folder.name, folder.content) for folder in folders)]
    return digest("\n".join(f"{name}\0{path}\0{value}" for name, table in tables for path, value in sorted(table.items())))


def _named_outside(folder: Folder) -> dict[str, str]:
    """Digests of files outside of *folder* that a YAML or env file in it names by a path that can be read off it."""
    named: dict[str, str] = {}
    for path in folder.content:
        if not path.endswith((".yaml", ".yml", ".env")):
            continue
        full = os.path.join(folder.path, path)
        with open(full, "rb") as stream:
            text = stream.read()
        if b".." in text:
            named[".."] = ""
        for match in _OUTSIDE.finditer(text) if b"/" in text else ():
            there = os.path.normpath(os.path.join(os.path.dirname(full), os.fsdecode(match[1])))
            if not there.startswith((*_NEVER, os.path.join(folder.path, ""))) and there not in named and os.path.isfile(there):
                named[there] = outside_digest(there)
    return named


def outside_digest(path: str) -> str:
    """Return what tells one version from another of a file that is not part of the desired state. Empty where there is none."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return ""
        return file_digest(path) if found.st_size <= _LARGE else f"{found.st_size}:{found.st_mtime_ns}"
    except OSError:
        return ""


def _without_collisions(folders: Sequence[Folder]) -> list[Folder]:
    """The folders, those refused that resolve to one project."""
    by_project: dict[str, list[str]] = {}
    for folder in folders:
        by_project.setdefault(folder.project, []).append(folder.name)
    return [
        folder
        if len(same := by_project[folder.project]) == 1 or folder.error
        else replace(folder, error=f"{folder.path}: {' and '.join(same)} are one Compose project, {folder.project}. Rename all but one.")
        for folder in folders
    ]
