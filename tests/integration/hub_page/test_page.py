# SPDX-License-Identifier: GPL-3.0-or-later
"""The page in a real browser: what it shows, that a keyboard is enough, that it fits a phone.

``PIFLEET_SCREENSHOTS=docs/images`` keeps the pictures that docs/hub.md shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Plan
from playwright.sync_api import Page, expect

from tests.integration.hub_page.conftest import Served
from tests.support.hub_office import LOGINS
from tests.unit.releases.conftest import World as ReleaseWorld

PHONE = {"width": 375, "height": 800}


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("PIFLEET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def log_in(page: Page, served: Served, role: str) -> None:
    """With the keyboard alone."""
    page.get_by_label("Token").focus()
    page.keyboard.type(served.tokens[role])  # type: ignore[index]
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Forget the token")).to_be_visible()
    expect(page.get_by_label("Token")).to_be_hidden()


def tab_to(page: Page, name: str) -> None:
    """Go to a button as a keyboard does."""
    page.locator("#main").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent") == name:
            return
    raise AssertionError(f"Tab does not come to {name}")


def refreshed(served: Served) -> None:
    served.office.fleet.refresh("alice")
    served.refreshed()


def test_everything_is_shown(page: Page, served: Served, make_plan: Callable[..., Plan]) -> None:
    refreshed(served)
    release = ReleaseWorld(served.root / ".pifleet/ledger.db").completed(make_plan("1.4.2"))
    run = served.waiting()
    log_in(page, served, "approver")
    waiting = page.locator("#waiting")
    expect(waiting.locator("article")).to_have_count(1)
    expect(waiting).to_contain_text(f"{run.id}, asked for by alice")
    expect(waiting.locator("code")).to_have_text(run.plan_digest)
    expect(waiting.locator("pre")).to_contain_text("+requests==2.32.4 <b>x</b>  # for")  # as text
    expect(page.locator("#fleet tbody tr")).to_have_count(2)
    expect(page.locator("#stacks tbody tr").first).to_contain_text("web: image (another one)")
    expect(page.locator("#releases tbody tr")).to_have_count(1)
    expect(page.locator("#releases tbody tr")).to_contain_text(release.version)
    expect(page.locator("#runs")).to_contain_text("awaiting_approval")
    expect(page.locator("#queue")).to_contain_text("in order")
    keep(page, "hub")


def test_keyboard_is_enough_to_approve(page: Page, served: Served) -> None:
    run = served.waiting()
    log_in(page, served, "approver")
    expect(page.locator("article")).to_have_count(1)
    tab_to(page, f"Approve {run.id}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text(f"{run.id} was approved: it is pending.")
    expect(page.locator("#waiting")).to_contain_text("Nothing waits.")
    after = served.office.fix_runs.get(run.id)
    assert [(a.decision, a.approver, a.plan_digest) for a in after.approvals] == [("approved", LOGINS["approver"], run.plan_digest)]
    assert served.queue.told == [(run.id, "normal")]


def test_keyboard_is_enough_to_reject(page: Page, served: Served) -> None:
    run = served.waiting()
    log_in(page, served, "approver")
    expect(page.locator("article")).to_have_count(1)
    tab_to(page, f"Reject {run.id}")
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_have_text(f"{run.id} was rejected: it is rejected.")
    assert served.office.fix_runs.get(run.id).status == "rejected"


def test_what_happens_meanwhile_is_shown(page: Page, served: Served) -> None:
    log_in(page, served, "viewer")
    expect(page.locator("#waiting")).to_contain_text("Nothing waits.")
    with page.expect_response("**/api/nodes"):
        run = served.waiting()
    expect(page.locator(f"#run-{run.id}")).to_be_visible()


def test_token_of_another_role_and_one_that_is_none_are_said(page: Page, served: Served) -> None:
    run = served.waiting()
    log_in(page, served, "viewer")
    page.get_by_role("button", name=f"Approve {run.id}").click()
    expect(page.get_by_role("status")).to_contain_text("is of the role viewer")
    page.get_by_role("button", name="Forget the token").click()
    expect(page.locator("article")).to_have_count(0)
    page.get_by_label("Token").fill("none")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("No valid token")
    expect(page.get_by_label("Token")).to_be_focused()


def test_stack_is_acknowledged_and_the_nodes_are_asked(page: Page, served: Served) -> None:
    refreshed(served)
    log_in(page, served, "operator")
    tab_to(page, "Acknowledge the plan of shop on pi-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("The plan of shop on pi-1 is carried out.")
    tab_to(page, "Ask the nodes again")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("The nodes are asked.")
    expect(page.locator("#refresh-status")).to_have_text("succeeded")
    served.office.fleet._worker.submit(lambda: None).result(30)
    assert [name for name, _variables in served.player.played][:3] == ["stacks_status.yml", "acknowledge.yml", "stacks_status.yml"]


def test_it_fits_a_phone(page: Page, served: Served) -> None:
    refreshed(served)
    served.waiting()
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    log_in(page, served, "approver")
    expect(page.locator("article")).to_have_count(1)
    expect(page.locator("#stacks tbody tr")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    small = page.evaluate("[...document.querySelectorAll('button, input')].filter(b => b.offsetParent && b.offsetHeight < 44).length")
    assert small == 0, "a thumb needs 44 pixels"
    keep(page, "hub-phone")
