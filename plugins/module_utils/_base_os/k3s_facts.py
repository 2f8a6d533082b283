# SPDX-License-Identifier: GPL-3.0-or-later
"""What is there of k3s on a node: installed, configured, running. Nothing secret is read out of its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._base_os import parse
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.host import Host
from ansible_collections.pifleet.ops.plugins.module_utils._common import k3s_datastore
from ansible_collections.pifleet.ops.plugins.module_utils._common.k3s_places import BINARY, CONFIG, DATA_DIR, NODE_PASSWORD, STAMP, TOKEN

UNITS = ("k3s.service", "k3s-agent.service")
UNIT_FOLDER = "/etc/systemd/system"
# https://docs.k3s.io/installation/requirements#networking, those that a k3s process itself listens on with TCP.
PORTS = (2379, 2380, 6443, 6444, 10250)


@dataclass(frozen=True, slots=True)
class UnitState:
    """State of the k3s unit; *active*, *sub* and *enabled* in systemd's words."""

    active: str
    sub: str
    enabled: str
    main_pid: int
    n_restarts: int


@dataclass(frozen=True, slots=True)
class K3sFacts:
    """*role* and *unit*: of the installed unit file; *version* and *binary_sha256*: of the installed binary, running or not;
    *images_sha256*: of the airgap images, as recorded when they were installed, None once the archive is another one;
    *datastore*: as ``k3s_datastore.kind_of`` returns it; *node_password*: there is one (k3s makes it at the first join); *token*: there
    is a file with what the node joins with; *ports_in_use*: {port: process (pid)} of k3s' own ports that something else listens on."""

    role: str | None
    unit: str
    unit_state: UnitState | None
    version: str
    binary_sha256: str | None
    images_sha256: str | None
    data_dir: str
    datastore: str | None
    agent_data: bool
    config_present: bool
    node_name: str
    node_password: bool
    token: bool
    ports_in_use: Mapping[str, str]


def collect_k3s(host: Host, data_dir: str | None = None, unit: str | None = None) -> K3sFacts:
    """Return the k3s facts of *host*; *data_dir* and *unit* are looked for in the config and the unit files where not given."""
    config = host.text(CONFIG)
    folder = data_dir or parse.config_value(config or "", "data-dir") or DATA_DIR
    name, role = _installed_unit(host, [unit] if unit else UNITS)
    state = _unit_state(host, name) if name else None
    version, sha256 = _binary(host)
    return K3sFacts(
        role=role,
        unit=name,
        unit_state=state,
        version=version,
        binary_sha256=sha256,
        images_sha256=_images_sha256(host),
        data_dir=folder,
        datastore=k3s_datastore.kind_of(folder, config or "", host.exists),
        agent_data=host.exists(f"{folder}/agent/client-kubelet.crt"),
        config_present=config is not None,
        node_name=parse.config_value(config or "", "node-name"),
        node_password=host.exists(NODE_PASSWORD),
        token=host.exists(TOKEN),
        ports_in_use=ports_in_use(host, PORTS, state.main_pid if state else 0),
    )


def ports_in_use(host: Host, ports: Iterable[int], main_pid: int = 0) -> dict[str, str]:
    """Return {port: "process (pid)"} of the *ports* that a process other than k3s and its children listens on."""
    sockets = parse.listening([host.text(f"/proc/net/{table}") or "" for table in ("tcp", "tcp6")], ports)
    taken: dict[str, str] = {}
    pids = [pid for pid in host.names("/proc") if pid.isdigit()] if sockets else []
    for pid in sorted(pids, key=lambda p: (int(p) != main_pid, int(p))):  # k3s first: mostly it owns them all, and the search ends
        held = {sockets.pop(inode) for inode in _socket_inodes(host, pid) & sockets.keys()}
        if held and not _is_k3s(host, pid):
            name = (host.text(f"/proc/{pid}/comm") or "").strip()
            taken.update({str(port): f"{name} ({pid})" for port in held})
        if not sockets:
            break
    # What is left is held by no process that can be seen from here, such as the kernel or another pid namespace.
    taken.update({str(port): "unknown process" for port in sockets.values()})
    return dict(sorted(taken.items(), key=lambda item: int(item[0])))


def _socket_inodes(host: Host, pid: str) -> set[str]:
    links = (host.link(f"/proc/{pid}/fd/{fd}") or "" for fd in host.names(f"/proc/{pid}/fd"))
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _is_k3s(host: Host, pid: str) -> bool:
    """Whether the process belongs to k3s: named so, or in the control group of one of its units (where its children are)."""
    groups = host.text(f"/proc/{pid}/cgroup") or ""
    return (host.text(f"/proc/{pid}/comm") or "").startswith("k3s") or any(f"/{unit}" in groups for unit in UNITS)


def _installed_unit(host: Host, names: Iterable[str]) -> tuple[str, str | None]:
    """Return (unit name, role) of the unit file there is; of two (a node that changed its role) the enabled one."""
    found = []
    for name in names:
        text = host.text(f"{UNIT_FOLDER}/{name}")
        if text is not None:
            enabled = host.exists(f"{UNIT_FOLDER}/multi-user.target.wants/{name}")
            found.append((not enabled, name, parse.k3s_role(text)))
    return next(((name, role) for _disabled, name, role in sorted(found, key=lambda f: f[0])), ("", None))


def _unit_state(host: Host, name: str) -> UnitState | None:
    shown = host.unit(name)
    if not shown:
        return None
    return UnitState(shown["ActiveState"], shown["SubState"], shown["UnitFileState"], int(shown["MainPID"]), int(shown["NRestarts"]))


def _images_sha256(host: Host) -> str | None:
    """Return what the install recorded of the images, while size and mtime are still the recorded ones. They are too large to hash here."""
    try:
        images = json.loads(host.text(STAMP) or "{}").get("images", {})
        found = host.stamp(str(images["path"]))
        return str(images["sha256"]) if found and found == (images["size"], images["mtime_ns"]) else None
    except (ValueError, KeyError, AttributeError, TypeError):  # no stamp, or one of another shape: as good as none
        return None


def _binary(host: Host) -> tuple[str, str | None]:
    """Return (version, SHA-256) of the installed binary: from the install's stamp while size and mtime still are the stamped ones."""
    try:
        stamp = json.loads(host.text(STAMP) or "{}")
        binary = stamp.get("binary", {})
        path = str(binary.get("path", BINARY))
        stamped = (binary.get("size"), binary.get("mtime_ns"))
    except (ValueError, AttributeError):  # not JSON, or of another shape: as good as no stamp
        stamp, binary, path, stamped = {}, {}, BINARY, (None, None)
    found = host.stamp(path)
    if found is None:
        return "", None
    if found == stamped and stamp.get("version") and binary.get("sha256"):
        return str(stamp["version"]), str(binary["sha256"])
    words = host.k3s_version(path).split()  # k3s version v1.34.4+k3s1 (c6017918)
    return (words[2] if words[:2] == ["k3s", "version"] and len(words) > 2 else ""), host.sha256(path)
