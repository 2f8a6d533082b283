# SPDX-License-Identifier: GPL-3.0-or-later
"""What every alert has: a severity that is routed, a runbook that is there, and its time from cause to message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._observability import alert_test

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts/kube-prometheus-stack"
ROUTES = yaml.safe_load((CHART / "alertmanager-config.yaml").read_text())["alertmanager"]["config"]
UNITS = {"s": 1, "m": 60, "h": 3600}


def rules() -> list[dict[str, Any]]:
    maps = yaml.safe_load((CHART / "rules.yaml").read_text())["additionalPrometheusRulesMap"]
    return [rule for one in maps.values() for group in one["groups"] for rule in group["rules"]]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them of single words."""
    return {match.lower() for match in re.findall(r"^#+ (\S+)$", text, re.M)}


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d+[smh]", text), text
    return int(text[:-1]) * UNITS[text[-1]]


def routes(route: dict[str, Any], above: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Every route with what it inherits."""
    own = {**(above or {}), **{key: value for key, value in route.items() if key != "routes"}}
    yield own
    for child in route.get("routes", ()):
        yield from routes(child, own)


def test_names_are_used_once() -> None:
    names = [rule["alert"] for rule in rules()]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_rule_is_routed_and_links_its_runbook(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "none")
    assert rule["annotations"]["summary"] and rule["annotations"]["description"]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.startswith("docs/runbooks/")
    assert anchor == rule["alert"].lower()
    assert anchor in anchors((ROOT / page).read_text())


def test_every_section_of_the_runbook_is_of_an_alert() -> None:
    """Other headings are of several words."""
    text = (ROOT / "docs/runbooks/observability.md").read_text()
    assert anchors(text) == {rule["alert"].lower() for rule in rules()} | {alert_test.NAME.lower()}


def test_receivers_and_routes_name_each_other() -> None:
    assert {route["receiver"] for route in routes(ROUTES["route"])} == {receiver["name"] for receiver in ROUTES["receivers"]}


def test_no_receiver_has_its_address_in_plain_text() -> None:
    """Each is a file of its own name, which the role writes from observability_receivers."""
    for receiver in ROUTES["receivers"]:
        for config in (one for key, value in receiver.items() if key.endswith("_configs") for one in value):
            assert config["url_file"] == f"/etc/alertmanager/secrets/alertmanager-receivers/{receiver['name']}"
            assert "url" not in config


def test_a_dead_node_is_told_within_five_minutes() -> None:
    """From its last answer: the scrape that fails, its timeout, the rule's patience, the evaluation that sees it, and the group's wait."""
    (down,) = (rule for rule in rules() if rule["alert"] == "NodeDown")
    (critical,) = (route for route in routes(ROUTES["route"]) if 'severity="critical"' in route.get("matchers", ()))
    variables = yaml.safe_load((ROOT / "roles/observability/vars/main.yml").read_text())
    prometheus = variables["__observability_prometheus"]["global"]
    scrape, timeout, evaluation = (seconds(prometheus[key]) for key in ("scrape_interval", "scrape_timeout", "evaluation_interval"))
    # two evaluations: one begins the patience, one ends it
    total = scrape + timeout + evaluation + seconds(down["for"]) + evaluation + seconds(critical["group_wait"])
    assert down["labels"]["severity"] == "critical"
    assert total <= 300, f"{total} s"
