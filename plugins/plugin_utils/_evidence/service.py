# SPDX-License-Identifier: GPL-3.0-or-later
"""The sync service: queues and sends the fleet's evidence as it comes, unattended, and owns the outbox while it does.

The unit pifleet-sync runs ``python -m ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.service --root FLEET_ROOT``.
It keeps the identity that it began with: where ``evidence.yml`` says another one later, the preflight of every run tells of the difference
until the service was started anew.
"""

from __future__ import annotations

import argparse
import http.server
import json
import logging
import random
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import preflight
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity as identities
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import sync, textfile
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.identity import Settings
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.outbox import backoff
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.owner import OwnerRecord, Ownership
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import process
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.events import text_of, utc_now

#: seconds between two looks at an outbox whose hub is in order
INTERVAL = 10.0

log = logging.getLogger("pifleet-sync")


class Service:
    """The loop. *wait*: waits that many seconds, or less, and says whether the service is to end."""

    def __init__(
        self,
        settings: Settings,
        wait: Callable[[float], bool],
        *,
        interval: float = INTERVAL,
        connect: sync.Connect = sync.connect,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        sync.identity_of(settings)
        self._settings = settings
        self._foreground = preflight.foreground_of(settings)
        self._wait = wait
        self._interval = interval
        self._connect = connect
        self._jitter = jitter
        self._now = now
        self._failures = 0
        self._said = ""
        self._unwritten = ""
        self._ownership = Ownership(settings.sync_dir)

    def record(self, port: int) -> OwnerRecord:
        """Return the record of this process as the owner."""
        me, mine = process.identify(self._foreground.pid), self._foreground
        return OwnerRecord(
            pid=mine.pid,
            started_at=text_of(self._now()),
            controller=me.controller,
            boot_id=me.boot_id,
            process_started=me.started,
            port=port,
            executable_path=mine.executable_path,
            source_path=mine.source_path,
            package_version=mine.package_version,
            server_url=mine.server_url,
            team_or_user=mine.team_or_user,
            queue_db_path=mine.queue_db_path,
        )

    def run(self, port: int = 0) -> None:
        """Own the outbox and deliver until it is told to end, or its record is taken away. Raises OwnerError where it may not own it."""
        self._ownership.claim(self.record(port))
        self._say(f"owns the outbox of {self._foreground.team_or_user} for {self._foreground.server_url}")
        try:
            while self._ownership.held() and not self._wait(self.cycle()):
                pass
            if not self._ownership.held():
                self._say("its record was taken away: it ends")
        finally:
            self._ownership.release()

    def cycle(self) -> float:
        """Queue and send once, write the figures, and return the seconds until the next time."""
        wait = self._cycle()
        why = textfile.publish(self._settings, ledger_of(self._settings))
        if why != self._unwritten:
            self._unwritten = why
            log.warning("%s", why or "figures are written again")
        return wait

    def _cycle(self) -> float:
        """Queue and send once. What goes wrong is said once, and tried again later."""
        try:
            with self._connect(self._settings) as hub:
                done = sync.deliver(self._settings, hub, self._foreground, stop=lambda: self._wait(0), now=self._now)
        except PifleetError as error:
            return self._failed(str(error))
        sent = done.delivered
        if sent.events or sent.bodies or sent.rejected:
            log.info("sent %d events and %d bodies; %d were refused", sent.events, sent.bodies, sent.rejected)
        if sent.error is not None:
            return self._failed(str(sent.error))
        self._failures = 0
        self._say(str(done.full) if done.full else "all is sent")
        return self._interval

    def _failed(self, why: str) -> float:
        self._failures += 1
        self._say(why)
        return backoff(self._failures, self._jitter)

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            log.info("%s", what)


def serve_status(settings: Settings) -> http.server.ThreadingHTTPServer:
    """Return a server on a free loopback port that answers GET / with the status, as JSON without secrets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                code, shown = 200, sync.status(settings).to_dict()
            except PifleetError as error:
                code, shown = 503, {"error": str(error)}
            body = json.dumps(shown).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            """Nothing: who looks at a status is no event."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service and return its exit code: 2 where a person has to correct something."""
    parser = argparse.ArgumentParser(prog="pifleet-sync", description="Sends the evidence of a fleet to its hub.")
    parser.add_argument("--root", type=Path, required=True, help="the fleet's folder (fleet_root)")
    parser.add_argument("--interval", type=float, default=INTERVAL, help="seconds between two looks (default: %(default)s)")
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="pifleet-sync: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    try:
        settings = identities.load(args.root.resolve())
        service = Service(settings, end.wait, interval=args.interval)
        with serve_status(settings) as server:
            service.run(server.server_address[1])
            server.shutdown()
    except PifleetError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
