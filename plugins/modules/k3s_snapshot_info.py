#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists and verifies snapshots of a k3s cluster's datastore."""

from __future__ import annotations

DOCUMENTATION = r"""
module: k3s_snapshot_info
short_description: List and verify snapshots of a k3s cluster's datastore
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Lists the snapshots of a fleet, on the controller and on the task's server, and verifies the one that O(snapshot) means.
  - Fails where that one is damaged, of another fleet or another datastore, or newer than the k3s that is to run on it.
  - Changes nothing, and returns no secret.
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  snapshot:
    description:
      - The snapshot to verify. V(latest), a name, or a path on the controller (with a C(/) in it).
      - Looked for on the controller first, then on the server. Only listed when not set.
    type: str
  k3s_version:
    description: Version that is to run on the restored datastore. Needed with O(snapshot).
    type: str
  datastore:
    description: What the fleet uses. Needed with O(snapshot).
    type: str
    choices: [sqlite, etcd]
  token:
    description: The inventory's token, when it sets one. It has to be the snapshot's, which the snapshot is encrypted with.
    type: str
  restored:
    description: Whether to verify, too, that the cluster's API shows the state of the snapshot. The snapshot has to be on the server.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for the API, with O(restored).
    type: int
    default: 120
  directory:
    description: Folder of the server that keeps its snapshots.
    type: path
    default: /var/lib/pifleet/snapshots
  controller_directory:
    description:
      - Folder of the controller that keeps copies.
      - The default is C(.pifleet/snapshots/<fleet>) of the checkout, or of the variable C(fleet_root).
    type: path
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
seealso:
  - module: pifleet.ops.k3s_snapshot
"""

EXAMPLES = r"""
- name: Verify the newest snapshot
  pifleet.ops.k3s_snapshot_info:
    fleet: pi-cluster
    snapshot: latest
    k3s_version: v1.34.4+k3s1
    datastore: sqlite
"""

RETURN = r"""
snapshots:
  description: The snapshots, oldest first, each with C(path), C(origin) (V(controller) or V(node)) and what it says of itself.
  returned: success
  type: list
  elements: dict
unreadable:
  description: Files in the folders that look like snapshots and are none, or damaged ones.
  returned: success
  type: list
  elements: str
snapshot:
  description: What the verified snapshot says of itself.
  returned: when O(snapshot) is set
  type: dict
path:
  description: Where the verified snapshot is.
  returned: when O(snapshot) is set
  type: str
origin:
  description: V(controller) or V(node).
  returned: when O(snapshot) is set
  type: str
marker:
  description: Whether the snapshot carries a mark by which the cluster shows that it was restored.
  returned: when O(restored) is true
  type: bool
"""

import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import bundle
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import snapshot as core
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.install import secret_of
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import SERVER_KUBECONFIG, ApiUnreachableError, Kubectl, error_of

ARGUMENT_SPEC = {
    "fleet": {"type": "str", "required": True},
    "snapshot": {"type": "str"},
    "k3s_version": {"type": "str"},
    "datastore": {"type": "str", "choices": ["sqlite", "etcd"]},
    "token": {"type": "str", "no_log": True},
    "restored": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 120},
    "directory": {"type": "path", "default": core.DIRECTORY},
    "controller_directory": {"type": "path"},
}
REQUIRED_BY = {"snapshot": ("k3s_version", "datastore")}
POLL_SECONDS = 1.0


def listed(found, origin):
    """Return bundles as the module's result has them."""
    return [{"path": b.path, "origin": origin, **b.manifest.summary()} for b in core.chronological(found)]


def verified(path, params):
    """Return the manifest of a bundle that may be restored, or raise why it may not."""
    manifest, token = bundle.read_verified(Path(path))
    core.refuse_misfit(manifest, fleet=params["fleet"], datastore=params["datastore"], k3s_version=params["k3s_version"])
    if params["token"] and secret_of(params["token"]) != secret_of(token):
        raise core.SnapshotError(
            f"k3s_token is not the token of the snapshot {manifest.name}, which it is encrypted with.",
            "Remove k3s_token from the inventory, or set it to the token of that time.",
        )
    return manifest


def refuse_unrestored(manifest, timeout):
    """Wait for the API and raise SnapshotError unless it shows the state of the snapshot."""
    end = time.monotonic() + timeout
    with Kubectl(argv.run, SERVER_KUBECONFIG) as kubectl:
        while True:
            options = ["-n", core.MARKER_NAMESPACE, "get", "configmap", core.MARKER, "--ignore-not-found", "-o", "json"]
            done = kubectl(*options, timeout=10.0)
            if done.ok:
                core.refuse_unrestored(manifest, json.loads(done.stdout) if done.stdout.strip() else None)
                return
            error = error_of(done, kubectl.kubeconfig)
            if not isinstance(error, ApiUnreachableError) or time.monotonic() + POLL_SECONDS > end:
                raise error
            time.sleep(POLL_SECONDS)


def run(params):
    found, odd = bundle.bundles_in(Path(params["directory"]))
    result = {"changed": False, "snapshots": listed(found, "node"), "unreadable": odd}
    if not params["snapshot"]:
        return result
    chosen = core.select(found, params["snapshot"], params["fleet"])
    if chosen is None:
        names = ", ".join(b.manifest.name for b in core.chronological(found)) or "none"
        raise core.SnapshotError(
            f"There is no snapshot {params['snapshot']} of {params['fleet']}, neither on the controller nor on this server.",
            f"Here there are: {names}. Give one of them, or a path on the controller.",
        )
    manifest = verified(chosen.path, params)
    result |= {"snapshot": manifest.summary(), "path": chosen.path, "origin": "node"}
    if params["restored"]:
        refuse_unrestored(manifest, params["timeout"])
        result["marker"] = manifest.marked
    return result


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_by=REQUIRED_BY, supports_check_mode=True)
    try:
        module.exit_json(**run(module.params))
    except (PifleetError, OSError) as error:
        module.fail_json(msg=scrub(str(error)))


if __name__ == "__main__":
    main()
