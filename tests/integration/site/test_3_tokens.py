# SPDX-License-Identifier: GPL-3.0-or-later
"""No file, argv, log, diff or fact that others can read contains a token: looked for by its real value, everywhere."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.site.conftest import FULL
from tests.support.fleet import ROOT, Fleet, Run

# Prints every file outside root's own that contains a secret, and every process whose arguments or journal line do.
SEARCH = r"""
set -u
while read -r secret; do
  grep -rlIF --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev -e "$secret" / 2>/dev/null | while read -r f; do
    case "$f" in /run/secrets-to-look-for) continue;; esac
    mode=$(stat -c '%a %U' "$f")
    case "$mode" in 600\ root|400\ root) ;; *) echo "file $f $mode";; esac
  done
  for p in /proc/[0-9]*; do
    tr '\0' ' ' <"$p/cmdline" 2>/dev/null | grep -qF -e "$secret" && echo "argv of $(cat "$p/comm")"
    tr '\0' ' ' <"$p/environ" 2>/dev/null | grep -qF -e "$secret" && echo "environment of $(cat "$p/comm")"
  done
  journalctl --no-pager -o cat 2>/dev/null | grep -qF -e "$secret" && echo "journal"
done </run/secrets-to-look-for
true
"""


@pytest.fixture(scope="module")
def secrets(fleet: Fleet, bootstrap: Run) -> set[str]:
    """The real tokens of a cluster that has just been made, and every node's password."""
    found: set[str] = set()
    for host in fleet.hosts:
        files = "/var/lib/rancher/k3s/server/{token,agent-token} /etc/rancher/k3s/{token,agent-token} /etc/rancher/node/password"
        read = f"cat {files} 2>/dev/null || true"
        found |= {line.rsplit("::", 1)[-1].split(":", 1)[-1] for line in fleet.sh(host, read).split()}
    assert len(found) >= 2 + len(fleet.hosts)
    assert all(len(s) >= 16 for s in found)
    return found


def test_the_two_tokens_differ(fleet: Fleet, secrets: set[str]) -> None:
    server, agent = (
        fleet.sh(fleet.servers[0], f"cat /var/lib/rancher/k3s/server/{n}").strip().rsplit(":", 1)[1] for n in ("token", "agent-token")
    )
    assert server != agent
    for worker in fleet.workers:
        assert server not in fleet.sh(worker, "cat /etc/rancher/k3s/token")


def test_no_node_shows_one(fleet: Fleet, secrets: set[str]) -> None:
    for host in fleet.hosts:
        # on /run, 0600, and left out of the search: the search must not put the value into an argv of its own
        fleet.sh(host, "umask 077; cat >/run/secrets-to-look-for <<'E'\n" + "\n".join(sorted(secrets)) + "\nE")
        assert fleet.sh(host, SEARCH, timeout=300) == "", host
        fleet.sh(host, "rm /run/secrets-to-look-for")


def test_no_output_log_fact_or_record_of_the_controller_shows_one(fleet: Fleet, secrets: set[str], tmp_path: Path) -> None:
    """The worst case: a whole bootstrap of a node under -vvv --diff, with a log file, facts and the ledger."""
    worker = fleet.workers[-1]
    fleet.wipe(worker)
    fleet.forget(worker)
    # fetched once more, and shown by no connection on its way
    (ROOT / ".pifleet/lab" / fleet.inventory.name / "kubeconfig").unlink()
    credentials = base64.b64encode(fleet.sh(fleet.servers[0], "cat /etc/rancher/k3s/k3s.yaml").encode()).decode()[:64]
    run = fleet.play("-vvv", "--diff", env={"ANSIBLE_LOG_PATH": str(tmp_path / "ansible.log")}).require()
    texts = {"output": run.output, "log": (tmp_path / "ansible.log").read_text(errors="replace"), "results": str(run.tasks)}
    # the kubeconfig holds a client key, and is the one thing there that is meant to: 0600, tested elsewhere
    for folder in (ROOT / ".pifleet", *Path("/tmp").glob("ansible*")):
        for path in files_below(folder):
            if "snapshots" not in path.parts:
                with suppress(FileNotFoundError):  # of a run beside this one, which has ended meanwhile
                    texts[str(path)] = path.read_bytes().decode("latin-1")
    new = {fleet.sh(worker, "cat /etc/rancher/node/password").strip()}
    for where, text in texts.items():
        assert not [s for s in secrets | new | {credentials} if s in text], where


def files_below(folder: Path) -> Iterator[Path]:
    """The files in *folder*, and below it. Other runs make and remove some meanwhile."""
    for at, _folders, names in os.walk(folder):
        yield from (path for name in names if (path := Path(at, name)).is_file())


def test_lost_files_of_tokens_are_written_again_with_the_tokens_that_the_cluster_has(fleet: Fleet, secrets: set[str]) -> None:
    server, worker = fleet.servers[0], fleet.workers[0]
    known = fleet.sh(server, "cat /var/lib/rancher/k3s/server/{token,agent-token}")
    fleet.sh(server, "rm /etc/rancher/k3s/token /etc/rancher/k3s/agent-token")
    fleet.sh(worker, "rm /etc/rancher/k3s/token")
    check = fleet.play("--check").require()
    run = fleet.play().require()
    assert run.changed == check.changed
    assert {host for host, _task in run.changed} == {server, worker}
    assert fleet.sh(server, "cat /var/lib/rancher/k3s/server/{token,agent-token}") == known
    assert fleet.sh(worker, "cat /etc/rancher/k3s/token").strip() in known.split()
    assert fleet.play().require().changed == set()
    assert fleet.ready() == set(fleet.hosts)


WRONG = ("K10" + "ab" * 32 + "::node:wrong-token-of-a-stranger", "wrong-token-of-a-stranger")


@pytest.mark.parametrize("form", WRONG if FULL else WRONG[:1])
def test_agents_that_serve_are_not_started_with_a_token_that_the_cluster_does_not_take(fleet: Fleet, secrets: set[str], form: str) -> None:
    """Another cluster's is refused by servers too, which take a new secret."""
    hosts = fleet.hosts if form.startswith("K10") else fleet.workers[:1]
    before = fleet.invocations()
    for mode in (("--check",), ()):
        run = fleet.play("--limit", ",".join(hosts), "-e", f"k3s_agent_token={form}", *mode)
        assert run.rc == 2
        assert {f["host"] for f in run.failures} == set(hosts)
        assert all("k3s_agent_token of the inventory is" in f["msg"] for f in run.failures)
        assert run.changed == set()
        assert "wrong-token-of-a-stranger" not in run.output
    assert fleet.invocations() == before


def test_a_new_agent_token_for_the_whole_fleet_is_taken_by_servers_first(fleet: Fleet, secrets: set[str]) -> None:
    """And what --check says of it is what happens."""
    old = fleet.sh(fleet.servers[0], "cat /var/lib/rancher/k3s/server/agent-token").strip().rsplit(":", 1)[1]
    check = fleet.play("--check", "-e", "k3s_agent_token=another-token-for-all-agents").require()
    run = fleet.play("-e", "k3s_agent_token=another-token-for-all-agents").require()
    assert run.changed == check.changed
    assert {host for host, _task in run.changed} == set(fleet.hosts)
    assert fleet.sh(fleet.servers[0], "cat /var/lib/rancher/k3s/server/agent-token").strip().endswith(":another-token-for-all-agents")
    assert fleet.ready() == set(fleet.hosts)
    assert fleet.play("-e", f"k3s_agent_token={old}").require().changed == run.changed
    assert fleet.play().require().changed == set()


def test_the_search_finds_a_planted_one(fleet: Fleet) -> None:
    """This test must be able to fail."""
    host = fleet.hosts[0]
    fleet.sh(host, "echo planted-secret-value >/run/secrets-to-look-for; echo planted-secret-value >/etc/planted; chmod 644 /etc/planted")
    fleet.sh(host, "systemd-run --unit planted sleep 30 planted-secret-value || true", check=False)
    found = fleet.sh(host, SEARCH, timeout=300)
    fleet.sh(host, "rm -f /run/secrets-to-look-for /etc/planted; systemctl stop planted", check=False)
    assert "file /etc/planted 644 root" in found
    assert "argv of sleep" in found or "journal" in found
