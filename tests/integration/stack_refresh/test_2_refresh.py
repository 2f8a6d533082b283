# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired state that the node fetches itself: offline, diverged, broken, cut off, on a full disk, and several at once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.fleet import Run

from .conftest import FULL, ONE, PROGRAM, TREE, Stacks, stack, until

KILLS = 30 if FULL else 3
#: what is on the node of a revision, and whether it is whole
LISTING = f"cd {TREE} && find . -type f ! -path './*/data/*' | sort | xargs sha256sum"


@dataclass
class Remote:
    """A repository that the node fetches: on the node itself, so that a test can take it away."""

    stacks: Stacks
    url: str = "file:///srv/fleet.git"

    def push(self, files: dict[str, str | None], message: str) -> str:
        commit = self.stacks.state.commit(files, message)
        bundle = self.stacks.state.path.parent / "bundle"
        self.stacks.state.git("bundle", "create", "--quiet", str(bundle), "main")
        self.stacks.copy(bundle, "/srv/bundle")
        self.stacks.sh("[ -d /srv/fleet.git ] || git init -q --bare --initial-branch=main /srv/fleet.git")
        self.stacks.sh("git -C /srv/fleet.git fetch --quiet --force /srv/bundle main:main")
        return commit

    def play(self, *args: str, **more: Any) -> Run:
        return self.stacks.play("--limit", ONE, *args, stacks_repository=self.url, **more)


@pytest.fixture(scope="module")
def remote(stacks: Stacks) -> Iterator[Remote]:
    made = Remote(stacks)
    made.push({"stacks/web/compose.yaml": stack(), "stacks/web/conf/a": "one\n", "stacks/dns/compose.yaml": stack()}, "From the repository")
    made.play().require()
    yield made
    stacks.play("--limit", ONE).require()


def whole(stacks: Stacks) -> bool:
    """Whether the node's files are those of the revision that the node says is in force, by git's own account."""
    revision = json.loads(stacks.sh("cat /var/lib/pifleet/refresh/active.json"))["revision"]
    there = stacks.sh(LISTING).split("\n")
    unpack = f"rm -rf /tmp/want; mkdir /tmp/want; git -C /srv/fleet.git archive {revision} stacks | tar -x -C /tmp/want"
    wanted = stacks.sh(f"{unpack}; cd /tmp/want/stacks && find . -type f | sort | xargs sha256sum")
    return sorted(filter(None, there)) == sorted(filter(None, wanted.split("\n")))


def test_the_node_follows_its_repository_by_itself(remote: Remote, stacks: Stacks) -> None:
    assert whole(stacks)
    before = stacks.containers()
    commit = remote.push({"stacks/dns/compose.yaml": stack("pifleet/lab-app:2"), "stacks/web/conf/b": "b\n"}, "Newer")
    events = stacks.unattended()
    assert events[0] == {"event": "refreshed", "revision": commit, "reason": "new_revision"}
    assert {e.get("stack") for e in events[1:]} == {"dns"}
    after = stacks.containers()
    assert after["web-app-1"] == before["web-app-1"] and after["dns-app-1"] != before["dns-app-1"]
    assert whole(stacks)
    assert stacks.unattended()[0]["reason"] == "up_to_date"
    check = remote.play("--check").require()
    assert check.changed == set()


def test_check_of_a_newer_revision_predicts_and_touches_nothing(remote: Remote, stacks: Stacks) -> None:
    commit = remote.push({"stacks/dns/compose.yaml": stack("pifleet/lab-app:3")}, "Newest")
    before = stacks.sh(f"{LISTING}; find /var/lib/pifleet /run/pifleet -type f -printf '%p %T@\\n' | sort")
    predicted = remote.play("--check", "--diff").require()
    assert commit in predicted.output
    assert stacks.sh(f"{LISTING}; find /var/lib/pifleet /run/pifleet -type f -printf '%p %T@\\n' | sort") == before
    applied = remote.play().require()
    assert applied.changed == predicted.changed
    assert [t["plan"] for t in applied.of("Reconcile")] == [t["plan"] for t in predicted.of("Reconcile")]


def test_offline_the_last_good_revision_stays_and_is_looked_after(remote: Remote, stacks: Stacks) -> None:
    good = stacks.refreshed()["revision"]
    stacks.sh("mv /srv/fleet.git /srv/away; docker stop -t 0 web-app-1")
    events = stacks.unattended(rc=1)
    assert events[0]["event"] == "refresh_failed" and events[0]["revision"] == good
    assert "web-app-1" in stacks.containers(), "what is in force is still reconciled"
    shown = stacks.refreshed()
    assert (shown["state"], shown["revision"]) == ("failed", good) and "does not answer" in shown["error"]
    run = remote.play().require(2)
    assert "Correct stacks_repository" in run.output and "Traceback" not in run.output
    stacks.sh("mv /srv/away /srv/fleet.git")
    assert stacks.unattended()[0]["event"] == "refreshed"
    assert stacks.refreshed()["state"] == "completed"


LINKED = f"mv {TREE} /tmp/moved-$$ && ln -s /tmp/moved-$$ {TREE}"
DAMAGES = [
    f"echo edited >>{TREE}/web/compose.yaml",
    f"rm -rf {TREE}/web",
    LINKED,
    f"printf 'services: {{evil: {{image: x}}}}' >{TREE}/web/compose.override.yaml",
    "rm -rf /var/lib/pifleet/refresh/repository.git/objects",
    "echo garbage >/var/lib/pifleet/refresh/repository.git/HEAD",
    "touch /var/lib/pifleet/refresh/repository.git/shallow.lock",
    "echo garbage >/var/lib/pifleet/refresh/active.json",
    f"echo garbage >/var/lib/pifleet/refresh/active.tar; rm {TREE}/dns/compose.yaml",
    "rm -rf /var/lib/pifleet/refresh",
    f"rm -rf /var/lib/pifleet/refresh {TREE}",
]


@pytest.mark.parametrize("damage", DAMAGES if FULL else DAMAGES[::3])
def test_diverged_or_broken_it_heals_and_no_container_notices(remote: Remote, stacks: Stacks, damage: str) -> None:
    before = stacks.containers()
    remote.push({"stacks/other.txt": damage}, "So that something has to be fetched")
    stacks.sh(f"{damage}; [ -L {TREE} ] || {{ mkdir -p {TREE}/web/data; echo precious >{TREE}/web/data/db; }}")
    stacks.unattended()
    assert whole(stacks)
    assert stacks.containers() == before
    assert damage == LINKED or stacks.sh(f"cat {TREE}/web/data/db") == "precious\n", "what a container wrote is not ours"
    assert [e for e in stacks.unattended() if e["event"] != "refreshed"] == []


def test_killed_at_any_moment_the_next_run_makes_it_whole(remote: Remote, stacks: Stacks) -> None:
    many: dict[str, str | None] = {f"stacks/web/conf/{n}": f"0 {n}\n" for n in range(300)}
    remote.push(many, "Many files")
    # how long one takes here that nothing cuts off
    took = int(stacks.sh(f"began=$(date +%s%N); python3 {PROGRAM} >/dev/null; echo $(($(date +%s%N) - began))").split()[-1]) / 1e9
    moments, cut, turn = random.Random(5), 0, 0
    while turn < KILLS or not cut:
        turn += 1
        assert turn < 5 * KILLS, "nothing is cut off: the test kills too late"
        remote.push({path: f"{turn} {path}\n" for path in many}, f"Turn {turn}")
        out = stacks.sh(
            f"timeout -s KILL {took * moments.uniform(0.1, 0.7):.2f} python3 {PROGRAM}; echo rc=$?; ls /var/lib/pifleet/refresh"
        )
        if "rc=137" in out:
            cut += 1
        else:  # the machine had more to do when it was measured
            took /= 2
        if turn % 2:  # without the repository it is whole too
            stacks.sh("mv /srv/fleet.git /srv/away")
            stacks.unattended(rc=1)
            assert_whole_offline(stacks)
            stacks.sh("mv /srv/away /srv/fleet.git")
        stacks.unattended()
        assert whole(stacks)
        assert stacks.refreshed()["state"] == "completed"
    assert stacks.sh("ls /var/lib/pifleet/refresh | grep -E 'staging|pending|incoming' || true") == ""


def assert_whole_offline(stacks: Stacks) -> None:
    stacks.sh("ln -s /srv/away /srv/fleet.git")
    assert whole(stacks)
    stacks.sh("rm /srv/fleet.git")


def test_a_full_disk_leaves_the_last_good_revision_whole(remote: Remote, stacks: Stacks) -> None:
    good = stacks.refreshed()["revision"]
    small = "mount -t tmpfs -o size=8m none /var/lib/pifleet && cp -a /tmp/kept/. /var/lib/pifleet"
    stacks.sh(f"rm -rf /tmp/kept; cp -a /var/lib/pifleet /tmp/kept && {small}")
    try:
        remote.push({"stacks/web/conf/large": "x" * 6_000_000}, "Large")
        events = stacks.unattended(rc=1)
        assert events[0]["event"] == "refresh_failed" and "disk is full" in events[0]["reason"], events
        assert whole(stacks)
        assert stacks.refreshed()["revision"] == good
        stacks.sh("mount -o remount,size=64m /var/lib/pifleet")
        assert stacks.unattended()[0]["event"] == "refreshed"
        assert whole(stacks)
    finally:
        stacks.sh("umount /var/lib/pifleet; rm -rf /tmp/kept")
    remote.push({"stacks/web/conf/large": None}, "Small again")
    stacks.unattended()


def test_one_runs_one_waits_and_the_newest_takes_its_place(remote: Remote, stacks: Stacks) -> None:
    commit = remote.push({"stacks/other.txt": "coalesce"}, "For several at once")
    hold = "flock /var/lib/pifleet/refresh/lock sleep"
    stacks.sh(f"setsid nohup {hold} 600 >/dev/null 2>&1 & echo $! >/tmp/holder")
    try:
        until(lambda: stacks.refreshed()["state"] == "refreshing")
        stacks.sh(f"setsid nohup python3 {PROGRAM} >/tmp/first 2>&1 & sleep 2")
        until(lambda: stacks.refreshed()["waiting"] == "HEAD")
        stacks.sh(f"setsid nohup python3 {PROGRAM} >/tmp/second 2>&1 &")
        until(lambda: "superseded" in stacks.sh("cat /tmp/first"))
        assert stacks.refreshed()["state"] == "refreshing", "one waits, and nothing was done yet"
        assert stacks.sh("cat /tmp/second") == ""
    finally:
        stacks.sh("pkill -P $(cat /tmp/holder); kill $(cat /tmp/holder) 2>/dev/null; true")
    until(lambda: "refreshed" in stacks.sh("cat /tmp/second"))
    assert commit in stacks.sh("cat /tmp/second")
    until(lambda: stacks.refreshed()["state"] == "completed")
    assert whole(stacks)


def test_the_token_is_nowhere_but_in_its_file(remote: Remote, stacks: Stacks) -> None:
    run = remote.play("-vvv", "--diff", stacks_repository_token="s3cr3t-t0ken-x").require()
    assert "s3cr3t" not in run.output
    found = stacks.sh("grep -rls s3cr3t-t0ken-x /etc /var/lib/pifleet /var/log /run/log /tmp /usr/local 2>/dev/null || true").split()
    assert found == ["/etc/pifleet/stacks.json"]
    assert stacks.sh("stat -c %a /etc/pifleet/stacks.json").strip() == "600"
