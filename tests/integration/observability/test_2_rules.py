# SPDX-License-Identifier: GPL-3.0-or-later
"""Every rule by promtool, every route by amtool, those of the node: fires, does not fire, goes to whom."""

from __future__ import annotations

import base64
from dataclasses import replace

import yaml

from tests.integration.observability.cases import ALWAYS, BY_NAME, CASES, ROUTES, TOLD, promtool_file, rules_file
from tests.integration.observability.conftest import HOST, Watch


def put(fleet: Watch, name: str, text: str) -> None:
    fleet.sh(HOST, f"mkdir -p /root/rules && base64 -d >/root/rules/{name} <<'END'\n{base64.encodebytes(text.encode()).decode()}END\n")


def test_every_rule_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires = {case.alert for case in CASES if case.labels is not None}
    quiet = {case.alert for case in CASES if case.labels is None}
    assert fires == set(BY_NAME)
    assert quiet == set(BY_NAME) - ALWAYS


def test_every_receiver_is_reached_by_some_alert() -> None:
    assert {receiver for _labels, receiver in TOLD} == {receiver["name"] for receiver in ROUTES["receivers"]}
    told = {labels["alertname"] for labels, _receiver in TOLD if "alertname" in labels}
    assert set(BY_NAME) <= told


def test_rules_fire_when_they_should_and_only_then(observed: Watch) -> None:
    put(observed, "rules.yml", rules_file())
    put(observed, "tests.yml", promtool_file(CASES))
    both = "promtool check rules --lint-fatal rules.yml && promtool test rules tests.yml"
    assert "SUCCESS" in observed.sh(HOST, f"cd /root/rules && {both} 2>&1")


def test_a_case_that_is_wrong_is_found(observed: Watch) -> None:
    """Of each alert: promtool says so when what is expected is turned around. Else the test above would prove nothing."""
    turned = [replace(case, labels={"a": "b"} if case.labels is None else None) for case in CASES]
    put(observed, "rules.yml", rules_file())
    put(observed, "turned.yml", promtool_file(turned))
    said = observed.sh(HOST, "cd /root/rules && promtool test rules turned.yml 2>&1 || true")
    assert "FAILED" in said
    assert said.count("alertname: ") == len(CASES)


def test_every_alert_is_told_to_whom_it_concerns(observed: Watch) -> None:
    put(observed, "routes.yml", yaml.safe_dump(dict(ROUTES)))
    words = [" ".join([f"--verify.receivers={receiver}", *(f"{k}={v}" for k, v in labels.items())]) for labels, receiver in TOLD]
    script = "\n".join(f"amtool config routes test --config.file=routes.yml {each} >>said 2>&1 || echo 'WRONG {each}'" for each in words)
    assert observed.sh(HOST, f"cd /root/rules\n{script}") == ""
    # it does say so of another receiver
    wrong = "amtool config routes test --config.file=routes.yml --verify.receivers=warning severity=critical"
    assert "WRONG" in observed.sh(HOST, f"cd /root/rules; {wrong} >/dev/null 2>&1 || echo WRONG")
