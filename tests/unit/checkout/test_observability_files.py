# SPDX-License-Identifier: GPL-3.0-or-later
"""Loki, the chart's values and the dashboard: what they promise a small node, and that what a panel asks for is there."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FOLDER, CHART = ROOT / "cluster/base/observability", ROOT / "charts/kube-prometheus-stack"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
LOKI = {one["kind"]: one for one in yaml.safe_load_all((FOLDER / "loki.yaml").read_text())}
SETTINGS = yaml.safe_load(LOKI["ConfigMap"]["data"]["loki.yaml"])
DASHBOARD = json.loads(yaml.safe_load((FOLDER / "dashboard.yaml").read_text())["data"]["fleet.json"])
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
UNITS = {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024, "MB": 1, "KB": 1 / 1024, "GB": 1024}
#: what others export: https://github.com/prometheus/node_exporter (defaults), and Prometheus itself
EXPORTED = {
    "ALERTS",
    "node_cpu_seconds_total",
    "node_disk_written_bytes_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_network_receive_bytes_total",
    "node_network_transmit_bytes_total",
    "up",
}
_WORDS = {"and", "avg", "by", "count", "ignoring", "instance", "max", "min", "on", "or", "rate", "sum", "time", "unless", "vector"}


def mebibytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def resources(tree: Any) -> list[dict[str, Any]]:
    found = []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found += [value] if key == "resources" and "limits" in value else resources(value)
    return found


def figures(expression: str) -> set[str]:
    """The figures that a PromQL expression names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)', "", re.sub(r'"[^"]*"', "", expression))
    return set(re.findall(r"[A-Za-z_:][\w:]*", bare)) - _WORDS


def test_loki_is_one_process_with_files_and_small_caches() -> None:
    pod = LOKI["StatefulSet"]["spec"]["template"]["spec"]
    assert LOKI["StatefulSet"]["spec"]["replicas"] == 1
    assert pod["containers"][0]["args"] == ["-config.file=/etc/loki/loki.yaml", "-target=all"]
    assert SETTINGS["schema_config"]["configs"][0]["object_store"] == "filesystem"
    caches = [int(size) for size in re.findall(r"max_size_mb: (\d+)", LOKI["ConfigMap"]["data"]["loki.yaml"])]
    assert caches and sum(caches) <= 64
    assert "memcached" not in LOKI["ConfigMap"]["data"]["loki.yaml"]
    limits = pod["containers"][0]["resources"]
    assert mebibytes(limits["requests"]["memory"]) <= 192 and mebibytes(limits["limits"]["memory"]) <= 512
    heap = next(one["value"] for one in pod["containers"][0]["env"] if one["name"] == "GOMEMLIMIT")
    assert sum(caches) < int(heap.removesuffix("MiB")) < mebibytes(limits["limits"]["memory"])


def test_loki_takes_what_nodes_send_late_and_keeps_it_for_a_bounded_time() -> None:
    limits = SETTINGS["limits_config"]
    assert limits["unordered_writes"] is True
    assert limits["reject_old_samples_max_age"] == limits["retention_period"] == "168h"
    assert SETTINGS["compactor"]["retention_enabled"] is True
    assert mebibytes(limits["max_line_size"]) * 1024 >= 64, "the longest line that the shipper sends"


def test_nodes_send_to_the_address_of_the_service_which_none_gets_by_chance() -> None:
    defaults = yaml.safe_load((ROOT / "roles/observability/defaults/main.yml").read_text())
    address, port = LOKI["Service"]["spec"]["clusterIP"], LOKI["Service"]["spec"]["ports"][0]["port"]
    assert defaults["observability_loki_url"] == f"http://{address}:{port}"
    # of 65,536 addresses the first 256 are not handed out before the others are used up
    number = int(ipaddress.ip_address(address)) - int(ipaddress.ip_address("10.43.0.0"))
    assert 11 < number <= 256, "and k3s gives CoreDNS the tenth"


def test_the_pinned_release_and_what_its_values_name() -> None:
    release = yaml.safe_load((CHART / "release.yaml").read_text())
    assert sorted(release["values"]) == sorted(path.name for path in CHART.iterdir() if path.name != "release.yaml")
    assert release["namespace"] == LOKI["Service"]["metadata"]["namespace"]
    secrets = {
        one["metadata"]["name"]
        for one in yaml.safe_load((ROOT / "roles/observability/vars/main.yml").read_text())["__observability_secret_objects"]
    }
    assert {*VALUES["alertmanager"]["alertmanagerSpec"]["secrets"], VALUES["grafana"]["admin"]["existingSecret"]} == secrets
    assert VALUES["grafana"]["additionalDataSources"][0]["url"] == f"http://loki.{release['namespace']}.svc:3100"


def test_every_value_is_one_that_the_chart_documents() -> None:
    """chart_keys.json: what each mapping that is set has in values.yaml of the chart's version; null where it may hold anything."""
    listed = json.loads(Path(__file__).with_name("chart_keys.json").read_text())
    release = yaml.safe_load((CHART / "release.yaml").read_text())
    assert listed["chart"] == f"{release['chart']} {release['version']}", "another version: write its keys down"

    def check(mine: dict[str, Any], place: str) -> None:
        assert place in listed["keys"], f"what does the chart have below {place}?"
        known = listed["keys"][place]
        for key, value in mine.items() if known is not None else ():
            assert key in known, f"the chart has no {place}.{key}"
            if isinstance(value, dict):
                check(value, f"{place}.{key}".strip("."))

    for name in release["values"]:
        check(yaml.safe_load((CHART / name).read_text()), "")


def test_no_figure_of_k3s_is_asked_for_twice() -> None:
    """Each component of k3s answers with the figures of all of them; the kubelet is on every node."""
    for name in ("kubeApiServer", "kubeControllerManager", "kubeScheduler", "kubeProxy", "kubeEtcd"):
        assert VALUES[name]["enabled"] is False
    assert VALUES.get("kubelet", {}).get("enabled", True) is True


def test_requests_are_for_pis_and_every_node_is_watched() -> None:
    each = resources(VALUES)
    assert len(each) >= 7
    assert sum(mebibytes(one["requests"]["memory"]) for one in each) <= 720
    assert all("cpu" not in one["limits"] for one in each), "a limit of the processor makes a Pi slower than it is"
    assert VALUES["prometheus-node-exporter"]["tolerations"] == [{"operator": "Exists"}]
    spec = VALUES["prometheus"]["prometheusSpec"]
    wanted = mebibytes(spec["storageSpec"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"])
    assert mebibytes(spec["retentionSize"]) < wanted


def test_the_dashboard_is_whole() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    sources = {
        "prometheus": "prometheus",
        VALUES["grafana"]["additionalDataSources"][0]["type"]: VALUES["grafana"]["additionalDataSources"][0]["uid"],
    }
    for panel in PANELS:
        assert sources[panel["datasource"]["type"]] == panel["datasource"]["uid"]
        assert panel["title"] and panel["targets"]
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
    names = {one["name"] for one in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$(?!__)(\w+)", json.dumps(PANELS))) == names


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_what_a_panel_asks_for_is_exported(panel: dict[str, Any]) -> None:
    if panel["datasource"]["type"] == "loki":
        # the labels that the shipper gives
        for target in panel["targets"]:
            assert set(re.findall(r"(\w+)=~", target["expr"])) <= {"node", "level", "unit", "job", "fleet"}
        return
    rules = (CHART / "rules.yaml").read_text()
    for target in panel["targets"]:
        named = figures(target["expr"])
        assert named
        unknown = {name for name in named if name not in EXPORTED and not re.search(rf"\b{name}\b", rules)}
        assert not unknown, f"no exporter and no rule has {unknown}"


def test_an_unknown_figure_is_noticed() -> None:
    assert figures('sum by (a) (rate(made_up_total{b="c"}[5m])) or vector(0)') == {"made_up_total"}
