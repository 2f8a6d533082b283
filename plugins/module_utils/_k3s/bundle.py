# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles of snapshots on a disk: written whole or not at all, and read without trusting them. For node and controller alike."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import fsync_folder
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.snapshot import (
    MANIFEST,
    SUFFIX,
    Bundle,
    Manifest,
    Member,
    SnapshotError,
    manifest_of,
    verify,
)

_BLOCK = 1 << 20
_MANIFEST_LIMIT = 1 << 20


def member_of(path: Path) -> Member:
    """Return checksum and size of a file."""
    with path.open("rb") as stream:
        return _measure(stream)


def _measure(stream: IO[bytes]) -> Member:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return Member(digest.hexdigest(), size)


def private_folder(folder: Path) -> None:
    """Make *folder*, for its owner only, whatever made it before."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def write(target: Path, manifest: Manifest, sources: Mapping[str, Path]) -> None:
    """Write the bundle *target* (0600) of *sources* (file by path in the bundle), atomically and durably.

    Raises OSError with no bundle left behind.
    """
    private_folder(target.parent)
    fd, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=target.parent)
    try:
        with os.fdopen(fd, "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
                _add(tar, MANIFEST, len(manifest.text().encode()), io.BytesIO(manifest.text().encode()))
                for path, source in sorted(sources.items()):
                    with source.open("rb") as stream:
                        _add(tar, path, os.fstat(stream.fileno()).st_size, stream)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)


def _add(tar: tarfile.TarFile, path: str, size: int, stream: IO[bytes]) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o600
    tar.addfile(info, stream)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a bundle, without reading the rest of it. Raises SnapshotError for anything else than a bundle."""
    with _opened(path) as members:
        name, stream = next(members, ("", io.BytesIO()))
        if name == MANIFEST:
            return manifest_of(stream.read(_MANIFEST_LIMIT).decode("utf-8", errors="replace"), str(path))
    raise SnapshotError(f"{path} is no snapshot of this collection: it does not begin with a manifest.", "Give another file.")


def read_verified(path: Path) -> tuple[Manifest, str]:
    """Return the manifest of a bundle and its server token, after every checksum was verified. Raises SnapshotError."""
    manifest = read_manifest(path)
    found, token = {}, b""
    with _opened(path) as members:
        for name, stream in members:
            if name == "server/token":
                token = stream.read(_MANIFEST_LIMIT)
                found[name] = _measure(io.BytesIO(token))
            elif name != MANIFEST:
                found[name] = _measure(stream)
    verify(manifest, found, str(path))
    return manifest, token.decode("utf-8", errors="replace").strip()


def extract(path: Path, folder: Path) -> Manifest:
    """Write the members of a bundle below *folder* (made 0700, files 0600, durably), and verify what was written.

    Raises SnapshotError, before anything of it is used, for a bundle that does not hold exactly what its manifest says.
    """
    manifest = read_manifest(path)
    private_folder(folder)
    found = {}
    with _opened(path) as members:
        for name, stream in members:
            # only names that the manifest lists, and those are of a fixed form: nothing is ever written outside the folder
            if name in manifest.members:
                found[name] = _extract_one(stream, folder, name)
            elif name != MANIFEST:
                found[name] = _measure(stream)
    verify(manifest, found, str(path))
    return manifest


def _extract_one(stream: IO[bytes], folder: Path, name: str) -> Member:
    target = folder / name
    for parent in reversed([p for p in target.parents if folder in p.parents]):
        private_folder(parent)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as out:
        while block := stream.read(_BLOCK):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return member_of(target)


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Give name and content of each file of the archive, one after the other.

    Raises SnapshotError, also out of the body, where it is no archive, is cut off or damaged, or holds anything but plain files.
    """
    try:
        with tarfile.open(path, mode="r|gz") as tar:
            yield _plain_files(tar, path)
    except FileNotFoundError as error:
        raise SnapshotError(f"There is no snapshot {path}.", "`ls` shows which there are; `latest` means the newest.") from error
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SnapshotError(
            f"{path} cannot be read as a snapshot: {error}.", "It is damaged, or no snapshot. Give another file."
        ) from error


def _plain_files(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for info in tar:
        stream = tar.extractfile(info) if info.isreg() else None
        if stream is None:
            raise SnapshotError(f"{path} holds {info.name!r}, which is no plain file.", "Give another file.")
        yield info.name, stream


def bundles_in(folder: Path) -> tuple[list[Bundle], list[str]]:
    """Return the bundles in *folder*, and the paths of files there that look like bundles and are none."""
    found, odd = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []:
        try:
            found.append(Bundle(str(path), read_manifest(path)))
        except SnapshotError:
            odd.append(str(path))
    return found, odd


def remove(bundle: Bundle) -> None:
    """Remove a bundle, durably."""
    path = Path(bundle.path)
    path.unlink(missing_ok=True)
    fsync_folder(path.parent)
