# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict on a join from unit, journal and host, and how long it is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import join, join_causes
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.join import Host, Line, Server, Unit, diagnose, relevant, wait

READY = Unit(load="loaded", active="active", sub="running", main_pid=7, invocation="now")
STARTING = Unit(load="loaded", active="activating", sub="start", main_pid=7, invocation="now", job=True)
RESTARTING = Unit(load="loaded", active="activating", sub="auto-restart", result="exit-code", n_restarts=2, invocation="now", job=True)
SERVER = Server("https://10.0.0.11:6443", reachable=True, skew=0.4, ca_hash="a" * 64, token_ca_hash="a" * 64)
DEAD = Server("https://10.0.0.11:6443", reachable=False, error="timed out")

PASSWORD = 'level=info msg="Waiting to retrieve agent configuration; server is not ready: Node password rejected, duplicate hostname or …"'
TOKEN = 'level=info msg="…: https://127.0.0.1:6444/v1-k3s/config: 401 Unauthorized"'
REFUSED = (
    r'level=error msg="Failed to validate connection to cluster at https://10.0.0.11:6443: failed to get CA certs: '
    r'Get \"https://127.0.0.1:6444/cacerts\": dial tcp: connect: connection refused"'
)
EXPIRED = 'level=error msg="…/cacerts: x509: certificate has expired or is not yet valid: current time 2026-11-21T08:00:00Z is {} 2026-…"'
FATAL = 'level=fatal msg="something nobody has seen before"'
KUBELET = 'level=info msg="Running kubelet --config-dir=…"'


def lines(*texts: str, invocation: str = "now") -> tuple[Line, ...]:
    return tuple(Line(text, invocation) for text in texts)


# ------------------------------------------------------------------ ready, starting, stopped, not installed


def test_an_active_agent_is_ready() -> None:
    found = diagnose("agent", READY, (), Host())
    assert (found.state, found.hint) == (join.READY, "")


def test_ready_mentions_a_disk_that_is_nearly_full() -> None:
    found = diagnose("agent", READY, (), Host(disk_free_mb=900, disk_total_mb=30000))
    assert found.state == join.READY
    assert "900 MB free (3 %)" in found.hint


def test_a_server_is_ready_only_when_its_port_answers() -> None:
    assert diagnose("server", READY, (), Host(answers=True)).state == join.READY
    assert diagnose("server", READY, (), Host(answers=False)).state == join.STARTING


def test_a_queued_restart_is_starting_and_not_the_old_ready() -> None:
    assert diagnose("agent", replace(READY, job=True), (), Host()).state == join.STARTING


def test_a_queued_start_is_starting() -> None:
    queued = Unit(load="loaded", active="inactive", sub="dead", job=True)
    assert diagnose("agent", queued, (), Host()).state == join.STARTING


def test_a_start_without_a_cause_is_starting() -> None:
    found = diagnose("agent", STARTING, lines('level=info msg="Preparing data dir"'), Host(server=SERVER))
    assert (found.state, found.evidence) == (join.STARTING, "Preparing data dir")


@pytest.mark.parametrize(
    ("unit", "word"),
    [(Unit(load="not-found"), "not installed"), (Unit(load="masked"), "masked"), (Unit(load="loaded", active="inactive"), "stopped")],
)
def test_a_unit_that_does_not_run_is_unknown_and_says_why(unit: Unit, word: str) -> None:
    found = diagnose("agent", unit, (), Host())
    assert found.state == join.UNKNOWN
    assert word in found.hint
    assert "k3s-agent" in found.hint


# ------------------------------------------------------------------ which lines count


def test_lines_of_an_earlier_start_do_not_count() -> None:
    old, now = lines(TOKEN, invocation="old"), lines(KUBELET)
    assert relevant((*old, *now), STARTING) == now


def test_lines_of_the_last_starts_of_a_crash_loop_count() -> None:
    starts = [lines(f"start {number}", invocation=str(number)) for number in range(9)]
    every = tuple(line for start in starts for line in start)
    unit = replace(RESTARTING, invocation="8", n_restarts=2)
    assert [line.invocation for line in relevant(every, unit)] == ["6", "7", "8"]
    assert [line.invocation for line in relevant(every, replace(unit, n_restarts=7))] == ["5", "6", "7", "8"]


def test_a_start_that_has_written_nothing_yet_still_has_the_crashes_before_it() -> None:
    before = lines(FATAL, invocation="before")
    assert relevant(before, replace(RESTARTING, invocation="new", n_restarts=1)) == before
    assert relevant(before, replace(STARTING, invocation="new")) == ()


def test_a_unit_that_never_started_has_no_lines() -> None:
    assert relevant(lines(FATAL, invocation="other"), Unit(load="loaded")) == ()


def test_the_newest_cause_wins() -> None:
    assert diagnose("agent", STARTING, lines(REFUSED, TOKEN), Host()).state == join.TOKEN_REJECTED
    assert diagnose("agent", STARTING, lines(TOKEN, PASSWORD), Host()).state == join.NODE_PASSWORD_REJECTED


def test_what_joining_has_overcome_is_history() -> None:
    assert diagnose("agent", STARTING, lines(REFUSED, PASSWORD, KUBELET), Host()).state == join.STARTING


# ------------------------------------------------------------------ the host explains


def test_a_missing_memory_controller_explains_everything() -> None:
    found = diagnose("agent", RESTARTING, lines(FATAL), Host(memory_cgroup=False))
    assert found.state == join.CGROUP_MEMORY_MISSING
    assert "cgroup_enable=memory" in found.hint


def test_a_missing_default_route_explains_an_unreachable_server() -> None:
    assert diagnose("agent", STARTING, lines(REFUSED), Host(default_route=False, server=DEAD)).state == join.NO_DEFAULT_ROUTE
    assert diagnose("agent", STARTING, (), Host(default_route=False, server=DEAD)).state == join.NO_DEFAULT_ROUTE


def test_a_node_may_do_without_a_default_route() -> None:
    assert diagnose("agent", STARTING, (), Host(default_route=False, server=SERVER)).state == join.STARTING


def test_a_server_that_answers_by_now_is_not_unreachable() -> None:
    assert diagnose("agent", STARTING, lines(REFUSED), Host(server=DEAD)).state == join.SERVER_UNREACHABLE
    assert diagnose("agent", STARTING, lines(REFUSED), Host(server=SERVER)).state == join.STARTING


def test_a_server_that_does_not_answer_is_the_cause_before_k3s_says_so() -> None:
    found = diagnose("agent", STARTING, (), Host(server=DEAD))
    assert (found.state, found.evidence) == (join.SERVER_UNREACHABLE, "https://10.0.0.11:6443: timed out")
    assert "https://10.0.0.11:6443" in found.hint


def test_another_ca_is_the_cause_before_k3s_says_so() -> None:
    found = diagnose("agent", STARTING, (), Host(server=replace(SERVER, token_ca_hash="b" * 64)))
    assert found.state == join.CA_MISMATCH
    assert "aaaaaaaa" in found.evidence
    assert "bbbbbbbb" in found.evidence


def test_a_ca_that_is_not_known_is_no_mismatch() -> None:
    assert diagnose("agent", STARTING, (), Host(server=replace(SERVER, ca_hash=""))).state == join.STARTING
    assert diagnose("agent", STARTING, (), Host(server=replace(SERVER, token_ca_hash=""))).state == join.STARTING


def test_clock_skew_says_how_far_and_in_which_direction() -> None:
    found = diagnose("agent", STARTING, lines(EXPIRED.format("before")), Host(server=replace(SERVER, skew=-86400.2)))
    assert found.state == join.CLOCK_SKEW
    assert "86400 s behind" in found.evidence


def test_an_expired_certificate_between_clocks_that_agree_is_not_the_clock() -> None:
    found = diagnose("agent", STARTING, lines(EXPIRED.format("after")), Host(server=SERVER))
    assert found.state == join.CRASH_LOOP
    assert "rotate" in found.hint
    ahead = diagnose("agent", STARTING, lines(EXPIRED.format("after")), Host(server=replace(SERVER, skew=9e7)))
    assert ahead.state == join.CLOCK_SKEW


def test_a_port_held_by_a_stranger_is_named_with_its_holder() -> None:
    found = diagnose("agent", STARTING, (), Host(ports={6444: "", 10250: "nginx (pid 12)"}))
    assert found.state == join.PORT_IN_USE
    assert "10250" in found.hint
    assert "nginx (pid 12)" in found.hint


def test_a_port_that_is_free_again_is_no_cause() -> None:
    said = lines('level=fatal msg="listen tcp :6443: bind: address already in use"')
    assert diagnose("server", RESTARTING, said, Host(ports={6443: ""})).state == join.STARTING
    held = diagnose("server", RESTARTING, said, Host(ports={6443: "haproxy (pid 3)"}))
    assert (held.state, "haproxy" in held.hint) == (join.PORT_IN_USE, True)


@pytest.mark.parametrize(
    "host",
    [
        Host(disk_free_mb=0, disk_total_mb=30000),
        Host(disk_free_mb=9000, disk_total_mb=30000, inodes_free=0),
        Host(disk_free_mb=50, disk_total_mb=300),
    ],
)
def test_a_full_disk_is_the_cause(host: Host) -> None:
    found = diagnose("agent", RESTARTING, lines(FATAL), replace(host, data_dir="/data/k3s"))
    assert found.state == join.DISK_PRESSURE
    assert "/data/k3s" in found.hint


def test_a_disk_that_is_merely_getting_full_is_no_cause_while_k3s_starts() -> None:
    assert diagnose("agent", STARTING, (), Host(disk_free_mb=900, disk_total_mb=30000, server=SERVER)).state == join.STARTING


# ------------------------------------------------------------------ crash loop


def test_a_unit_that_ends_again_and_again_is_a_crash_loop_with_its_last_words() -> None:
    found = diagnose("agent", replace(RESTARTING, n_restarts=5), lines(FATAL, 'level=info msg="Starting k3s agent"'), Host())
    assert found.state == join.CRASH_LOOP
    assert found.evidence.startswith("something nobody has seen before")
    assert "5 restarts" in found.evidence


def test_a_first_failure_is_not_yet_a_crash_loop() -> None:
    assert diagnose("agent", replace(RESTARTING, n_restarts=1), lines(FATAL), Host()).state == join.STARTING


def test_a_failed_unit_is_a_crash_loop() -> None:
    failed = Unit(load="loaded", active="failed", sub="failed", result="start-limit-hit", invocation="now")
    assert diagnose("agent", failed, lines(FATAL), Host()).state == join.CRASH_LOOP


def test_the_hint_names_the_node() -> None:
    found = diagnose("agent", STARTING, lines(PASSWORD), Host(node_name="pi-cluster-4.local"))
    assert "kubectl -n kube-system delete secret pi-cluster-4.local.node-password.k3s" in found.hint


# ------------------------------------------------------------------ waiting


@dataclass
class FakeClock:
    time: float = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(seconds, 0.001)


@dataclass
class FakeNode:
    """A node whose unit and journal follow a script of (from second, unit, lines)."""

    clock: FakeClock
    script: list[tuple[float, Unit, tuple[Line, ...]]]
    state: Host = field(default_factory=Host)
    pongs_from: float = 0.0
    full_looks: int = 0

    def _at(self) -> tuple[float, Unit, tuple[Line, ...]]:
        elapsed = self.clock.time - 100.0
        return [entry for entry in self.script if entry[0] <= elapsed + 1e-6][-1]

    def unit(self) -> Unit:
        return self._at()[1]

    def answers(self) -> bool:
        return self.clock.time - 100.0 >= self.pongs_from

    def lines(self, unit: Unit) -> Sequence[Line]:
        return self._at()[2]

    def host(self, unit: Unit) -> Host:
        self.full_looks += 1
        return self.state


def waited(role: str, timeout: float, *script: tuple[float, Unit, tuple[Line, ...]], **more: object) -> tuple[join.Outcome, FakeNode]:
    clock = FakeClock()
    node = FakeNode(clock, list(script), **more)  # type: ignore[arg-type]  # keyword arguments of this very class
    return wait(role, node, clock, timeout), node


def test_ready_returns_at_once_without_reading_journal_or_host() -> None:
    outcome, node = waited("agent", 300, (0, READY, ()))
    assert (outcome.diagnosis.state, outcome.waited, node.full_looks, outcome.log) == (join.READY, 0, 0, ())


def test_timeout_zero_looks_once() -> None:
    outcome, node = waited("agent", 0, (0, STARTING, lines("x")))
    assert (outcome.diagnosis.state, outcome.waited, node.full_looks) == (join.STARTING, 0, 1)


def test_waiting_ends_when_the_node_becomes_ready() -> None:
    outcome, _ = waited("agent", 300, (0, STARTING, lines(REFUSED)), (42, READY, ()))
    assert outcome.diagnosis.state == join.READY
    assert 42 <= outcome.waited < 43


def test_a_server_is_waited_for_until_it_answers() -> None:
    outcome, _ = waited("server", 300, (0, READY, ()), state=Host(answers=False), pongs_from=5)
    assert outcome.diagnosis.state == join.READY
    assert 5 <= outcome.waited < 6


@pytest.mark.parametrize(("line", "state"), [(TOKEN, join.TOKEN_REJECTED), (PASSWORD, join.NODE_PASSWORD_REJECTED)])
def test_a_cause_that_never_heals_ends_waiting_once_it_persisted(line: str, state: str) -> None:
    outcome, _ = waited("agent", 300, (0, STARTING, lines(line)))
    assert outcome.diagnosis.state == state
    assert 10 <= outcome.waited < 15
    assert outcome.log == (line,)


def test_a_cause_that_passes_does_not_end_waiting() -> None:
    outcome, _ = waited("agent", 300, (0, STARTING, lines(TOKEN)), (8, STARTING, lines(TOKEN, KUBELET)), (30, READY, ()))
    assert outcome.diagnosis.state == join.READY


def test_a_cause_has_to_persist_from_when_it_appeared() -> None:
    outcome, _ = waited("agent", 300, (0, STARTING, ()), (40, STARTING, lines(TOKEN)))
    assert 50 <= outcome.waited < 56


def test_an_unreachable_server_is_waited_for_until_the_timeout() -> None:
    outcome, _ = waited("agent", 60, (0, STARTING, lines(REFUSED)))
    assert outcome.diagnosis.state == join.SERVER_UNREACHABLE
    assert outcome.waited == pytest.approx(60, abs=0.6)


def test_the_log_is_short() -> None:
    outcome, _ = waited("agent", 0, (0, STARTING, lines(*(f"line {number}" for number in range(100)))))
    assert outcome.log == tuple(f"line {number}" for number in range(80, 100))


def test_every_state_is_one_of_the_contract() -> None:
    contract = (
        "ready starting token_rejected node_password_rejected ca_mismatch server_unreachable clock_skew cgroup_memory_missing "
        "no_default_route port_in_use disk_pressure crash_loop unknown"
    )
    assert " ".join(join_causes.STATES) == contract
