# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of a ledger in which everything happened once: what they say, that both say it, and that nothing in it becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import report
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.report import Review
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._rebuild_report import rendered

from tests.support.tampering import HOSTS, audit, whole


class Page(HTMLParser):
    """What a browser would see: *text*, and the names of elements that were opened and closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.opened, self.closed = "", list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Review:
    folder = tmp_path_factory.mktemp("ledger")
    store = Store(folder / "ledger.db")
    whole(store, folder)
    page, found = Queries(store).runs(Wanted()), audit(store)
    return Review("Evidence", page.items, page.total, (), found.notes, found.heads, found.events, found.statements)


def test_both_forms_tell_every_run_host_artifact_and_failure(review: Review) -> None:
    texts = (report.to_markdown(review), Page(report.to_html(review)).text)
    expected = [run["run_id"] for run in review.runs] + list(HOSTS) + ["cluster-baseline.diff", "rebuild-pi-3.md", "Start the service"]
    for text in texts:
        assert [name for name in expected if name not in text] == []
        assert f"The ledger is what was recorded: {review.events} events, {review.statements} signed statements" in text
        assert "Without a statement of their own" in text
        assert "interrupted" in text and "checked" in text


def test_timeline_has_a_bar_for_each_run(review: Review) -> None:
    html = report.to_html(review)
    assert html.count("<rect ") == len(review.runs)
    for run in review.runs:
        assert re.search(rf'fill="{report.COLOURS[run["status"]]}"><title>{run["run_id"]}: site.yml, {run["status"]}', html)
    page = Page(html)
    assert sorted(t for t in page.opened if t not in ("meta", "line", "rect")) == sorted(
        t for t in page.closed if t not in ("line", "rect")
    )
    assert "http" not in html, "it needs nothing but itself"


def test_same_ledger_gives_the_same_report(review: Review) -> None:
    assert report.to_html(review) == report.to_html(replace(review))
    assert report.to_markdown(review) == report.to_markdown(replace(review))


def test_findings_come_first(review: Review) -> None:
    bad = replace(review, findings=("The run x is not what was recorded.",))
    for text in (report.to_markdown(bad), Page(report.to_html(bad)).text):
        assert text.index("The ledger is NOT what was recorded: 1 findings.") < text.index("The run x is not") < text.index("Runs (")
    assert '<p class="bad">' in report.to_html(bad)


def test_ledger_without_runs_has_a_report_too() -> None:
    empty = Review("Evidence", (), 0, (), (), {}, 0, 0)
    assert "No runs." in report.to_html(empty)
    assert "## Runs (0)" in report.to_markdown(empty)


def test_what_was_recorded_is_text_and_no_markup(review: Review) -> None:
    run = {**review.runs[0], "playbook": "<script>alert(1)</script>|x.yml", "requester": "a|b\nc", "host_limit": '"><b>'}
    harmful = replace(review, runs=(run,), title="<i>T</i>")
    html = report.to_html(harmful)
    assert {"script", "i", "b"} & set(Page(html).opened) == set()
    rows = [line for line in report.to_markdown(harmful).splitlines() if run["run_id"] in line and "a\\|b c" in line]
    assert len(rows) == 1 and "<script" not in rows[0] and "\\|x.yml" in rows[0]


def test_of_very_many_runs_the_newest_are_drawn(review: Review) -> None:
    many = replace(review, runs=[{**review.runs[0], "run_id": f"run-{n}"} for n in range(200)], total=500)
    html = report.to_html(many)
    assert html.count("<rect ") == 120
    assert "Runs (200 of 500)" in html


# --- templates -----------------------------------------------------------------------------------------------------------

GOVERNANCE = Path(__file__).resolve().parents[3] / "docs/governance"
#: those that other code fills in are tested with it
THEIRS = ("alert-test-template.md", "rebuild-drill-template.md")
TEMPLATES = sorted(path for path in GOVERNANCE.glob("*-template.md") if path.name not in THEIRS)
TRANSCRIPT = "phase: rebuild\ncommand: ansible-playbook\nbegan: then\nended: now\ntook: 1\nexit code: 0\n\nPLAY [x]\nphase: not this\n"
REBUILD = {
    "node": "pi-3",
    "role": "agent",
    "status": "succeeded",
    "reasons": ["no_data"],
    "hardware": "",
    "attempts": [],
    "budget_minutes": 60,
}


ALERT_TEST = {
    "severity": "critical",
    "error": "",
    "fired_at": "2026-01-01T00:00:01Z",
    "routed_at": "2026-01-01T00:00:02Z",
    "receivers": ["pager"],
    "delivered_at": "2026-01-01T00:00:03Z",
    "seconds": 2.0,
    "resolved_at": "2026-01-01T00:00:09Z",
    "runbook": "https://fleet.example/runbooks/observability",
}


def with_a_drill(review: Review) -> tuple[Review, dict[str, str]]:
    """The ledger's runs, of which the oldest left what a drill leaves."""
    rebuild = json.dumps({**REBUILD, "started_at": "then", "ended_at": "now"})
    kept = [
        ("drill-wipe.txt", "text/plain", "phase: wipe\nnode: pi-3\n", "3" * 64),
        ("drill-rebuild.txt", "text/plain", TRANSCRIPT, "1" * 64),
    ]
    kept += [("rebuild-pi-3.json", "application/json", rebuild, "2" * 64)]
    left = [{"name": name, "media_type": kind, "size": len(text), "sha256": sha256, "created_at": ""} for name, kind, text, sha256 in kept]
    oldest = {**review.runs[-1], "artifacts": left}
    return replace(review, runs=(*review.runs[:-1], oldest)), {sha256: text for _name, _kind, text, sha256 in kept}


def test_a_template_gets_what_runs_left(review: Review) -> None:
    given = report.for_template(*with_a_drill(review))
    assert [run["run_id"] for run in given["runs"]] == [run["run_id"] for run in reversed(review.runs)]
    wipe, phase = given["phases"]
    assert (wipe["phase"], wipe["exit_code"]) == ("wipe", "")
    assert (phase["phase"], phase["exit_code"], phase["sha256"]) == ("rebuild", "0", "1" * 64)
    assert [rebuild["node"] for rebuild in given["rebuilds"]] == ["pi-3"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_is_filled_with_every_run(review: Review, path: Path) -> None:
    text = rendered(path.read_text(), report.for_template(*with_a_drill(review)), path.name)
    assert [run["run_id"] for run in review.runs if run["run_id"] not in text] == []
    assert "{{" not in text and "{%" not in text
    assert "1" * 64 in text and "The ledger is what was recorded" in text
    # a table has as many cells in each row as in its head
    for table in re.findall(r"(?m)(?:^\|.*\n)+", text):
        assert len({re.sub(r"\\\\.", "", row).count("|") for row in table.splitlines()}) == 1, table


def test_a_drill_tells_when_its_alert_fired_arrived_and_was_resolved(review: Review) -> None:
    path = GOVERNANCE / "end-to-end-validation-template.md"
    text = rendered(path.read_text(), report.for_template(*with_a_drill(review), [ALERT_TEST]), path.name)
    told = dict(re.findall(r"(?m)^\| (\w+) \| (.+) \|$", text.partition("## The alerts")[2].partition("\n## ")[0]))
    assert told == {
        "Severity": "critical, passed",
        "Fired": "2026-01-01T00:00:01Z",
        "Routed": "2026-01-01T00:00:02Z",
        "Receivers": "pager",
        "Delivered": "2026-01-01T00:00:03Z, after 2.0 s",
        "Resolved": "2026-01-01T00:00:09Z",
        "Runbook": "https://fleet.example/runbooks/observability",
    }
    untested = rendered(path.read_text(), report.for_template(*with_a_drill(review)), path.name)
    assert "No alert was tested." in untested


def test_what_a_run_says_does_not_become_markup(review: Review) -> None:
    bad, contents = with_a_drill(review)
    bad = replace(bad, runs=({**bad.runs[0], "requester": "<b>|x|</b>"}, *bad.runs[1:]))
    path = GOVERNANCE / "bootstrap-template.md"
    text = rendered(path.read_text(), report.for_template(bad, contents), path.name)
    assert "<b>" not in text
    assert "\\|x\\|" in text
