#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs k3s on a node in one call: artifacts, configuration, tokens, unit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_install
short_description: Install and configure k3s on a node, and start its unit without waiting
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Brings a node from any state (fresh, half installed, converged) to an installed, configured and started k3s unit in one call.
  - The unit is started without blocking. M(pifleet.ops.k3s_join_info) says whether the node joined.
  - A unit is restarted only when it runs with other inputs (binary, configuration, tokens, unit file) than those on disk.
options:
  role:
    description: What the node is.
    type: str
    required: true
    choices: [server, agent]
  version:
    description: Version of the staged binary, as in C(v1.34.4+k3s1).
    type: str
    required: true
  data_dir:
    description: The k3s data folder.
    type: path
    default: /var/lib/rancher/k3s
  node_name:
    description: The node's name in the API.
    type: str
    required: true
  node_ip:
    description: The address other nodes reach this one at.
    type: str
    required: true
  binary_sha256:
    description: SHA-256 of the staged binary. Without it (check mode, before the download) the version decides.
    type: str
  images:
    description: File name of the staged airgap images. Without it none are installed.
    type: str
  images_sha256:
    description: SHA-256 of the staged images.
    type: str
  config:
    description: Further keys of C(config.yaml). A list is added to the module's own.
    type: dict
    default: {}
  server_url:
    description: The server to join. A node that has joined keeps its own as long as that one is among O(servers).
    type: str
    default: ""
  cluster_init:
    description: Whether a server without O(server_url) starts an embedded etcd.
    type: bool
    default: false
  servers:
    description: URLs of servers that an existing join file may go on naming.
    type: list
    elements: str
    default: []
  token:
    description: Token to join with. Without it a server that may start a cluster makes one.
    type: str
  agent_token:
    description: Token that agents join with.
    type: str
  cluster_tokens:
    description: Tokens that the cluster takes from a node of this role. Where given, an agent that serves is given no other one.
    type: list
    elements: str
    default: []
  generate_tokens:
    description: Whether missing tokens are generated. True only for the server that starts the cluster.
    type: bool
    default: false
  labels:
    description: Labels the node registers with. They are kept on the Node object afterwards, not here.
    type: dict
    default: {}
  taints:
    description: Taints the node registers with.
    type: list
    elements: str
    default: []
  environment:
    description: Environment of the unit.
    type: dict
    default: {}
  http_proxy:
    description: Proxy of the unit.
    type: str
    default: ""
  https_proxy:
    description: Proxy of the unit for HTTPS. O(http_proxy) when empty.
    type: str
    default: ""
  no_proxy:
    description: Addresses and domains, beyond private networks and the cluster's own, that are reached without a proxy.
    type: list
    elements: str
    default: []
  registries:
    description: Content of C(registries.yaml). Empty for none.
    type: str
    default: ""
  datastore_endpoint:
    description: External datastore instead of SQLite or embedded etcd.
    type: str
    default: ""
  cis_profile:
    description: Whether the node is hardened after the CIS benchmark.
    type: bool
    default: false
  start:
    description: Whether the unit is enabled and started. With V(false) it is left as it is, for a caller that starts it later.
    type: bool
    default: true
  stopped:
    description: Whether the caller has stopped the unit, or in check mode would have. Check mode then predicts the start.
    type: bool
    default: false
attributes:
  check_mode:
    description: Predicts exactly what a run changes, also on a node where nothing is installed.
    support: full
  diff_mode:
    description: Shows every change. Contents of files that hold secrets are masked.
    support: full
"""

EXAMPLES = r"""
- name: Install an agent
  pifleet.ops.k3s_install:
    role: agent
    version: v1.34.4+k3s1
    node_name: pi-cluster-4.local
    node_ip: 192.0.2.14
    binary_sha256: "{{ artifacts.arm64.binary_sha256 }}"
    server_url: https://192.0.2.11:6443
    token: "{{ token }}"
"""

RETURN = r"""
plan:
  description: What was, or in check mode would be, changed.
  returned: always
  type: list
  elements: dict
  sample: [{kind: file, target: /etc/rancher/k3s/config.yaml, reason: content}]
ready:
  description: Whether k3s ran already, and said so to systemd, so that there is nothing to wait for.
  returned: success
  type: bool
unit_action:
  description: What was done to the unit.
  returned: always
  type: str
  sample: restart
"""

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import k3s_datastore, k3s_places
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import fsync_folder, read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff, as_result
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import config
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import install as core


def sha256_of(path: str) -> str | None:
    """Return the SHA-256 of a file in hex, None where there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def read_stamp() -> dict:
    """Return what the last run noted of this node; empty when there is no (readable) note."""
    try:
        stamp = json.loads(read_text(k3s_places.STAMP) or "{}")
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def fits(path: str, noted: dict) -> bool:
    """Whether *noted* is of the file as it is now: of the same path, size and time."""
    stat = os.stat(path)
    return (noted.get("path"), noted.get("size"), noted.get("mtime_ns")) == (path, stat.st_size, stat.st_mtime_ns)


def known_sha256(path: str, noted: dict) -> str | None:
    """The checksum of an installed artifact: as noted when the note fits, else computed; None where there is none."""
    if not os.path.exists(path):
        return None
    return noted.get("sha256") if fits(path, noted) else sha256_of(path)


def note_of(artifact: core.Artifact, installed: bool) -> dict:
    """What is noted of an artifact. One that was *installed* just now was hashed on the way: a Pi needs seconds to do it again."""
    stat = os.stat(artifact.target)
    sha256 = artifact.sha256 if installed else sha256_of(artifact.target)
    return {"path": artifact.target, "sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def installed_version(stamp: dict) -> str:
    """The version of the installed binary: as noted, else as it says itself (``k3s version v1.34.4+k3s1 (...)``)."""
    if not os.path.exists(k3s_places.BINARY):
        return ""
    if stamp.get("version") and known_sha256(k3s_places.BINARY, stamp.get("binary", {})) == stamp.get("binary", {}).get("sha256"):
        return stamp["version"]
    words = run([k3s_places.BINARY, "--version"], timeout=30).stdout.split()
    return words[2] if len(words) > 2 and words[:2] == ["k3s", "version"] else "unknown"


def unit_state(role: str) -> core.UnitState:
    shown = run(["systemctl", "show", core.UNITS[role], "-p", "ActiveState", "-p", "UnitFileState", "-p", "NeedDaemonReload"])
    properties = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    return core.UnitState(
        active=properties.get("ActiveState", "inactive"),
        enabled=properties.get("UnitFileState") == "enabled",
        needs_reload=properties.get("NeedDaemonReload") == "yes",
    )


def gather(desired: core.Desired, stamp: dict) -> core.Facts:
    """Read from the node everything that the plan depends on."""
    inputs = core.restart_inputs(desired)
    managed = tuple(stamp.get("managed", []))
    files, stats = {}, {}
    for path in dict.fromkeys((*inputs, *managed, *(f.path for f in desired.files))):
        try:
            stat = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        stats[path] = core.stat_line(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if path != k3s_places.BINARY:
            files[path] = (read_text(path) or "", stat.st_mode & 0o7777)
    other = "agent" if desired.role == "server" else "server"
    token, agent_token = (read_text(f"{desired.data_dir}/server/{name}") for name in ("token", "agent-token"))
    return core.Facts(
        files=files,
        stats=stats,
        recorded=read_text(core.inputs_path(desired.role)),
        unit=unit_state(desired.role),
        other_unit_installed=os.path.exists(core.unit_path(other)),
        binary_sha256=known_sha256(k3s_places.BINARY, stamp.get("binary", {})),
        binary_version=installed_version(stamp),
        images_sha256=known_sha256(desired.images.target, stamp.get("images", {})) if desired.images else None,
        managed=managed,
        has_datastore=k3s_datastore.kind_of(desired.data_dir, files.get(k3s_places.CONFIG, ("", 0))[0], os.path.exists) is not None,
        has_agent_data=Path(desired.data_dir, "agent/client-kubelet.crt").exists(),
        server_secret=core.secret_of(token) if token and desired.role == "server" else None,
        token_ca=core.ca_of(token or ""),
        agent_secret=core.secret_of(agent_token) if agent_token and desired.role == "server" else None,
        links={name: shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") for name in core.LINKS},
    )


def install_artifact(artifact: core.Artifact) -> None:
    """Move a staged file to its place, after its checksum was verified on the node itself."""
    staged = sha256_of(artifact.staged)
    if staged is None:
        raise PifleetError(f"{artifact.staged} was not copied to the node.", "Run the whole play again: the role k3s_artifacts copies it.")
    if staged != artifact.sha256:
        os.unlink(artifact.staged)
        raise PifleetError(
            f"{artifact.staged} arrived damaged (SHA-256 {staged}, not {artifact.sha256}).",
            "Run again; check the node's storage if it happens twice.",
        )
    target = Path(artifact.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source = artifact.staged
    if os.stat(source).st_dev != os.stat(target.parent).st_dev:
        # rename works within one file system only; the copy is made beside the target so that the rename stays atomic
        source = str(target.with_name(f".{target.name}.new"))
        shutil.copyfile(artifact.staged, source)
    os.chmod(source, artifact.mode)
    with open(source, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(source, target)
    fsync_folder(target.parent)
    Path(artifact.staged).unlink(missing_ok=True)


def remove_old_images(keep: str) -> None:
    """k3s imports every archive of the folder at each start: those of an older version only cost time and space."""
    for archive in Path(keep).parent.glob("k3s-airgap-images-*"):
        if str(archive) != keep:
            archive.unlink()


def write_stamp(desired: core.Desired, plan: core.Plan, stamp: dict) -> None:
    """Note what is installed, so that nothing has to be hashed next time. Writes only what differs: also after a run that was killed."""
    noted = dict(stamp)
    for name, artifact in (("binary", desired.binary), ("images", desired.images)):
        if artifact and not fits(artifact.target, noted.get(name, {})):
            noted[name] = note_of(artifact, artifact in plan.installs)
    noted["version"] = desired.version
    noted["managed"] = sorted({*stamp.get("managed", []), *(f.path for f in plan.writes)} - set(plan.removes))
    if noted != stamp:
        write_atomic(k3s_places.STAMP, json.dumps(noted, indent=1, sort_keys=True) + "\n", 0o600, folder_mode=0o700)


def apply(desired: core.Desired, plan: core.Plan, stamp: dict) -> None:
    """Carry out *plan*. Each step is atomic; the order lets the next run finish what a kill cut off."""
    for artifact in plan.installs:
        install_artifact(artifact)
        if artifact is desired.images:
            remove_old_images(artifact.target)
    for name in plan.links:
        Path(f"/usr/local/bin/{name}").unlink(missing_ok=True)  # a link that leads nowhere
        os.symlink(k3s_places.BINARY, f"/usr/local/bin/{name}")
    # noted before the files are written: a file of a killed run that the next one does not want any more is still known as ours
    write_stamp(desired, plan, stamp)
    for file in plan.writes:
        write_atomic(file.path, file.content, file.mode)
    for path in plan.removes:
        Path(path).unlink(missing_ok=True)
    unit = core.UNITS[desired.role]
    if plan.enable:
        # reloads systemd's configuration too: systemctl(1)
        check(run(["systemctl", "enable", "--quiet", unit]))
    elif any(f.path == core.unit_path(desired.role) for f in plan.writes) or plan.unit_action != "none":
        check(run(["systemctl", "daemon-reload"]))
    if plan.unit_action != "none":
        # a unit that systemd gave up on would refuse to start; there is nothing to reset in the usual case
        run(["systemctl", "reset-failed", unit])
        check(run(["systemctl", plan.unit_action, "--no-block", unit]))


def desired_of(module: AnsibleModule) -> core.Desired:
    p = module.params
    role = p["role"]
    own = config.cis_files(role) if p["cis_profile"] else {}
    images = None
    if p["images"]:
        images = core.Artifact(core.STAGED_IMAGES, f"{p['data_dir']}/agent/images/{p['images']}", p["images_sha256"], 0o644)
    return core.Desired(
        role=role,
        version=p["version"],
        data_dir=p["data_dir"],
        config=config.config_text(
            role,
            node_name=p["node_name"],
            node_ip=p["node_ip"],
            data_dir=p["data_dir"],
            extra=p["config"],
            cis_profile=p["cis_profile"],
            datastore_endpoint=p["datastore_endpoint"],
        ),
        join=config.join_text(server_url=p["server_url"], cluster_init=p["cluster_init"], labels=p["labels"], taints=p["taints"]),
        servers=tuple(p["servers"]),
        token=p["token"] or None,
        agent_token=p["agent_token"] or None,
        # in check mode a joiner of a cluster that does not exist yet has no token either, and will get one in the real run
        generate_tokens=p["generate_tokens"] or module.check_mode,
        environment=config.environment_text(
            {k: str(v) for k, v in p["environment"].items()}, p["http_proxy"], p["https_proxy"], p["no_proxy"]
        ),
        registries=p["registries"],
        files=tuple(core.File(path, content, mode) for path, (content, mode) in own.items()),
        binary=core.Artifact(core.STAGED_BINARY, k3s_places.BINARY, p["binary_sha256"], 0o755),
        images=images,
        sysctl_file=config.SYSCTL_FILE if p["cis_profile"] else "",
        cluster_tokens=tuple(t for t in p["cluster_tokens"] if t),
        start=p["start"],
    )


def main() -> None:
    text = {"type": "str", "default": ""}
    words = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "required": True, "choices": ["server", "agent"]},
            "version": {"type": "str", "required": True},
            "data_dir": {"type": "path", "default": "/var/lib/rancher/k3s"},
            "node_name": {"type": "str", "required": True},
            "node_ip": {"type": "str", "required": True},
            "binary_sha256": {"type": "str"},
            "images": {"type": "str"},
            "images_sha256": {"type": "str"},
            "config": {"type": "dict", "default": {}},
            "server_url": text,
            "cluster_init": {"type": "bool", "default": False},
            "servers": words,
            "token": {"type": "str", "no_log": True},
            "agent_token": {"type": "str", "no_log": True},
            "cluster_tokens": {**words, "no_log": True},
            "generate_tokens": {"type": "bool", "default": False, "no_log": False},
            "labels": {"type": "dict", "default": {}},
            "taints": words,
            "environment": {"type": "dict", "default": {}},
            "http_proxy": {**text, "no_log": True},
            "https_proxy": {**text, "no_log": True},
            "no_proxy": words,
            "registries": {**text, "no_log": True},
            "datastore_endpoint": {**text, "no_log": True},
            "cis_profile": {"type": "bool", "default": False},
            "start": {"type": "bool", "default": True},
            "stopped": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
        # keeps the whole invocation out of the node's journal: settings of a user may hold what no pattern recognises
        no_log=True,
    )
    try:
        desired = desired_of(module)
        stamp = read_stamp()
        facts = gather(desired, stamp)
        if module.check_mode and module.params["stopped"]:
            facts = replace(facts, unit=replace(facts.unit, active="inactive"))
        plan = core.make_plan(desired, facts, (secrets.token_hex(16), secrets.token_hex(16)))
        if not module.check_mode:
            apply(desired, plan, stamp)
            for leftover in (core.STAGED_BINARY, core.STAGED_IMAGES):
                Path(leftover).unlink(missing_ok=True)
    except (PifleetError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(plan.changes),
        plan=as_result(plan.changes),
        unit_action=plan.unit_action,
        ready=plan.unit_action == "none" and facts.unit.active == "active",
        diff=as_diff(plan.changes),
    )


if __name__ == "__main__":
    main()
