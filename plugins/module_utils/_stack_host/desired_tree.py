# SPDX-License-Identifier: GPL-3.0-or-later
"""The checked-out desired state on a node: an archive of one revision brought to a stable folder, file by file, each whole.

Files are staged beside the folder first, and renamed into it once all of them are safe on the disk: a full disk or a bad archive changes
nothing. What was never ours stays: containers write into bind-mounted folders beside their compose file, and secrets are decrypted there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.checkout import LINK, Entry, Manifest, decrypted

#: files that decide what runs wherever they lie in a stack's folder: one that is not of the revision may not stay
_DECIDING = re.compile(r"(docker-)?compose(\.[\w.-]+)?\.ya?ml|\.env")
_MANY = 16  # files from which one sync of the whole disk is quicker than one of each file


# -------------------------------------------------------------------------------------------------------------- archives
def contents(archive: Path) -> Iterator[tuple[str, Entry, bytes]]:
    """Yield (path, entry, content) of each file of a tar archive as ``git archive`` writes it.

    Raises PifleetError for an archive that is cut off or damaged, and for one that reaches out of its folder: git makes none such.
    """
    import tarfile  # here, because most runs open no archive

    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isdir() or not member.name:
                    continue
                _refuse_outside(member.name)
                if member.issym():
                    yield member.name, Entry(LINK, member.linkname), b""
                elif member.isreg() and (stream := tar.extractfile(member)) is not None:
                    data = stream.read()
                    mode = "755" if member.mode & 0o100 else "644"
                    yield member.name, Entry(mode, hashlib.sha256(data).hexdigest()), data
                else:
                    raise PifleetError(f"The archive of desired state holds {member.name}, which is neither file nor link.", "Remove it.")
    except (tarfile.TarError, EOFError) as error:
        raise PifleetError(f"The archive of desired state is damaged: {error}.", "Run again: it is fetched anew.") from error


def _refuse_outside(name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "" in parts:
        raise PifleetError(f"The archive of desired state holds {name!r}, which lies outside of it.", "Nothing was changed.")


def read_manifest(archive: Path) -> dict[str, Entry]:
    """Return what the archive holds. Raises PifleetError as ``contents``."""
    return {path: entry for path, entry, _data in contents(archive)}


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 (hex) of a file, None where there is none."""
    made = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                made.update(block)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return made.hexdigest()


# ----------------------------------------------------------------------------------------------------------- differences
@dataclass(frozen=True, slots=True)
class Difference:
    """One file that is not as the revision has it. *reason*: ``missing``, ``changed``, ``unwanted``."""

    path: str
    reason: str


def differences(root: Path, wanted: Manifest, before: Manifest, folder: str) -> tuple[Difference, ...]:
    """Return how the folder *root* differs from *wanted*, in the order of paths.

    *before*: what we put there earlier; what of it is not wanted any more is ``unwanted``, with what was decrypted from it, and so is a
    strange file below *folder* by whose name Compose or a stack's environment would be decided. Other files that we did not bring are left
    alone.
    """
    real: dict[str, bool] = {"": True}
    found = [Difference(path, reason) for path, entry in wanted.items() if (reason := _difference(root, path, entry, real))]
    kept = set(wanted) | decrypted(wanted)
    gone = {path for path in (*before, *decrypted(before)) if path not in kept and _is_file(root, path, real)}
    gone |= {path for path in _strangers(root, wanted, folder) if path not in kept and _is_file(root, path, real)}
    return tuple(sorted((*found, *(Difference(path, "unwanted") for path in gone)), key=lambda d: d.path))


def _is_file(root: Path, path: str, real: dict[str, bool]) -> bool:
    return _is_real_folder(root, os.path.dirname(path), real) and _kind(root / path) in (stat.S_IFREG, stat.S_IFLNK)


def _difference(root: Path, path: str, entry: Entry, real: dict[str, bool]) -> str:
    if not _is_real_folder(root, os.path.dirname(path), real):
        return "missing"
    have = _entry(root / path)
    return "" if have == entry else "missing" if have is None else "changed"


def _is_real_folder(root: Path, folder: str, real: dict[str, bool]) -> bool:
    """Whether *folder* and all above it, up to *root*, are folders and not links: what lies behind a link is not ours."""
    if folder not in real:
        above = _is_real_folder(root, os.path.dirname(folder), real)
        real[folder] = above and _kind(root / folder) == stat.S_IFDIR
    return real[folder]


def _kind(path: Path) -> int:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _entry(path: Path) -> Entry | None:
    """Return what is at *path*, None where nothing is; something that is neither file nor link is an entry equal to no other."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return Entry(LINK, os.readlink(path))
    if not stat.S_ISREG(found.st_mode):
        return Entry("other", "")
    mode = f"{stat.S_IMODE(found.st_mode):o}"
    return Entry(mode, sha256_of(path) or "")


def _strangers(root: Path, wanted: Manifest, folder: str) -> Iterator[str]:
    """Yield the files of the stacks' own folders by whose name it is decided what runs."""
    parents = {folder} | {os.path.dirname(os.path.dirname(path)) for path in wanted if _DECIDING.fullmatch(_name(path))}
    for parent in sorted(parents):
        for stack in _names(root / parent):
            yield from (os.path.join(parent, stack, name) for name in _names(root / parent / stack) if _DECIDING.fullmatch(name))


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _names(folder: Path) -> list[str]:
    if folder.is_symlink():
        return []
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


# --------------------------------------------------------------------------------------------------------------- changes
def stage(archive: Path, staging: Path, root: Path, found: tuple[Difference, ...]) -> None:
    """Write the files of *found* that the archive has below *staging*, where they are not yet, and make them durable.

    Raises PifleetError (damaged archive, something in the way) or OSError (disk full): *root* was not touched then.
    """
    _refuse_blocked(root, found)
    needed = {difference.path for difference in found if difference.reason != "unwanted"}
    durable = len(needed) <= _MANY
    for path, entry, data in contents(archive):
        if path in needed and _entry(staging / path) != entry:
            _write(staging / path, entry, data, durable=durable)
    if not durable:
        os.sync()


def extract(archive: Path, folder: Path) -> None:
    """Write all of the archive below *folder*, which nobody needs after a power cut."""
    for path, entry, data in contents(archive):
        _write(folder / path, entry, data, durable=False)


def _write(target: Path, entry: Entry, data: bytes, *, durable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if entry.mode == LINK:
        target.symlink_to(entry.content)
        return
    with target.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), int(entry.mode, 8))
        if durable:
            os.fsync(stream.fileno())


def carry_out(staging: Path, root: Path, found: tuple[Difference, ...]) -> None:
    """Bring what was staged to *root*. Killed at any moment, another call goes on. Raises PifleetError or OSError."""
    folders = {root}
    for difference in found:
        target = root / difference.path
        if difference.reason == "unwanted":
            _remove(root, target)
        else:
            make_folder(root, target.parent)
            if _kind(target) == stat.S_IFDIR:
                target.rmdir()
            os.replace(staging / difference.path, target)
            folders.add(target.parent)
    for folder in folders:
        if folder.is_dir():
            atomic_file.fsync_folder(folder)


def make_folder(root: Path, folder: Path) -> None:
    """Make *folder*, which is *root* or below it, also where a file or a link is in its place."""
    if folder != root:
        make_folder(root, folder.parent)
    if _kind(folder) not in (0, stat.S_IFDIR):
        folder.unlink()  # a file or a link in the place of one of our folders
    folder.mkdir(mode=0o755, parents=folder == root, exist_ok=True)


def _refuse_blocked(root: Path, found: tuple[Difference, ...]) -> None:
    """Docker makes a folder where a bind-mounted file is missing: an empty one goes, one with something in it is a person's decision."""
    for difference in found:
        if difference.reason == "changed" and not (root / difference.path).is_symlink() and _names(root / difference.path):
            what = f"{root / difference.path} is a folder with something in it, and desired state has a file there."
            raise PifleetError(what, "Move it away, then run again. Nothing was changed.")


def _remove(root: Path, target: Path) -> None:
    """Remove a file, and the folders that are empty without it."""
    if _kind(target) == stat.S_IFDIR:
        return  # it was a file of ours once; the folder is not
    target.unlink(missing_ok=True)
    for folder in target.parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:
            return


def discard(folder: Path) -> None:
    """Remove a folder of ours with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
