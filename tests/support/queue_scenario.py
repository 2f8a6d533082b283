# SPDX-License-Identifier: GPL-3.0-or-later
"""What the molecule scenario `fix_queue` begins with: `python -m tests.support.queue_scenario start|stop INVENTORY FOLDER`.

As in `fix_scenario`, and beside it RabbitMQ, PostgreSQL, a hub and two workers, which are there until `stop`. FOLDER/hub.json says where.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.support.fleet import ROOT, Fleet

sys.path[:0] = [str(ROOT / ".collections")]

from tests.integration.fix_queue.conftest import Queued  # noqa: E402
from tests.integration.fix_runs.conftest import prepared  # noqa: E402
from tests.support.fix_queue import QUEUE  # noqa: E402
from tests.support.postgres import Server  # noqa: E402
from tests.support.rabbitmq import Broker  # noqa: E402

PID, HUB, LOG = "holder.pid", "hub.json", "holder.log"


def start(inventory: Path, folder: Path) -> None:
    """Return once all of it is there."""
    stop(inventory, folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", "tests.support.queue_scenario", "hold", str(inventory), str(folder)]
    with (folder / LOG).open("wb") as log:
        holder = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (folder / PID).write_text(str(holder.pid))
    while not (folder / HUB).exists():
        if holder.poll() is not None:
            sys.exit((folder / LOG).read_text(errors="replace"))
        time.sleep(0.1)


def stop(_inventory: Path, folder: Path) -> None:
    """End what `start` began, if it is there."""
    with suppress(OSError, ValueError):
        pid = int((folder / PID).read_text())
        words = Path(f"/proc/{pid}/cmdline")
        # told once: another signal would cut off what it ends with
        if b"tests.support.queue_scenario" in words.read_bytes():
            os.kill(pid, signal.SIGTERM)
        while b"tests.support.queue_scenario" in words.read_bytes():
            time.sleep(0.2)


def hold(inventory: Path, folder: Path) -> None:
    """Be there until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    fleet = Fleet(inventory)
    prepared(fleet)
    with Broker() as broker, Server() as server:
        url = server.fresh()
        shop = Queued(fleet, folder / "fleet", broker, url)
        shop.profile(approval={"requirement": "pre-run"})
        shop.repository.commit()
        shop.deploy(rc=2)
        try:
            shop.office.start_workers()
            told = {"url": shop.office.url, "ledger": url, "broker": broker.url, "queue": QUEUE}
            told |= {role: shop.office.token(role) for role in ("viewer", "operator", "approver")}
            written = folder / f"{HUB}.new"
            written.write_text(json.dumps(told))
            written.rename(folder / HUB)
            signal.pause()
        finally:
            shop.office.stop()


if __name__ == "__main__":
    does, *words = sys.argv[1:]
    {"start": start, "stop": stop, "hold": hold}[does](*(Path(word).resolve() for word in words))
