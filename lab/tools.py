# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that only some tests need, compiled from their Go modules (lab/go/<name>) when they are asked for.

Cached as ``<cache>/tools/<name>-<key>``. Modules of their own: another version of one recompiles nothing of the k3s stand-in.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

from lab import build, paths
from lab.console import Console

SOURCES = Path(__file__).with_name("go")
PACKAGES = {
    "buildx": "github.com/docker/buildx/cmd/buildx",
    "helm": "helm.sh/helm/v4/cmd/helm",
    "sops": "github.com/getsops/sops/v3/cmd/sops",
    # takes what is pushed to Loki's API (docs/lab.md, "Logs")
    "victoria-logs": "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs",
    "workload": ".",
}


def key(name: str) -> str:
    """Names the compiled state of the sources of *name*."""
    digest = hashlib.sha256()
    for file in sorted((SOURCES / name).iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def ensure(name: str, console: Console) -> Path:
    """The static program *name* of ``PACKAGES``: a minute or a few the first time. ``workload`` is what the lab's images consist of."""
    if name not in PACKAGES:
        raise PifleetError(f"The lab has no tool {name}.", f"It has {', '.join(sorted(PACKAGES))}.")
    target = paths.cache() / "tools" / f"{name}-{key(name)}"
    if not target.exists():
        with paths.locked(paths.cache() / "tools.lock"):
            if not target.exists():
                go = build.compiler(SOURCES / name, console)
                with console.step(f"compiling {name}") as step:
                    target.parent.mkdir(exist_ok=True)
                    part = target.with_name(target.name + ".partial")
                    build.compile_packages(go, SOURCES / name, part, [PACKAGES[name]], "-s -w", "0", step)
                    part.rename(target)
    return target
