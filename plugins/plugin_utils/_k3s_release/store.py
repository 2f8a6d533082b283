# SPDX-License-Identifier: GPL-3.0-or-later
"""Gets a release's files from a folder or the release page, verified, once for each architecture."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release import archive, names
from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release.download import Fetcher, writing
from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release.stamps import Stamps, sha256_of


class ChecksumMismatchError(PifleetError):
    """A file is not the one that the release published."""


@dataclass(frozen=True, slots=True)
class Request:
    """*artifact_dir*: a folder laid out like a release, or None to download into *cache_dir*; *check*: change nothing on the controller."""

    version: str
    architectures: tuple[str, ...]
    images: bool
    artifact_dir: Path | None
    cache_dir: Path
    release_url: str = names.RELEASES
    check: bool = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """The files of one architecture. *present*: they are there and verified; before the download (check mode) the paths are where
    they will be, and a checksum is None where the checksum file has not been downloaded either."""

    binary: str
    binary_sha256: str | None
    images: str | None
    images_sha256: str | None
    present: bool


@dataclass(frozen=True, slots=True)
class Result:
    """*fetched*: names that were downloaded, or in check mode would be; *warnings*: what a person should know."""

    artifacts: dict[str, Artifact]
    fetched: tuple[str, ...]
    warnings: tuple[str, ...]


def obtain(request: Request, fetch: Fetcher) -> Result:
    """Return the verified files of every architecture of *request*. Bad input is refused before anything is downloaded."""
    names.check_version(request.version)
    unknown = sorted(set(request.architectures) - set(names.ARCHITECTURES))
    if unknown:
        raise PifleetError(f"k3s has no release for {', '.join(unknown)}.", f"It has for {', '.join(names.ARCHITECTURES)}.")
    if not request.release_url.startswith(("https://", "http://")):
        raise PifleetError(f"release_url is {request.release_url!r}.", "It has to begin with https:// or http://.")
    source: _Folder | _Release = _Folder(request.artifact_dir) if request.artifact_dir else _Release(request, fetch)
    stamps = Stamps(request.cache_dir)
    artifacts = {arch: _artifact(source, stamps, names.ARCHITECTURES[arch], request.images) for arch in request.architectures}
    return Result(artifacts, tuple(source.fetched), _saved(stamps, request))


def _saved(stamps: Stamps, request: Request) -> tuple[str, ...]:
    if request.check:
        return ()
    try:
        stamps.save()
    except OSError as error:
        return (f"{request.cache_dir} cannot be written ({error.strerror}): every run will read and verify the release's files again.",)
    return ()


def _artifact(source: _Folder | _Release, stamps: Stamps, wanted: names.Names, images: bool) -> Artifact:
    binary, binary_sha256 = source.file(stamps, wanted, (wanted.binary,))
    if binary_sha256 and binary.exists() and not stamps.is_whole(binary):
        archive.check_binary(binary, wanted.machine)
        stamps.mark_whole(binary)
    if not images:
        return Artifact(str(binary), binary_sha256, None, None, binary.exists())
    bundle, bundle_sha256 = source.file(stamps, wanted, wanted.images)
    if bundle_sha256 and bundle.exists() and not stamps.is_whole(bundle):
        archive.check_images(bundle)
        stamps.mark_whole(bundle)
    return Artifact(str(binary), binary_sha256, str(bundle), bundle_sha256, binary.exists() and bundle.exists())


class _Folder:
    """A folder of the controller that is laid out like a release. It is only read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        if not self.folder.is_dir():
            raise PifleetError(f"k3s_artifact_dir is {self.folder}, which is no folder of the controller.", "Create or correct it.")

    def file(self, stamps: Stamps, wanted: names.Names, choice: tuple[str, ...]) -> tuple[Path, str]:
        """Return path and checksum of the first of *choice* that is there, verified."""
        sums_path = self.folder / wanted.sums
        text = atomic_file.read_text(sums_path)
        if text is None:
            raise PifleetError(
                f"k3s_artifact_dir ({self.folder}) has no {wanted.sums}.",
                "Put the release's file there; nothing is installed unverified.",
            )
        sums = names.parse_sums(text, str(sums_path))
        for name in choice:
            if (self.folder / name).is_file():
                return self.folder / name, _verified(stamps, self.folder / name, names.sum_of(sums, name, str(sums_path)))
        hint = "" if len(choice) == 1 else " or set k3s_airgap_images to false, so that nodes pull images from a registry"
        raise PifleetError(f"k3s_artifact_dir ({self.folder}) has no {' or '.join(choice)}.", f"Put the release's file there{hint}.")


def _verified(stamps: Stamps, path: Path, expected: str) -> str:
    found = stamps.sha256(path)
    if found != expected:
        raise ChecksumMismatchError(
            f"{path} does not match its checksum (SHA-256 is {found}, should be {expected}). Nothing was installed.",
            "Get the file again from the release, and find out who changed it.",
        )
    return expected


class _Release:
    """The release page, with the cache in front of it."""

    def __init__(self, request: Request, fetch: Fetcher) -> None:
        self.request = request
        self.fetch = fetch
        self.folder = request.cache_dir / request.version
        self.fetched: list[str] = []

    def file(self, stamps: Stamps, wanted: names.Names, choice: tuple[str, ...]) -> tuple[Path, str | None]:
        """Return path and checksum of the first of *choice* that the release has. In check mode nothing is downloaded."""
        sums = self._sums(wanted)
        if sums is None:
            self.fetched.append(choice[0])
            return self.folder / choice[0], None
        name = next((n for n in choice if n in sums), choice[0])
        expected = names.sum_of(sums, name, str(self.folder / wanted.sums))
        path = self.folder / name
        if path.exists():
            self._verify_cached(stamps, path, expected)
            return path, expected
        self.fetched.append(name)
        if not self.request.check:
            self._download(name, path, expected)
            stamps.sha256(path)
        return path, expected

    def _verify_cached(self, stamps: Stamps, path: Path, expected: str) -> None:
        try:
            _verified(stamps, path, expected)
        except ChecksumMismatchError as error:
            if self.request.check:
                raise
            path.unlink()
            raise ChecksumMismatchError(error.what, "The cached file was removed; run again to download it afresh.") from error

    def _sums(self, wanted: names.Names) -> dict[str, str] | None:
        path = self.folder / wanted.sums
        text = atomic_file.read_text(path)
        if text is None:
            if wanted.sums not in self.fetched:
                self.fetched.append(wanted.sums)
            if self.request.check:
                return None
            text = self._download_sums(wanted.sums, path)
        return names.parse_sums(text, str(path))

    def _download_sums(self, name: str, path: Path) -> str:
        part = path.with_name(f".{name}.part")
        with self._writing():
            part.unlink(missing_ok=True)
            self.fetch(self._url(name), part)
            text = part.read_text(encoding="utf-8", errors="replace")
            part.unlink()
            names.parse_sums(text, self._url(name))
            atomic_file.write_atomic(path, text)
        return text

    def _download(self, name: str, path: Path, expected: str) -> None:
        part = path.with_name(f".{name}.{expected[:12]}.part")
        with self._writing():
            if path.exists():  # another run was faster
                return
            resumed = part.exists()
            if not (resumed and sha256_of(part) == expected):
                self.fetch(self._url(name), part)
            found = sha256_of(part)
            if found != expected and resumed:
                part.unlink()
                self.fetch(self._url(name), part)
                found = sha256_of(part)
            if found != expected:
                part.unlink()
                (self.folder / names_of(name).sums).unlink(missing_ok=True)
                raise ChecksumMismatchError(
                    f"{self._url(name)} does not match its checksum (SHA-256 is {found}, should be {expected}).",
                    "It was removed and nothing was installed. Run again; if it happens again, find out who changes the download.",
                )
            os.chmod(part, 0o644)
            os.replace(part, path)
            atomic_file.fsync_folder(self.folder)

    def _url(self, name: str) -> str:
        return names.url_of(self.request.release_url, self.request.version, name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the folder's lock: of two runs one downloads, the other finds the file. Disk failures become DownloadErrors."""
        with writing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield


def names_of(name: str) -> names.Names:
    """Return the architecture's names that the file *name* belongs to."""
    return next(n for n in names.ARCHITECTURES.values() if name == n.binary or name in n.images)
