# SPDX-License-Identifier: GPL-3.0-or-later
"""A line logged on each node is found within a bound; after an outage it arrives late, not never."""

from __future__ import annotations

import uuid

from tests.integration.logs.conftest import Logs, until

#: seconds until a line is found: a second to fill a batch, a second until the store shows it, and a busy machine
BOUND = 30
UNIT = "pifleet-logs.service"
STATE = "find /etc /var/lib/dpkg /var/lib/pifleet -type f 2>/dev/null | sort | xargs sha256sum"


def word() -> str:
    return uuid.uuid4().hex


def test_the_check_of_a_fresh_node_predicts_the_run_and_a_second_one_changes_nothing(fleet: Logs) -> None:
    before = {
        host: fleet.sh(host, "find /etc /var/lib -xdev -newer /etc/hostname -type f | sort | xargs sha256sum") for host in fleet.hosts
    }
    check = fleet.ship("--check", "--diff").require()
    after = {host: fleet.sh(host, "find /etc /var/lib -xdev -newer /etc/hostname -type f | sort | xargs sha256sum") for host in fleet.hosts}
    assert after == before, "a check touches nothing"
    assert f"unit {UNIT}" in check.output
    killed = fleet.start_shipper()
    until(lambda: "syslog-ng" in fleet.sh(fleet.hosts[0], "ls /var/lib/dpkg/info /etc/systemd/system"), "the run began", 300)
    killed.kill()
    first = fleet.ship().require()
    assert first.changed <= check.changed
    for args in (("--check",), ()):
        assert fleet.ship(*args).require().changed == set()
    for host in fleet.hosts:
        assert fleet.sh(host, f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT} syslog-ng.service || true").split() == [
            "active",
            "enabled",
            "masked",
        ]


def test_a_line_of_each_node_is_found_within_a_bound(fleet: Logs) -> None:
    for host in fleet.hosts:
        name = word()
        fleet.log(host, f"a line {name} of this node")
        until(lambda name=name: fleet.store.lines(name), "the line is there", BOUND)
        (line,) = fleet.store.lines(name)
        assert line["_msg"] == f"a line {name} of this node"
        assert (line["node"], line["job"], line["level"], line["fleet"]) == (host, "journal", "warning", "lab-logs")


def test_any_text_arrives_as_it_was(fleet: Logs) -> None:
    host, name = fleet.hosts[0], word()
    texts = ['with "quotes" and \\ backslashes', "tab\tand $PROGRAM ${HOST} $(echo)", "grüße, 温度 🌡", "{'a': [1, 2]}, ]}", "x" * 20_000]
    for number, text in enumerate(texts):
        fleet.log(host, f"{name} {number} {text}")
    until(lambda: len(fleet.store.lines(name)) == len(texts), "all texts are there", BOUND)
    assert {line["_msg"] for line in fleet.store.lines(name)} == {f"{name} {number} {text}" for number, text in enumerate(texts)}


def test_the_line_of_a_unit_is_found_by_its_unit(fleet: Logs) -> None:
    host, name = fleet.hosts[1], word()
    fleet.sh(host, f"systemd-run --wait --unit=measured.service sh -c 'echo {name} was measured; sleep 1'")
    # it lives for a moment, because journald looks its unit up when it says something
    until(lambda: [line for line in fleet.store.lines(name) if line["_msg"] == f"{name} was measured"], "it is there", BOUND)
    assert "measured.service" in {line["unit"] for line in fleet.store.lines(name)}


def test_after_an_outage_lines_arrive_late_though_shippers_were_restarted_and_killed(fleet: Logs) -> None:
    fleet.store.stop()
    first, second, third = fleet.hosts[0], fleet.hosts[1], word()
    sent = {host: [f"{third} {host} {number}" for number in range(3)] for host in fleet.hosts}
    for host in fleet.hosts:
        fleet.log(host, sent[host][0])
    fleet.sh(first, f"systemctl restart {UNIT}")
    fleet.sh(second, f"systemctl kill -s KILL {UNIT}")
    for host in fleet.hosts:
        fleet.log(host, sent[host][1])
    until(lambda: fleet.sh(second, f"systemctl is-active {UNIT} || true").strip() == "active", "systemd starts it again")
    fleet.sh(first, f"systemctl stop {UNIT}")
    for host in fleet.hosts:
        fleet.log(host, sent[host][2])
    assert fleet.store.asked("*") is None
    fleet.sh(first, f"systemctl start {UNIT}")
    fleet.store.start()
    wanted = {line for lines in sent.values() for line in lines}
    until(lambda: wanted <= {line["_msg"] for line in fleet.store.lines(third)}, "all are there", BOUND)


def test_many_lines_of_an_outage_wait_on_disk_and_over_a_reboot(fleet: Logs) -> None:
    """More than the shipper has in memory."""
    fleet.store.stop()
    host, name, count = fleet.hosts[0], word(), 5000
    fleet.sh(host, f"for i in $(seq {count}); do echo {name} $i {'y' * 200}; done | systemd-cat -t pifleet-test", timeout=300)
    assert (
        fleet.sh(host, f"journalctl --sync; journalctl -q -D /var/log/journal -t pifleet-test -g '{name} {count} ' -o cat | wc -l").strip()
        == "1"
    )
    fleet.sh(host, "reboot", check=False)
    until(lambda: fleet.sh(host, f"systemctl is-active {UNIT} || true", check=False).strip() == "active", "the node is back", 120)
    fleet.store.start()
    numbers: set[int] = set()

    def all_there() -> bool:
        numbers.update(int(line["_msg"].split()[1]) for line in fleet.store.lines(name))
        return len(numbers) == count

    until(all_there, "all are there", 120)


def test_a_bad_address_is_refused_before_anything_is_touched(fleet: Logs) -> None:
    run = fleet.ship(url="loki:3100").require(2)
    assert "is no address of a Loki" in run.output
    assert fleet.ship("--check").require().changed == set()


def test_without_an_address_the_shipper_goes(fleet: Logs) -> None:
    check, run = fleet.ship("--check", url="").require(), fleet.ship(url="").require()
    assert check.changed == run.changed != set()
    assert fleet.ship(url="").require().changed == set()
    for host in fleet.hosts:
        assert fleet.sh(host, f"systemctl is-active {UNIT} || true; ls /etc/pifleet").split() == ["inactive"]
        assert "70-pifleet" not in fleet.sh(host, "ls /etc/systemd/journald.conf.d || true")
