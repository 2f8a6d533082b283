# SPDX-License-Identifier: GPL-3.0-or-later
"""Speed of the outbox beside its floor in the same run: `python -m tests.benchmarks.outbox [--rows 1000000] [--json FILE]`.

- enqueue: the durable enqueue of events against a bare INSERT and COMMIT of the same bytes into a file of the same settings; in turn
  (A B A B), and the median of the ratios counts.
- migration (within one file, between two, within one PostgreSQL, from a file into one) and drain: time a row with many rows against time a
  row with a tenth of them (linear is 1), and the memory that the process, and the hub's, grew by meanwhile.
- drain: events a second to a real hub over TLS on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.controller import ROOT

sys.path[:0] = [str(ROOT / ".collections")]

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity, sync  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.migration import Migration  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import Clearance, Outbox, Row  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.schema import sync_events  # noqa: E402
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store  # noqa: E402
from sqlalchemy import insert  # noqa: E402

from tests.support.hub import HubProcess  # noqa: E402
from tests.support.postgres import Server  # noqa: E402
from tests.support.sync import IDENTITY, event_row, sha256  # noqa: E402

ENQUEUE, LINEAR, EVENTS_A_SECOND, MEGABYTES = 1.5, 1.5, 2000.0, 64.0
#: bytes of an event's text; a real one has 300 to 1000 in all
TEXT = "x" * 400
WHEN = "2025-01-01T00:00:00.000000Z"


@dataclass(frozen=True)
class Figure:
    """*value* has to be at most *promise*; where *least*, at least. *load*: of the machine in the minute before."""

    name: str
    value: float
    promise: float
    unit: str = ""
    least: bool = False
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))

    @property
    def kept(self) -> bool:
        return self.value >= self.promise if self.least else self.value <= self.promise


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def enqueue(folder: Path, runs: int, together: int) -> Figure:
    store, clear = Store(folder / "ours.db"), Clearance(IDENTITY.scope)
    with closing(_bare(folder / f"bare{together}.db")) as bare, store.session():
        outbox = Outbox(store, limit=10**9)
        outbox.enqueue(clear, [event_row(10**9)])
        pairs = []
        for run in range(runs):
            first = (run * 2 + 1) * together + together * 10**5
            mine, other = ([event_row(first + half * together + n, text=TEXT) for n in range(together)] for half in (0, 1))
            pairs.append((timed(lambda rows=mine: outbox.enqueue(clear, rows)), timed(lambda rows=other: _insert(bare, rows))))
    ratio = statistics.median(a / b for a, b in pairs)
    return Figure(f"enqueue of {together} / bare INSERT and COMMIT", round(ratio, 2), ENQUEUE)


def _bare(path: Path) -> sqlite3.Connection:
    bare = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=DELETE", "synchronous=EXTRA"):
        bare.execute(f"PRAGMA {pragma}")
    bare.execute("CREATE TABLE t (scope TEXT, event_id TEXT, sha256 TEXT, content BLOB, queued_at TEXT, PRIMARY KEY (scope, event_id))")
    return bare


def _insert(bare: sqlite3.Connection, rows: list[Row]) -> None:
    bare.execute("BEGIN IMMEDIATE")
    values = [(IDENTITY.scope, row.key, row.sha256, row.content, WHEN) for row in rows]
    bare.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", values)
    bare.execute("COMMIT")


def fill(store: Store, count: int, scope: str = "") -> None:
    """Put rows into the queue as they would be, but for a quicker way to write their JSON."""
    with store.write() as db:
        for start in range(1, count + 1, 500):
            db.execute(insert(sync_events), list(_rows(start, min(start + 500, count + 1), scope)))


def _rows(first: int, end: int, scope: str) -> Iterator[dict[str, object]]:
    for number in range(first, end):
        content = f'{{"at":"{WHEN}","bodies":[],"chain":"c0ffee","data":{{"text":"{TEXT}"}},"seq":{number}}}'.encode()
        yield {"scope": scope, "event_id": f"c0ffee-{number:010d}", "sha256": sha256(content), "content": content, "queued_at": WHEN}


def migrate(folder: Path, count: int) -> dict[str, float]:
    store = Store(folder / "ledger.db")
    fill(store, count)
    return _measured(lambda: Migration(store).run(IDENTITY))


def between(folder: Path, count: int) -> dict[str, float]:
    """Migrate from the ledger before into the one in use."""
    store, before = Store(folder / "ledger.db"), Store(folder / "before.db")
    with store.write():
        pass
    fill(before, count)
    return _measured(lambda: Migration(store, before).run(IDENTITY))


def postgres(folder: Path, count: int) -> dict[str, float]:
    """Migrate within one database of a PostgreSQL."""
    with Server(Path(tempfile.gettempdir())) as server:
        store = Store(server.fresh(), folder)
        fill(store, count)
        return _measured(lambda: Migration(store).run(IDENTITY), server.pid)


def into_postgres(folder: Path, count: int) -> dict[str, float]:
    """Migrate from a file into a PostgreSQL, as a fleet does whose operators are to share its ledger."""
    before = Store(folder / "before.db")
    fill(before, count)
    with Server(Path(tempfile.gettempdir())) as server:
        store = Store(server.fresh(), folder)
        with store.write():
            pass
        return _measured(lambda: Migration(store, before).run(IDENTITY), server.pid)


def drain(folder: Path, count: int) -> dict[str, float]:
    with HubProcess(folder / "hub") as hub:
        fleet = folder / "fleet"
        fleet.mkdir()
        (fleet / "token").write_text(hub.token(IDENTITY.team_or_user))
        (fleet / "token").chmod(0o600)
        (fleet / "evidence.yml").write_text(
            json.dumps(
                {
                    "hub_url": hub.url,
                    "owner": IDENTITY.owner,
                    "fleet": IDENTITY.fleet,
                    "token_file": "token",
                    "ca_file": str(hub.ca),
                    "outbox_limit": 10**9,
                }
            )
        )
        settings = identity.load(fleet)
        fill(Store(settings.default_ledger), count, settings.scope)
        done: list[sync.Synced] = []
        measured = _measured(lambda: done.append(sync.sync_now(settings)), hub.pid)
        if done[0].delivered.events != count:
            raise RuntimeError(f"{done[0]} of {count}")
    return measured


def _measured(work: Callable[[], object], beside: int | None = None) -> dict[str, float]:
    """Return the seconds that *work* took, those of them that processors computed, and by how many megabytes this process grew.

    *beside*: the process that did its part of it; what it computed counts too, and by how much it grew is told beside.
    """
    memory, computed, its = _megabytes(), _computed(beside), _megabytes(beside)
    seconds = timed(work)
    return {
        "seconds": seconds,
        "computed": _computed(beside) - computed,
        "grown": _megabytes() - memory,
        "grown_beside": _megabytes(beside) - its,
    }


def _computed(beside: int | None) -> float:
    """Seconds of processors, those of the children of *beside* that have ended among them: PostgreSQL makes one for each connection."""
    if beside is None:
        return time.process_time()
    fields = Path(f"/proc/{beside}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int | None = None) -> float:
    """The most memory that a process had so far."""
    (line,) = (one for one in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines() if one.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def alone(what: str, count: int) -> dict[str, float]:
    """Measure in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "tests.benchmarks.outbox", "--only", what, "--rows", str(count)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


MEASURES: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "migrate": migrate,
    "between": between,
    "postgres": postgres,
    "into_postgres": into_postgres,
    "drain": drain,
}


def scaled(what: str, rows: int) -> list[Figure]:
    small, large = alone(what, rows // 10), alone(what, rows)
    ratio = (large["seconds"] / rows) / (small["seconds"] / (rows // 10))
    figures = [
        Figure(f"{what}: time a row with {rows} / with {rows // 10}", round(ratio, 2), LINEAR),
        Figure(f"{what}: memory grown by {rows} rows", round(large["grown"], 1), MEGABYTES, "MB"),
    ]
    if what == "drain":
        figures.append(Figure(f"drain: memory of the hub grown by {rows} rows", round(large["grown_beside"], 1), MEGABYTES, "MB"))
        figures.append(Figure("drain to a loopback hub over TLS", round(rows / large["seconds"]), EVENTS_A_SECOND, "events/s", least=True))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--only", choices=list(MEASURES), help="measure this once and print it")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pifleet-bench-"))
    try:
        if args.only:
            print(json.dumps(MEASURES[args.only](folder, args.rows)))
            return 0
        figures = [enqueue(folder, args.runs, together) for together in (1, 50)]
        for what in MEASURES:
            figures += scaled(what, args.rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for f in figures:
        print(f"{f.name:<55} {f.value:>10} {f.unit:<9} promise {f.promise:g}  {'kept' if f.kept else 'BROKEN'}")
    if args.json:
        args.json.write_text(json.dumps([asdict(f) | {"kept": f.kept} for f in figures], indent=2) + "\n")
    return 0 if all(f.kept for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
