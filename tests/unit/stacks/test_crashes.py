# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed at every step, out of disk at every write, changed by anybody in any way: the next run brings the node to what is wanted."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels, model
from hypothesis import given, settings
from hypothesis import strategies as st

FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
fake_engine = sys.modules["stacks_fake_engine"]  # of conftest


def table(image: str = "app:1", **more: Any) -> dict[str, Any]:
    services = {
        "web": {"image": image, "restart": "always", "depends_on": ["db"], "scale": 2},
        "db": {"image": "db:1", "restart": "always", "environment": {"FOR": image}},
        "same": {"image": "db:1", "restart": "always"},
    }
    return {"services": services, **more}


def as_wanted(node: Any, image: str) -> None:
    """Assert that the node has what the desired state says, and nothing else, by what the engine shows."""
    found = sorted((c.service, c.state, c.image) for c in node.engine.containers.values())
    assert found == [("db", "running", "db:1"), ("same", "running", "db:1"), ("web", "running", image), ("web", "running", image)]
    assert all(c.name == f"web-{c.service}-{c.number}" for c in node.engine.containers.values())


def settled(node: Any, image: str) -> None:
    """Assert that one run converges, truthfully, and that another has nothing to do."""
    report = node.reconcile()
    assert [(s.status, s.last_error) for s in report.stacks] == [("synced", "")]
    as_wanted(node, image)
    node.engine.calls.clear()
    assert not node.reconcile().changed and node.verbs() == ["observe"]


STEPS = 20  # more than an update of these containers has


@pytest.mark.parametrize("step", range(STEPS))
@pytest.mark.parametrize("what", ["first deploy", "update", "removal"])
def test_killed_at_every_step(node, what, step):
    node.stack(table=table())
    if what != "first deploy":
        node.reconcile()
        node.stack(table=table("app:2"))
    if what == "removal":
        node.stack("other", {"services": {"x": {"image": "app:1", "restart": "always"}}})
        node.reconcile()
        (node.path / "web/compose.yaml").unlink()
        node.settings["remove"] = True
    same = node.running().get("web-same-1")
    node.engine.kill_at = node.engine.steps + step
    try:
        node.reconcile()
        assert node.engine.steps <= node.engine.kill_at
    except fake_engine.KilledError:
        interrupted = node.info().get("web")
        assert interrupted is None or interrupted.status in ("failed", "drifted", "missing"), interrupted
    node.engine.kill_at = -1
    if what == "removal":
        node.reconcile()
        assert set(node.running()) == {"other-x-1"} and not (node.state / "web.json").exists()
        return
    settled(node, "app:1" if what == "first deploy" else "app:2")
    assert same in (None, node.running()["web-same-1"])


@pytest.mark.parametrize("write", range(8))
def test_disk_full_at_every_write(node, monkeypatch, write):
    node.stack(table=table())
    node.reconcile()
    node.stack(table=table("app:2"))
    before = node.running()
    real, count = atomic_file.write_atomic, iter(range(1000))

    def full(path: Any, *args: Any, **options: Any) -> None:
        if next(count) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, *args, **options)

    monkeypatch.setattr(atomic_file, "write_atomic", full)
    report = node.reconcile()
    monkeypatch.setattr(atomic_file, "write_atomic", real)
    if next(count) <= write:
        assert not report.failed
    else:
        [failed] = report.failed
        assert "No space left on device" in failed.last_error and "Make room" in failed.last_error
    if write == 0:
        assert node.running() == before and not report.changed, "nothing is touched when it cannot be noted down"
    settled(node, "app:2")


def test_disk_full_on_a_real_file_system_leaves_the_record_whole(node):
    node.stack(table=table())
    node.reconcile()
    kept = (node.state / "web.json").read_bytes()
    node.state.chmod(0o500)
    try:
        if os.access(node.state, os.W_OK):  # root may write everywhere; a path that is a file stops it
            node.state.chmod(0o700)
            (node.state / "web.override.yaml").unlink()
            (node.state / "web.override.yaml").mkdir()
            (node.state / "web.override.yaml/x").write_text("")
        node.stack(table=table("app:2"))
        [failed] = node.reconcile().failed
        assert "cannot be written" in failed.last_error or "cannot be opened" in failed.last_error
    finally:
        node.state.chmod(0o700)
    assert (node.state / "web.json").read_bytes().startswith(kept[:20])


# -- whatever anybody does -------------------------------------------------------------------------------------------------
DEEDS: dict[str, Any] = {
    "stop": lambda e, n: e.touch(n, state="exited", exit_code=137),
    "end": lambda e, n: e.touch(n, state="exited", exit_code=0),
    "pause": lambda e, n: e.touch(n, state="paused"),
    "remove": lambda e, n: e.containers.pop(e.named(n).id),
    "rename": lambda e, n: e.touch(n, name=f"renamed-{len(e.calls)}-{n[-20:]}"),
    "unhealthy": lambda e, n: e.touch(n, health="unhealthy"),
    "loop": lambda e, n: e.touch(n, state="restarting", restarts=7),
    "disconnect": lambda e, n: e.touch(n, networks=()),
    "limit": lambda e, n: e.touch(n, limits={**e.named(n).limits, "Memory": "9"}),
    "unlabel": lambda e, n: e.by_hand(n, labels={}),
    "relabel": lambda e, n: e.by_hand(n, labels={**e.named(n).labels, labels.REVISION: "mine"}),
    "reshape": lambda e, n: e.by_hand(n, shape="mine"),
    "created": lambda e, n: e.touch(n, state="created"),
    "stray": lambda e, n: e.by_hand(n, service="stray", labels={}, name=f"stray-{len(e.calls)}"),
    "another": lambda e, n: e.by_hand(n, service="stray", name=f"another-{len(e.calls)}"),
}

MOVES = st.one_of(
    st.tuples(st.sampled_from(sorted(DEEDS)), st.integers(0, 6)),
    st.tuples(st.just("image"), st.sampled_from(["app:1", "app:2"])),
    st.tuples(st.just("forget"), st.none()),
    st.tuples(st.just("garbage"), st.binary(max_size=40)),
    st.tuples(st.just("retag"), st.integers(0, 3)),
    st.tuples(st.just("upgrade"), st.integers(0, 3)),
    st.tuples(st.just("kill"), st.integers(0, 15)),
)


@settings(max_examples=2000 if FULL else 100)
@given(moves=st.lists(MOVES, max_size=6))
def test_one_run_repairs_whatever_was_done_and_check_predicted_it(make_node, moves):
    node = make_node()
    node.stack(table=table())
    node.reconcile()
    image = "app:1"
    for what, how in moves:
        names = sorted(node.running())
        if what in DEEDS and names:
            DEEDS[what](node.engine, names[how % len(names)])
        elif what == "image":
            image = how
            node.stack(table=table(image))
        elif what == "forget":
            (node.state / "web.json").unlink(missing_ok=True)
        elif what == "garbage":
            (node.state / "web.json").write_bytes(how)
        elif what == "retag":
            node.engine.local["db:1"] = f"sha256:retagged{how}"
        elif what == "upgrade":
            node.engine.version = f"compose-{how}"
        elif what == "kill":
            node.engine.kill_at = node.engine.steps + how
            with contextlib.suppress(fake_engine.KilledError):
                node.reconcile()
            node.engine.kill_at = -1
    info = node.info()["web"]
    before = dict(node.engine.containers)
    predicted = node.reconcile(check=True)
    assert node.engine.containers == before
    if info.drift and not predicted.failed:
        assert predicted.changed
    done = node.reconcile()
    assert done.as_result()["plan"] == predicted.as_result()["plan"] and done.changed == predicted.changed
    assert [(s.status, s.last_error) for s in done.stacks] == [("synced", "")]
    as_wanted(node, image)
    node.engine.calls.clear()
    again = node.reconcile()
    assert not again.changed and again.stacks[0].drift == () and node.verbs() == ["observe"]
    assert again.stacks[0].status == model.SYNCED
