# SPDX-License-Identifier: GPL-3.0-or-later
"""The node image: a Debian made from packages, as a flashed card would have it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import docker, paths, system
from lab.console import Console, Step

SUITE = "trixie"
FILES = Path(__file__).with_name("node")
MAKE_ROOT = Path(__file__).with_name("make-root")
PULL_TIMEOUT, BUILD_TIMEOUT = 30.0, 1800.0  # seconds


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made of. *files*: a folder whose ``finish`` runs inside and whose Dockerfile can make it too."""

    name: str
    architecture: str
    packages: tuple[str, ...]
    files: Path | None
    command: str

    @property
    def tag(self) -> str:
        """The image's name, with a digest of all that goes into it."""
        digest = hashlib.sha256(f"{SUITE} {self.architecture} {' '.join(self.packages)}\n".encode())
        for file in [MAKE_ROOT, *(sorted(self.files.iterdir()) if self.files else [])]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return f"{self.name}:{SUITE}-{digest.hexdigest()[:12]}"


def node() -> Recipe:
    lines = (FILES / "packages").read_text().splitlines()
    packages = tuple(line for line in lines if line and not line.startswith("#"))
    return Recipe("pifleet-node", "amd64", packages, FILES, "/sbin/pi-init")


def debian() -> Recipe:
    """Debian itself, for images that are built on it where no image registry can be reached."""
    return Recipe("pifleet-debian", "amd64", ("ca-certificates",), None, "/bin/bash")


def ensure(recipe: Recipe, console: Console) -> str:
    """Return the image's tag, after importing it from the cache or making it."""
    if docker.image_exists(recipe.tag):
        return recipe.tag
    archive = paths.cache() / "images" / f"{recipe.tag.replace(':', '-')}.tar.zst"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with paths.locked(archive.with_suffix(".lock")):
        if docker.image_exists(recipe.tag):
            return recipe.tag
        if not archive.exists() and recipe.files and _from_registry(recipe, console):
            return recipe.tag
        system.need({"debootstrap": ["debootstrap"], "zstd": ["zstd"]}, console)
        if not archive.exists():
            with console.step(f"{recipe.name} image from Debian packages") as step:
                _build(recipe, archive, step)
        with console.step(f"importing the {recipe.name} image"):
            _import(recipe, archive)
    return recipe.tag


def _from_registry(recipe: Recipe, console: Console) -> bool:
    """Make the image on Debian's own where an image registry can be reached: no root needed. PIFLEET_LAB_IMAGE=packages forbids it."""
    if os.environ.get("PIFLEET_LAB_IMAGE") == "packages":
        return False
    base = f"debian:{SUITE}-slim"
    if not docker.image_exists(base) and not docker.docker_tried("pull", "--quiet", base, timeout=PULL_TIMEOUT).ok:
        return False
    with console.step(f"{recipe.name} image on {base}"):
        made = docker.docker_tried("build", "--quiet", "--tag", recipe.tag, str(recipe.files), timeout=BUILD_TIMEOUT)
    if not made.ok:
        console.line(f"not on {base}, so from packages: {made.stderr.strip()[-200:]}")
    return made.ok


def _build(recipe: Recipe, archive: Path, step: Step) -> None:
    """Run make-root (it needs root: debootstrap does) and keep the archive only when it is whole."""
    partial = archive.with_suffix(".partial")
    mirror = os.environ.get("PIFLEET_DEBIAN_MIRROR", "")
    words: Sequence[str] = (recipe.architecture, SUITE, str(partial), ",".join(recipe.packages), str(recipe.files or ""), mirror)
    log = archive.with_suffix(".log")
    last = ""
    with log.open("w") as kept:
        command = [*system.root(), str(MAKE_ROOT), *words]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        for line in process.stdout or ():
            kept.write(line)
            last = line.strip() or last
            step.say(line)
    if process.wait() != 0:
        hint = f"The whole output: {log}. PIFLEET_DEBIAN_MIRROR names another Debian mirror."
        raise PifleetError(f"The {recipe.name} image could not be made: {last}", hint)
    if os.geteuid() != 0:
        check(run([*system.root(), "chown", str(os.getuid()), str(partial)]))
    partial.rename(archive)


def _import(recipe: Recipe, archive: Path) -> None:
    unpack = subprocess.Popen(["zstd", "-dcq", str(archive)], stdout=subprocess.PIPE)
    settings = ("-c", "ENV container=docker", "-c", f'CMD ["{recipe.command}"]')
    command = ["docker", "import", "--platform", f"linux/{recipe.architecture}", *settings, "-", recipe.tag]
    done = subprocess.run(command, stdin=unpack.stdout, capture_output=True, text=True, check=False)
    if unpack.stdout is not None:
        unpack.stdout.close()  # or zstd waits for ever for a reader that is gone
    if unpack.wait() != 0 or done.returncode != 0:
        raise PifleetError(f"{archive} cannot be imported: {done.stderr.strip()}", "Remove the file; it is made again.")
