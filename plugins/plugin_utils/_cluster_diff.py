# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between the manifests and the cluster, for people and programs. Pure: results in, texts out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

FOLDER = "docs/governance/reviews"
#: what each state of an object means, https://kubernetes.io/docs/reference/using-api/server-side-apply/
MEANING: Mapping[str, str] = {
    "created": "is not in the cluster",
    "configured": "has another desired state than the one that was applied last",
    "drifted": "was edited in the cluster",
    "absent": "is a node that is not in the cluster",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """*objects*: (ref, state) of each; *diff*: scrubbed, as ``kubectl diff`` on the server tells it; *left_out*: what was not compared."""

    run_id: str
    revision: str
    server: str
    at: str
    objects: tuple[tuple[str, str], ...]
    diff: str
    left_out: tuple[str, ...]

    @property
    def differing(self) -> tuple[tuple[str, str], ...]:
        return tuple(pair for pair in self.objects if pair[1] in MEANING)

    @property
    def status(self) -> str:
        return "drift" if self.differing else "clean"

    @property
    def exit_code(self) -> int:
        """0 where nothing differs, 1 where something does, as of diff(1)."""
        return int(bool(self.differing))

    @property
    def folder(self) -> str:
        """Where the bundle belongs, seen from the fleet's folder."""
        return f"{FOLDER}/{self.at[:10]}-{self.run_id}"


def files(found: Comparison) -> dict[str, str]:
    """Return the bundle: its files by name."""
    return {
        "summary.md": markdown(found),
        "summary.json": json.dumps({**asdict(found), "status": found.status, "diff": "cluster.diff"}, indent=1, sort_keys=True) + "\n",
        "cluster.diff": found.diff,
    }


def markdown(found: Comparison) -> str:
    """Return the summary for people."""
    count = f"{len(found.differing)} of {len(found.objects)} objects differ" if found.differing else f"none of {len(found.objects)} differs"
    lines = [
        f"# Cluster against manifests, {found.at[:10]}",
        "",
        f"**{found.status}**: {count}.",
        "",
        f"- run: `{found.run_id}`",
        f"- revision of the manifests: `{found.revision}`",
        f"- asked on: `{found.server}`, at {found.at}",
        *(f"- not compared: {text}" for text in found.left_out),
        "",
        "| object | state |",
        "| --- | --- |",
        *(f"| `{ref}` | {f'**{state}**: it {MEANING[state]}' if state in MEANING else state} |" for ref, state in found.objects),
    ]
    ending = [
        "",
        "What differs stands in [cluster.diff](cluster.diff): `-` is the cluster, `+` the manifests. Values of Secrets are masked.",
    ]
    return "\n".join(lines + (ending if found.differing else [])) + "\n"


def manifests_below(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the manifests below *folder*, by path, and what is left out there. Raises PifleetError where it is no folder."""
    if not folder.is_dir():
        raise PifleetError(f"{folder} is no folder of manifests.", "Correct collect_diff_dirs.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml"))
    secret = [path for path in paths if ".sops." in path.name]
    said = [f"{path.relative_to(folder.parent)}, which is encrypted" for path in secret]
    return tuple(path for path in paths if path not in secret), tuple(said)


def charts_left_out(folder: Path, helm: str | None) -> tuple[str, ...]:
    """Return what is said of the charts below *folder*. *helm*: where the program is, None where the controller has none."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        return ("charts: there are none",)
    why = "`helm diff` is not part of this collection yet" if helm else "helm is not installed on the controller"
    return (f"charts ({', '.join(names)}): {why}",)


def plain(objects: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return (ref, state) of the objects as the module ``k3s_manifests`` returns them."""
    return tuple((str(item["ref"]), str(item["state"])) for item in objects)
