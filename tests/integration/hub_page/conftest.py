# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub that serves a fleet, and a real browser without a screen that looks at its page."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from ansible_collections.pifleet.ops.hub.plays import Played
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.hub_office import HubFleet
from tests.support.ports import free_port
from tests.unit.hub.test_stacks import stack, told
from tests.unit.releases.conftest import make_plan

__all__ = ["make_plan"]


DIFF = """\
--- a/stacks/shop/web/requirements.txt
+++ b/stacks/shop/web/requirements.txt
@@ -1,2 +1,2 @@
 flask==3.0.0
-requests[socks]==2.31.0  # for the shop
+requests==2.32.4 <b>x</b>  # for the shop
"""


class Served(HubFleet):
    """*url*: where the page is."""

    url = ""

    def waiting(self, requirement: str = "pre-run") -> Any:
        """A fix run that waits for its approval, with its diff."""
        run = self.world.analysed(requirement)
        kept = self.office.desk.keep(run, "patch.diff", "analyze", DIFF)
        self.world.fix_runs.change(run.id, "fix_run.artifact", lambda found, _now: found, [kept])
        return self.world.fix_runs.begin(self.world.mine, run.id, "patch")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    fleet = Served(tmp_path / "fleet")
    calm = stack("web", status="synced", drift=[], awaiting_acknowledgement=False)
    fleet.player.answer = Played(ok=True, results=[told("pi-1", stack("shop"), calm), told("pi-2")])
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(fleet.app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fleet.url = f"http://127.0.0.1:{port}"
    yield fleet
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "Chromium is missing: scripts/setup-chromium installs it."
    with sync_playwright() as playwright:
        # its sandbox needs another user than root
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, of which every error in its script fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, locale="en-GB", timezone_id="UTC")
    found = context.new_page()
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("console", lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None)
    found.goto(served.url)
    yield found
    context.close()
    assert errors == []
