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
    "removed": "is in the cluster, and not in the chart any more",
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


def manifests_below(folder: Path, leave_out: Sequence[Path] = ()) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the manifests below *folder*, by path, and what is said of the folders *leave_out* there.

    Raises PifleetError where it is no folder.
    """
    if not folder.is_dir():
        raise PifleetError(f"{folder} is no folder of manifests.", "Correct collect_diff_dirs.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml"))
    apart = [other for other in leave_out if any(other in path.parents for path in paths)]
    said = [f"{path.relative_to(folder.parent)}, which this fleet does not ask for" for path in apart]
    return tuple(path for path in paths if not set(apart).intersection(path.parents)), tuple(said)


def is_encrypted(path: Path) -> bool:
    """Whether the manifest is one that sops encrypts, by its name."""
    return ".sops." in path.name


def not_shown(objects: Sequence[tuple[str, str]]) -> str:
    """Return what the difference says of encrypted objects that are no Secrets, of which nothing can be shown: where there is one."""
    return "".join(f"# {ref} is encrypted: what differs there is not shown\n" for ref, state in objects if state in MEANING)


def charts_left_out(there: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """Return what is said of the charts that are *there*, and are not among those *asked* for."""
    names = sorted(set(there) - set(asked))
    return (f"charts ({', '.join(names)}): this fleet does not ask for them (collect_diff_charts)",) if names else ()


def release_states(name: str, state: str, objects: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return (ref, state) of the Helm release *name* and of its objects."""
    return ((f"Helm/{name}", state), *((f"Helm/{name}: {ref}", one) for ref, one in objects))


def plain(objects: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return (ref, state) of the objects as the module ``k3s_manifests`` returns them."""
    return tuple((str(item["ref"]), str(item["state"])) for item in objects)
