# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases as text for people, and as tables for JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import (
    DEPLOY,
    FINALIZE,
    PHASES,
    ROLLOUT,
    Image,
    Plan,
    Release,
)

_HEADINGS = ("", "ID", "VERSION", "STATUS", "CREATED", "COMMIT", "KIND")
_SHORT = 12  # digits of a hash that are shown


def plan(found: Plan, *, check: bool = False, note: str = "") -> str:
    """Return a plan as text: its phases in order, each with what it would do, or why not. *check*: nothing is done."""
    to = f" to {found.target_id}" if found.target_id else ""
    lines = [
        f"{found.kind} of {found.environment}{to}: version {found.version}, commit {found.commit_sha[:_SHORT]}",
        f"plan {found.digest}",
    ]
    for name in PHASES:
        reason = found.skips.get(name)
        lines.append(f"  {name}: {'skipped (' + reason + ')' if reason else 'would run' if check else 'runs'}")
        if not reason:
            lines += [f"    {line}" for line in _does(found, name)]
    if note:
        lines.append(note)
    if check:
        lines.append("Check mode: no release was recorded, and nothing was built, pushed or changed.")
    return "\n".join(lines)


def _does(found: Plan, name: str) -> Iterable[str]:
    if name == "build":
        return [f"{i.service}: {_kept(i) or f'{i.reference} from {i.context} by {i.backend}'}" for i in found.images]
    if name == "push":
        return [f"{i.service}: {_kept(i) or i.reference}" for i in found.images]
    if name == ROLLOUT:
        services = [
            f"{p.name}: {', '.join(f'{service} ({how})' for service, how in sorted(p.services.items()))} on {', '.join(p.hosts)}"
            for p in found.projects
        ]
        return [*services, *(f"batch {number}: {', '.join(batch)}" for number, batch in enumerate(found.batches, 1))]
    if name == FINALIZE:
        return [f"images of the newest {found.retain} completed releases stay on the hosts, older ones go"]
    return [f"{m.service} on {m.host}: {' '.join(m.argv)}{'' if m.reversible else ' (not reversible)'}" for m in found.migrations_of(name)]


def _kept(image: Image) -> str:
    return f"{image.pinned} is known: not built again" if image.digest else ""


def show(release: Release) -> str:
    """Return one release as text, whole."""
    rows = [
        ("release", release.id + (" (current)" if release.current else "")),
        ("environment", release.environment),
        ("version", release.version),
        ("commit", release.commit_sha),
        ("kind", release.kind + (f" to {release.target_id}" if release.target_id else "")),
        ("status", release.status + (" (its run is over: deploy again, or resume it)" if release.interrupted else "")),
        ("created", release.timestamp),
        ("previous", release.previous_id or "none"),
    ]
    lines = _aligned(rows)
    lines.append("phases:")
    lines += [f"  {line}" for line in _aligned([(p.name, p.status, f"({p.reason})" if p.reason else "") for p in release.phases])]
    hosts = release.phase(ROLLOUT).detail.get("hosts", {})
    if hosts:
        lines.append("hosts:")
        lines += [f"  {line}" for line in _aligned([(host, h["status"], h.get("error", "")) for host, h in sorted(hosts.items())])]
    lines.append("images:" if release.images else "images: none")
    lines += [f"  {line}" for line in _aligned([(image.service, image.pinned) for image in release.images])]
    lines.append("projects:" if release.rendered else "projects: not rendered")
    lines += [f"  {line}" for line in _aligned([(name, f"sha256:{digest}") for name, digest in sorted(release.rendered.items())])]
    return "\n".join(lines)


def outcome(release: Release) -> str:
    """Return what became of a release, and what to do about it."""
    failed = next((phase for phase in release.phases if phase.status == "failed"), None)
    if failed is None:
        return show(release)
    hint = f"Mend the cause, then go on with `playbooks/deploy.yml -e environment={release.environment} -e resume={release.id}`"
    if release.reached_hosts and release.kind == DEPLOY and release.previous_id:
        hint += f", or go back with `playbooks/rollback.yml -e environment={release.environment}`"
    return f"{show(release)}\nThe phase {failed.name} failed: {failed.reason}\n{hint}."


def transcript(release: Release) -> str:
    """Return what was planned, and what every phase and host did and said, for the record of a release that is over."""
    lines = [plan(release.plan), ""]
    for phase in release.phases:
        times = f" from {phase.started_at} to {phase.ended_at or 'no end'}" if phase.started_at else ""
        lines.append(f"{phase.name}: {phase.status}{times}{f' ({phase.reason})' if phase.reason else ''}")
        if reused := phase.detail.get("reused"):
            lines.append(f"  known already: {', '.join(reused)}")
        for host, entry in sorted(phase.detail.get("hosts", {}).items()):
            error = f" ({entry['error']})" if entry.get("error") else ""
            lines.append(f"  {host}: {entry['status']}{error}")
            if entry.get("taken_back"):
                lines.append("    what had changed was taken back")
            lines += [f"    {said}" for said in _said(entry.get("said"))]
            if entry.get("removed"):
                lines.append(f"    removed: {', '.join(entry['removed'])}")
    return "\n".join([*lines, "", show(release), ""])


def _said(by_service: Mapping[str, str] | None) -> Iterable[str]:
    return [f"{service}: {line}" for service, text in sorted((by_service or {}).items()) for line in text.splitlines()]


def listing(by_environment: Mapping[str, Sequence[Release]]) -> str:
    """Return releases, newest first, as a table for each environment, these in alphabetical order."""
    if not any(by_environment.values()):
        names = ", ".join(sorted(by_environment))
        return f"No releases of {names}." if names else "No releases."
    lines = []
    for name, found in sorted(by_environment.items()):
        rows = [
            ("*" if r.current else "", r.id, r.version, _status(r), r.timestamp[:19] + "Z", r.commit_sha[:_SHORT], _kind(r)) for r in found
        ]
        lines += [f"{name}:", *(f"  {line}" for line in _aligned([_HEADINGS, *rows]))]
    return "\n".join(lines)


def _status(release: Release) -> str:
    stands = next((p.name for p in release.phases if p.status in ("failed", "running")), "")
    return " ".join(filter(None, (release.status, f"in {stands}" if stands else "", "(interrupted)" if release.interrupted else "")))


def _kind(release: Release) -> str:
    return f"{release.kind} to {release.target_id}" if release.target_id else release.kind


def as_table(release: Release) -> dict[str, Any]:
    """Return a release as JSON shows it."""
    table = asdict(release)
    table["images"] = {image.service: image.pinned for image in release.images}
    table["phases"] = [{**asdict(phase), "detail": dict(phase.detail)} for phase in release.phases]
    for key in ("plan", "seq"):
        del table[key]
    return {**table, "plan_digest": release.plan.digest}


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
