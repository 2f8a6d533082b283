# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a ledger in PostgreSQL behind the code's back is found and named, as in a file (tests/unit/evidence/test_verify.py)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import attestation
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.runs import Runs
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.statements import Statements
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import config, executor, planner

from tests.support.tampering import HOSTS, Clock, anchor, audit, header, someone, whole
from tests.support.vandal import Vandal
from tests.unit.releases.conftest import GROUPS, YAML

SEEDS = 400 if os.environ.get("PIFLEET_TEST_FULL") else 25


def release(store: Store, state: Path, clock: Clock) -> None:
    """A run that releases a version."""
    runs, releases = Runs(store, now=clock, gone=lambda _process: False), Releases(store, clock)
    run_id = runs.open(header(), someone(8), HOSTS).run_id
    trees = {"apps/web": "1" * 40, "apps/job": "2" * 40}
    plan = planner.deploy("prod", config.parse(YAML).environment("prod"), "1.0.0", "c" * 40, trees, GROUPS, {"web": {}, "job": {}}, {})
    executor.Executor(releases, releases.create(someone(8), plan, {"prod-workers": "f" * 64}).id).begin("build")
    runs.close(someone(8), dict.fromkeys(HOSTS, "ok"))
    Statements(store, state, now=clock).sign(run_id)


def test_whatever_is_done_at_random_is_found_and_named(url: str, ledger: Callable[[], Store], folder: Path) -> None:
    clock = whole(ledger(), folder)
    release(ledger(), folder, clock)
    head = anchor(ledger())
    assert audit(ledger(), head).findings == ()
    vandal = Vandal(url)
    for seed in range(SEEDS):
        done = vandal.attack(seed)
        assert done.found, f"{done.what}: {[f.text for f in done.report.findings]}"
    assert audit(ledger(), head).findings == (), "all was undone"


@pytest.mark.parametrize("seed", range(3))
def test_rewritten_end_is_found_with_an_anchor_alone(url: str, ledger: Callable[[], Store], folder: Path, seed: int) -> None:
    whole(ledger(), folder)
    head, signer = anchor(ledger()), attestation.own_signer(folder / attestation.KEY_FILE)
    assert Vandal(url).attack(seed, signer=signer).report.findings == (), "without an anchor it looks whole"
    done = Vandal(url).attack(seed, [head], signer)
    assert [f.problem for f in done.report.findings] == ["rewritten"]
    assert done.found
