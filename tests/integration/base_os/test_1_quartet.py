# SPDX-License-Identifier: GPL-3.0-or-later
"""Check on a fresh node, apply, check again, apply again; and what other programs then see of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.support.fleet import Fleet, Run

from .conftest import NODE, PLAY

Shell = Callable[[str], str]

# Every file a run could touch, with its content, mode and owner; and the kernel parameters that it sets.
STATE = (
    "find /etc /boot /usr /var/lib/dpkg /var/lib/pifleet /var/lib/systemd -xdev -type f ! -name 'clock' "
    "-printf '%p %m %U ' -exec sha256sum {} + 2>/dev/null | sort | sha256sum; "
    "hostname; cat /proc/sys/net/ipv4/ip_forward /etc/hosts /etc/hostname"
)


def plan(run: Run) -> list[dict[str, Any]]:
    """What base_os says it changed, or would."""
    return list(run.of("base_os : Bring the operating system")[0]["plan"])


def test_quartet_on_a_fresh_node(fresh: Fleet, sh: Shell) -> None:
    before = sh(STATE)
    predicted = fresh.play("--check", "--diff", playbook=PLAY).require()
    assert sh(STATE) == before, "check mode touched the node"
    assert {task for _, task in predicted.changed} == {"pifleet.ops.base_os : Bring the operating system into the state that k3s needs"}

    applied = fresh.play(playbook=PLAY).require()
    assert applied.changed == predicted.changed
    assert plan(applied) == plan(predicted)
    assert len(plan(applied)) >= 6

    for flags in (("--check",), ()):
        again = fresh.play(*flags, playbook=PLAY).require()
        assert again.changed == set()
        assert plan(again) == []


def test_other_programs_see_what_was_claimed(converged: Fleet, sh: Shell) -> None:
    assert sh("hostname").strip() == "fresh-pi"
    assert sh("cat /etc/hostname").strip() == "fresh-pi"
    assert sh("getent ahostsv4 fresh-pi.local | awk 'NR==1{print $1}'").strip() == "172.30.92.11"
    assert sh("grep -c localhost /etc/hosts").strip() != "0", "the user's lines are kept"
    assert sh("sysctl -n net.ipv4.ip_forward").strip() == "1"
    # journald itself says where it writes: its open files
    files = sh("ls -l /proc/$(systemctl show -p MainPID --value systemd-journald)/fd | grep -o '/[^ ]*journal/[^ ]*' | sort -u")
    assert "/run/log/journal/" in files
    assert "/var/log/journal/" not in files
    assert sh("timeout 100 systemctl is-system-running --wait || true").strip() == "running"


def test_a_container_leaves_out_what_it_cannot_do_and_says_so_once(converged: Fleet) -> None:
    run = converged.play(playbook=PLAY).require()
    assert run.output.count("Left out, because these nodes cannot do it:") == 1
    for item in ("time synchronisation", "kernel command line and reboot", "kernel modules", "kernel parameters", "noatime"):
        assert item in run.output
    assert "fs.inotify.max_user_watches" in run.output


def test_a_converged_node_costs_one_call_for_the_facts_and_one_for_the_role(converged: Fleet) -> None:
    run = converged.play(playbook=PLAY).require()
    assert run.ssh_calls == {converged.address(NODE): 2}


def test_facts_are_those_other_programs_report(converged: Fleet, sh: Shell) -> None:
    run = converged.play("-v", playbook=PLAY, env={"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}).require()
    text = run.output[run.output.index('"pi": {') + len('"pi": ') :]
    pi, _ = json.JSONDecoder().raw_decode(text)
    assert pi["hostname"] == sh("hostname").strip()
    assert pi["machine_id"] == sh("cat /etc/machine-id").strip()
    assert pi["machine"] == sh("uname -m").strip()
    assert pi["os"]["version_id"] == sh(". /etc/os-release; echo $VERSION_ID").strip()
    assert pi["memory_mb"] == int(sh("awk '/MemTotal/{print int($2/1024)}' /proc/meminfo"))
    assert pi["cpus"] == int(sh("nproc --all"))
    assert pi["page_size"] == int(sh("getconf PAGESIZE"))
    assert pi["container_kind"] == sh("systemd-detect-virt --container").strip()
    assert pi["address"] == "172.30.92.11"
    assert set(pi["addresses"]) == set(sh("ip -o addr show scope global | awk '{print $4}' | cut -d/ -f1").split())
    assert pi["default_route"] is (sh("ip route show default").strip() != "")
    groups = sh("cat /proc/self/cgroup /sys/fs/cgroup/cgroup.controllers 2>/dev/null || true")
    assert pi["cgroup"]["memory"] is ("memory" in groups)
    assert abs(pi["disk"]["/"]["total_mb"] - int(sh("df --output=size -B1M / | tail -1"))) <= 1  # df rounds up
    assert abs(pi["clock"]["epoch"] - float(sh("date +%s"))) < 60
