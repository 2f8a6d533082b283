# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder k3s is installed from, laid out like a k3s release: real k3s where it can be had, else the lab's stand-in."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import build, images, paths, system
from lab.console import Console

SOURCES = Path(__file__).with_name("standin")
PAUSE = "docker.io/rancher/mirrored-pause:3.6"  # the one k3s 1.34 starts pods with
WEB = "docker.io/pifleet/lab-web:1"
REAL, STANDIN = "real k3s", "k3s stand-in"
SUMS, IMAGES = "sha256sum-amd64.txt", "k3s-airgap-images-amd64.tar.zst"
RELEASES = "https://github.com/k3s-io/k3s/releases/download"
CONNECT_TIMEOUT = 5.0  # seconds until a silent network counts as none


@dataclass(frozen=True, slots=True)
class Artifacts:
    """*folder* has ``k3s``, ``sha256sum-amd64.txt`` and the airgap images. *kind* is REAL or STANDIN."""

    version: str
    folder: Path
    kind: str


def linked(version: str) -> Path:
    """The stable path that the lab's inventories name: a symlink in the checkout's state."""
    return paths.STATE / "artifacts" / version


def found(version: str) -> Artifacts | None:
    """What ``linked`` leads to, when it is whole and of the present sources."""
    real = _given(version) or _downloaded(version)
    if real is not None:
        return real if linked(version).exists() and linked(version).resolve() == real.folder.resolve() else None
    folder = _standin_folder(version)
    if folder.exists() and build.complete(version) and linked(version).exists():
        return Artifacts(version, folder, STANDIN) if linked(version).resolve() == folder.resolve() else None
    return None


def ensure(version: str, console: Console) -> Artifacts:
    """Have the folder for *version*, and the link to it."""
    ready = found(version)
    if ready is not None:
        return ready
    artifacts = _given(version) or _downloaded(version) or _download(version, console) or _standin(version, console)
    link = linked(version)
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(artifacts.folder.resolve())
    fresh.replace(link)
    return artifacts


def _given(version: str) -> Artifacts | None:
    """Real k3s from the folder the user names in PIFLEET_K3S_ARTIFACTS: that version's own subfolder, or the folder itself."""
    base = os.environ.get("PIFLEET_K3S_ARTIFACTS")
    if not base:
        return None
    for folder in (Path(base) / version, Path(base)):
        if (folder / "k3s").is_file():
            said = run([str(folder / "k3s"), "--version"]).stdout
            if f"k3s version {version} " not in said:
                raise PifleetError(f"{folder}/k3s is not {version}: it says {said.strip()!r}.", f"Put that version into {base}/{version}/.")
            return Artifacts(version, folder, REAL)
    raise PifleetError(f"PIFLEET_K3S_ARTIFACTS={base} has no k3s of {version}.", f"Put the release's files into {base}/{version}/.")


def _downloaded(version: str) -> Artifacts | None:
    folder = paths.cache() / "releases" / version
    return Artifacts(version, folder, REAL) if (folder / ".complete").exists() and _may_download() else None


def _may_download() -> bool:
    return os.environ.get("PIFLEET_LAB_K3S") != "stand-in"


def _download(version: str, console: Console) -> Artifacts | None:
    """The release's files, checked against its sums; None where the network does not reach them. PIFLEET_LAB_K3S=stand-in forbids it."""
    if not _may_download():
        return None
    base = f"{os.environ.get('PIFLEET_K3S_RELEASES', RELEASES)}/{urllib.parse.quote(version)}"
    folder = paths.cache() / "releases" / version
    try:
        sums = _fetch(f"{base}/{SUMS}").decode()
        with console.step(f"downloading k3s {version}"):
            for name in ("k3s", IMAGES):
                data = _fetch(f"{base}/{name}")
                if f"{hashlib.sha256(data).hexdigest()}  {name}" not in sums.splitlines():
                    raise PifleetError(
                        f"{base}/{name} does not have the checksum of the release.", "Try again; PIFLEET_LAB_K3S=stand-in does without."
                    )
                write_atomic(folder / name, data, 0o755 if name == "k3s" else 0o644)
        write_atomic(folder / SUMS, sums)
        write_atomic(folder / ".complete", "")
    except OSError:
        return None
    return _downloaded(version)


def _fetch(url: str) -> bytes:
    with urllib.request.build_opener().open(url, timeout=CONNECT_TIMEOUT) as answer:
        content: bytes = answer.read()
    return content


def _key(version: str) -> str:
    """Digest of all that goes into the stand-in's folder."""
    digest = hashlib.sha256(f"{version} {build.key()}".encode())
    for file in (*sorted(SOURCES.glob("*.py")), Path(__file__), Path(images.__file__)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _standin_folder(version: str) -> Path:
    """One for each state of the sources: checkouts that differ share the cache, and would make it anew under each other's nodes."""
    return paths.cache() / "artifacts" / f"{version}-{_key(version)[:12]}"


def _standin(version: str, console: Console) -> Artifacts:
    components = build.ensure(version, console)
    folder = _standin_folder(version)
    with paths.locked(paths.cache() / "artifacts.lock"):
        if not folder.exists():
            system.need({"zstd": ["zstd"]}, console)
            part = folder.with_name(folder.name + ".partial")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            (part / "k3s").write_bytes(executable(version, components))
            (part / "k3s").chmod(0o755)
            _airgap_images(part / IMAGES)
            names = ("k3s", IMAGES)
            sums = "".join(f"{hashlib.sha256((part / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
            (part / SUMS).write_text(sums)
            part.rename(folder)
    return Artifacts(version, folder, STANDIN)


def _airgap_images(target: Path) -> None:
    web = build.folder() / build.key() / "bin" / "web"
    plain = target.with_suffix("")
    images.write_archive(plain, [images.Image(PAUSE, web, ()), images.Image(WEB, web, ("serve",))], "amd64")
    check(run(["zstd", "-q", "--rm", "-f", "-3", str(plain), "-o", str(target)], timeout=300))


def executable(version: str, components: str) -> bytes:
    """The stand-in as one file: a zip that Python runs, with a YAML parser, which nodes lack. The same input gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _put(archive, "__main__.py", b"import sys\nfrom standin.cli import main\nsys.exit(main(sys.argv))\n")
        release = {"version": version, "commit": hashlib.sha256(version.encode()).hexdigest()[:8], "components": components}
        _put(archive, "standin/release.json", json.dumps(release, sort_keys=True).encode())
        for file in sorted(SOURCES.glob("*.py")):
            _put(archive, f"standin/{file.name}", file.read_bytes())
        for file in sorted(Path(yaml.__file__).parent.glob("*.py")):
            _put(archive, f"yaml/{file.name}", file.read_bytes())
    return b"#!/usr/bin/python3 -IB\n" + buffer.getvalue()


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)
