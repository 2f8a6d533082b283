#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's side of a fix run; the action plugin of the same name prepares what it is given."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fix_run_host
short_description: Do a step of a fix run on its node
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Does the step O(step) of the fix run O(fix_run_id), and records it in the controller's ledger. A step that is over, or whose turn it is
    not, does nothing. In check mode V(analyze) shows what would be done, and changes nothing.
  - The action plugin of this name takes everything from the ledger, records, and asks the module for what is to be done on the node.
  - A step that fails does not fail the task, so that V(rollback) can follow; M(pifleet.ops.fix_run) with C(do=finish) does.
options:
  step:
    description:
      - The step.
      - V(unpin) is none, but lets go of the stack that the fix run holds at its patch (C(keep) of its profile).
    type: str
    required: true
    choices: [analyze, patch, build, restart, verify, rollback, unpin]
  fix_run_id:
    description: The fix run. Not needed in check mode.
    type: str
  reconcile:
    description: Options of M(pifleet.ops.stack_reconcile), as the unattended runs of the node have them.
    type: dict
    default: {}
  service:
    description: Name of the service, in check mode.
    type: str
  instruction:
    description: The instruction, in check mode.
    type: str
  patch_file:
    description: File of the controller with a diff, in check mode.
    type: path
  from_step:
    description: The step that a retry would go on from, in check mode.
    type: str
  fresh:
    description: Whether a retry would begin anew, in check mode.
    type: bool
    default: false
  do:
    description: What the action asks the module for. Set by the action.
    type: str
    choices: [look, patch, build, verify, pin, restore, compare, release]
  place:
    description: Where the service is on the node. Set by the action.
    type: dict
    default: {}
  files:
    description: Paths below the folder of the stack. Set by the action.
    type: list
    elements: str
    default: []
  target:
    description: The revision to bring, with C(revision), C(commit_message), C(folder), and C(archive) where that was sent as a file. Set by
      the action.
    type: dict
    default: {}
  archive:
    description: The archive of that revision, where it is small. Set by the action.
    type: str
    default: ""
  health:
    description: How the service is verified. Set by the action.
    type: dict
    default: {}
  timeout:
    description: Seconds for a build. Set by the action.
    type: float
    default: 900
attributes:
  check_mode:
    description: Shows the plan with its diff, and changes nothing.
    support: full
  diff_mode:
    description: The patch is shown as a part of the plan.
    support: none
seealso:
  - module: pifleet.ops.fix_run
  - module: pifleet.ops.stack_reconcile
"""

EXAMPLES = r"""
- name: Build the image of the service
  pifleet.ops.fix_run_host:
    step: build
    fix_run_id: fix-000007-web
"""

RETURN = r"""
outcome:
  description: State of the step now. Empty where its turn it was not.
  type: str
  returned: by the action
message:
  description: How the step ended, free of secrets.
  type: str
  returned: by the action
status:
  description: Status of the fix run.
  type: str
  returned: by the action
lines:
  description: The plan, for a person.
  type: list
  elements: str
  returned: by the action, with O(step=analyze)
seen:
  description: What was found on the node.
  type: dict
  returned: by the module
log:
  description: What was said, free of what looks like a secret.
  type: str
  returned: by the module
error:
  description: Why it failed.
  type: str
  returned: by the module
"""

# what is not needed by each of the steps is imported where it is: a node reads it anew, from source, each time that it does one
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import service

ARGUMENT_SPEC = {
    "step": {"type": "str", "required": True, "choices": ["analyze", "patch", "build", "restart", "verify", "rollback", "unpin"]},
    "fix_run_id": {"type": "str"},
    "reconcile": {"type": "dict", "default": {}},
    "service": {"type": "str"},
    "instruction": {"type": "str"},
    "patch_file": {"type": "path"},
    "from_step": {"type": "str"},
    "fresh": {"type": "bool", "default": False},
    "do": {"type": "str", "choices": ["look", "patch", "build", "verify", "pin", "restore", "compare", "release"]},
    "place": {"type": "dict", "default": {}},
    "files": {"type": "list", "elements": "str", "default": []},
    "target": {"type": "dict", "default": {}},
    # files of stacks: not for the node's journal
    "archive": {"type": "str", "default": "", "no_log": True},
    "health": {"type": "dict", "default": {}},
    "timeout": {"type": "float", "default": 900},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        place = module.params["place"]
        at = service.Place(place["stacks"], place["stack"], place["service"], tuple(place["roles"]))
        does = {
            "look": look,
            "patch": patch,
            "build": build,
            "verify": verified,
            "pin": pinned,
            "restore": restore,
            "compare": compare,
            "release": release,
        }
        module.exit_json(**does[module.params["do"]](module.params, service.Service(at)))
    except PifleetError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'The node'} cannot be used: {error.strerror or error}. Make room, and retry.")


def look(params, of):
    """Return what there is to be known of the service. Changes nothing."""
    from concurrent.futures import ThreadPoolExecutor

    states = service.file_states(of.place.folder, params["files"])
    service.refuse_unsafe(states)
    with ThreadPoolExecutor() as pool:
        # docker takes its time for each answer, so it is asked at once for what does not hang on one another; meanwhile what is needed
        # next is imported. All is waited for where one fails: so what takes longer than an answer waits for the first of them
        answers, defined, listed = pool.submit(of.refuse_without_docker), pool.submit(of.defined), pool.submit(of.containers)
        known = pool.submit(stack_of, params["reconcile"], of.place, answers.result)
        image = pool.submit(lambda: of.image_id(defined.result()["image"]))
        from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import verify
        from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import refresh
        from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces

        answers.result()
        table, containers = defined.result(), listed.result()
        logs = [pool.submit(of.log, c["id"]) for c in containers]
        ok, said = verify.look(params["health"].get("url", ""), containers)
        # what a check said of a service that is not well says nothing of the check
        checks = params["health"].get("checks", ()) if ok else ()
        held = {wanted["name"]: all(verify.check(of, one, wanted)[0] for one in containers) for wanted in checks}
    status = refresh.status(RefreshPlaces.below())
    seen = {
        "revision": status.revision,
        "files": states,
        "image": {"reference": table["image"], "id": image.result()},
        "built": bool(table.get("build")),
        "others": table["others"],
        "containers": containers,
        "health": {"ok": ok, "said": said, "checks": held},
        "stack": known.result(),
        "memory": str(next((c["memory"] for c in containers if c["memory"]), "")),
    }
    return {"changed": False, "seen": seen, "log": scrub("".join(log.result() for log in logs), of.secrets(table))}


def stack_of(given, place, ready):
    """Return what M(pifleet.ops.stack_info) says of the stack, of its drift and its last error what is the service's own.

    *ready*: waits until docker has answered, and raises where it does not.
    """
    import re
    from dataclasses import replace

    from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import in_force
    from ansible_collections.pifleet.ops.plugins.module_utils._stacks import local, options, reconcile

    ready()
    with in_force.desired_state(given["path"]) as tracked:
        settings = replace(options.settings(given), only=(place.stack,), tracked=tracked)
        report = reconcile.info(settings, local.ports())
    found = next((status for status in report.stacks if status.name == place.stack), None)
    if found is None:
        return {}
    drift = [{"service": d.service, "reason": d.reason, "detail": d.detail} for d in found.drift if d.service in ("", place.service)]
    failed = found.last_error if re.search(rf"\b{re.escape(place.service)}\b", found.last_error) else ""
    return {"status": found.status, "revision": found.revision, "last_error": failed, "drift": drift, "pinned": found.pinned}


def patch(params, of):
    """Keep what is there, and bring the revision with the patch."""
    from concurrent.futures import ThreadPoolExecutor

    from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import hold

    kept = hold.Hold(params["fix_run_id"], of)
    with ThreadPoolExecutor() as pool:
        answers, seen = pool.submit(of.refuse_without_docker), pool.submit(kept.seen)
        bring = bringing(params)  # while docker takes its time
        answers.result()
        before = seen.result()
    service.refuse_unsafe(service.file_states(of.place.folder, params["files"]))
    kept.take(before)
    bring()
    return {"changed": True, "seen": {"before": public(before), "files": service.file_states(of.place.folder, params["files"])}}


def bringing(params):
    """Return what makes the node's desired state the revision C(target)."""
    import base64
    import os
    import tempfile
    import time
    import zlib

    from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import prepare, refresh
    from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces

    target = params["target"]

    def bring():
        with tempfile.TemporaryDirectory(prefix="pifleet-") as folder:
            archive = target.get("archive") or os.path.join(folder, "archive.tar")
            if params["archive"]:
                with open(archive, "wb") as stream:
                    stream.write(zlib.decompress(base64.b64decode(params["archive"])))
            source = prepare.Sent(refresh.Target(target["revision"], target["commit_message"]), target["folder"], archive)
            refresh.refresh(RefreshPlaces.below(), source, time, 120.0)

    return bring


def build(params, of):
    """Build or pull the image."""
    table = of.defined()
    secrets = of.secrets(table)
    try:
        said = of.build(table, params["timeout"])
    except service.StepError as error:
        return {"changed": True, "error": scrub(str(error), secrets), "log": scrub(error.log, secrets)}
    return {"changed": True, "log": scrub(said, secrets), "seen": {"image": of.image_id(table["image"])}}


def verified(params, of):
    """Look until the service is well for long enough, or the time is over."""
    from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import verify

    given, secrets = params["health"], tuple(of.secrets(of.defined()))
    health = verify.Health(
        given["url"], float(given["interval"]), float(given["timeout"]), int(given["samples"]), tuple(given["checks"]), secrets
    )
    ok, why, lines = verify.verify(of, health)
    return {
        "changed": False,
        "error": "" if ok else why,
        "log": scrub("\n".join([*lines, why, ""]), secrets),
        "seen": {"containers": of.containers()},
    }


def pinned(params, of):
    """Hold the stack at the revision C(target), or let go of it."""
    from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import pin

    return {"changed": pin.pin(of.place, params["target"].get("revision", ""))}


def restore(params, of):
    """Bring the revision of before, the image's name, and the record of the stack."""
    from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import hold, pin

    kept = hold.Hold(params["fix_run_id"], of)
    pin.pin(of.place, "")  # where it was cut off after the service was found well
    bringing(params)()
    before = kept.restore()
    return {"changed": before is not None, "seen": {"before": public(before or {})}}


def compare(params, of):
    """Return what there is now, beside what was kept."""
    from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import hold

    kept = hold.Hold(params["fix_run_id"], of)
    before = kept.known() or {}
    seen = {
        "before": public(before),
        "files": service.file_states(of.place.folder, params["files"]),
        "named": kept.named(before),
        "containers": of.containers(),
    }
    return {"changed": False, "seen": seen}


def release(params, of):
    """Forget what was kept."""
    from ansible_collections.pifleet.ops.plugins.module_utils._fix_host import hold

    hold.Hold(params["fix_run_id"], of).release()
    return {"changed": True}


def public(before):
    """What was kept, without the record."""
    return {key: value for key, value in before.items() if key != "record"}


if __name__ == "__main__":
    main()
