# SPDX-License-Identifier: GPL-3.0-or-later
"""The role on fresh nodes: check, apply, check, apply; killed in between; what runs then is asked itself."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.integration.observability.cases import GROUPS
from tests.integration.observability.conftest import HOST, OTHER, TOKEN, Watch, until

SERVICES = {HOST: {"prometheus", "prometheus-alertmanager", "prometheus-node-exporter"}, OTHER: {"prometheus-node-exporter"}}


def plans(run) -> dict[str, list]:
    return {task["host"]: task["plan"] for task in run.of("Let the node be observed")}


def active(fleet: Watch, host: str) -> set[str]:
    names = sorted(SERVICES[HOST])
    states = fleet.sh(host, f"systemctl is-active {' '.join(names)} || true").split()
    return {name for name, state in zip(names, states, strict=True) if state == "active"}


def test_check_predicts_what_the_apply_does(fleet: Watch) -> None:
    fleet.wipe()
    predicted = fleet.day("observability", "--check", "--diff").require()
    assert all(active(fleet, host) == set() for host in fleet.hosts)
    assert fleet.sh(HOST, "ls /etc/prometheus /usr/local/lib/pifleet /var/lib/pifleet 2>&1 || true").count("No such file") == 3
    applied = fleet.day("observability").require()
    assert plans(applied) == plans(predicted)
    assert {host for host, _task in applied.changed} == {HOST, OTHER}
    assert TOKEN not in predicted.output + applied.output


def test_nothing_is_left_to_do(observed: Watch) -> None:
    before = observed.sh(HOST, "systemctl show -p InvocationID prometheus prometheus-alertmanager")
    for check in (["--check"], []):
        assert observed.day("observability", *check).require().changed == set()
    assert observed.sh(HOST, "systemctl show -p InvocationID prometheus prometheus-alertmanager") == before


def test_what_runs_is_what_was_asked_for(observed: Watch) -> None:
    assert {host: active(observed, host) for host in observed.hosts} == SERVICES
    nodes = {f"node-exporter {host}" for host in observed.hosts}
    own = {"prometheus 127.0.0.1:9090", "alertmanager 127.0.0.1:9093"}
    until(lambda: observed.targets() == dict.fromkeys(nodes | own, "up"), "targets are up")
    rules = observed.get("9090/api/v1/rules")["data"]["groups"]
    assert {rule["name"] for group in rules for rule in group["rules"]} == {rule["alert"] for group in GROUPS for rule in group["rules"]}
    routes = yaml.safe_load(observed.get("9093/api/v2/status")["config"]["original"])
    assert {route["receiver"] for route in routes["route"]["routes"]} == {"critical", "warning", "watchdog", "nobody"}
    figures = observed.get("9090/api/v1/query?query=pifleet_clock_synchronised")["data"]["result"]
    assert {one["metric"]["instance"] for one in figures} == set(observed.hosts)
    # nobody but the node itself may ask them: neither asks who somebody is
    for port in (9090, 9093):
        assert observed.sh(OTHER, f"curl -s -m 3 http://{observed.address(HOST)}:{port}/ -o /dev/null -w '%{{http_code}}' || true") == "000"


def test_addresses_of_receivers_are_for_alertmanager_alone(observed: Watch) -> None:
    where = "/etc/alertmanager/secrets/alertmanager-receivers"
    listed = observed.sh(HOST, f"stat -c '%a %U %n' {where}/*").splitlines()
    assert listed == [f"600 prometheus {where}/{name}" for name in ("critical", "warning", "watchdog")]
    found = observed.sh(HOST, f"grep -rl {TOKEN} /etc /var/lib/pifleet /var/lib/prometheus 2>/dev/null || true").split()
    assert set(found) == {line.split()[-1] for line in listed}
    assert TOKEN not in json.dumps(observed.get("9093/api/v2/status"))
    assert observed.sh(OTHER, "ls /etc/alertmanager 2>&1 || true").strip().endswith("No such file or directory")


def test_facts_are_told_from_where_figures_are(observed: Watch) -> None:
    """With the firmware's own tool, in whose place a script stands, and without, as on other hardware."""

    def facts() -> dict[str, Any]:
        done = observed.ask(OTHER, "pifleet.ops.pi_facts")
        return yaml.safe_load(done.partition("=> ")[2])["pi"]

    def figures() -> str:
        return observed.sh(OTHER, "systemctl start pifleet-metrics.service && cat /var/lib/prometheus/node-exporter/pifleet-node.prom")

    tool = "/usr/local/bin/vcgencmd"
    observed.sh(OTHER, f"printf '#!/bin/sh\\necho throttled=0x50004\\n' >{tool} && chmod 755 {tool}")
    told, said = facts(), figures()
    assert told["throttled"] == {"now": ["throttled"], "since_boot": ["undervoltage", "throttled"]}
    assert {"pifleet_undervoltage 0.0", "pifleet_undervoltage_occurred 1.0", "pifleet_throttled 1.0"} <= set(said.splitlines())
    observed.sh(OTHER, f"rm {tool}")
    told, said = facts(), figures()
    assert (told["model"], told["revision"], told["boot_path"], told["throttled"]) == (None,) * 4
    assert "throttled" not in said and "undervoltage" not in said
    assert ("pifleet_temperature_celsius" in said) is (told["temperature"] is not None)
    wear = {name: disk["wear"] for name, disk in (told["storage"] or {}).items() if disk["wear"] is not None}
    assert set(re.findall(r'storage_wear_ratio\{device="(.*?)"', said)) == set(wear)


@pytest.mark.full
def test_killed_while_it_installs_the_next_run_ends_it(observed: Watch) -> None:
    observed.wipe(OTHER)
    # dpkg stays there once it has unpacked
    hold = "/etc/dpkg/dpkg.cfg.d/test"
    observed.sh(OTHER, f"echo 'post-invoke=touch /run/unpacked; sleep 900' >{hold}")
    run = observed.start("playbooks/observability.yml", *observed.given(), "--limit", OTHER)
    until(lambda: observed.sh(OTHER, "ls /run/unpacked 2>/dev/null || true") != "", "packages are being installed")
    programs = "pkill -KILL -x apt-get; pkill -KILL -x dpkg; pkill -KILL -f '[s]leep 900'"
    observed.sh(OTHER, f"rm {hold}; {programs}; pkill -KILL -f '[A]nsiballZ_observability_host|[p]ython3$'; true")
    run.kill()
    again = observed.day("observability").require()
    assert {host for host, _task in again.changed} == {OTHER}
    assert active(observed, OTHER) == SERVICES[OTHER]
    assert observed.day("observability").require().changed == set()


def test_bad_input_is_refused_before_anything_is_touched(observed: Watch) -> None:
    for receivers, says in (
        ({"critical": "http://127.0.0.1/"}, "No address is given for warning, watchdog."),
        (dict.fromkeys(("critical", "warning", "watchdog", "pager"), "http://127.0.0.1/"), "Nothing uses pager."),
    ):
        run = observed.day("observability", "-e", json.dumps({"observability_receivers": receivers}))
        assert run.rc != 0 and says in " ".join(run.output.split())
    run = observed.day("observability", "-e", "observability_backend=grafana")
    assert run.rc != 0 and "observability_backend" in run.output


def test_rules_that_are_none_do_not_reach_what_runs(observed: Watch) -> None:
    """And the next run with good ones goes on."""
    path = observed.folder / "charts/kube-prometheus-stack/rules.yaml"
    good, before = path.read_text(), observed.sh(HOST, "systemctl show -p InvocationID prometheus")
    path.write_text(good.replace('up{job="node-exporter"} == 0', "up{job="))
    try:
        run = observed.day("observability")
        assert run.rc != 0 and "promtool" in run.output
        assert observed.sh(HOST, "systemctl show -p InvocationID prometheus") == before
        assert len(observed.get("9090/api/v1/rules")["data"]["groups"]) == len(GROUPS)
    finally:
        path.write_text(good)
    assert {host for host, _task in observed.day("observability").require().changed} == {HOST}
    assert observed.day("observability").require().changed == set()
