# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/collect_diff.yml and its wrapper on a real API: 0 clean, 1 drift, 2 where nothing can be told."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.integration.operations.conftest import Operations
from tests.support.fleet import ROOT
from tests.support.secrets import Keys, sops

VALUE, OTHER = "correct-horse-battery-staple", "another-horse-entirely"
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "receiver", "namespace": "operations"},
    "stringData": {"password": VALUE},
}


def wrapper(fleet: Operations, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [ROOT / "scripts/collect-diff.sh", "-i", fleet.inventory, "-e", f"fleet_root={fleet.folder}", *args]
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=300, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})


def said(folder: Path) -> dict:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_a_cluster_that_was_just_made_is_clean(fleet: Operations) -> None:
    run = fleet.day("collect_diff").require(0)
    (bundle,) = fleet.reviews()
    assert {path.name for path in bundle.iterdir()} == {"summary.md", "summary.json", "cluster.diff"}
    found = said(bundle)
    assert found["status"] == "clean"
    assert {state for _ref, state in found["objects"]} == {"unchanged"}
    assert len(found["objects"]) >= 5
    assert found["left_out"] == ["cluster/base/observability, which this fleet does not ask for"]
    assert (
        found["revision"]
        == subprocess.run(["git", "-C", fleet.folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    )
    assert "**clean**" in run.output
    assert (bundle / "cluster.diff").read_text() == ""


def test_what_somebody_edited_is_shown_and_secrets_are_not(fleet: Operations) -> None:
    """And what is new in the folder, what is encrypted and cannot be decrypted, and charts that nobody can compare."""
    (fleet.folder / "cluster/receiver.yaml").write_text(json.dumps(SECRET))
    (fleet.folder / "cluster/other.sops.yaml").write_text("kind: Secret\n")
    (fleet.folder / "charts/some-chart").mkdir(parents=True)
    server = fleet.servers[0]
    changed = json.dumps({**SECRET, "stringData": {"password": OTHER}})
    fleet.sh(server, f"k3s kubectl apply --server-side -f - <<'END'\n{changed}\nEND\n")
    fleet.kubectl("label", "namespace", "monitoring", "edited-by=hand", "app.kubernetes.io/part-of=somebody", "--overwrite")
    before = fleet.kubectl("get", "secret,namespace", "-A", "-o", "json")
    try:
        done = wrapper(fleet)
        assert done.returncode == 1, done.stdout[-3000:] + done.stderr
        check = fleet.day("collect_diff", "--check").require(1)
    finally:
        assert fleet.kubectl("get", "secret,namespace", "-A", "-o", "json") == before, "it only looks"
        fleet.kubectl("label", "namespace", "monitoring", "edited-by-", "app.kubernetes.io/part-of=pifleet", "--overwrite")
    _clean, bundle = fleet.reviews()
    found, diff = said(bundle), (bundle / "cluster.diff").read_text()
    states = dict(found["objects"])
    assert {ref: state for ref, state in states.items() if state != "unchanged"} == {
        "Namespace/monitoring": "drifted",
        "Secret/operations/receiver": "configured",
    }
    assert "-    app.kubernetes.io/part-of: somebody" in diff
    assert "+    app.kubernetes.io/part-of: pifleet" in diff
    assert any(text.startswith("cluster/other.sops.yaml, which is encrypted. ") for text in found["left_out"])
    assert any("some-chart" in text for text in found["left_out"])
    runs = Runs(Store(fleet.folder / ".pifleet/ledger.db"))
    run = next(r for r in runs.all() if r.run_id == found["run_id"])
    assert run.status == "succeeded"
    kept = {artifact.name: content.decode() for artifact, content in runs.artifacts(run.run_id)}
    assert kept["cluster.diff"] == diff
    assert kept["cluster-diff.md"] == (bundle / "summary.md").read_text()
    for text in (done.stdout, done.stderr, check.output, diff, str(kept), *(p.read_text() for p in bundle.iterdir())):
        assert not [word for word in (VALUE, OTHER) if word in text]
    fleet.kubectl("-n", "operations", "delete", "secret", "receiver")
    for path in ("cluster/receiver.yaml", "cluster/other.sops.yaml"):
        (fleet.folder / path).unlink()


def test_what_is_encrypted_is_compared_and_never_shown(fleet: Operations, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    (tmp_path / "sops").symlink_to(sops())
    env = {**keys.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    # under a name by which nothing scrubs it
    plainly = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": SECRET["metadata"], "data": {"motto": VALUE}}
    objects = [SECRET, plainly]
    (fleet.folder / ".sops.yaml").write_text(
        f"creation_rules: [{{path_regex: ^cluster/, encrypted_regex: '^(data|stringData)$', age: {keys.age()}}}]\n"
    )
    argv = ["sops", "encrypt", "--filename-override", "cluster/receiver.sops.yaml", "/dev/stdin"]
    plain = "---\n".join(yaml.safe_dump(one) for one in objects)
    done = subprocess.run(argv, input=plain, cwd=fleet.folder, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    (fleet.folder / "cluster/receiver.sops.yaml").write_text(done.stdout)
    assert VALUE not in done.stdout
    # the policy is for files of the fleet's folder
    outside = fleet.folder.parent / "outside"
    outside.mkdir()
    (outside / "receiver.sops.yaml").write_text(done.stdout)
    dirs = ("-e", json.dumps({"collect_diff_dirs": ["cluster", "../outside"]}))

    def compare(rc: int) -> tuple[dict[str, str], str]:
        run = fleet.day("collect_diff", "-vvv", *dirs, env=env).require(rc)
        bundle = fleet.reviews()[-1]
        diff = (bundle / "cluster.diff").read_text()
        assert not [word for word in (VALUE, OTHER) if word in run.output + diff + (bundle / "summary.md").read_text()]
        assert said(bundle)["left_out"] == before
        return {ref: state for ref, state in said(bundle)["objects"] if ref.endswith("/receiver")}, diff

    def apply(value: str) -> None:
        changed = ({**SECRET, "stringData": {"password": value}}, {**plainly, "data": {"motto": value}})
        made = [json.dumps(one) for one in changed]
        apply = "k3s kubectl apply --server-side --field-manager=pifleet --force-conflicts -f -"
        fleet.sh(fleet.servers[0], f"{apply} <<'END'\n{made[0]}\n---\n{made[1]}\nEND\n")

    before = [
        "cluster/base/observability, which this fleet does not ask for",
        "../outside/receiver.sops.yaml, which is encrypted. It lies outside the fleet's folder. "
        "Move it there, or take its folder out of collect_diff_dirs.",
        "charts (some-chart): this fleet does not ask for them (collect_diff_charts)",
    ]
    names = ("Secret/operations/receiver", "ConfigMap/operations/receiver")
    try:
        assert compare(1)[0] == dict.fromkeys(names, "created")
        apply(OTHER)
        found, diff = compare(1)
        assert set(found) == set(names) and not {"unchanged", "created"} & {*found.values()}
        assert "Secret" in diff and "password" in diff
        assert "# ConfigMap/operations/receiver is encrypted: what differs there is not shown" in diff
        apply(VALUE)
        # applied by another hand: what it wants is there, without the marks of the collection
        assert VALUE not in compare(1)[1]
        journal = fleet.sh(fleet.servers[0], "journalctl --no-pager")
        assert "pifleet.ops" in journal
        assert not [word for word in (VALUE, OTHER) if word in journal]
        refused = {**plainly, "metadata": {**SECRET["metadata"], "name": "Refused by the API"}}
        done = subprocess.run(
            argv, input=yaml.safe_dump(refused), cwd=fleet.folder, env={**os.environ, **env}, capture_output=True, text=True, check=True
        )
        (fleet.folder / "cluster/receiver.sops.yaml").write_text(done.stdout)
        run = fleet.day("collect_diff", "-vvv", *dirs, env=env).require(2)
        assert VALUE not in run.output
    finally:
        fleet.kubectl("-n", "operations", "delete", "secret,configmap", "receiver", "--ignore-not-found")
        for path in (".sops.yaml", "cluster/receiver.sops.yaml"):
            (fleet.folder / path).unlink()


def test_without_an_api_nothing_is_claimed(fleet: Operations) -> None:
    server, bundles = fleet.servers[0], fleet.reviews()
    fleet.sh(server, "systemctl stop k3s")
    try:
        run = fleet.day("collect_diff").require(2)
        assert "The cluster could not be compared. no API answers" in run.output
        assert wrapper(fleet).returncode == 2
    finally:
        fleet.sh(server, "systemctl start k3s", timeout=300)
    assert wrapper(fleet, "-i", "/nonexistent/hosts.yml", "--limit", "nobody").returncode == 2
    fleet.sh(server, "systemctl stop ssh.socket ssh.service; pkill -x sshd || true", check=False)
    try:
        silent = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ConnectTimeout=5"}
        assert "could not be compared" in fleet.day("collect_diff", env=silent).require(2).output
    finally:
        fleet.sh(server, "systemctl start ssh.socket ssh.service || systemctl start ssh", check=False)
    assert fleet.reviews() == bundles


@pytest.mark.full
def test_bad_input_is_refused_before_anything_is_asked(fleet: Operations) -> None:
    for where, text, says in (("nowhere", "", "is no folder of manifests"), ("bad", "kind: [", "no valid YAML")):
        if text:
            (fleet.folder / where).mkdir()
            (fleet.folder / where / "x.yaml").write_text(text)
        run = fleet.day("collect_diff", "-e", json.dumps({"collect_diff_dirs": [where]})).require(2)
        assert says in run.output
        assert "Traceback" not in run.output
