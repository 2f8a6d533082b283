#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes and restores snapshots of a k3s server's datastore."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_snapshot
short_description: Take or restore a snapshot of a k3s cluster's datastore
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Takes a snapshot of embedded etcd or SQLite while k3s runs, verifies it, and bundles it with what it cannot be used without.
    That is the cluster's tokens, its certificate authorities and the server's node password.
  - A bundle is as secret as the cluster itself. It is kept 0600 in a folder 0700, and nothing of it is in the module's result.
  - Restores such a bundle on a server. What was there before is set aside in C(<data_dir>/server/replaced-<time>), never deleted.
options:
  state:
    description:
      - With V(present) a snapshot is taken.
      - With V(restored) k3s is stopped and its datastore replaced by that of O(path). k3s is not started again.
      - With V(set_aside) k3s is stopped and its datastore moved away, so that the server joins the restored one afresh.
    type: str
    choices: [present, restored, set_aside]
    default: present
  name:
    description:
      - Name of the snapshot to take. Made of the node and the time when not set.
      - A snapshot of that name that is there already, and not damaged, is kept as it is.
    type: str
  path:
    description: The bundle to restore, on the node.
    type: path
  fleet:
    description: Name of the fleet. A bundle of another one is not restored.
    type: str
    required: true
  node_name:
    description: The server's name in the API.
    type: str
    required: true
  k3s_version:
    description: Version that is to run on the restored datastore. Needed for V(restored).
    type: str
  datastore:
    description: What the fleet uses. Needed for V(restored).
    type: str
    choices: [sqlite, etcd]
  reason:
    description: Why the snapshot is taken, for people.
    type: str
    default: manual
  directory:
    description: Folder of the node that keeps its snapshots.
    type: path
    default: /var/lib/pifleet/snapshots
  retention:
    description: How many snapshots the folder keeps. With V(0) all.
    type: int
    default: 5
  fetch:
    description: Whether the controller gets a copy of the snapshot, in O(controller_directory).
    type: bool
    default: true
  controller_directory:
    description:
      - Folder of the controller for the copies (0600, the folder 0700).
      - The default is C(.pifleet/snapshots/<fleet>) of the checkout, or of the variable C(fleet_root).
    type: path
  controller_retention:
    description: How many snapshots of the fleet the controller's folder keeps. With V(0) all.
    type: int
    default: 20
  data_dir:
    description: The k3s data folder.
    type: path
    default: /var/lib/rancher/k3s
  timeout:
    description: Seconds that k3s may take for its part, the snapshot or the reset of etcd.
    type: int
    default: 300
attributes:
  check_mode:
    description: Says what would be done, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows the names of snapshots that come and go. Never their contents.
    support: full
seealso:
  - module: pifleet.ops.k3s_snapshot_info
"""

EXAMPLES = r"""
- name: Take a snapshot
  pifleet.ops.k3s_snapshot:
    fleet: pi-cluster
    node_name: pi-cluster-1.local

- name: Restore one
  pifleet.ops.k3s_snapshot:
    state: restored
    fleet: pi-cluster
    node_name: pi-cluster-1.local
    path: /var/lib/pifleet/snapshots/pi-cluster-1.local-20261121T083604Z.tar.gz
    k3s_version: v1.34.4+k3s1
    datastore: sqlite
"""

RETURN = r"""
snapshot:
  description: What the bundle says of itself. Empty for O(state=set_aside).
  returned: success
  type: dict
  sample: {name: pi-cluster-1.local-20261121T083604Z, datastore: sqlite, k3s_version: v1.34.4+k3s1, created: "2026-11-21T08:36:04Z"}
path:
  description: Path of the bundle on the node.
  returned: when O(state) is not V(set_aside)
  type: str
controller_path:
  description: Path of the copy on the controller.
  returned: when O(fetch) is true and there is a snapshot
  type: str
sha256:
  description: SHA-256 of the bundle.
  returned: when O(state) is V(present), but not for one that check mode predicts
  type: str
removed:
  description: Snapshots that the retention removed, on the node and on the controller.
  returned: success
  type: list
  elements: str
set_aside:
  description: Where on the node the replaced state is. Empty when there was none.
  returned: when O(state) is not V(present)
  type: str
"""

import json
import os
import shutil
import sqlite3
import time
import zipfile
from contextlib import closing
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, k3s_datastore, k3s_places
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import fsync_folder, read_bytes, read_text, write_atomic
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import bundle, etcd_file, install
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import snapshot as core
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import (
    FIELD_MANAGER,
    SERVER_KUBECONFIG,
    ApiUnreachableError,
    Kubectl,
    error_of,
)

UNIT = "k3s.service"
STOP_SECONDS = 150.0
KINE_BUSY_MS = 30_000


# -- taking ------------------------------------------------------------------------------------------------------------------
def datastore_of(data_dir):
    """Return the kind of the node's own datastore. Raises PifleetError where it has none."""
    kind = k3s_datastore.kind_of(data_dir, read_text(k3s_places.CONFIG) or "", os.path.exists)
    if kind in ("etcd", "sqlite"):
        return kind
    raise PifleetError(
        f"There is no datastore in {data_dir}/server/db.",
        "Snapshots are taken on a server with SQLite or embedded etcd; an external datastore is backed up with its own tools.",
    )


def installed_version():
    words = run([k3s_places.BINARY, "--version"], timeout=30).stdout.split()
    if words[:2] != ["k3s", "version"]:
        raise PifleetError(f"{k3s_places.BINARY} does not say its version.", "Install k3s first: `ansible-playbook site.yml`.")
    return words[2]


def copy_sqlite(data_dir, target):
    """Copy the database while k3s writes to it: one transaction, so the copy is of one instant (https://sqlite.org/backup.html)."""
    source_path = Path(data_dir, "server/db/state.db")
    with closing(sqlite3.connect(f"file:{source_path}?mode=rw", uri=True, timeout=KINE_BUSY_MS / 1000)) as source:
        source.execute("PRAGMA query_only = ON")
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file: nothing of it stays in a log beside it
            found = [row[0] for row in copy.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                raise PifleetError(
                    f"The copy of {source_path} is damaged: {'; '.join(found[:3])}.", "Check the node's disk, and run again."
                )
            if not copy.execute("SELECT count(*) FROM kine").fetchone()[0]:
                raise PifleetError(f"{source_path} holds nothing.", "Is this the server of the cluster?")


def save_etcd(data_dir, folder, name, timeout, target):
    """Let k3s save etcd, verify the checksum at the end of the file, and put it at *target*."""
    saved = folder / "etcd"
    bundle.private_folder(saved)
    command = [k3s_places.BINARY, "etcd-snapshot", "save", f"--data-dir={data_dir}", f"--dir={saved}", f"--name={name}"]
    done = run(command, timeout=timeout)
    if not done.ok:
        said = " | ".join(scrub(done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise PifleetError(f"k3s saved no snapshot of etcd: {said}", "k3s has to run on this server: look at `systemctl status k3s`.")
    files = [path for path in saved.rglob("*") if path.is_file()]
    if len(files) != 1:
        raise PifleetError(
            f"k3s left {len(files)} files in {saved}, not one snapshot.", "Look at `journalctl -u k3s -n 50`, and run again."
        )
    if zipfile.is_zipfile(files[0]):
        with zipfile.ZipFile(files[0]) as packed, packed.open(packed.namelist()[0]) as stream, target.open("wb") as out:
            shutil.copyfileobj(stream, out)
    else:
        os.replace(files[0], target)
    with target.open("rb") as stream:
        etcd_file.verify(stream, str(target))


def mark(name, created):
    """Write into the cluster which snapshot is about to be taken; return whether it could be. Proves a restore of it later."""
    try:
        with Kubectl(argv.run, SERVER_KUBECONFIG) as kubectl:
            options = ["--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "-f", "-"]
            done = kubectl("apply", *options, stdin=json.dumps(core.marker(name, created)))
            if not done.ok:
                raise error_of(done, kubectl.kubeconfig)
    except ApiUnreachableError:
        return False
    return True


def material(data_dir):
    """Return what a bundle holds beside the datastore: file by path in the bundle."""
    server = Path(data_dir, "server")
    found = [
        path for folder in (server, server / "tls", server / "tls/etcd", server / "cred") if folder.is_dir() for path in folder.iterdir()
    ]
    sources = {str(p.relative_to(data_dir)): p for p in found if p.is_file() and core.is_material(str(p.relative_to(data_dir)))}
    if Path(install.AGENT_TOKEN).is_file():
        sources["server/agent-token"] = Path(install.AGENT_TOKEN)
    if "server/token" not in sources:
        raise PifleetError(f"There is no token in {server}: k3s never came up here.", "Take the snapshot on a server that runs.")
    if Path(k3s_places.NODE_PASSWORD).is_file():
        sources["node/password"] = Path(k3s_places.NODE_PASSWORD)
    return sources


def take(module):
    params = module.params
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    name = core.checked_name(params["name"] or core.default_name(params["node_name"], created))
    folder = Path(params["directory"])
    target = folder / f"{name}{core.SUFFIX}"
    if target.exists():
        manifest, _token = bundle.read_verified(target)
        return {
            "changed": False,
            "snapshot": manifest.summary(),
            "path": str(target),
            "sha256": bundle.member_of(target).sha256,
            "removed": [],
        }
    kind, version = datastore_of(params["data_dir"]), installed_version()
    manifest = core.Manifest(name, params["fleet"], created, version, kind, params["node_name"], params["reason"], False, {})
    if not module.check_mode:
        manifest = make(params, manifest, folder, target)
    kept, _odd = bundle.bundles_in(folder)
    if module.check_mode:
        kept.append(core.Bundle(str(target), manifest))
    retired = core.retired(kept, params["retention"])
    for old in retired if not module.check_mode else []:
        bundle.remove(old)
    removed = [old.manifest.name for old in retired]
    diff = {"before": "".join(f"{r}\n" for r in removed), "after": f"{name}\n"}
    result = {"changed": True, "snapshot": manifest.summary(), "path": str(target), "removed": removed, "diff": diff}
    return result if module.check_mode else {**result, "sha256": bundle.member_of(target).sha256}


def make(params, manifest, folder, target):
    """Take the snapshot and write its bundle; return the manifest."""
    bundle.private_folder(folder)
    for leftover in folder.glob(".taking-*"):
        shutil.rmtree(leftover)  # of a run that was killed
    work = folder / f".taking-{manifest.name}"
    bundle.private_folder(work)
    try:
        marked = mark(manifest.name, manifest.created)
        copy = work / "datastore"
        if manifest.datastore == "etcd":
            save_etcd(params["data_dir"], work, manifest.name, params["timeout"], copy)
        else:
            copy_sqlite(params["data_dir"], copy)
        sources = {core.DATASTORES[manifest.datastore]: copy, **material(params["data_dir"])}
        members = {path: bundle.member_of(source) for path, source in sources.items()}
        whole = core.Manifest(**{f: getattr(manifest, f) for f in core.Manifest.__slots__} | {"marked": marked, "members": members})
        bundle.write(target, whole, sources)
        bundle.read_verified(target)
        return whole
    finally:
        shutil.rmtree(work, ignore_errors=True)


# -- restoring ---------------------------------------------------------------------------------------------------------------
def restore(module):
    params = module.params
    path = Path(params["path"])
    if module.check_mode and not path.exists():  # verified on the controller, and not copied here in check mode
        return {"changed": True, "snapshot": {}, "path": str(path), "removed": [], "set_aside": ""}
    manifest, _token = bundle.read_verified(path)
    core.refuse_misfit(manifest, fleet=params["fleet"], datastore=params["datastore"], k3s_version=params["k3s_version"])
    server = Path(params["data_dir"], "server")
    result = {
        "changed": True,
        "snapshot": manifest.summary(),
        "path": str(path),
        "removed": [],
        "set_aside": "",
        "diff": {"before": f"the datastore in {server}/db\n", "after": f"the snapshot {manifest.name} of {manifest.created}\n"},
    }
    if module.check_mode:
        return result
    supersede()
    for leftover in server.glob(".restoring-*"):
        shutil.rmtree(leftover)  # of a run that was killed
    staged = server / f".restoring-{manifest.name}"
    bundle.private_folder(server)
    try:
        bundle.extract(path, staged)
        if manifest.datastore == "etcd":
            with (staged / core.ETCD_MEMBER).open("rb") as stream:
                etcd_file.verify(stream, str(path))
        stop()
        aside = exchange(params, manifest, staged, server)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return {**result, "set_aside": aside}


def exchange(params, manifest, staged, server):
    """Set the old state aside and put the bundle's in its place; return where the old one is. On a failure the old one comes back."""
    names = core.DATA if same_material(staged / "server", server) else core.DATA + core.MATERIAL
    aside = set_aside(server, names)
    try:
        put_back(params, manifest, staged, server)
    except (PifleetError, OSError) as error:
        take_back(server, aside, names)
        raise PifleetError(
            f"{error}", "The state from before is back; k3s is stopped. Start it with `ansible-playbook site.yml`."
        ) from error
    return aside


def supersede():
    """Mark the state that is about to be replaced, so that it is recognised if it should still be there afterwards."""
    try:
        with Kubectl(argv.run, SERVER_KUBECONFIG) as kubectl:
            options = [
                "-n",
                core.MARKER_NAMESPACE,
                "annotate",
                "configmap",
                core.MARKER,
                "--overwrite",
                f"{core.SUPERSEDED}={int(time.time())}",
            ]
            done = kubectl(*options, timeout=15.0)
            if not done.ok and "NotFound" not in done.stderr:
                raise error_of(done, kubectl.kubeconfig)
    except ApiUnreachableError:
        return  # a server that is down or empty has no state that could be mistaken for the restored one


def stop():
    if os.path.exists(install.unit_path("server")):
        check(run(["systemctl", "stop", UNIT], timeout=STOP_SECONDS), "Look at `systemctl status k3s`, and run again.")


def set_aside(server, names):
    """Move *names* into a folder of its own; return its path, empty where there was nothing to move."""
    present = [name for name in names if os.path.lexists(server / name)]
    if not present:
        return ""
    aside = server / time.strftime("replaced-%Y%m%dT%H%M%SZ", time.gmtime())
    bundle.private_folder(aside)
    for name in present:
        os.rename(server / name, aside / name)
    fsync_folder(aside)
    fsync_folder(server)
    return str(aside)


def take_back(server, aside, names):
    """Undo :func:`set_aside` after a restore that failed."""
    for name in names:
        target = server / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if aside and os.path.lexists(Path(aside, name)):
            os.rename(Path(aside, name), target)
    if aside:
        os.rmdir(aside)
    fsync_folder(server)


def put_back(params, manifest, staged, server):
    """Put the members of the bundle where k3s looks for them; for etcd let k3s make a datastore of the snapshot."""
    # k3s makes this one itself, of what its configuration says
    agent_token = staged / "server/agent-token"
    keep_secret(install.AGENT_TOKEN, read_text(agent_token) or "")
    agent_token.unlink(missing_ok=True)
    keep_secret(install.TOKEN, (staged / "server/token").read_text())
    for source in sorted((staged / "server").rglob("*")):
        if source.is_file():
            target = server / source.relative_to(staged / "server")
            bundle.private_folder(target.parent)
            os.replace(source, target)
            fsync_folder(target.parent)
    password = read_text(staged / "node/password")
    if password and manifest.node == params["node_name"] and read_text(k3s_places.NODE_PASSWORD) != password:
        write_atomic(k3s_places.NODE_PASSWORD, password, 0o600)
    bundle.private_folder(server / "db")
    if manifest.datastore == "sqlite":
        os.replace(staged / core.SQLITE_MEMBER, server / "db/state.db")
        fsync_folder(server / "db")
    else:
        reset_etcd(params, staged / core.ETCD_MEMBER)


def keep_secret(path, token):
    """Write a token file of the configuration, unless it holds the secret of *token* already, in whatever form."""
    secret = install.secret_of(token)
    if secret and install.secret_of(read_text(path) or "") != secret:
        write_atomic(path, f"{secret}\n", 0o600, folder_mode=0o755)


def same_material(staged, server):
    """Whether the server's own token and certificate authorities are those of the snapshot: then all that was made of them stays."""
    files = [path for path in staged.rglob("*") if path.is_file() and path.name != "agent-token"]
    return all(read_bytes(server / path.relative_to(staged)) == path.read_bytes() for path in files)


def reset_etcd(params, saved):
    """Let k3s start a cluster of one member from the snapshot (https://docs.k3s.io/cli/etcd-snapshot), in the environment of its unit."""
    join = read_text(install.JOIN) or ""
    write_atomic(install.JOIN, core.alone(join), 0o600)
    command = [
        *("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit=pifleet-k3s-restore"),
        f"--property=EnvironmentFile=-{install.env_path('server')}",
        f"--property=RuntimeMaxSec={params['timeout']}",
        "--property=Delegate=yes",
        *(k3s_places.BINARY, "server", "--cluster-reset", f"--cluster-reset-restore-path={saved}"),
    ]
    done = run(command, timeout=params["timeout"] + 60)
    if not done.ok or not Path(params["data_dir"], "server/db/etcd/member").is_dir():
        said = " | ".join(scrub(done.stderr.strip() or done.stdout.strip()).splitlines()[-5:])
        raise PifleetError(f"k3s did not restore the snapshot of etcd (exit code {done.rc}): {said}")


def put_aside(module):
    params = module.params
    server = Path(params["data_dir"], "server")
    present = (server / "db").exists()
    result = {"changed": present, "snapshot": {}, "removed": [], "set_aside": ""}
    result["diff"] = {"before": f"the datastore in {server}/db\n" if present else "", "after": ""}
    if module.check_mode or not present:
        return result
    stop()
    return {**result, "set_aside": set_aside(server, core.DATA + core.MATERIAL)}


ARGUMENT_SPEC = {
    "state": {"type": "str", "choices": ["present", "restored", "set_aside"], "default": "present"},
    "name": {"type": "str"},
    "path": {"type": "path"},
    "fleet": {"type": "str", "required": True},
    "node_name": {"type": "str", "required": True},
    "k3s_version": {"type": "str"},
    "datastore": {"type": "str", "choices": ["sqlite", "etcd"]},
    "reason": {"type": "str", "default": "manual"},
    "directory": {"type": "path", "default": core.DIRECTORY},
    "retention": {"type": "int", "default": 5},
    "fetch": {"type": "bool", "default": True},
    "controller_directory": {"type": "path"},
    "controller_retention": {"type": "int", "default": 20},
    "data_dir": {"type": "path", "default": "/var/lib/rancher/k3s"},
    "timeout": {"type": "int", "default": 300},
}
REQUIRED_IF = [("state", "restored", ["path", "k3s_version", "datastore"])]


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=REQUIRED_IF,
        supports_check_mode=True,
    )
    act = {"present": take, "restored": restore, "set_aside": put_aside}[module.params["state"]]
    try:
        module.exit_json(**act(module))
    except (PifleetError, OSError, sqlite3.Error) as error:
        module.fail_json(msg=scrub(str(error)))


if __name__ == "__main__":
    main()
