#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's side of a release; the action plugin of the same name prepares what it is given."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_host
short_description: Do a node's part of a release
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Does on a node what a phase of the release O(release_id) asks of it. M(pifleet.ops.release) records it.
  - The action plugin of this name takes everything from the ledger, gives the module what concerns this node, and lets
    M(pifleet.ops.stack_reconcile) apply the rendered Compose projects. It returns the outcome instead of failing, an unreachable node
    among them, so that the record is made before the run stops.
options:
  do:
    description:
      - V(images) says which images are missing. V(migrate) runs the node's migrations of O(phase). V(rollout) pulls the images, writes
        the projects, applies them, and where they do not get healthy applies what ran before. V(prune) removes images that no retained
        release has.
      - V(pull) and V(files) are the parts of V(rollout) that the action asks the module for.
    type: str
    required: true
    choices: [images, migrate, rollout, prune, pull, files]
  release_id:
    description: The release. Needed but for V(images) of a rollback that is not recorded yet.
    type: str
  phase:
    description: V(migrate_pre) or V(migrate_post), with O(do=migrate).
    type: str
  environment:
    description: Set by the action.
    type: str
    default: ""
  root:
    description: Folder of releases on the node.
    type: path
    default: /var/lib/pifleet/releases
  images:
    description: References with digests. Set by the action, but for O(do=images).
    type: list
    elements: str
    default: []
  projects:
    description: Files by project and path, each with C(mode) and C(content) in base64. Set by the action.
    type: dict
    default: {}
  migrations:
    description: What to run, each with C(project), C(service), C(argv), C(timeout). Set by the action.
    type: list
    elements: dict
    default: []
  login:
    description: Who logs in to the registry. Set by the action.
    type: dict
    suboptions:
      server:
        description: Its name and port.
        type: str
        required: true
      user:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Goes to docker through its standard input.
        type: str
        required: true
attributes:
  check_mode:
    description: Predicts without changing anything.
    support: full
  diff_mode:
    description: The rendered project of a release is a matter of its plan.
    support: none
seealso:
  - module: pifleet.ops.release
  - module: pifleet.ops.stack_reconcile
"""

EXAMPLES = r"""
- name: Bring the version to this node
  pifleet.ops.release_host:
    do: rollout
    release_id: prod-000007-1.4.2
  register: release_result

- name: Which images are missing here?
  pifleet.ops.release_host:
    do: images
    images: ["registry.example:5000/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
"""

RETURN = r"""
outcome:
  description: V(completed) or V(failed).
  type: str
  returned: by the action
error:
  description: Why it failed, free of secrets.
  type: str
  returned: by the action
phase:
  description: The phase that it was for.
  type: str
  returned: by the action
release_id:
  description: The release.
  type: str
  returned: by the action
taken_back:
  description: Whether what ran before was applied again, after the version did not get healthy.
  type: bool
  returned: by the action, with O(do=rollout)
missing:
  description: References that are not on the node.
  type: list
  elements: str
  returned: with O(do=images) and O(do=pull)
removed:
  description: References that were removed.
  type: list
  elements: str
  returned: with O(do=prune)
said:
  description: The last lines of each migration, by service.
  type: dict
  returned: with O(do=migrate)
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host import migrate, project
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import Engine, Login

ARGUMENT_SPEC = {
    "do": {"type": "str", "required": True, "choices": ["images", "migrate", "rollout", "prune", "pull", "files"]},
    "release_id": {"type": "str"},
    "phase": {"type": "str"},
    "environment": {"type": "str", "default": ""},
    "root": {"type": "path", "default": "/var/lib/pifleet/releases"},
    "images": {"type": "list", "elements": "str", "default": []},
    "projects": {"type": "dict", "default": {}},
    "migrations": {"type": "list", "elements": "dict", "default": []},
    "login": {
        "type": "dict",
        "options": {
            "server": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
    },
}
REQUIRED_IF = [("do", "migrate", ("phase", "release_id")), ("do", "rollout", ("release_id",)), ("do", "prune", ("release_id",))]


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_if=REQUIRED_IF, supports_check_mode=True)
    try:
        module.exit_json(**does(module.params, module.check_mode))
    except PifleetError as error:
        module.fail_json(msg=str(error))


def does(params, check):
    """Return the module's result."""
    login = params["login"]
    engine = Engine(login=Login(login["server"], login["user"], login["password"]) if login else None)
    if params["do"] == "images":
        return {"changed": False, "missing": engine.missing(params["images"])}
    if params["do"] == "prune":
        removed = [] if check else engine.remove(params["images"])
        return {"changed": bool(removed), "removed": removed}
    changed, missing = False, engine.missing(params["images"])
    if missing and not check:
        engine.pull(missing)
        engine.protect(missing)
    changed = bool(missing)
    if params["do"] == "files":
        for name, files in sorted(params["projects"].items()):
            changed |= _bring(project.Places(params["root"], params["environment"], name), project.decoded(files), check)
    if params["do"] == "migrate" and not check:
        return {"changed": True, "said": _migrate(params)}
    return {"changed": changed, "missing": missing}


def _bring(places, files, check):
    return any(project.changes(places, files)) if check else project.bring(places, files)


def _migrate(params):
    said = {}
    for wanted in params["migrations"]:
        places = project.Places(params["root"], params["environment"], wanted["project"])
        timeout = float(wanted["timeout"])
        with migrate.alone(places, timeout):
            project.stage(places, project.decoded(params["projects"][wanted["project"]]))
            said[wanted["service"]] = migrate.migrate(places, wanted["service"], wanted["argv"], timeout)
    return said


if __name__ == "__main__":
    main()
