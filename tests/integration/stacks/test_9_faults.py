# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be wrong with a node: no Docker, a full disk, a key that does not fit, a hanging engine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.stack_node import DESIRED, STATE, StackNode, compose, serves

PAIR = compose({"a": serves(), "b": serves()})
KEY = "/etc/pifleet/age-key.txt"
VALUE = "a-value-nobody-may-see"


def test_docker_down_is_predicted_from_what_was_there_last_and_one_clear_error_of_a_run(node: StackNode) -> None:
    node.stack("web", PAIR)
    node.stack("by-itself", compose({"a": serves(restart="always")}))
    node.reconcile().require()
    node.stack("web", compose({"a": serves(environment="{A: b}"), "b": serves()}))
    node.stack("new", PAIR)
    node.sh("systemctl stop docker.socket docker")
    try:
        began = time.monotonic()
        before = node.sh(f"find {STATE} /srv/desired -type f | sort | xargs sha256sum")
        predicted = node.reconcile(check=True).require()
        assert "What runs cannot be seen" in str(predicted.data["warnings"])
        assert node.sh(f"find {STATE} /srv/desired -type f | sort | xargs sha256sum") == before
        for result in (node.reconcile(), node.run("stack_info", path=DESIRED)):
            assert result.failed
            assert "docker" in result.message.lower()
            assert "Traceback" not in result.message + result.stderr
        assert time.monotonic() - began < 60
    finally:
        node.sh("systemctl start docker")
    node.wait_for("the engine", "docker ps >/dev/null")
    node.wait_for("the container that Docker restarts", "docker ps --format '{{.Names}}' | grep -q by-itself-a-1")
    done = node.reconcile().require()
    assert done.statuses == {"by-itself": "synced", "new": "synced", "web": "synced"}
    assert done.data["plan"] == predicted.data["plan"]
    assert {name for name, row in done.stacks.items() if row["changed"]} == {"new", "web"}


def test_an_engine_that_hangs_is_given_up(node: StackNode) -> None:
    node.stack("web", PAIR)
    node.reconcile().require()
    node.sh("kill -STOP $(pidof dockerd)")
    try:
        began = time.monotonic()
        result = node.reconcile(timeout=4)
        assert time.monotonic() - began < 60
        assert result.failed
        assert "Traceback" not in result.message + result.stderr
    finally:
        node.sh("kill -CONT $(pidof dockerd)")
    node.wait_for("the engine", "docker ps >/dev/null")
    assert not node.reconcile().require().changed


@pytest.fixture
def small_state(node: StackNode) -> Iterator[StackNode]:
    """The state folder on a full file system of 64 KiB."""
    node.stack("web", PAIR)
    node.reconcile().require()
    node.sh(f"cp -a {STATE} /srv/kept && mount -t tmpfs -o size=64k tmpfs {STATE} && cp -a /srv/kept/. {STATE}/ && rm -rf /srv/kept")
    node.sh(f"head -c 1000000 /dev/zero >{STATE}/filler 2>/dev/null || true")
    yield node
    node.sh(f"umount {STATE}")


def test_a_full_disk_fails_clearly_and_a_run_with_room_converges(small_state: StackNode) -> None:
    node = small_state
    node.stack("web", compose({"a": serves(environment="{A: b}"), "b": serves()}))
    result = node.reconcile(revision="b" * 40)
    assert result.failed
    assert "no space" in (result.message + str(result.stacks["web"]["last_error"])).lower()
    assert "Traceback" not in result.message + result.stderr
    node.sh(f"rm {STATE}/filler")
    assert node.reconcile(revision="b" * 40).require().statuses == {"web": "synced"}
    assert node.info().stacks["web"]["revision"] == "b" * 40
    assert not node.reconcile(revision="b" * 40).require().changed


@pytest.fixture
def sops(node: StackNode) -> Iterator[StackNode]:
    """A node with sops and a key, and a function of the node's own to encrypt."""
    node.tool("sops")
    node.sh(f"mkdir -p /etc/pifleet; rm -f {KEY} /srv/other.txt; age-keygen -o {KEY} 2>/dev/null; age-keygen -o /srv/other.txt 2>/dev/null")
    node.stack("web", compose({"a": serves(env_file="[app.env]")}))
    node.stack("good", PAIR)
    yield node
    node.sh(f"rm -f {KEY} /srv/other.txt")


def encrypt(node: StackNode, key: str, value: str) -> None:
    node.sh(
        f"printf 'PASSWORD={value}\\n' | sops encrypt --age $(age-keygen -y {key}) --input-type dotenv --output-type dotenv "
        f"--filename-override app.env /dev/stdin >{DESIRED}/web/app.sops.env"
    )


def test_an_encrypted_env_file_arrives_decrypted_and_nowhere_else(sops: StackNode) -> None:
    encrypt(sops, KEY, VALUE)
    result = sops.reconcile().require()
    assert f"PASSWORD={VALUE}" in sops.inspect()["web-a-1"]["Config"]["Env"]
    assert sops.sh(f"stat -c '%a %U' {DESIRED}/web/app.env").strip() == "600 root"
    assert VALUE not in str(result.data)
    # the engine's own folders have a container's environment, as `docker inspect` does
    assert sops.sh(f"grep -rl {VALUE} {STATE} /var/log /tmp /run --exclude-dir=containerd --exclude-dir=docker 2>/dev/null || true") == ""
    assert VALUE not in sops.sh("journalctl --no-pager")
    assert not sops.reconcile().require().changed
    before = sops.identities()
    encrypt(sops, KEY, f"{VALUE}-2")
    assert set(sops.reconcile(revision="b" * 40).require().statuses.values()) == {"synced"}
    after = sops.identities()
    assert {name for name in before if before[name] != after[name]} == {"web-a-1"}
    assert f"PASSWORD={VALUE}-2" in sops.inspect()["web-a-1"]["Config"]["Env"]


def test_a_file_for_another_key_fails_that_stack_with_the_cause(sops: StackNode) -> None:
    encrypt(sops, "/srv/other.txt", VALUE)
    result = sops.reconcile().require(failed=True)
    assert result.statuses == {"web": "failed", "good": "synced"}
    assert "app.sops.env" in result.stacks["web"]["last_error"]
    assert VALUE not in str(result.data)


def test_a_missing_key_a_broken_file_and_no_sops_are_told(sops: StackNode) -> None:
    encrypt(sops, KEY, VALUE)
    sops.reconcile().require()
    before = sops.identities()
    encrypt(sops, KEY, f"{VALUE}-2")
    sops.sh(f"mv {KEY} /srv/kept.txt")
    assert KEY in sops.reconcile().require(failed=True).stacks["web"]["last_error"]
    sops.sh(f"mv /srv/kept.txt {KEY}; mv /usr/local/bin/sops /srv/sops")
    assert "sops" in sops.reconcile().require(failed=True).stacks["web"]["last_error"]
    sops.sh("mv /srv/sops /usr/local/bin/sops")
    sops.write({"web/app.sops.env": "PASSWORD=not encrypted\n"})
    assert "app.sops.env" in sops.reconcile().require(failed=True).stacks["web"]["last_error"]
    assert sops.identities() == before
