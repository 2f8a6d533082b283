# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a node has, or has not, joined: a verdict from its unit, its journal and the effective state of the host.

Pure: snapshots in, a diagnosis out. ``join_causes`` knows the wordings of k3s, ``join_probe`` reads the node, the façade is the module
``k3s_join_info``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._k3s.join_causes import (
    CA_MISMATCH,
    CGROUP_MEMORY_MISSING,
    CLOCK_SKEW,
    CRASH_LOOP,
    DISK_PRESSURE,
    HINTS,
    NO_DEFAULT_ROUTE,
    NODE_PASSWORD_REJECTED,
    PORT_IN_USE,
    READY,
    SERVER_UNREACHABLE,
    STARTING,
    TOKEN_REJECTED,
    UNKNOWN,
    classify,
    is_end,
    is_joined,
    message,
    overcome_by_joining,
)

#: Seconds after which a cause that is still there is reported without waiting for the timeout: none of these heals by waiting longer.
#: A clock is given the time in which the smallest skew that base_os lets pass (60 s) would outlive a fresh certificate's start.
#: States that are not named can heal (a server that is still booting), so they are waited for.
PATIENCE: Mapping[str, float] = {
    TOKEN_REJECTED: 10.0,
    NODE_PASSWORD_REJECTED: 10.0,
    CA_MISMATCH: 10.0,
    CGROUP_MEMORY_MISSING: 10.0,
    NO_DEFAULT_ROUTE: 10.0,
    PORT_IN_USE: 10.0,
    DISK_PRESSURE: 10.0,
    CLOCK_SKEW: 75.0,
    CRASH_LOOP: 60.0,
}

#: Automatic restarts after which a unit that says nothing recognisable is a crash loop rather than a slow start.
CRASH_LOOP_RESTARTS = 3
#: How many earlier starts of the same crash loop are read besides the current one.
EARLIER_STARTS = 3
#: Kubelet's hard eviction limit as k3s sets it: pkg/daemons/agent/agent_linux.go, evictionHard nodefs.available 5%.
DISK_FREE_PERCENT = 5.0
#: Below this k3s cannot unpack itself and its images, whatever the percentage.
DISK_FREE_MB = 200
#: A clock that is further off than this from the server's is the cause of certificate errors.
CLOCK_SKEW_SECONDS = 60.0
LOG_LINES = 20

_EXPIRED = re.compile(r" is after |certificate has expired(?! or)")
_PORT = re.compile(r":(\d+): bind")


@dataclass(frozen=True, slots=True)
class Unit:
    """What systemd says of the unit (``systemctl show``). *job*: a start, stop or restart of it is queued or running."""

    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    n_restarts: int = 0
    job: bool = False
    main_pid: int = 0
    invocation: str = ""
    control_group: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the journal, scrubbed. *invocation*: which start of the unit wrote it."""

    text: str
    invocation: str


@dataclass(frozen=True, slots=True)
class Server:
    """What a look at the server to join showed. *skew*: seconds by which the local clock is ahead, None where it could not be told.

    *ca_hash*: SHA-256 of what ``/cacerts`` returns; *token_ca_hash*: the one in the token; empty where not known.
    """

    url: str
    reachable: bool
    error: str = ""
    skew: float | None = None
    ca_hash: str = ""
    token_ca_hash: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """The effective state of the host. *ports*: each port that k3s needs, with the process that holds it besides k3s; "" when none does.

    *answers*: whether the local server's own port answers (None for an agent, or where it was not asked).
    """

    memory_cgroup: bool = True
    default_route: bool = True
    ports: Mapping[int, str] | None = None
    disk_free_mb: int | None = None
    disk_total_mb: int | None = None
    inodes_free: int | None = None
    answers: bool | None = None
    server: Server | None = None
    node_name: str = ""
    data_dir: str = "/var/lib/rancher/k3s"


@dataclass(frozen=True, slots=True)
class JoinDiagnosis:
    """The verdict: *state* is one of STATES, *hint* says what to do, *evidence* is the line or fact it rests on."""

    state: str
    hint: str
    evidence: str


class Node(Protocol):
    """What waiting needs of the world. ``unit`` is cheap and called at each poll; ``host`` and ``lines`` when the unit is not ready."""

    def unit(self) -> Unit: ...

    def answers(self) -> bool:
        """Whether the local server answers on its port."""

    def lines(self, unit: Unit) -> Sequence[Line]: ...

    def host(self, unit: Unit) -> Host: ...


class Clock(Protocol):
    """Monotonic seconds, and a pause."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


def relevant(lines: Iterable[Line], unit: Unit) -> tuple[Line, ...]:
    """Return the lines of the unit's current start, preceded by those of the last few starts of the same crash loop, oldest first.

    systemd counts NRestarts from the last start that somebody asked for, so lines of an earlier start are never among them.
    """
    every = list(lines)
    if not unit.invocation:
        return ()  # never started since systemd knows it
    order = list(dict.fromkeys(line.invocation for line in every if line.invocation))
    if unit.invocation not in order:  # just started, nothing written yet
        order.append(unit.invocation)
    at = order.index(unit.invocation)
    keep = set(order[max(0, at - min(unit.n_restarts, EARLIER_STARTS)) : at + 1])
    return tuple(line for line in every if line.invocation in keep)


@dataclass(frozen=True, slots=True)
class _Named:
    """A cause that the journal names, and the message that names it; all empty where it names none."""

    state: str = ""
    hint: str = ""
    said: str = ""


def _named(lines: Sequence[Line], role: str, port: int) -> _Named:
    """The newest cause in the journal that later lines have not overcome."""
    joined = False
    for line in reversed(lines):
        said = message(line.text)
        joined = joined or is_joined(said)
        cause = classify(said, role, port)
        if cause and not (joined and overcome_by_joining(cause.state)):
            return _Named(cause.state, cause.hint, said)
    return _Named()


# ------------------------------------------------------------------ the verdict


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that a verdict is made of."""

    role: str
    unit: Unit
    lines: Sequence[Line]
    host: Host
    port: int
    named: _Named

    @property
    def service(self) -> str:
        return f"{unit_name(self.role)}.service"

    def evidence(self, state: str, fact: str) -> str:
        """What k3s itself said about *state*, else the *fact* that was seen on the host."""
        return self.named.said if self.named.state == state else fact

    def say(self, state: str, evidence: str, hint: str = "", port: int = 0) -> JoinDiagnosis:
        words = {
            "node": self.host.node_name or "<node>",
            "server": self.host.server.url if self.host.server else "the server's address",
            "data_dir": self.host.data_dir,
            "unit": unit_name(self.role),
            "port": str(port or self.port),
            "holder": (self.host.ports or {}).get(port) or "see `ss -ltnp`",
        }
        return JoinDiagnosis(state, re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), hint or HINTS[state]), evidence)

    def ended(self) -> str:
        """The newest message with which k3s ended, empty where there is none."""
        return next((message(line.text) for line in reversed(self.lines) if is_end(line.text)), "")

    def last(self) -> str:
        return message(self.lines[-1].text) if self.lines else "nothing in the journal yet"


def unit_name(role: str) -> str:
    """Return the unit of a role: the names that k3s's own installer uses."""
    return "k3s" if role == "server" else "k3s-agent"


def diagnose(role: str, unit: Unit, lines: Sequence[Line], host: Host, port: int = 6443) -> JoinDiagnosis:
    """Return the verdict on a node of *role* (``server`` or ``agent``). *lines*: from ``relevant``; *port*: the server's own port."""
    case = _Case(role, unit, lines, host, port, _named(lines, role, port))
    for rule in (_settled, _environment, _seen_at_server, _said_by_k3s, _seen_on_host, _restarting):
        verdict = rule(case)
        if verdict:
            return verdict
    return case.say(STARTING if unit.active in ("activating", "active") else UNKNOWN, case.last())


def _settled(case: _Case) -> JoinDiagnosis | None:
    """Ready, about to be (re)started, stopped, or not installed: nothing to search for."""
    unit = case.unit
    if unit.load != "loaded":
        hint = f"k3s is not installed here as {case.role}: {case.service} is {unit.load}. Run site.yml."
        return case.say(UNKNOWN, f"{case.service}: {unit.load}", hint)
    if unit.job and unit.active != "activating":
        return case.say(STARTING, f"systemd has a job queued for {case.service}, which is {unit.active}")
    if unit.active == "active" and unit.sub == "running" and case.host.answers is not False:
        low = _short_of_space(case.host)
        return JoinDiagnosis(READY, f"Note: {low}." if low else "", f"{case.service} is active (running)")
    if unit.active == "inactive":
        hint = f"{case.service} is stopped. Run site.yml, or `systemctl start {unit_name(case.role)}`."
        return case.say(UNKNOWN, f"{case.service} is inactive ({unit.sub}, result {unit.result})", hint)
    return None


def _environment(case: _Case) -> JoinDiagnosis | None:
    """What is wrong with the host itself explains whatever k3s complains about, so it comes first."""
    host = case.host
    if not host.memory_cgroup:
        return case.say(CGROUP_MEMORY_MISSING, case.evidence(CGROUP_MEMORY_MISSING, "no memory controller is in effect"))
    cut_off = case.named.state == SERVER_UNREACHABLE or (host.server is not None and not host.server.reachable)
    if not host.default_route and (cut_off or (not case.named.state and case.ended())):
        return case.say(NO_DEFAULT_ROUTE, "no default route in /proc/net/route and /proc/net/ipv6_route")
    if host.disk_free_mb == 0 or host.inodes_free == 0:
        return case.say(DISK_PRESSURE, case.evidence(DISK_PRESSURE, _short_of_space(host)))
    return None


def _seen_at_server(case: _Case) -> JoinDiagnosis | None:
    """What a look at the server to join shows, where that is beyond doubt."""
    server = case.host.server
    if server is None or not server.reachable:
        return None
    if server.ca_hash and server.token_ca_hash and server.ca_hash != server.token_ca_hash:
        fact = f"the CA of {server.url} has hash {server.ca_hash[:16]}…, the token names {server.token_ca_hash[:16]}…"
        return case.say(CA_MISMATCH, case.evidence(CA_MISMATCH, fact))
    clocks_agree = server.skew is not None and abs(server.skew) <= CLOCK_SKEW_SECONDS
    if case.named.state == CLOCK_SKEW and clocks_agree and _EXPIRED.search(case.named.said):
        hint = "The clocks agree: a certificate really has expired. `k3s certificate rotate` on its node, then restart k3s there."
        return case.say(CRASH_LOOP, case.named.said, hint)
    return None


def _said_by_k3s(case: _Case) -> JoinDiagnosis | None:
    """What the journal names, unless the host shows that it is over."""
    named, server = case.named, case.host.server
    if not named.state or (named.state == SERVER_UNREACHABLE and server is not None and server.reachable):
        return None  # a server that answers by now: k3s has not asked again yet
    if named.state == CLOCK_SKEW and server is not None and server.skew is not None:
        return case.say(CLOCK_SKEW, f"{named.said} ({_skew(server)})")
    if named.state == PORT_IN_USE:
        found = _PORT.search(named.said)
        port = int(found[1]) if found else 0
        if (case.host.ports or {}).get(port) == "":
            return None  # nobody holds it any more: the next start will succeed
        return case.say(PORT_IN_USE, named.said, port=port)
    return case.say(named.state, named.said, named.hint)


def _seen_on_host(case: _Case) -> JoinDiagnosis | None:
    """What the host shows where k3s has said nothing (yet)."""
    host, server = case.host, case.host.server
    for port, holder in sorted((host.ports or {}).items()):
        if holder:
            return case.say(PORT_IN_USE, f"port {port} is held by {holder}", port=port)
    if _short_of_space(host) and (case.ended() or (host.disk_free_mb or 0) < DISK_FREE_MB):
        return case.say(DISK_PRESSURE, _short_of_space(host))
    if server is not None and not server.reachable:
        return case.say(SERVER_UNREACHABLE, f"{server.url}: {server.error}")
    if server is not None and abs(server.skew or 0.0) > CLOCK_SKEW_SECONDS and case.ended():
        return case.say(CLOCK_SKEW, _skew(server))
    return None


def _restarting(case: _Case) -> JoinDiagnosis | None:
    """A unit that ends again and again without a reason that is known."""
    unit = case.unit
    if unit.active == "failed" or unit.n_restarts >= CRASH_LOOP_RESTARTS:
        return case.say(CRASH_LOOP, f"{case.ended() or case.last()} ({unit.n_restarts} restarts, result {unit.result})")
    return None


def _skew(server: Server) -> str:
    skew = server.skew or 0.0
    return f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} that of {server.url}"


def _short_of_space(host: Host) -> str:
    """What is wrong with the free space of the data folder's file system, empty where nothing is."""
    if host.inodes_free == 0:
        return f"the file system of {host.data_dir} has no free inodes"
    if host.disk_free_mb is None or not host.disk_total_mb:
        return ""
    percent = 100.0 * host.disk_free_mb / host.disk_total_mb
    if percent >= DISK_FREE_PERCENT and host.disk_free_mb >= DISK_FREE_MB:
        return ""
    return f"the file system of {host.data_dir} has {host.disk_free_mb} MB free ({percent:.0f} %)"


# ------------------------------------------------------------------ waiting


@dataclass(frozen=True, slots=True)
class Outcome:
    """How waiting ended. *waited*: seconds; *log*: last lines of the unit's current start(s), empty when ready."""

    diagnosis: JoinDiagnosis
    unit: Unit
    waited: float
    log: tuple[str, ...]


#: Seconds between two looks at the unit, and between two full looks (journal, host, server), which cost more.
POLL = 0.25
FULL_LOOK = 3.0


def wait(role: str, node: Node, clock: Clock, timeout: float, port: int = 6443) -> Outcome:
    """Look until the node is ready, a cause that does not heal has persisted, or *timeout* seconds are over. 0 looks once."""
    started = clock.now()
    since: tuple[str, float] = ("", started)
    next_full = started
    while True:
        unit = node.unit()
        waited = clock.now() - started
        outcome = _quick(role, unit, node, waited)
        if outcome:
            return outcome
        over = waited >= timeout
        if over or clock.now() >= next_full:
            outcome = _full(role, unit, node, waited, port)
            state = outcome.diagnosis.state
            now = clock.now()
            if state != since[0]:
                since = (state, now)
            if over or state == READY or now - since[1] >= PATIENCE.get(state, float("inf")):
                return outcome
            next_full = now + FULL_LOOK
        clock.sleep(max(0.0, min(POLL, timeout - (clock.now() - started))))


def _quick(role: str, unit: Unit, node: Node, waited: float) -> Outcome | None:
    """Ready, told without reading journal and host."""
    if unit.active != "active" or unit.sub != "running" or unit.job:
        return None
    host = Host(answers=node.answers() if role == "server" else None)
    if host.answers is False:
        return None
    return Outcome(diagnose(role, unit, (), host), unit, waited, ())


def _full(role: str, unit: Unit, node: Node, waited: float, port: int) -> Outcome:
    lines = relevant(node.lines(unit), unit)
    diagnosis = diagnose(role, unit, lines, node.host(unit), port)
    return Outcome(diagnosis, unit, waited, tuple(line.text for line in lines[-LOG_LINES:]))
