# SPDX-License-Identifier: GPL-3.0-or-later
"""The evidence of real runs of site.yml: listed, verified, refused where the callback is broken, and proof against tampering."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.queries import Queries, Wanted
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.integration.site.conftest import FULL
from tests.support.controller import with_callback
from tests.support.fleet import ROOT, Fleet
from tests.support.postgres import Server
from tests.support.tampering import anchor, audit
from tests.support.vandal import Vandal, copied

#: random changes of each kind of database
SEEDS = 500 if FULL else 10
LEDGER = ROOT / ".pifleet/ledger.db"


def newest(fleet: Fleet) -> dict[str, object]:
    """The newest run of this fleet: others use the same ledger."""
    place = str(fleet.inventory.relative_to(ROOT))
    run: dict[str, object] = Queries(Store(LEDGER)).runs(Wanted(inventory=(place,), limit=1)).items[0]
    return run


def test_run_is_listed_with_its_counts_and_all_evidence_is_as_it_was_recorded(converged: Fleet) -> None:
    server = converged.servers[0]
    done = converged.play("--limit", server).require()
    run = newest(converged)
    assert (run["playbook"], run["host_limit"], run["status"]) == ("site.yml", server, "succeeded")
    hosts = run["hosts"]
    assert isinstance(hosts, dict) and set(hosts) == {server}
    counted = [t for t in done.tasks if t["host"] == server]
    assert hosts[server]["changed"] == sum(1 for t in counted if t["changed"])
    assert hosts[server]["ok"] > 10
    verified = converged.play(playbook="playbooks/evidence_verify.yml").require()
    assert "are as they were recorded" in " ".join(verified.output.split())
    assert server in verified.output.split("Heads compared with:")[1]


def test_with_the_callback_broken_on_purpose_site_fails_at_the_gate(converged: Fleet, tmp_path: Path) -> None:
    units = converged.invocations()
    env = with_callback(tmp_path, "\n\ndef broken(self, *args, **kwargs):\n    raise RuntimeError\n\n\nCallbackModule._count = broken\n")
    run = converged.play("--limit", converged.servers[0], env=env).require(2)
    assert [f["task"] for f in run.failures] == ["Close the run's record in the ledger"]
    assert "The evidence of this run is missing: the callback pifleet.ops.evidence did not record it" in " ".join(run.output.split())
    assert newest(converged)["status"] == "failed"
    assert converged.invocations() == units


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the ledger that the runs of this checkout have left."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with closing(sqlite3.connect(f"file:{LEDGER}?mode=ro", uri=True, timeout=60)) as old, closing(sqlite3.connect(path)) as new:
        old.backup(new)
    with Store(path).write():
        """One that an older code has left is upgraded first, as by the next run."""
    return path


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_whatever_is_done_to_it_is_found_and_named(converged: Fleet, file: Path, tmp_path: Path, kind: str) -> None:
    signer = attestation.own_signer(ROOT / ".pifleet" / attestation.KEY_FILE)
    with Server() as server:
        url = f"sqlite:///{file}" if kind == "sqlite" else server.fresh()
        store = Store(file) if kind == "sqlite" else copied(file, url, tmp_path)
        head = anchor(store)
        assert audit(store, head).findings == ()
        vandal = Vandal(url)
        for seed in range(SEEDS):
            done = vandal.attack(seed)
            assert done.found, f"{done.what}: {[f.text for f in done.report.findings]}"
        for seed in range(max(2, SEEDS // 50)):
            alone, done = vandal.attack(seed, signer=signer), vandal.attack(seed, [head], signer)
            assert alone.report.findings == (), f"{alone.what}: without an anchor it looks whole"
            assert [f.problem for f in done.report.findings] == ["rewritten"]
            assert done.found, done.what
        assert audit(store, head).findings == (), "all was undone"
