# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of stack_host for the node itself: from what is there and what is wanted to an ordered list of steps. Only reads."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ansible_collections.pifleet.ops.plugins.module_utils._common import dpkg
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import engine, openpgp, places
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.node import Node

DOCKER_UNIT = "docker.service"
TIMER_UNIT = "pifleet-stacks.timer"
MEMO = "/var/lib/pifleet/stack_host.json"
LOADED = "/var/lib/pifleet/images.json"
SUPPORTED = {"debian": ("12", "13"), "raspbian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
SUPPORTED_TEXT = "Supported are Debian 12 and 13, Raspberry Pi OS bookworm and trixie, Ubuntu 22.04 and 24.04."
PACKAGE_ROOM = 600  # MB that Docker Engine and Compose need when installed, with their archives


@dataclass(frozen=True, slots=True)
class Pool:
    """Networks that Docker makes are taken from *base*, each with a prefix of *size* bits."""

    base: str
    size: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of ours. *content*: None where only its *sha256* is known here (the program: it is sent when it is missing)."""

    path: str
    mode: int
    content: str | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the node shall have. *docker*: an engine at all; *daemon*: further keys of daemon.json; *packages*: beside Docker's;
    *images*: identity of each image archive that the controller has, by name; *files* and *absent*: ours that are, and are not, there;
    *unattended*: what the timer needs; *timer*: whether it is on."""

    docker: bool = True
    origin: engine.Origin = field(default_factory=engine.Origin)
    pools: tuple[Pool, ...] = ()
    daemon: Mapping[str, object] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    absent: tuple[str, ...] = ()
    unattended: tuple[File, ...] = ()
    timer: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A change, and for a file its whole new content (None: the file goes) and mode. The change's own texts are for --diff."""

    change: Change
    content: str | None = None
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class HostPlan:
    """*steps* in their order; *debs*, *images*: files of the controller that they need; *program*: whether they need the program."""

    steps: tuple[Step, ...]
    debs: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    program: bool = False

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(step.change for step in self.steps)


def make_plan(node: Node, wanted: Wanted) -> HostPlan:
    """Return what to do. Raises PifleetError, before anything is touched, for a node or an input that cannot work."""
    status = node.text("/var/lib/dpkg/status") or ""
    pending = read_memo(node.text(MEMO))
    needs = _supply(node, wanted, status)
    daemon = _daemon(node, wanted)
    images = _images(node, wanted)
    packages = _packages(node, wanted, status, needs)
    files = _files(node, wanted)
    program = any(step.change.target == places.PROGRAM and step.change.reason != "unwanted" for step in files)
    reload = any(step.change.target in (places.SERVICE, places.TIMER) for step in files)
    units = _docker_unit(node, wanted, bool(daemon), pending), _timer(node, wanted, reload, pending)
    # a timer that goes is stopped before its files are removed
    last = (*files, *units[1]) if wanted.timer else (*units[1], *files)
    steps = (*packages[0], *daemon, *packages[1], *units[0], *images, *last)
    plan = HostPlan(steps, needs.debs, tuple(step.change.target for step in images), program)
    _refuse_without_room(node, plan)
    return plan


def read_memo(text: str | None) -> tuple[str, ...]:
    """Return the units that an earlier run, which was killed, had not restarted yet."""
    try:
        return tuple(str(unit) for unit in json.loads(text or "{}")["pending"])
    except (ValueError, KeyError, TypeError):
        return ()


def write_memo(pending: tuple[str, ...]) -> str:
    """Return the note of units that are still to be restarted."""
    return json.dumps({"pending": list(pending)}) + "\n"


def read_loaded(text: str | None) -> dict[str, str]:
    """Return the identity of each image archive that was loaded, by name."""
    try:
        return {str(name): str(identity) for name, identity in json.loads(text or "{}").items()}
    except (ValueError, AttributeError):
        return {}


def write_loaded(loaded: Mapping[str, str]) -> str:
    """Return the note of image archives that were loaded."""
    return json.dumps(dict(sorted(loaded.items()))) + "\n"


# ----------------------------------------------------------------------------------------------------------------- Docker
def _supply(node: Node, wanted: Wanted, status: str) -> engine.Supply:
    if not wanted.docker:
        return engine.Supply()
    found = engine.installed(node, status)
    release = node.os_release()
    os_id, version = release.get("ID", ""), release.get("VERSION_ID", "")
    missing = not (found.engine and found.cli and found.compose and found.compose >= engine.MINIMUM)
    if missing and version not in SUPPORTED.get(os_id, ()):
        name = release.get("PRETTY_NAME") or f"{os_id} {version}".strip() or "an unknown operating system"
        raise PifleetError(f"The node runs {name}, for which Docker cannot be installed.", SUPPORTED_TEXT)
    architecture = dpkg.field(status, "dpkg", "Architecture")
    needs = engine.supply(found, (os_id, version, release.get("VERSION_CODENAME", "")), architecture, status, wanted.origin)
    more = engine.further_debs(wanted.origin.debs, architecture, status)
    return replace(needs, debs=tuple(dict.fromkeys((*needs.debs, *more))))


def _packages(node: Node, wanted: Wanted, status: str, needs: engine.Supply) -> tuple[list[Step], list[Step]]:
    """Return (steps of apt's sources, steps of packages): Docker's settings come in between, so that its first start has them."""
    sources: list[Step] = []
    if needs.source:
        # the key's own text is fetched when it is needed; its fingerprint is what is wanted
        url = engine.key_url(node.os_release().get("ID", ""), wanted.origin.repository)
        reason = _key_reason(node, wanted.origin.fingerprint)
        if reason:
            sources.append(Step(Change("key", engine.KEY, reason, "", f"{url} ({wanted.origin.fingerprint})")))
        sources += _file(node, File(engine.SOURCE, 0o644, needs.source))
    missing = dpkg.package_state(status, [], (*needs.packages, *wanted.packages)).missing
    steps = [Step(Change("package", name, "missing", "", name)) for name in missing]
    old = [name for name in needs.packages if name not in missing]
    steps += [Step(Change("package", name, "too_old", dpkg.field(status, name, "Version"), name)) for name in old]
    steps += [Step(Change("package", engine.package_of(deb), "missing", "", deb)) for deb in needs.debs]
    if steps and dpkg.package_state(status, node.names("/var/lib/dpkg/updates"), ()).interrupted:
        steps.insert(0, Step(Change("dpkg", "dpkg", "interrupted", "", "dpkg --configure -a")))
    return sources, steps


def _key_reason(node: Node, wanted: str) -> str:
    text = node.text(engine.KEY)
    try:
        return "missing" if text is None else "" if openpgp.fingerprint(text) == wanted else "differs"
    except PifleetError:
        return "differs"


def _daemon(node: Node, wanted: Wanted) -> list[Step]:
    """Return the edit of daemon.json: our keys are set, all others stay."""
    if not wanted.docker:
        return []
    _refuse_pools(wanted.pools)
    text = node.text(places.DAEMON)
    try:
        current = json.loads(text) if text and text.strip() else {}
    except ValueError as error:
        raise PifleetError(f"{places.DAEMON} is no JSON: {error}.", "Correct it or remove it. Nothing was changed.") from error
    if not isinstance(current, dict):
        raise PifleetError(f"{places.DAEMON} holds no JSON object.", "Correct it or remove it. Nothing was changed.")
    ours: dict[str, object] = {"default-address-pools": [{"base": p.base, "size": p.size} for p in wanted.pools]} if wanted.pools else {}
    merged = {**current, **ours, **wanted.daemon}
    if merged == current:
        return []
    return _file(node, File(places.DAEMON, node.mode(places.DAEMON) or 0o644, json.dumps(merged, indent=2) + "\n"))


def _refuse_pools(pools: tuple[Pool, ...]) -> None:
    for pool in pools:
        try:
            network = ipaddress.ip_network(pool.base)
        except ValueError as error:
            raise PifleetError(f"stacks_address_pools has {pool.base!r}: {error}.", "Write such as 10.213.0.0/16.") from error
        if not network.prefixlen <= pool.size <= network.max_prefixlen - 2:
            what = f"stacks_address_pools has networks of size {pool.size} out of {pool.base}"
            raise PifleetError(f"{what}.", f"The size is a prefix length from {network.prefixlen} to {network.max_prefixlen - 2}.")


def _docker_unit(node: Node, wanted: Wanted, configured: bool, pending: tuple[str, ...]) -> list[Step]:
    if not wanted.docker:
        return []
    if not node.enabled(DOCKER_UNIT, "multi-user.target"):
        return [_unit(DOCKER_UNIT, "not_enabled")]
    if not node.running(DOCKER_UNIT):
        return [_unit(DOCKER_UNIT, "not_running")]
    if configured:
        return [_unit(DOCKER_UNIT, "config_changed")]
    return [_unit(DOCKER_UNIT, "interrupted")] if DOCKER_UNIT in pending else []


def _images(node: Node, wanted: Wanted) -> list[Step]:
    loaded = read_loaded(node.text(LOADED)) if wanted.images else {}
    return [
        Step(Change("images", name, "changed" if name in loaded else "missing", loaded.get(name, ""), identity))
        for name, identity in sorted(wanted.images.items())
        if loaded.get(name) != identity
    ]


# ------------------------------------------------------------------------------------------------------------------ timer
def _files(node: Node, wanted: Wanted) -> list[Step]:
    steps = [step for file in (*wanted.files, *(wanted.unattended if wanted.timer else ())) for step in _file(node, file)]
    absent = (*wanted.absent, *(() if wanted.timer else (file.path for file in reversed(wanted.unattended))))
    return steps + [Step(Change("file", path, "unwanted")) for path in absent if node.exists(path)]


def _timer(node: Node, wanted: Wanted, written: bool, pending: tuple[str, ...]) -> list[Step]:
    enabled = node.enabled(TIMER_UNIT, "timers.target")
    if not wanted.timer:
        return [_unit(TIMER_UNIT, "unwanted")] if enabled else []
    if not enabled:
        return [_unit(TIMER_UNIT, "not_enabled")]
    if written:
        return [_unit(TIMER_UNIT, "config_changed")]
    return [_unit(TIMER_UNIT, "interrupted")] if TIMER_UNIT in pending else []


# ---------------------------------------------------------------------------------------------------------------- helpers
def _file(node: Node, file: File) -> list[Step]:
    if file.content is None:
        have = node.sha256(file.path)
        if have == file.sha256 and node.mode(file.path) == file.mode:
            return []
        reason = "missing" if have is None else "differs"
        return [Step(Change("file", file.path, reason, have or "", file.sha256), None, file.mode)]
    have = node.text(file.path)
    if have == file.content and node.mode(file.path) == file.mode:
        return []
    reason = "missing" if have is None else "differs" if have != file.content else "mode"
    secret = not file.mode & 0o044
    before, after = ("", "") if secret else (scrub(have or ""), scrub(file.content))
    return [Step(Change("file", file.path, reason, before, after), file.content, file.mode)]


def _unit(name: str, reason: str) -> Step:
    return Step(Change("unit", name, reason, "", f"{name}: {reason}"))


def _refuse_without_room(node: Node, plan: HostPlan) -> None:
    needed = {"/var/lib/dpkg": PACKAGE_ROOM if any(c.kind == "package" for c in plan.changes) else 0, "/etc": 1, "/var/lib/pifleet": 1}
    if not plan.changes:
        return
    for path, megabytes in needed.items():
        free = node.free_mb(path)
        if free < megabytes:
            raise PifleetError(
                f"The disk is full: {free} MB free for {path}, {megabytes} MB needed. Nothing was changed.",
                "Free some space (`apt-get clean`, `journalctl --vacuum-size=50M`), then run again.",
            )
