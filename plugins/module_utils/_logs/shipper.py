# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to send its journal to Loki: syslog-ng of Debian under a unit of our own. ``make_plan`` only reads.

Why syslog-ng: Debian and Raspberry Pi OS build it for every architecture against the C library's own malloc, which asks the kernel for the
size of a page. Agents that bring a jemalloc built for 4 KiB pages do not start on a Pi 5, whose pages have 16 KiB.

The journal is the buffer: it is kept on disk, in a size that was asked for, and the place in it moves on only when Loki took a line
(syslog-ng's flow control). So a line arrives late, not never, and nothing is written twice to an SD card.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file, dpkg
from ansible_collections.pifleet.ops.plugins.module_utils._common.apt import Apt
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub

#: syslog-ng's HTTP destination is a package of its own; the journal and JSON are in the first one
PACKAGES = ("syslog-ng-core", "syslog-ng-mod-http")
UNIT = "pifleet-logs.service"
#: Debian's own unit writes all that it gets to files in /var/log, which the journal has already
OTHER_UNIT = "syslog-ng.service"
OTHER_MASK = f"/etc/systemd/system/{OTHER_UNIT}"
CONFIG = "/etc/pifleet/logs.conf"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
STATE = "/var/lib/pifleet/logs"
#: stronger than the file 40-rpi-volatile-storage.conf of Raspberry Pi OS, which keeps the journal in memory
JOURNAL = "/etc/systemd/journald.conf.d/70-pifleet.conf"
JOURNAL_UNIT = "systemd-journald.service"
_WANTED_BY = f"/etc/systemd/system/multi-user.target.wants/{UNIT}"
_STATUS = "/var/lib/dpkg/status"
#: dpkg removes the one when it installs the other: both provide system-log-daemon
_RIVALS = ("rsyslog", "inetutils-syslogd", "busybox-syslogd")
_MASKED = "/dev/null"


@dataclass(frozen=True, slots=True)
class Wanted:
    """*url*: of Loki, "" for no shipper; *labels*: of all lines, such as node and fleet; *buffer_mb*: size of the journal on disk;
    *pods*: whether the logs of containers of the cluster are sent too."""

    url: str
    labels: tuple[tuple[str, str], ...] = ()
    buffer_mb: int = 128
    pods: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """A change; for a file its whole new content, None where it goes, and its mode."""

    change: Change
    content: str | None = None
    mode: int = 0o644


def check(wanted: Wanted) -> None:
    """Raise PifleetError for what cannot be."""
    parts = urlsplit(wanted.url)
    if wanted.url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        raise PifleetError(f"url is {scrub(wanted.url)!r}, which is no address of a Loki.", "Write such as http://10.43.0.31:3100.")
    if wanted.buffer_mb < 8:
        raise PifleetError(f"buffer_mb is {wanted.buffer_mb}.", "At least 8: a file of the journal has as much.")
    for name, value in wanted.labels:
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", name) or re.search(r"[\x00-\x1f\"\\$'()]", value):
            raise PifleetError(f"The label {name}={value!r} cannot be sent.", "Names have small letters, digits and _, values no quotes.")


def config(wanted: Wanted) -> str:
    """Return syslog-ng's configuration. Labels are few on purpose: each set of them is a stream of its own in Loki."""
    pods = _PODS if wanted.pods else ""
    labels = "".join(f' {name}="{value}"' for name, value in wanted.labels)
    url = wanted.url.rstrip("/").replace("\\", "\\\\").replace('"', '\\"')
    return _CONFIG.format(url=url, labels=labels, pods=pods, state=STATE, values=_VALUES)


# nanoseconds, and the text as JSON: https://grafana.com/docs/loki/latest/reference/loki-http-api/
_VALUES = """"values":[["$UNIXTIME${USEC}000",$(substr "$(format-json m=$MSG)" 5 -1)]]"""
_CONFIG = """# SPDX-License-Identifier: GPL-3.0-or-later
# Written by pifleet.ops, role observability. Changes here are undone.
@version: current

# From its beginning: with read-old-records(no) syslog-ng 4.8 reads nothing at all from the journal of systemd 257.
source s_journal {{ systemd-journal(prefix(".journal.") read-old-records(yes) max-field-size(65536) log-iw-size(2000)); }};
rewrite r_journal {{
  set("journal" value("loki.job"));
  set("$PROGRAM" value("loki.unit"));
  set("${{.journal._SYSTEMD_UNIT}}" value("loki.unit") condition("${{.journal._SYSTEMD_UNIT}}" ne ""));
}};
destination d_loki {{
  http(
    url("{url}/loki/api/v1/push")
    method("POST")
    headers("Content-Type: application/json")
    body-prefix("{{\\"streams\\":[")
    delimiter(",")
    body-suffix("]}}")
    # [5, -1]: the text of a message as JSON, out of {{"m":"..."}}
    body('{{"stream":$(format-json job=${{loki.job}} unit=${{loki.unit}} level=$LEVEL{labels}),{values}}}')
    batch-lines(500)
    batch-bytes(524288)
    batch-timeout(1000)
    timeout(20)
    # until Loki answers again
    time-reopen(5)
    # What Loki refuses for good (too old, too long) is dropped. Where it cannot now, or address or password are wrong, it is sent again.
    response-action(
      400 => drop 401 => disconnect 403 => disconnect 404 => disconnect 413 => drop 429 => disconnect
      500 => disconnect 502 => disconnect 503 => disconnect 504 => disconnect
    )
    persist-name("pifleet-loki")
    # more than all that the sources may have under way
    log-fifo-size(20000)
  );
}};

log {{ source(s_journal); rewrite(r_journal); destination(d_loki); flags(flow-control); }};
{pods}"""
# https://kubernetes.io/docs/concepts/cluster-administration/logging/: lines such as "2025-01-02T03:04:05Z stdout F text"
_PODS = """
source s_pods {
  wildcard-file(
    base-dir("/var/log/pods") filename-pattern("*.log") recursive(yes) max-files(100) follow-freq(1) log-iw-size(10000) flags(no-parse)
  );
};
parser p_pods { csv-parser(columns("cri.time", "cri.stream", "cri.part", "cri.text") delimiters(" ") flags(greedy)); };
rewrite r_pods {
  set("pods" value("loki.job"));
  set("${cri.text}" value("MESSAGE"));
  set("$FILE_NAME" value("loki.unit"));
  subst("^/var/log/pods/([^_]+)_([^_]+)_[^/]+/([^/]+)/.*$" "$1/$2/$3" value("loki.unit") type(pcre));
};
log { source(s_pods); parser(p_pods); rewrite(r_pods); destination(d_loki); flags(flow-control); };
"""
_JOURNAL = """# SPDX-License-Identifier: GPL-3.0-or-later
# Written by pifleet.ops, role observability: what Loki has not taken yet lasts over a reboot. Changes here are undone.
[Journal]
Storage=persistent
SystemMaxUse={buffer}M
"""
_UNIT = f"""# SPDX-License-Identifier: GPL-3.0-or-later
# Written by pifleet.ops, role observability. Changes here are undone.
[Unit]
Description=Sends the journal to Loki
Documentation=man:syslog-ng(8)
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=/usr/sbin/syslog-ng -F --no-caps -f {CONFIG} -R {STATE}/persist -c {STATE}/control -p {STATE}/pid
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5
StateDirectory=pifleet/logs
StateDirectoryMode=0700
UMask=0077
MemoryMax=128M
# what it says of itself would be sent, and say something again
StandardOutput=null
StandardError=journal
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
NoNewPrivileges=true
PrivateTmp=true
ProtectHome=true
ProtectSystem=strict

[Install]
WantedBy=multi-user.target
"""


class Node:
    """The node below *root*, which is ``/`` but in tests."""

    def __init__(self, run: argv.Runner, root: str = "/") -> None:
        self.run, self._root = run, root.rstrip("/")

    def path(self, path: str) -> str:
        return self._root + path

    def text(self, path: str) -> str | None:
        """Return the content of a file, None where there is none, and for a link to /dev/null."""
        return None if self.link(path) == _MASKED else atomic_file.read_text(self.path(path))

    def mode(self, path: str) -> int:
        return os.stat(self.path(path)).st_mode & 0o7777 if os.path.exists(self.path(path)) else 0

    def link(self, path: str) -> str:
        """Return where the link *path* leads, "" where it is none."""
        return os.readlink(self.path(path)) if os.path.islink(self.path(path)) else ""

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self.path(path))) if os.path.isdir(self.path(path)) else []

    def active(self, unit: str) -> bool:
        """Whether a unit runs."""
        return self.run(["systemctl", "is-active", "--quiet", unit], timeout=30).ok


def make_plan(node: Node, wanted: Wanted) -> tuple[Step, ...]:
    """Return what to do. Raises PifleetError, before anything is touched, for a node or an input that cannot work."""
    check(wanted)
    files = (_File(CONFIG, 0o600, config(wanted)), _File(UNIT_FILE, 0o644, _UNIT))
    journal = _file(node, _File(JOURNAL, 0o644, _JOURNAL.format(buffer=wanted.buffer_mb)))
    if not wanted.url:
        stop = [_step("unit", UNIT, "unwanted")] if node.exists(_WANTED_BY) else []
        gone = [_step("file", path, "unwanted") for path in (CONFIG, UNIT_FILE, JOURNAL) if node.exists(path)]
        return (*stop, *gone, *([_step("unit", JOURNAL_UNIT, "config_changed")] if node.exists(JOURNAL) else []))
    status = node.text(_STATUS) or ""
    packages = _packages(node, status)
    masked = [_step("unit", OTHER_UNIT, "not_masked")] if node.link(OTHER_MASK) != _MASKED else []
    written = [step for file in files for step in _file(node, file)]
    unit = _unit(node, bool(written or packages))
    # a run that was killed before it restarted the journal has left a shipper that does not run
    stopped = any(step.change.reason != "config_changed" for step in unit)
    restart = [_step("unit", JOURNAL_UNIT, "config_changed")] if journal or stopped else []
    return (*masked, *packages, *journal, *written, *restart, *(unit or ([_step("unit", UNIT, "config_changed")] if journal else [])))


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    mode: int
    content: str


def _packages(node: Node, status: str) -> list[Step]:
    found = dpkg.package_state(status, node.names("/var/lib/dpkg/updates"), PACKAGES)
    rivals = [name for name in _RIVALS if dpkg.field(status, name, "Version")]
    if found.missing and rivals:
        what = f"The node has {rivals[0]}, which Debian does not install beside syslog-ng."
        raise PifleetError(
            what, f'Remove it (`apt-get remove {rivals[0]}`: the journal has all it has), or set observability_loki_url to "".'
        )
    repair = [_step("dpkg", "dpkg", "interrupted")] if found.missing and found.interrupted else []
    return repair + [_step("package", name, "missing") for name in found.missing]


def _file(node: Node, file: _File) -> list[Step]:
    have = node.text(file.path)
    if have == file.content and node.mode(file.path) == file.mode:
        return []
    reason = "missing" if have is None else "differs" if have != file.content else "mode"
    return [Step(Change("file", file.path, reason, scrub(have or ""), scrub(file.content)), file.content, file.mode)]


def _unit(node: Node, written: bool) -> list[Step]:
    if not node.exists(_WANTED_BY):
        return [_step("unit", UNIT, "not_enabled")]
    if written:
        return [_step("unit", UNIT, "config_changed")]
    if not node.active(UNIT):
        return [_step("unit", UNIT, "not_running")]
    return []


def _step(kind: str, target: str, reason: str) -> Step:
    return Step(Change(kind, target, reason, "", f"{target}: {reason}"))


def carry_out(node: Node, apt: Apt, steps: Sequence[Step]) -> None:
    """Carry out *steps*. Killed at any of them, the next run plans what is left. Raises PifleetError naming what failed.

    A shipper whose settings change is stopped before they are written: one that does not run is one that the next run starts.
    """
    if any(step.change.kind == "file" for step in steps) and node.exists(_WANTED_BY):
        _systemctl(node, "stop", UNIT)
    packages = [step.change.target for step in steps if step.change.kind == "package"]
    for step in steps:
        change = step.change
        if change.kind == "dpkg":
            apt.repair()
        elif change.kind == "package" and change.target == packages[0]:
            apt.install(packages)
        elif change.kind == "file":
            _write(node, step)
        elif change.target == OTHER_UNIT:
            _systemctl(node, "mask", "--now", OTHER_UNIT)
        elif change.target == JOURNAL_UNIT:
            _systemctl(node, "restart", JOURNAL_UNIT)
        elif change.kind == "unit" and change.reason == "unwanted":
            _systemctl(node, "disable", "--now", UNIT)
        elif change.kind == "unit":
            _start(node)


def _write(node: Node, step: Step) -> None:
    path = node.path(step.change.target)
    try:
        if step.content is None:
            os.unlink(path)
        else:
            atomic_file.write_atomic(path, step.content, step.mode)
    except OSError as error:
        raise PifleetError(f"{step.change.target} cannot be written: {error.strerror}.", "Free some space, or use become.") from error


def _start(node: Node) -> None:
    # before it is enabled: settings that are refused leave a unit that the next run finds
    argv.check(node.run(["syslog-ng", "-s", "-f", CONFIG], timeout=60), "syslog-ng does not take the settings: please report it.")
    _systemctl(node, "daemon-reload")
    _systemctl(node, "enable", UNIT)
    _systemctl(node, "restart", UNIT)


def _systemctl(node: Node, *words: str) -> None:
    hint = f"`systemctl status {words[-1]}` and `journalctl -u {words[-1]}` on the node say why."
    argv.check(node.run(["systemctl", *words], timeout=120), hint)
