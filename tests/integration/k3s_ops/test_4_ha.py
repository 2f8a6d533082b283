# SPDX-License-Identifier: GPL-3.0-or-later
"""Three servers with embedded etcd: upgraded without losing the API, restored, and taken apart without losing the quorum."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.k3s_ops.conftest import HERE, NEW, OLD, Ops, kill_after, silent
from tests.support.fleet import Run

pytestmark = pytest.mark.full


class Ha(Ops):
    def voters(self) -> set[str]:
        return {
            name
            for name, node in self.nodes().items()
            if any(c["type"] == "EtcdIsVoter" and c["status"] == "True" for c in node["status"]["conditions"])
        }

    def members(self, server: str) -> list[str]:
        """Names of etcd's own members (node name and a random part), as etcd says."""
        tls = "/var/lib/rancher/k3s/server/tls/etcd"
        found = self.sh(
            server,
            f"$(find /opt/k3s-standin -name etcd -type f | head -1) admin --endpoint https://127.0.0.1:2379 --cacert {tls}/server-ca.crt"
            f" --cert {tls}/client.crt --key {tls}/client.key members",
        )
        return sorted(member["name"].rpartition("-")[0] for member in json.loads(found)["members"])

    def outage(self) -> int:
        """How many of the servers do not answer now."""
        return sum("ok" not in self.kubectl("get", "--raw=/readyz", "--request-timeout=2s", server=s, check=False) for s in self.servers)


@pytest.fixture(scope="module")
def ha() -> Iterator[Ha]:
    lab = Ha(HERE / "lab-ops-ha")
    lab.lab("prepare", "-i", "inventory/lab-second")
    lab.up()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


def test_a_server_and_an_only_agent_that_do_not_come_up_hold_up_nobody(ha: Ha) -> None:
    """The first bring-up of the fleet: what is taken on two nodes is a port."""
    first, second, third = ha.servers
    taken = {second: 6443, ha.workers[0]: 10250}
    for host, port in taken.items():
        ha.sh(host, f"systemd-run --quiet --unit squatter python3 -m http.server {port}")
    run = ha.play("-e", "k3s_join_timeout=60").require(2)
    assert {f["host"] for f in run.failures} == set(taken)
    assert f"{taken[second]}" in [f["msg"] for f in run.failures if f["host"] == second][-1]
    assert ha.ready() == {first, third} == ha.voters()
    assert "Active" in ha.kubectl("get", "namespace", "monitoring"), "the cluster was verified and got its baseline"
    for host in taken:
        ha.sh(host, "systemctl stop squatter")
    ha.play().require()
    assert ha.ready() == set(ha.hosts) and ha.voters() == set(ha.servers)


def test_a_server_that_does_not_come_back_keeps_the_next_one_from_being_restarted(ha: Ha) -> None:
    first, second, third = ha.servers
    wrong, name = "/etc/rancher/k3s/config.yaml.d/99-wrong.yaml", ("-e", '{"k3s_tls_san": ["api.example"]}')
    ha.sh(second, f"echo 'kube-apiserver-arg: [no-such-flag=1]' >{wrong}")
    units = ha.invocations()
    run = ha.play(*name, "-e", "k3s_join_timeout=60").require(2)
    after = ha.invocations()
    assert {h for h in ha.hosts if units[h] != after[h]} == {first, second}
    assert {f["host"] for f in run.failures} == {second}
    assert f"{third} is left as it is, because {second} did not come up" in " ".join(run.output.split())
    assert "ok" in ha.kubectl("get", "--raw=/readyz"), "two of three members are a quorum"
    ha.sh(second, f"rm {wrong}")
    ha.play(*name).require()
    assert ha.play(*name).require().changed == set()
    ha.play().require()
    assert ha.ready() == set(ha.hosts) and ha.voters() == set(ha.servers)


def test_servers_are_upgraded_one_at_a_time_and_an_api_always_answers(ha: Ha) -> None:
    assert ha.voters() == set(ha.servers)
    check = ha.upgrade(NEW, "--check").require()
    worst, over = list[int](), threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            worst.append(ha.outage())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    run = ha.upgrade(NEW).require()
    over.set()
    thread.join()
    assert run.changed == check.changed
    assert set(ha.versions().values()) == {NEW}
    assert ha.voters() == set(ha.servers) and ha.ready() == set(ha.hosts) and not ha.cordoned()
    assert max(worst) <= 1, "never more than one server at a time"
    assert ha.upgrade(NEW).require().changed == set()


def test_a_server_leaves_etcd_and_comes_back(ha: Ha) -> None:
    first, second, third = ha.servers
    units = ha.invocations([first, second])
    run = ha.reset("--limit", third, *ha.confirmed).require()
    assert {host for host, _ in run.changed} == {third}
    assert ha.members(first) == [first, second] and set(ha.nodes()) == {first, second, *ha.workers}
    assert ha.invocations([first, second]) == units
    ha.play("--limit", third, "-e", f"k3s_version={NEW}").require()
    assert ha.members(first) == [first, second, third] and ha.voters() == set(ha.servers)


def test_no_server_leaves_at_the_price_of_the_quorum(ha: Ha) -> None:
    first, second, third = ha.servers
    ha.sh(third, "systemctl stop k3s")
    try:
        ha.kubectl("wait", "node", third, "--for=condition=Ready=Unknown", "--timeout=90s", server=second)
        run = ha.reset("--limit", first, *ha.confirmed)
        assert run.rc != 0
        assert "of the 2 members of etcd that would stay, 1 can vote; 2 must" in " ".join(run.output.split())
        assert ha.members(second) == [first, second, third]
        refused = ha.upgrade("v1.34.6+k3s1", "-e", f"k3s_artifact_dir={ha.vars_of(first)['lab_state']}").require(2)
        assert refused.changed == set()
    finally:
        ha.sh(third, "systemctl start k3s", timeout=120)
        ha.kubectl("uncordon", first, server=second)


def test_a_snapshot_of_etcd_brings_all_servers_back(ha: Ha) -> None:
    first = ha.servers[0]
    ha.kubectl("create", "configmap", "before", "--from-literal=a=b")
    ha.snapshot().require()
    ha.kubectl("create", "configmap", "after", "--from-literal=a=b")
    version = ("-e", f"k3s_version={NEW}")
    check = ha.restore("latest", "--check", *version).require()
    run = ha.restore("latest", *ha.confirmed, *version).require()
    assert run.changed == check.changed
    assert "before" in ha.configmaps() and "after" not in ha.configmaps()
    assert ha.members(first) == ha.servers and ha.voters() == set(ha.servers) and ha.ready() == set(ha.hosts)
    assert ha.play(*version).require().changed == set()


def test_onto_a_wiped_first_server(ha: Ha, tmp_path: Path) -> None:
    first = ha.servers[0]
    ha.kubectl("create", "configmap", "after", "--from-literal=a=b")
    ha.wipe(first)
    version = ("-e", f"k3s_version={NEW}")
    ha.restore("latest", *ha.confirmed, *version).require()
    assert "before" in ha.configmaps() and "after" not in ha.configmaps()
    assert ha.members(first) == ha.servers and ha.voters() == set(ha.servers) and ha.ready() == set(ha.hosts)
    assert set(ha.versions().values()) == {NEW} != {OLD}


def test_a_reset_of_the_fleet_does_not_count_a_server_as_gone_that_does_not_answer(ha: Ha) -> None:
    third = ha.servers[-1]
    units = ha.invocations()
    with silent(ha, third) as env:
        run = ha.play(*ha.confirmed, "-e", "k3s_reset_force=false", playbook="playbooks/reset.yml", env=env)
        assert run.rc != 0 and run.changed == set()
        assert f"{third} did not answer and would keep the cluster's data" in " ".join(run.output.split())
        assert ha.invocations() == units
        run = ha.play(*ha.confirmed, "-e", "k3s_reset_force=true", playbook="playbooks/reset.yml", env=env)
    assert run.rc != 0
    assert f"{third} did not answer: k3s and its data are still there" in " ".join(run.output.split())
    gone = "ls -d /var/lib/rancher/k3s 2>/dev/null || true"
    assert {h for h in ha.hosts if ha.sh(h, gone)} == {third}
    ha.reset(*ha.confirmed).require()
    assert not any(ha.sh(h, gone) for h in ha.hosts)


def test_the_server_token_of_several_servers_is_rotated_without_losing_the_quorum(ha: Ha) -> None:
    def tokens() -> dict[str, tuple[str, str]]:
        """What each server tells, and what it is started with."""
        files = ("/var/lib/rancher/k3s/server/token", "/etc/rancher/k3s/token")
        return {s: tuple(ha.sh(s, f"cat {file}").strip().rsplit(":", 1)[-1] for file in files) for s in ha.servers}

    def rotate(*args: str) -> Run:
        return ha.play("-e", "what=k3s_token", *args, playbook="playbooks/rotate_secrets.yml")

    ha.play().require()
    before, agents, units = tokens(), ha.sh(ha.workers[0], "cat /etc/rancher/k3s/token"), ha.invocations()
    check = rotate("--check").require()
    assert (tokens(), ha.invocations()) == (before, units)
    stop, worst = threading.Event(), [0]

    def watch() -> None:
        while not stop.is_set():
            worst[0] = max(worst[0], ha.outage())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        # cut off after one of the others has it
        kill_after(ha, "Wait until the server serves with it", "playbooks/rotate_secrets.yml", "-e", "what=k3s_token")
        half = tokens()
        run = rotate().require()
    finally:
        stop.set()
        watcher.join()
    after = tokens()
    (secret,) = {secret for pair in after.values() for secret in pair}
    assert secret not in {secret for pair in before.values() for secret in pair}
    assert half[ha.servers[0]][0] == secret, "it is not rotated twice"
    assert secret not in run.output + check.output
    started = {(server, "Start the server with it") for server in ha.servers}
    assert check.changed == started | {(ha.servers[0], "Let k3s make a new server token")}
    assert run.changed < started
    assert worst[0] == 1, "one server after the other, and the watch saw it"
    assert ha.ready() == set(ha.hosts) and ha.voters() == set(ha.servers)
    assert ha.sh(ha.workers[0], "cat /etc/rancher/k3s/token") == agents
    ask = "curl -s -o /dev/null -w '%{http_code}' --cacert /var/lib/rancher/k3s/server/tls/server-ca.crt -K - https://127.0.0.1:6443/v1-k3s/readyz"
    for server in ha.servers:
        for password, says in ((secret, "200"), (before[server][0], "401")):
            assert ha.sh(server, f"printf 'user = \"server:%s\"\\n' {password} | {ask}").strip() == says
    assert ha.play().require().changed == set()
