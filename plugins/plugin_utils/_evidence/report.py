# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a period: its runs, what they did to which host, what they left, and whether the ledger is what was recorded.

Pure: tables in, Markdown and one HTML page out, which needs nothing but itself. The same ledger gives the same report.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from typing import Any

#: by status: a colour that is told apart from the others without colours by its lightness too
COLOURS: Mapping[str, str] = {
    "succeeded": "#3a9d5d",
    "failed": "#b3261e",
    "interrupted": "#8a5a00",
    "running": "#1f6feb",
    "checked": "#9aa4b2",
}
_WIDTH, _LEFT, _ROW = 1000, 190, 18
#: bars of a plot; of more runs the newest are drawn
_BARS = 120
#: what the top of a transcript may leave out
_UNSAID = dict.fromkeys(("command", "began", "ended", "took", "exit_code"), "")
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2rem auto;padding:0 1rem;color:#1c2330}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.25rem .6rem;"
    "border-bottom:1px solid #d9dee6;vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}.good{color:#22693c}.bad{color:#b3261e}svg{width:100%;height:auto}"
)


@dataclass(frozen=True, slots=True)
class Review:
    """What is reported. *runs*: as ``Queries.runs`` gives them; *findings* and *notes* of the verification; *total*: without limit."""

    title: str
    runs: Sequence[Mapping[str, Any]]
    total: int
    findings: Sequence[str]
    notes: Sequence[str]
    heads: Mapping[str, tuple[int, str]]
    events: int
    statements: int


def to_markdown(review: Review) -> str:
    """Return the report for a repository and its reviews."""
    parts = [f"# {review.title}", "", _verdict(review), ""]
    parts += [f"- {finding}" for finding in review.findings] + [f"- {note}" for note in review.notes] + [""]
    for heading, head, rows in _tables(review):
        parts += [f"## {heading}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        parts += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows] + [""]
    return "\n".join(parts).rstrip() + "\n"


def for_template(review: Review, contents: Mapping[str, str], alert_tests: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return what a template of ``docs/governance`` is filled with.

    *contents*: of the artifacts that runs left, by SHA-256; *alert_tests*: what their events ``alert.tested`` have. `runs` are oldest
    first, `phases` are what the transcripts of a drill say at their top, `rebuilds` the rebuilds as their records have them.
    """
    runs = list(reversed(review.runs))
    left = [{**artifact, "run_id": run["run_id"]} for run in runs for artifact in run["artifacts"]]
    heads = {a["sha256"]: _head(contents.get(a["sha256"], "")) for a in left if a["name"].startswith("drill-")}
    rebuilds = [a for a in left if a["name"].startswith("rebuild-") and a["media_type"] == "application/json"]
    return {
        "verdict": _verdict(review),
        "review": review,
        "runs": [{**run, "took": _duration(run), **_sums(run)} for run in runs],
        "artifacts": left,
        "phases": [{**_UNSAID, **artifact, **heads[a]} for artifact in left if heads.get(a := artifact["sha256"], {}).get("phase")],
        "rebuilds": [json.loads(contents[a["sha256"]]) for a in rebuilds if a["sha256"] in contents],
        "alert_tests": list(alert_tests),
    }


def _sums(run: Mapping[str, Any]) -> dict[str, int]:
    hosts = run["hosts"].values()
    return {kind: sum(host[kind] or 0 for host in hosts) for kind in ("changed", "failed", "unreachable")}


def _head(text: str) -> dict[str, str]:
    """Return the lines `name: value` at the top of a transcript, up to the first empty one."""
    top = text.partition("\n\n")[0].splitlines()
    return {name.replace(" ", "_"): value.strip() for name, colon, value in (line.partition(":") for line in top) if colon}


def to_html(review: Review) -> str:
    """Return the report as one page with a timeline."""
    good = not review.findings
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(review.title)}</title><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(review.title)}</h1>",
        f'<p class="{"good" if good else "bad"}">{escape(_verdict(review))}</p>',
        _items([*review.findings, *review.notes]),
        "<h2>Timeline</h2>",
        timeline(review.runs),
    ]
    for heading, head, rows in _tables(review):
        parts += [f"<h2>{escape(heading)}</h2><table><tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr>"]
        parts += [f"<tr>{''.join(_html_cell(value) for value in row)}</tr>" for row in rows] + ["</table>"]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def timeline(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG with a bar for each run, from its beginning to its end, oldest on top."""
    drawn = sorted(runs[:_BARS], key=lambda run: (run["started_at"], run["run_id"]))
    if not drawn:
        return "<p>No runs.</p>"
    spans = [(_seconds(run["started_at"]), _seconds(run["ended_at"] or run["started_at"])) for run in drawn]
    first, last = min(start for start, _end in spans), max(end for _start, end in spans)
    scale = (_WIDTH - _LEFT - 20) / max(last - first, 1.0)
    height = _ROW * len(drawn) + 40
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Timeline of {len(drawn)} runs" font-size="11">']
    for step in range(5):
        x = _LEFT + (_WIDTH - _LEFT - 20) * step / 4
        moment = datetime.fromtimestamp(first + (last - first) * step / 4, tz=timezone.utc)
        parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 25}" stroke="#d9dee6"/>')
        anchor = ("start", "middle", "middle", "middle", "end")[step]
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="{anchor}">{moment:%Y-%m-%d %H:%M:%S}</text>')
    for row, (run, (start, end)) in enumerate(zip(drawn, spans, strict=True)):
        y = _ROW * row + 4
        name = f"{_short(run['playbook'])} {run['host_limit'] or ''}".strip()[:32]
        told = f"{run['run_id']}: {run['playbook']}, {run['status']}, {_duration(run)}"
        parts.append(f'<text x="0" y="{y + 11}">{escape(name)}</text>')
        parts.append(
            f'<rect x="{_LEFT + (start - first) * scale:.1f}" y="{y}" width="{max((end - start) * scale, 3):.1f}" height="{_ROW - 6}" '
            f'rx="2" fill="{COLOURS.get(run["status"], "#444")}"><title>{escape(told)}</title></rect>'
        )
    parts.append("</svg>")
    keys = " ".join(f'<span style="color:{colour}">■</span> {status}' for status, colour in COLOURS.items())
    return "\n".join(parts) + f"<p>{keys}</p>"


def _verdict(review: Review) -> str:
    if review.findings:
        return f"The ledger is NOT what was recorded: {len(review.findings)} findings."
    heads = ", ".join(f"{name} ends with number {seq} ({sha256[:12]}…)" for name, (seq, sha256) in sorted(review.heads.items()))
    return f"The ledger is what was recorded: {review.events} events, {review.statements} signed statements. Chain {heads}."


def _tables(review: Review) -> Iterable[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
    shown = f"{len(review.runs)} of {review.total}" if len(review.runs) != review.total else f"{review.total}"
    head = ("run", "playbook", "limit", "by", "revision", "status", "seconds", "hosts", "changed", "failed")
    yield f"Runs ({shown})", head, [_run_row(run) for run in review.runs]
    yield "Hosts", ("host", "runs", "changed", "failed", "unreachable", "last run", "last outcome"), _host_rows(review.runs)
    left = [(a["name"], a["media_type"], a["size"], a["sha256"], run["run_id"]) for run in review.runs for a in run["artifacts"]]
    yield "What runs left", ("name", "media type", "bytes", "sha256", "run"), left
    failures = [(run["run_id"], f["host"], f["play"], f["task"]) for run in review.runs for f in run["failures"]]
    if failures:
        yield "Failed tasks", ("run", "host", "play", "task"), failures
    plays = [(p["name"], p["started_at"], p["seconds"]) for p in review.runs[0]["plays"]] if review.runs else []
    if plays:
        yield f"Plays of {review.runs[0]['run_id']}", ("play", "began", "seconds"), plays


def _run_row(run: Mapping[str, Any]) -> tuple[Any, ...]:
    hosts = run["hosts"].values()
    revision = f"{(run['revision'] or '')[:12]}{' (changed)' if run['dirty'] else ''}"
    return (
        run["run_id"], run["playbook"], run["host_limit"] or "", run["requester"], revision, run["status"], _duration(run), len(hosts),
        sum(h["changed"] or 0 for h in hosts), sum((h["failed"] or 0) + (h["unreachable"] or 0) for h in hosts),
    )  # fmt: skip


def _host_rows(runs: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    rows = []
    for host in sorted({host for run in runs for host in run["hosts"]}):
        mine = [(run, run["hosts"][host]) for run in runs if host in run["hosts"]]
        sums = [sum(counted[kind] or 0 for _run, counted in mine) for kind in ("changed", "failed", "unreachable")]
        last_run, last = mine[0]
        rows.append((host, len(mine), *sums, last_run["run_id"], last["outcome"] or "open"))
    return rows


def _duration(run: Mapping[str, Any]) -> str:
    if run.get("seconds") is not None:
        return f"{run['seconds']:.1f}"
    if not run["ended_at"]:
        return ""
    return f"{max(_seconds(run['ended_at']) - _seconds(run['started_at']), 0):.1f}"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _short(playbook: str) -> str:
    return playbook.rpartition("/")[2].removesuffix(".yml")


def _cell(value: Any) -> str:
    return str("" if value is None else value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _html_cell(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f'<td class="n">{value}</td>'
    text = escape(str("" if value is None else value))
    return f"<td><code>{text}</code></td>" if len(text) == 64 else f"<td>{text}</td>"


def _items(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>" if texts else ""
