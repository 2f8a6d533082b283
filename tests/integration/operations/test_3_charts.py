# SPDX-License-Identifier: GPL-3.0-or-later
"""Helm releases on a real API: the module helm_release, and the charts of playbooks/collect_diff.yml. The real helm, no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from lab import tools
from lab.console import Console
from tests.integration.operations.conftest import HERE, Operations
from tests.support.fleet import ROOT, Process, Run, descendants
from tests.support.ports import free_port

# minutes long, and helm is built for it
pytestmark = pytest.mark.full

OLD, NEW = "correct-horse-battery-staple", "another-horse-entirely"
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - pifleet.ops.helm_release:
        name: lab-chart
        kubeconfig: "{{ k3s_kubeconfig_path }}"
        context: "{{ fleet_name }}"
        kube_version: "{{ k3s_version }}"
        timeout: "{{ seconds | default(60) }}"
        chart_dir: "{{ chart_dir | default('') }}"
      run_once: true
"""


@dataclass
class Charts:
    """The fleet with one release in its folder. *env*: helm is found there, and no proxy lets anything out."""

    fleet: Operations
    playbook: Path
    helm: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.fleet.folder / "charts/lab-chart"

    def pin(self, **more: str) -> None:
        release = {"chart": "lab-chart", "version": "1.0.0", "repository": "http://127.0.0.1:9", "namespace": "shop", **more}
        (self.folder / "release.yaml").write_text(yaml.safe_dump(release))

    def values(self, **values: Any) -> None:
        (self.folder / "values.yaml").write_text(yaml.safe_dump(values))

    def package(self, into: Path, version: str = "1.0.0") -> Path:
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run([self.helm, "package", HERE / "lab-chart", "--version", version, "-d", into], check=True, capture_output=True)
        return into / f"lab-chart-{version}.tgz"

    def start(self, *args: str) -> Process:
        return self.fleet.start(str(self.playbook), "-e", f"fleet_root={self.fleet.folder}", *args, env=self.env)

    def run(self, *args: str) -> Run:
        return self.start(*args).wait(300)

    def release(self, run: Run) -> dict[str, Any]:
        (task,) = run.of("helm_release")
        return dict(task)

    def compare(self, *args: str) -> Run:
        return self.fleet.day("collect_diff", "-e", json.dumps({"collect_diff_charts": ["lab-chart"]}), *args, env=self.env)

    def live(self, kind: str = "configmap") -> dict[str, Any]:
        return dict(json.loads(self.fleet.kubectl("-n", "shop", "get", kind, "lab-chart", "-o", "json"))["data"])

    def secret(self, name: str) -> dict[str, str]:
        return dict(json.loads(self.fleet.kubectl("-n", "monitoring", "get", "secret", name, "-o", "json"))["data"])

    def statuses(self) -> list[str]:
        said = self.fleet.kubectl("-n", "shop", "get", "secret", "-l", "owner=helm", "-o", "json")
        return [item["metadata"]["labels"]["status"] for item in json.loads(said)["items"]]


@pytest.fixture(scope="module")
def charts(fleet: Operations, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Charts]:
    where = tmp_path_factory.mktemp("helm")
    helm = tools.ensure("helm", Console())
    (where / "bin").mkdir()
    (where / "bin/helm").symlink_to(helm)
    (where / "play.yml").write_text(PLAYBOOK)
    nowhere = "http://127.0.0.1:9"
    env = {
        "PATH": f"{where / 'bin'}:{os.environ['PATH']}",
        "HOME": str(where),  # no repository and no plugin of whoever runs the tests
        "HTTPS_PROXY": nowhere,
        "HTTP_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,172.30.124.0/24",
    }
    made = Charts(fleet, where / "play.yml", helm, env)
    made.folder.mkdir(parents=True)
    made.pin()
    made.values(colour="red", password=OLD)
    yield made
    for path in sorted(made.folder.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    made.folder.parent.rmdir()


def test_without_a_network_the_archive_has_to_be_there(charts: Charts) -> None:
    empty = charts.playbook.parent / "empty"
    empty.mkdir()
    run = charts.run("-e", f"chart_dir={empty}").require(2)
    assert f"{empty} has no lab-chart-1.0.0.tgz. Bring it with `helm pull lab-chart" in run.output
    assert "`helm pull` failed" in charts.run().require(2).output
    wrong = charts.package(empty, "1.0.1").rename(empty / "lab-chart-1.0.0.tgz")
    assert "is lab-chart 1.0.1, and" in charts.run("-e", f"chart_dir={empty}").require(2).output
    charts.pin(sha256="0" * 64)
    assert "has the SHA-256" in charts.run("-e", f"chart_dir={empty}").require(2).output
    assert not (charts.fleet.folder / ".pifleet/charts/lab-chart-1.0.0.tgz").exists()
    charts.pin(sha256=hashlib.sha256(charts.package(charts.folder).read_bytes()).hexdigest())
    wrong.unlink()


def test_the_check_predicts_what_is_installed_and_a_second_run_changes_nothing(charts: Charts) -> None:
    check = charts.run("--check", "--diff").require()
    assert "shop" not in charts.fleet.kubectl("get", "namespaces")
    first = charts.run().require()
    for run in (check, first):
        assert charts.release(run)["changed"]
        assert OLD not in run.output
    assert charts.live() == {"colour": "red"}
    for args in (("--check",), ()):
        assert not charts.release(charts.run(*args).require())["changed"]
    assert charts.statuses() == ["deployed"]


def test_a_clean_release_is_clean_and_a_changed_one_is_drift(charts: Charts) -> None:
    run = charts.compare().require(0)
    assert "**clean**" in run.output
    assert "`Helm/lab-chart: Secret/lab-chart` | unchanged" in run.output
    charts.values(colour="blue", password=NEW, extra=True)
    run = charts.compare().require(1)
    bundle = charts.fleet.reviews()[-1]
    states, diff = dict(json.loads((bundle / "summary.json").read_text())["objects"]), (bundle / "cluster.diff").read_text()
    assert {ref: state for ref, state in states.items() if state != "unchanged"} == {
        "Helm/lab-chart": "configured",
        "Helm/lab-chart: ConfigMap/lab-chart": "configured",
        "Helm/lab-chart: ConfigMap/lab-chart-extra": "created",
        "Helm/lab-chart: Secret/lab-chart": "configured",
    }
    assert "-  colour: red\n+  colour: blue" in diff
    assert "-  password: '******** (before)'\n+  password: '******** (after)'" in diff
    runs = Runs(Store(charts.fleet.folder / ".pifleet/ledger.db"))
    kept = {
        artifact.name: content.decode() for artifact, content in runs.artifacts(json.loads((bundle / "summary.json").read_text())["run_id"])
    }
    assert kept["cluster.diff"] == diff
    for text in (run.output, str(kept), *(path.read_text() for path in bundle.iterdir())):
        assert not [word for word in (OLD, NEW) if word in text]
    assert charts.live() == {"colour": "red"}, "it only looks"


def test_an_upgrade_changes_what_was_shown_and_takes_away_what_is_gone(charts: Charts) -> None:
    assert charts.release(charts.run().require())["changed"]
    assert charts.live() == {"colour": "blue"}
    charts.values(colour="blue", password=NEW)
    assert "Helm/lab-chart: ConfigMap/lab-chart-extra` | **removed**" in charts.compare().require(1).output
    assert charts.release(charts.run().require())["changed"]
    assert "lab-chart-extra" not in charts.fleet.kubectl("-n", "shop", "get", "configmap")
    charts.compare().require(0)


def test_what_somebody_edited_of_a_release_is_drift(charts: Charts) -> None:
    """Helm itself does not see it: it compares what it rendered with what it rendered."""
    charts.fleet.kubectl("-n", "shop", "patch", "configmap", "lab-chart", "-p", """'{"data": {"colour": "pink", "more": "x"}}'""")
    charts.fleet.kubectl("-n", "shop", "patch", "secret", "lab-chart", "-p", f"""'{{"stringData": {{"password": "{OLD}"}}}}'""")
    run = charts.compare().require(1)
    assert "`Helm/lab-chart` | unchanged" in run.output
    assert "`Helm/lab-chart: ConfigMap/lab-chart` | **drifted**: it was edited in the cluster" in run.output
    assert "`Helm/lab-chart: Secret/lab-chart` | **drifted**" in run.output
    diff = (charts.fleet.reviews()[-1] / "cluster.diff").read_text()
    assert "-  colour: pink" in diff
    assert "+  colour: blue" in diff
    assert not [word for word in (OLD, NEW) if word in diff + run.output]
    charts.fleet.kubectl("-n", "shop", "patch", "configmap", "lab-chart", "-p", """'{"data": {"colour": "blue", "more": null}}'""")
    charts.fleet.kubectl("-n", "shop", "patch", "secret", "lab-chart", "-p", f"""'{{"stringData": {{"password": "{NEW}"}}}}'""")
    charts.compare().require(0)


def test_an_upgrade_that_does_not_become_ready_is_rolled_back_and_told(charts: Charts) -> None:
    charts.values(colour="green", password=NEW, never=True)
    run = charts.run("-e", "seconds=5").require(2)
    assert "`helm upgrade` failed" in run.output
    assert "What it had changed was rolled back." in run.output
    assert charts.live() == {"colour": "blue"}
    charts.values(colour="blue", password=NEW)


def test_a_killed_upgrade_is_continued_by_a_later_run(charts: Charts) -> None:
    charts.values(colour="green", password=NEW, never=True)
    process = charts.start("-e", "seconds=100")
    until(lambda: "pending-upgrade" in charts.statuses(), "helm began")
    helms = [pid for pid in descendants(process.process.pid) if Path(f"/proc/{pid}/exe").resolve() == charts.helm]
    process.kill()
    assert helms
    charts.values(colour="green", password=NEW)
    assert "Another helm is at lab-chart since" in charts.run("-e", "seconds=100").require(2).output
    end = time.monotonic() + 240
    while (again := charts.run("-e", "seconds=30")).rc and "Another helm is at" in again.output and time.monotonic() < end:
        time.sleep(1)
    again.require()
    assert charts.live() == {"colour": "green"}
    # the revision that was cut off stays in the history, as it was
    assert "deployed" in charts.statuses()
    assert not charts.release(charts.run().require())["changed"]


def test_the_chart_comes_from_a_repository_once(charts: Charts, tmp_path: Path) -> None:
    """And a released version that the archive of the folder is not is another one."""
    charts.package(tmp_path / "repository", "1.1.0")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    subprocess.run([charts.helm, "repo", "index", tmp_path / "repository", "--url", address], check=True)
    charts.pin(version="1.1.0", repository=address)
    server = subprocess.Popen(["python3", "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", tmp_path / "repository"])
    try:
        until(lambda: charts.run("--check").rc == 0, "the repository answers")
        kept = charts.fleet.folder / ".pifleet/charts/lab-chart-1.1.0.tgz"
        assert not kept.exists(), "a check keeps nothing"
        assert charts.release(charts.run().require())["changed"]
        assert kept.exists()
    finally:
        server.terminate()
        server.wait(30)
    assert not charts.release(charts.run().require())["changed"]


def test_with_a_dead_api_nothing_is_claimed(charts: Charts) -> None:
    server = charts.fleet.servers[0]
    before = charts.fleet.reviews()
    charts.fleet.sh(server, "systemctl stop k3s")
    try:
        assert "No API answers helm" in charts.run().require(2).output
        assert charts.release(charts.run("--check").require())["changed"], "as before the first bootstrap"
        charts.compare().require(2)
    finally:
        charts.fleet.sh(server, "systemctl start k3s", timeout=300)
    assert charts.fleet.reviews() == before


def test_the_role_keeps_evidence_before_it_upgrades_and_a_second_run_changes_nothing(charts: Charts) -> None:
    """With the fleet's own manifests of Loki and the dashboard, which the API checks strictly; their images are not to be had here."""
    charts.fleet.kubectl("delete", "namespace", "shop")
    charts.package(charts.folder)
    charts.pin()
    settings = {
        "observability_enabled": True,
        "observability_backend": "chart",
        "observability_release": "lab-chart",
        "observability_loki_url": "",
        "observability_grafana_password": NEW,
        "observability_receivers": {name: f"http://127.0.0.1:9/{OLD}/{name}" for name in ("critical", "warning", "watchdog")},
        "observability_timeout": 60,
        "observability_folder": str(ROOT / "charts/kube-prometheus-stack"),
    }
    words = ("-e", json.dumps(settings))
    refused = charts.fleet.day("observability", "-e", json.dumps({**settings, "observability_grafana_password": ""}), env=charts.env)
    assert "observability_grafana_password is empty" in refused.require(2).output
    check = charts.fleet.day("observability", "--check", *words, env=charts.env).require()
    assert "loki" not in charts.fleet.kubectl("-n", "monitoring", "get", "services")
    first = charts.fleet.day("observability", *words, env=charts.env).require()
    assert check.changed == first.changed
    for task in ("Upgrade the release", "Bring up Loki, and the dashboard of the fleet"):
        assert [one for one in first.of(task) if one["changed"]]
    runs = Runs(Store(charts.fleet.folder / ".pifleet/ledger.db"))
    kept = {artifact.name: content.decode() for artifact, content in runs.artifacts(runs.all()[-1].run_id)}
    assert {"helm-template.yaml", "helm.diff", "observability.diff"} <= set(kept)
    assert "+  colour: green" in kept["helm.diff"]
    assert "10.43.0.31" in charts.fleet.kubectl("-n", "monitoring", "get", "service", "loki")
    assert NEW in base64.b64decode(charts.secret("grafana-admin")["admin-password"]).decode()
    for text in (check.output, first.output, refused.output, str(kept)):
        assert not [word for word in (OLD, NEW) if word in text]
    for args in (("--check",), ()):
        assert charts.fleet.day("observability", *args, *words, env=charts.env).require().changed == set()
    asked = {"collect_diff_charts": ["lab-chart"], **settings}
    clean = charts.fleet.day("collect_diff", "-e", json.dumps(asked), env=charts.env).require(0)
    assert "`Service/monitoring/loki` | unchanged" in clean.output


def until(holds: Any, what: str, seconds: float = 120) -> None:
    """Wait until *holds* is true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.5)
