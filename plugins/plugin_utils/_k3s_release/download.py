# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads one file over HTTP(S): resumed where it stopped, tried again after a failure that may pass, within limits."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub

_CHUNK = 1 << 18
#: an attempt that brought this many bytes was no failure, however it ended
_PROGRESS = 1 << 20
_PROXY = (
    "Check the controller's network, name resolution and proxy (https_proxy, no_proxy), or set k3s_artifact_dir to a folder with the files."
)


class DownloadError(PifleetError):
    """A file could not be downloaded."""


class _TryAgainError(Exception):
    """A failure that may pass."""


class Fetcher(Protocol):
    """The port through which files of a release are got: afterwards *part* holds all of *url*, or DownloadError was raised."""

    def __call__(self, url: str, part: Path) -> None: ...


Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Downloader:
    """The Fetcher for HTTP. Proxies come from the environment, as urllib reads it.

    *timeout*: seconds without a byte; *attempts*: failures in a row without progress; *progress*: called with the file's name, bytes so far
    and bytes in all (None where the server does not say), at most every *every* seconds.
    """

    timeout: float = 30.0
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep
    progress: Progress | None = None
    every: float = 5.0

    def __call__(self, url: str, part: Path) -> None:
        failures = 0
        while True:
            before = _size(part)
            try:
                self._stream(url, part, before)
                return
            except _TryAgainError as error:
                if isinstance(error, _RestartError):
                    part.unlink(missing_ok=True)
                failures = 1 if _size(part) - before >= _PROGRESS else failures + 1
                if failures >= self.attempts:
                    raise DownloadError(
                        f"{url} could not be downloaded, {failures} times in a row: {scrub(str(error))}.", _PROXY
                    ) from error
                self.sleep(min(2.0 ** (failures - 1), 30.0))

    def _stream(self, url: str, part: Path, offset: int) -> None:
        with self._open(url, offset) as response:
            if offset and not _continues(response, offset):
                offset = 0
            length = response.headers.get("Content-Length")
            total = offset + int(length) if length and length.isdigit() else None
            _refuse_without_room(part, None if total is None else total - offset)
            received = self._write(response, part, offset, total, url)
        if total is not None and received < total:
            raise _TryAgainError(f"the connection ended after {received} of {total} bytes")

    def _open(self, url: str, offset: int) -> http.client.HTTPResponse:
        request = urllib.request.Request(url, headers={"User-Agent": "pifleet.ops", "Accept-Encoding": "identity"})  # noqa: S310 - scheme checked by the caller
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        try:
            # an opener of its own: the shared one keeps the proxies of its first use
            response: http.client.HTTPResponse = urllib.request.build_opener().open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _http_error(url, error.code, offset) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DownloadError(f"{url}: the server's certificate is not trusted: {error.reason.verify_message}.", _PROXY) from error
            raise _TryAgainError(str(error.reason)) from error
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgainError(str(error) or type(error).__name__) from error
        return response

    def _write(self, response: http.client.HTTPResponse, part: Path, offset: int, total: int | None, url: str) -> int:
        received, said = offset, time.monotonic()
        with writing(part), part.open("r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.truncate()
            while chunk := _read(response):
                stream.write(chunk)
                received += len(chunk)
                if self.progress and time.monotonic() - said >= self.every:
                    said = time.monotonic()
                    self.progress(url.rsplit("/", 1)[-1], received, total)
            stream.flush()
            os.fsync(stream.fileno())
        return received


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read on; a failure of the network is told apart from one of the disk here."""
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgainError(str(error) or type(error).__name__) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the controller's disk at *path* into a DownloadError."""
    try:
        yield
    except OSError as error:
        raise _local_error(path, error) from error


def _local_error(path: Path, error: OSError) -> DownloadError:
    """Return what a failure to write below the cache folder means for a person."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "Make room on the controller" if full else "Make the folder writable"
    return DownloadError(f"{path} cannot be written: {error.strerror or error}.", f"{hint}, or set k3s_artifact_cache to another folder.")


def _refuse_without_room(part: Path, needed: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed is not None and needed > free:
        raise DownloadError(
            f"{part.parent} has {free >> 20} MB free on the controller, and {needed >> 20} MB are to be downloaded.",
            "Make room, or set k3s_artifact_cache to another folder.",
        )


def _continues(response: http.client.HTTPResponse, offset: int) -> bool:
    """Whether the answer really begins at *offset*: a server may ignore the range and send all."""
    return response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _http_error(url: str, status: int, offset: int) -> Exception:
    if status == 416 and offset:
        return _RestartError()
    if status == 429 or status >= 500:
        return _TryAgainError(f"the server answered {status}")
    if status == 404:
        return DownloadError(f"{url} does not exist (404).", "Correct k3s_version: is that release published, for this architecture?")
    return DownloadError(f"{url}: the server answered {status}.", _PROXY)


class _RestartError(_TryAgainError):
    """What was downloaded so far is longer than the file."""
