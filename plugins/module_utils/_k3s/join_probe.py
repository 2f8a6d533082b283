# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what ``join`` judges from a real node: systemd, the journal, /proc, /sys, the local port and the server to join."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.pifleet.ops.plugins.module_utils._common import k3s_datastore
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Runner, check
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text
from ansible_collections.pifleet.ops.plugins.module_utils._common.k3s_places import CONFIG, DATA_DIR, NODE_PASSWORD
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.join import Host, Line, Server, Unit, unit_name

SUPERVISOR_PORT = 6443
LOAD_BALANCER_PORT = 6444
KUBELET_PORT = 10250
ETCD_PORTS = (2379, 2380)

#: Lines asked of the journal: enough for the last starts of a crash loop, and read in well under a second.
JOURNAL_LINES = 500
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0

_SHOW = ("LoadState", "ActiveState", "SubState", "Result", "NRestarts", "Job", "MainPID", "InvocationID", "ControlGroup")
_SETTING = re.compile(r"^([a-z-]+):[ \t]+(.*?)[ \t]*$", re.M)
_ENVIRONMENT = {
    "K3S_URL": "server",
    "K3S_TOKEN": "token",
    "K3S_TOKEN_FILE": "token-file",
    "K3S_NODE_NAME": "node-name",
    "K3S_DATA_DIR": "data-dir",
}
_FULL_TOKEN = re.compile(r"^K10([0-9a-f]{64})::")
_TCP_LISTEN = "0A"


# ------------------------------------------------------------------ pure readers of texts


def parse_unit(text: str) -> Unit:
    """Return the unit that the output of ``systemctl show -p …`` describes."""
    said = dict(line.partition("=")[::2] for line in text.splitlines())
    return Unit(
        load=said.get("LoadState", "not-found"),
        active=said.get("ActiveState", "inactive"),
        sub=said.get("SubState", "dead"),
        result=said.get("Result", ""),
        n_restarts=_number(said.get("NRestarts", "")),
        job=_number(said.get("Job", "").split(" ")[0]) != 0,
        main_pid=_number(said.get("MainPID", "")),
        invocation=said.get("InvocationID", ""),
        control_group=said.get("ControlGroup", ""),
    )


def parse_journal(text: str, secrets: Iterable[str] = ()) -> tuple[Line, ...]:
    """Return the lines of ``journalctl -o json``, scrubbed. A message that is no UTF-8 comes as a list of bytes."""
    known = tuple(secrets)
    found = []
    for row in text.splitlines():
        if not row.startswith("{"):
            continue
        entry = json.loads(row)
        said = entry.get("MESSAGE") or ""
        if isinstance(said, list):
            said = bytes(said).decode("utf-8", errors="replace")
        # systemd's own lines about the unit carry INVOCATION_ID; the unit's processes' lines carry _SYSTEMD_INVOCATION_ID.
        invocation = entry.get("INVOCATION_ID") or entry.get("_SYSTEMD_INVOCATION_ID") or ""
        found.append(Line(scrub(said, known), invocation))
    return tuple(found)


def parse_settings(texts: Iterable[str], environment: str = "") -> Mapping[str, str]:
    """Return the scalar settings of k3s configuration files, later ones winning, under their long names.

    A scan, not a YAML parser (the node has none): it needs only the plain top-level scalars it looks for. *environment*: content of
    the unit's environment file, which k3s reads where no file sets the value.
    """
    found = {}
    for row in environment.splitlines():
        name, _equals, value = row.partition("=")
        if name.strip() in _ENVIRONMENT:
            found[_ENVIRONMENT[name.strip()]] = _unquoted(value.strip())
    for text in texts:
        found.update({key: _unquoted(value) for key, value in _SETTING.findall(text)})
    return found


def listening(tables: Iterable[str], ports: Iterable[int]) -> Mapping[int, tuple[str, ...]]:
    """Return the socket inodes that listen on each of *ports*, from the content of /proc/net/tcp and tcp6."""
    wanted = set(ports)
    found: dict[int, tuple[str, ...]] = {}
    for table in tables:
        for row in table.splitlines()[1:]:
            fields = row.split()
            if len(fields) > 9 and fields[3] == _TCP_LISTEN:
                port = int(fields[1].rpartition(":")[2], 16)
                if port in wanted:
                    found[port] = (*found.get(port, ()), fields[9])
    return found


def has_default_route(ipv4: str, ipv6: str) -> bool:
    """Return whether /proc/net/route or /proc/net/ipv6_route has a default route, as Kubernetes' own search for an address sees it."""
    for row in ipv4.splitlines()[1:]:
        fields = row.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000" and int(fields[3], 16) & 1:
            return True
    for row in ipv6.splitlines():
        fields = row.split()
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            return True
    return False


def has_memory_cgroup(unified: str | None, own: str) -> bool:
    """Return whether the memory controller is in effect.

    *unified*: content of /sys/fs/cgroup/cgroup.controllers, None under cgroup v1; *own*: of /proc/self/cgroup.
    The same files that k3s looks at: pkg/cgroups/cgroups_linux.go (validateCgroupsV1, validateCgroupsV2).
    """
    if unified is not None:
        return "memory" in unified.split()
    return any("memory" in row.split(":")[1].split(",") for row in own.splitlines() if row.count(":") >= 2)


def ca_hash(bundle: bytes) -> str:
    """Return the hash that a k3s token carries for the CA *bundle*, empty where this cannot tell it.

    Of a single certificate it is the SHA-256 of the PEM bytes; of several, that of the root they lead to (pkg/clientaccess/token.go,
    hashCA), which needs a chain to be verified and is left to k3s.
    """
    return hashlib.sha256(bundle).hexdigest() if bundle.count(b"-----BEGIN CERTIFICATE-----") == 1 else ""


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


# ------------------------------------------------------------------ the node


@dataclass(frozen=True, slots=True)
class Setup:
    """What the node's k3s configuration says that matters here. *secrets* never leave this process: they are what is scrubbed."""

    role: str
    data_dir: str
    port: int
    bind: str
    server_url: str
    node_name: str
    token_ca_hash: str
    ports: tuple[int, ...]
    secrets: tuple[str, ...]


def read_setup(role: str, data_dir: str | None = None, server_url: str | None = None) -> Setup:
    """Return the setup of the k3s on this host; options win over configuration files."""
    drop_ins = sorted(Path(f"{CONFIG}.d").glob("*.y*ml")) if os.path.isdir(f"{CONFIG}.d") else []
    texts = [text for text in map(read_text, [Path(CONFIG), *drop_ins]) if text]
    settings = parse_settings(texts, read_text(f"/etc/systemd/system/{unit_name(role)}.service.env") or "")
    folder = data_dir or settings.get("data-dir") or DATA_DIR
    port = _number(settings.get("https-listen-port", "")) or SUPERVISOR_PORT
    token = settings.get("token") or (read_text(settings["token-file"]) if settings.get("token-file") else "") or ""
    server = server_url or settings.get("server", "")
    if role == "server" and k3s_datastore.kind_of(folder, "\n".join(texts), os.path.exists):
        server = ""  # a server that is a member of its cluster does not ask the one it once joined
    found = _FULL_TOKEN.match(token)
    return Setup(
        role=role,
        data_dir=folder,
        port=port,
        bind=settings.get("bind-address", ""),
        server_url=server,
        node_name=(settings.get("node-name") or socket.gethostname()).lower(),
        token_ca_hash=found[1] if found else "",
        ports=_ports(role, port, settings, folder),
        secrets=_secrets(settings, token, folder),
    )


def _ports(role: str, port: int, settings: Mapping[str, str], data_dir: str) -> tuple[int, ...]:
    """The TCP ports that k3s of this role listens on itself: https://docs.k3s.io/installation/requirements#networking."""
    if role == "agent":
        return (_number(settings.get("lb-server-port", "")) or LOAD_BALANCER_PORT, KUBELET_PORT)
    etcd = settings.get("cluster-init") == "true" or bool(settings.get("server")) or os.path.exists(f"{data_dir}/server/db/etcd")
    return (port, port + 1, KUBELET_PORT, *(ETCD_PORTS if etcd else ()))


def _secrets(settings: Mapping[str, str], token: str, data_dir: str) -> tuple[str, ...]:
    """Every token this host knows, whole and as the bare password at its end."""
    files = [
        settings.get("agent-token-file", ""),
        f"{data_dir}/server/token",
        f"{data_dir}/server/agent-token",
        NODE_PASSWORD,
    ]
    values = [token, settings.get("agent-token", ""), *(read_text(path) or "" for path in files if path)]
    found = []
    for value in (value.strip() for value in values):
        found += [value, value.rpartition("::")[2].rpartition(":")[2]]
    return tuple(sorted({value for value in found if value}))


class LocalNode:
    """The port ``join.Node`` on the host this runs on."""

    def __init__(self, setup: Setup, runner: Runner) -> None:
        self._setup = setup
        self._run = runner
        self._name = f"{unit_name(setup.role)}.service"

    def unit(self) -> Unit:
        """Raises CommandError where there is no systemd."""
        done = self._run(["systemctl", "show", self._name, *(f"--property={name}" for name in _SHOW)], timeout=20.0)
        return parse_unit(check(done, "Is systemd running on this host?").stdout)

    def answers(self) -> bool:
        """Whether the supervisor on the own port says pong (pkg/server/handlers, Ping), which needs no credentials."""
        bind = self._setup.bind
        host = bind if bind and bind not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  compared, not bound
        try:
            return _get(host, self._setup.port, "/ping").status < http.client.INTERNAL_SERVER_ERROR
        except (OSError, http.client.HTTPException):
            return False

    def lines(self, unit: Unit) -> Sequence[Line]:
        if not unit.invocation:
            return ()
        fields = "--output-fields=MESSAGE,INVOCATION_ID,_SYSTEMD_INVOCATION_ID"
        argv = ["journalctl", "--quiet", "--no-pager", "--output=json", fields, f"--unit={self._name}", f"--lines={JOURNAL_LINES}"]
        return parse_journal(self._run(argv, timeout=30.0).stdout, self._setup.secrets)

    def host(self, unit: Unit) -> Host:
        setup = self._setup
        free, total, inodes = _space(setup.data_dir)
        return Host(
            memory_cgroup=has_memory_cgroup(read_text("/sys/fs/cgroup/cgroup.controllers"), read_text("/proc/self/cgroup") or ""),
            default_route=has_default_route(read_text("/proc/net/route") or "", read_text("/proc/net/ipv6_route") or ""),
            ports=_holders(setup.ports, unit, self._name),
            disk_free_mb=free,
            disk_total_mb=total,
            inodes_free=inodes,
            answers=self.answers() if setup.role == "server" and unit.active == "active" else None,
            server=_look_at(setup.server_url, setup.token_ca_hash) if setup.server_url else None,
            node_name=setup.node_name,
            data_dir=setup.data_dir,
        )


def _space(data_dir: str) -> tuple[int, int, int | None]:
    """Free and total MB, and free inodes (None where the file system has no fixed number), of where *data_dir* is or will be."""
    path = Path(data_dir)
    while not path.exists():
        path = path.parent
    at = os.statvfs(path)
    mb = at.f_frsize / 1024**2
    return int(at.f_bavail * mb), int(at.f_blocks * mb), at.f_favail if at.f_files else None


def _holders(ports: Iterable[int], unit: Unit, name: str) -> Mapping[int, str]:
    """Who holds each of *ports* besides the unit itself, "" where nobody does.

    k3s runs everything in its own control group; while its main process is gone, what is still in there is a leftover.
    """
    held = listening((read_text("/proc/net/tcp") or "", read_text("/proc/net/tcp6") or ""), ports)
    owners = _owners({inode for inodes in held.values() for inode in inodes}) if held else {}
    found = dict.fromkeys(ports, "")
    for port, inodes in held.items():
        pids = sorted({pid for inode in inodes for pid in owners.get(inode, ())})
        strangers = [pid for pid in pids if not unit.main_pid or not _belongs(pid, unit.control_group or f"/{name}")]
        if strangers or not pids:
            found[port] = _label(strangers[0]) if strangers else "a process that this namespace cannot see"
    return found


def _belongs(pid: int, control_group: str) -> bool:
    return control_group in (read_text(f"/proc/{pid}/cgroup") or "")


def _owners(inodes: set[str]) -> Mapping[str, tuple[int, ...]]:
    """The processes that have each of the socket *inodes* open."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, tuple[int, ...]] = {}
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:  # it ended meanwhile
            continue
        for inode in {wanted[link] for link in links if link in wanted}:
            found[inode] = (*found.get(inode, ()), int(pid))
    return found


def _label(pid: int) -> str:
    return f"{(read_text(f'/proc/{pid}/comm') or 'process').strip()} (pid {pid})"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    date: str
    body: bytes


def _get(host: str, port: int, path: str) -> _Answer:
    """GET over TLS without verifying: nothing secret is sent, and what comes back is only compared."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=unverified)
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_SECONDS)
        connection.request("GET", path)
        answer = connection.getresponse()
        return _Answer(answer.status, answer.headers.get("Date", ""), answer.read(1024**2))
    finally:
        connection.close()


def _look_at(url: str, token_ca_hash: str) -> Server:
    """Return what the server at *url* shows to anybody: that it answers, its clock, its CA."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return Server(url, False, "is no https URL")
    try:
        answer = _get(parts.hostname, parts.port or 443, "/cacerts")
    except (OSError, http.client.HTTPException) as error:
        return Server(url, False, str(error) or type(error).__name__, token_ca_hash=token_ca_hash)
    ours = ca_hash(answer.body) if answer.status == http.client.OK else ""
    return Server(url, True, "", _skew(answer.date), ours, token_ca_hash)


def _skew(date: str) -> float | None:
    """Seconds by which this clock is ahead of an HTTP Date (whole seconds, so one second is no skew)."""
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


class SystemClock:
    """The port ``join.Clock``."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
