#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes k3s, and everything it made, from a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_uninstall
short_description: Remove k3s and everything it made from a node
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Stops and removes the unit, ends the containers, and removes their mounts and network, k3s's packet filter rules, data and files.
  - Leaves the Docker Engine and other programs of the node alone.
  - A file system that is mounted below a removed folder, and is not k3s's, stays.
  - Takes nothing out of the cluster. M(pifleet.ops.k3s_node) does that, and comes first.
options:
  data_dir:
    description: The k3s data folder. Default is the one in the node's k3s configuration, else V(/var/lib/rancher/k3s).
    type: path
  remove_node_identity:
    description:
      - Whether C(/etc/rancher/node) is removed too.
      - It holds the node's password. A node without it is rejected under its old name, until its Secret is removed from the cluster.
    type: bool
    default: false
  remove_snapshots:
    description: Whether snapshots of the datastore that were kept on the node are removed too.
    type: bool
    default: false
attributes:
  check_mode:
    description: Predicts exactly what is removed.
    support: full
  diff_mode:
    description: Shows everything that is removed.
    support: full
seealso:
  - module: pifleet.ops.k3s_install
  - module: pifleet.ops.k3s_node
"""

EXAMPLES = r"""
- name: Remove k3s from the node
  pifleet.ops.k3s_uninstall:

- name: The same for a node that will have another name
  pifleet.ops.k3s_uninstall:
    remove_node_identity: true
"""

RETURN = r"""
plan:
  description: What was, or in check mode would be, removed.
  returned: always
  type: list
  elements: dict
  sample: [{kind: unit, target: k3s-agent.service, reason: running}]
remaining:
  description: What stays on the node, each with C(path) and C(reason).
  returned: always
  type: list
  elements: dict
  sample: [{path: /etc/rancher/node, reason: "the node's password, with which it may join again under its name"}]
"""

import ipaddress
import json
import os
import shutil
import signal
import time
from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import k3s_places
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import check, run
from ansible_collections.pifleet.ops.plugins.module_utils._common.atomic_file import read_text
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff, as_result
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import install
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import uninstall as core

STOP_SECONDS = 150.0
KILL_SECONDS = 15.0
#: the implementations of each family
IPTABLES = (("iptables", "iptables-nft", "iptables-legacy"), ("ip6tables", "ip6tables-nft", "ip6tables-legacy"))


# -- looking -----------------------------------------------------------------------------------------------------------------
def configured(key):
    """Return the values of a key in the node's k3s configuration: one for a scalar, several for a list."""
    found, inside = [], False
    for line in (read_text(k3s_places.CONFIG) or "").splitlines():
        name, colon, value = line.partition(":")
        if inside and line.lstrip().startswith("- "):
            found.append(line.lstrip()[2:].strip().strip("\"'"))
            continue
        inside = bool(colon) and name == key
        if inside and value.strip():
            found += [v.strip().strip("\"'") for v in value.strip().strip("[]").split(",")]
    return [value for value in found if value]


def units():
    found = []
    for role, name in install.UNITS.items():
        shown = run(["systemctl", "show", f"{name}.service", "-p", "ActiveState", "-p", "UnitFileState"])
        state = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
        installed = os.path.exists(install.unit_path(role))
        found.append(core.Unit(f"{name}.service", state.get("ActiveState", ""), state.get("UnitFileState", ""), installed))
    return tuple(found)


def processes():
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            argv = Path(entry.path, "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            # the name in parentheses may hold anything; what follows the last one is: state, parent
            parent = int(Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            cgroups = Path(entry.path, "cgroup").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        found.append(core.Process(int(entry.name), parent, tuple(a.decode(errors="replace") for a in argv), cgroups))
    return tuple(found)


def mounts():
    """Return all mount points; the kernel writes a space as \\040 and so on."""
    lines = (read_text("/proc/self/mounts") or "").splitlines()
    return tuple(dict.fromkeys(line.split()[1].encode().decode("unicode_escape") for line in lines))


def links():
    """Return the commands that are links to k3s."""
    paths = [f"/usr/local/bin/{name}" for name in install.LINKS]
    return tuple(p for p in paths if os.path.islink(p) and os.path.basename(os.readlink(p)) == "k3s")


def ip_json(*arguments):
    done = run(["ip", "-j", *arguments])
    return json.loads(done.stdout or "[]") if done.ok else []


def routes():
    """Return the destinations of routes that no kernel interface made (flannel's host-gw and the like)."""
    found = [r["dst"] for version in ("-4", "-6") for r in ip_json(version, "route", "show") if r.get("protocol") != "kernel"]
    return tuple(dict.fromkeys(found))


def iptables_programs(data_dir):
    """Return (save, restore) of each implementation on the node by name: k3s uses the node's own, or those it brings."""
    search = f"/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:{data_dir}/data/current/bin/aux"
    found = {}
    for names in IPTABLES:
        seen = set()
        for name in names:
            save, restore = (shutil.which(f"{name}-{what}", path=search) for what in ("save", "restore"))
            if save and restore and os.path.realpath(save) not in seen:
                seen.add(os.path.realpath(save))
                found[name] = (save, restore)
    return found


def rules(programs):
    saved = {name: run([save]) for name, (save, _restore) in programs.items()}
    return {name: done.stdout for name, done in saved.items() if done.ok and done.stdout.strip()}


def exists(path):
    """Whether there is something to remove at *path*: a folder that is an empty mount point has to stay."""
    if os.path.ismount(path):
        return bool(os.listdir(path))
    return os.path.lexists(path)


def stamped_files():
    """Return the files that the last installation noted as its own."""
    try:
        stamp = json.loads(read_text(k3s_places.STAMP) or "{}")
    except ValueError:
        return ()
    managed = stamp.get("managed", []) if isinstance(stamp, dict) else []
    return tuple(sorted(p for p in managed if isinstance(p, str) and p.startswith("/etc/")))


def cluster_cidrs():
    flannel = [
        line.partition("=")[2] for line in (read_text("/run/flannel/subnet.env") or "").splitlines() if line.startswith("FLANNEL_NETWORK=")
    ]
    found = [c for c in (*configured("cluster-cidr"), *flannel) if is_network(c)]
    return tuple(dict.fromkeys(found)) or (core.DEFAULT_CLUSTER_CIDR,)


def is_network(text):
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def gather(data_dir, programs):
    managed = stamped_files()
    wanted = (*core.program_data(data_dir), *core.installed_files(), core.NODE_IDENTITY, core.SNAPSHOTS, *managed)
    return core.Facts(
        data_dir=data_dir,
        units=units(),
        files=tuple(path for path in wanted if exists(path)),
        managed=managed,
        links=links(),
        processes=processes(),
        mounts=mounts(),
        interfaces={i["ifname"]: i.get("master", "") for i in ip_json("link", "show")},
        routes=routes(),
        rules=rules(programs),
        cluster_cidrs=cluster_cidrs(),
    )


# -- removing ----------------------------------------------------------------------------------------------------------------
def apply(plan, data_dir, programs):
    """Carry out *plan*. Stopping the unit changes what runs and what is mounted, so that is looked at again, by the same rules."""
    for unit in plan.stops:
        check(run(["systemctl", "stop", unit], timeout=STOP_SECONDS), "Look at `systemctl status` of it, and run again.")
    for unit in plan.disables:
        check(run(["systemctl", "disable", "--quiet", unit]))
    if plan.changes:
        end_containers(data_dir)
        unmount()
    present = {i["ifname"] for i in ip_json("link", "show")}
    for name in plan.interfaces:
        if name in present:  # the other end of a pod's pair goes with the pod
            run(["ip", "link", "delete", name])
    for destination in plan.routes:
        run(["ip", "route", "delete", destination])
    for program, kept in plan.rules.items():
        check(run([programs[program][1]], stdin=kept))
    for path in plan.files:
        remove(path)
    for folder in (data_dir, "/etc/rancher", "/var/lib/rancher", "/var/lib/pifleet"):
        if os.path.isdir(folder) and not os.path.ismount(folder) and not os.listdir(folder):
            os.rmdir(folder)
    if plan.stops or plan.disables or any("/systemd/" in path for path in plan.files):
        check(run(["systemctl", "daemon-reload"]))
        run(["systemctl", "reset-failed", "k3s.service", "k3s-agent.service"])


def end_containers(data_dir):
    end = time.monotonic() + KILL_SECONDS
    while pids := core.containers(processes(), data_dir):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > end:
            raise PifleetError(f"Containers of k3s do not end (processes {', '.join(map(str, pids))}).", "Reboot the node, and run again.")
        time.sleep(0.2)


def unmount():
    for path in core.mounts_of_k3s(mounts()):
        # a network volume whose server is gone is only let go lazily
        if not run(["umount", "--force", path]).ok:
            check(run(["umount", "--lazy", path]), "Close what uses it (`fuser -vm`), and run again.")
        remove(path)


def remove(path):
    """Remove a file or a whole folder, but never what is on another file system that is mounted below it."""
    if os.path.islink(path) or not os.path.isdir(path):
        Path(path).unlink(missing_ok=True)
        return
    foreign = {m for m in mounts() if m == path or m.startswith(f"{path}/")}
    remove_folder(path, foreign)


def remove_folder(path, foreign):
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            if entry.path not in foreign:
                remove_folder(entry.path, foreign)
        elif entry.path not in foreign:
            os.unlink(entry.path)
    if path not in foreign and not os.listdir(path):
        os.rmdir(path)


def main():
    module = AnsibleModule(
        argument_spec={
            "data_dir": {"type": "path"},
            "remove_node_identity": {"type": "bool", "default": False},
            "remove_snapshots": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    data_dir = params["data_dir"] or next(iter(configured("data-dir")), k3s_places.DATA_DIR)
    programs = iptables_programs(data_dir)
    try:
        facts = gather(data_dir, programs)
        plan = core.make_plan(facts, remove_identity=params["remove_node_identity"], remove_snapshots=params["remove_snapshots"])
        if plan.changes and not module.check_mode:
            apply(plan, data_dir, programs)
    except (PifleetError, OSError) as error:
        module.fail_json(msg=str(error))
    remaining = [asdict(kept) for kept in plan.kept]
    module.exit_json(changed=bool(plan.changes), plan=as_result(plan.changes), remaining=remaining, diff=as_diff(plan.changes))


if __name__ == "__main__":
    main()
