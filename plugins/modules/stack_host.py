#!/usr/bin/python
# Copyright: Contributors to the pifleet.ops collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepares a node for stacks, and refreshes its desired state. The decisions are in module_utils/_stack_host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_host
short_description: Give a node Docker, Compose, its desired state and the timer of its unattended runs
version_added: "0.1.0"
author:
  - pifleet.ops contributors (@pifleet)
description:
  - Installs Docker Engine and Compose 2.20 or newer where they are missing, keeps our keys of C(daemon.json), brings one revision of
    desired state to a stable folder, and sets up the timer that refreshes and reconciles without Ansible. All in one call.
  - Desired state comes from O(repository), which the node fetches itself, or else from the commit that is checked out at the controller.
    What is not committed is not deployed.
  - A refresh that fails leaves the last good revision in force, and RV(refresh) says so. A checkout that was edited is reset, one that was
    cut off is finished, a broken clone is made anew. Files that containers write into the folder stay.
  - Refreshes of a node run one at a time. At most one waits, and a newer one takes its place.
options:
  docker:
    description: Whether Docker Engine and Compose have to be there.
    type: bool
    default: true
  docker_source:
    description:
      - Where they come from when they are missing. V(auto) is the distribution where its Compose is new enough (Debian and Raspberry Pi OS
        trixie, Ubuntu 24.04), else Docker's own apt repository.
      - V(distribution) refuses releases whose Compose is too old, such as bookworm's Compose 1.
    type: str
    choices: [auto, distribution, docker]
    default: auto
  docker_repository:
    description: Base URL of Docker's apt repositories, or of a mirror of them.
    type: str
    default: https://download.docker.com/linux
  docker_key_fingerprint:
    description: Fingerprint of the key that signs them. Another key is not trusted.
    type: str
    default: 9DC858229FC7DD38854AE2D88D81803C0EBFCD88
  artifact_dir:
    description:
      - Folder of the controller with what nodes without a network need. C(.deb) files of Docker and of what it depends on come before any
        repository, and one of C(sops) is installed where it is missing. Archives of images (C(*.tar), C(*.tar.gz), C(*.tar.zst), from
        C(docker save)) are loaded.
    type: path
  address_pools:
    description: Networks that Docker takes the networks of stacks from. They must not overlap with the network of the nodes.
    type: list
    elements: dict
    default: []
    suboptions:
      base:
        description: The pool, such as V(10.213.0.0/16).
        type: str
        required: true
      size:
        description: Prefix length of each network that is taken from it.
        type: int
        required: true
  docker_config:
    description: Further keys of C(/etc/docker/daemon.json). Keys that are not given stay as they are.
    type: dict
    default: {}
  apt_lock_timeout:
    description: Seconds to wait for another process that holds the locks of dpkg and apt.
    type: int
    default: 300
  folder:
    description: Folder of stacks in the repository.
    type: str
    default: stacks
  repository:
    description: URL of a git repository that the node fetches. Empty means the controller's checkout.
    type: str
    default: ""
  repository_revision:
    description: Branch, tag, or full commit hash of O(repository). Empty means its default branch.
    type: str
    default: ""
  repository_token:
    description: Password or token for O(repository) by https.
    type: str
    default: ""
  repository_ssh_key:
    description: Private key for O(repository) by ssh.
    type: str
    default: ""
  repository_known_hosts:
    description: Host keys of the server of O(repository), as in C(known_hosts). Needed for ssh.
    type: str
    default: ""
  refresh:
    description: Whether desired state is refreshed. With V(false) what is checked out stays as it is.
    type: bool
    default: true
  refresh_timeout:
    description: Seconds for a refresh, and for waiting until another one is done.
    type: int
    default: 300
  age_key:
    description: Private age key with which encrypted files are decrypted on the node. Not managed when empty.
    type: str
    default: ""
  age_key_file:
    description: Where it is kept.
    type: path
    default: /etc/pifleet/age-key.txt
  timer:
    description: Whether the node refreshes and reconciles by itself.
    type: bool
    default: false
  timer_interval:
    description: Seconds between two of these runs.
    type: int
    default: 120
  reconcile:
    description: Options of M(pifleet.ops.stack_reconcile) for these runs. When not given, they only refresh.
    type: dict
  stacks:
    description:
      - Names of the stacks that may run on the node, as M(pifleet.ops.stack_selection_info) returned them. In check mode the temporary
        folder has no others, so that a node that has no Compose yet to read them is predicted right.
    type: list
    elements: str
  checkout:
    description: Set by the controller. What its checkout has (C(revision), C(commit_message)). Empty where it has no stacks.
    type: dict
  program_sha256:
    description: Set by the controller. Digest of the program that the timer starts.
    type: str
  debs:
    description: Set by the controller. Names of the package files in O(artifact_dir).
    type: list
    elements: str
    default: []
  images:
    description: Set by the controller. Identity of each image archive in O(artifact_dir), by name.
    type: dict
    default: {}
  sent:
    description: Set by the controller. Where the files that were asked for with RV(wanted) are on the node, by name.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Predicts what would be changed, also where nothing is installed. A new desired state is put into a temporary folder.
    support: full
  diff_mode:
    description: Shows each file before and after. Files with secrets are not shown.
    support: full
notes:
  - Needs root rights (C(become)).
seealso:
  - module: pifleet.ops.stack_reconcile
"""

EXAMPLES = r"""
- name: Prepare the node, and bring it the stacks that are checked out here
  pifleet.ops.stack_host:
    address_pools:
      - { base: 10.213.0.0/16, size: 24 }

- name: Let the node fetch its stacks by itself
  pifleet.ops.stack_host:
    repository: https://git.example.org/home/fleet.git
    repository_revision: main
    repository_token: "{{ fleet_repository_token }}"
    timer: true
    reconcile:
      path: /var/lib/pifleet/desired-state/stacks
"""

RETURN = r"""
plan:
  description: The changes in their order, each with C(kind), C(target) and C(reason).
  type: list
  elements: dict
  returned: success
refresh:
  description: How desired state is.
  type: dict
  returned: success
  contains:
    state:
      description: One of V(refreshing), V(queued), V(completed), V(failed), V(superseded) (a newer refresh does it), V(never).
      type: str
    revision:
      description: Commit that is checked out and in force. In check mode the one that would be.
      type: str
    commit_message:
      description: Its message.
      type: str
    at:
      description: When the last refresh ended. UTC, ISO 8601.
      type: str
    error:
      description: Why it failed.
      type: str
    target:
      description: What is being refreshed to, or was last.
      type: str
    waiting:
      description: What waits to be refreshed to next, or null.
      type: str
path:
  description: Folder of stacks on the node. In check mode a temporary one where desired state would change.
  type: str
  returned: success
home:
  description: The stable folder of stacks.
  type: str
  returned: success
temporary:
  description: Folder to remove once a check is over. Empty where there is none.
  type: str
  returned: success
unattended:
  description:
    - What the timer's runs did to stacks by themselves and is not evidence yet, oldest first. M(pifleet.ops.run_record) makes it evidence,
      O(pifleet.ops.stack_reconcile#module:recorded) lets the node forget it. Empty in check mode.
  type: list
  elements: dict
  returned: always
  contains:
    id:
      description: What tells the attempt from all others.
      type: str
    project:
      description: Compose project of the stack.
      type: str
    revision:
      description: Commit of the desired state that was applied.
      type: str
    began_at:
      description: When it began, by the node's clock. UTC, ISO 8601.
      type: str
    ended_at:
      description: When it ended. Empty for one that was cut off.
      type: str
    stack:
      description: How the stack was then, in short, as M(pifleet.ops.stack_reconcile) returns it.
      type: dict
    lost:
      description: How many earlier attempts, at most, the node had no room for.
      type: int
wanted:
  description: Names of what the controller has to send before anything can be done. The controller does, and calls again.
  type: list
  elements: str
  returned: success
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff, as_result
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import engine, git, places, prepare, refresh, unattended, units
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.host_plan import File, Pool, Wanted
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import options, unattended_log

KEY_LIMIT = 30  # seconds to fetch the key of Docker's packages

ARGUMENTS = {
    "docker": {"type": "bool", "default": True},
    "docker_source": {"type": "str", "choices": ["auto", "distribution", "docker"], "default": "auto"},
    "docker_repository": {"type": "str", "default": "https://download.docker.com/linux"},
    "docker_key_fingerprint": {"type": "str", "default": engine.FINGERPRINT, "no_log": False},
    "artifact_dir": {"type": "path"},
    "address_pools": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"base": {"type": "str", "required": True}, "size": {"type": "int", "required": True}},
    },
    "docker_config": {"type": "dict", "default": {}},
    "apt_lock_timeout": {"type": "int", "default": 300},
    "folder": {"type": "str", "default": "stacks"},
    "repository": {"type": "str", "default": ""},
    "repository_revision": {"type": "str", "default": ""},
    "repository_token": {"type": "str", "default": "", "no_log": True},
    "repository_ssh_key": {"type": "str", "default": "", "no_log": True},
    "repository_known_hosts": {"type": "str", "default": ""},
    "refresh": {"type": "bool", "default": True},
    "refresh_timeout": {"type": "int", "default": 300},
    "age_key": {"type": "str", "default": "", "no_log": True},
    "age_key_file": {"type": "path", "default": "/etc/pifleet/age-key.txt"},
    "timer": {"type": "bool", "default": False},
    "timer_interval": {"type": "int", "default": 120},
    "reconcile": {"type": "dict"},
    "stacks": {"type": "list", "elements": "str"},
    "checkout": {"type": "dict"},
    "program_sha256": {"type": "str"},
    "debs": {"type": "list", "elements": "str", "default": []},
    "images": {"type": "dict", "default": {}},
    "sent": {"type": "dict", "default": {}},
}


def line(text):
    """Return *text* as the content of a file, which ends with a line."""
    return text.strip() + "\n" if text.strip() else ""


def credentials(params):
    """Return (files that the node needs to reach the repository and to decrypt, those that it needs no more)."""
    key = (File(params["age_key_file"], 0o600, line(params["age_key"])),) if line(params["age_key"]) else ()
    files = [
        File(places.REPOSITORY_KEY, 0o600, line(params["repository_ssh_key"])),
        File(places.KNOWN_HOSTS, 0o644, line(params["repository_known_hosts"])),
    ]
    return (*key, *(file for file in files if file.content)), tuple(file.path for file in files if not file.content)


def access_of(params):
    """Return how the node reaches its repository, None where it has none."""
    if not params["repository"]:
        return None
    return git.Access(
        params["repository"],
        params["repository_token"],
        places.REPOSITORY_KEY if line(params["repository_ssh_key"]) else "",
        places.KNOWN_HOSTS if line(params["repository_known_hosts"]) else "",
    )


def options_of(reconcile):
    """Return *reconcile* with values of the types that stack_reconcile takes: an inventory gives texts. Raises PifleetError."""
    if reconcile is None:
        return None
    given = {name: value for name, value in reconcile.items() if value is not None}
    found = ArgumentSpecValidator(options.OPTIONS).validate(given)
    if found.error_messages:
        raise PifleetError(f"reconcile: {' '.join(found.error_messages)}.", "Give the options of stack_reconcile.")
    return {name: value for name, value in found.validated_parameters.items() if value is not None}


def unattended_files(params):
    """Return what the timer needs on the node."""
    access = access_of(params)
    source = {**asdict(access), "revision": params["repository_revision"], "folder": params["folder"]} if access else {"url": ""}
    settings = unattended.settings_text(source, options_of(params["reconcile"]), params["refresh_timeout"])
    return units.files(params["program_sha256"] or "", settings, params["timer_interval"])


def host_of(params):
    """Return what the node shall have."""
    files, absent = credentials(params)
    fingerprint = params["docker_key_fingerprint"].replace(" ", "").upper()
    return Wanted(
        docker=params["docker"],
        origin=engine.Origin(params["docker_source"], params["docker_repository"], fingerprint, tuple(params["debs"])),
        pools=tuple(Pool(pool["base"], pool["size"]) for pool in params["address_pools"]),
        daemon=params["docker_config"],
        packages=("git",) if params["repository"] else (),
        images=params["images"] if params["docker"] else {},
        files=files,
        absent=absent,
        unattended=unattended_files(params),
        timer=params["timer"],
    )


def request_of(params):
    """Return the module's parameters as the core takes them. Raises PifleetError for what cannot be."""
    git.refuse_folder(params["folder"])
    checkout = params["checkout"]
    return prepare.Request(
        host=host_of(params),
        folder=params["folder"],
        access=access_of(params),
        revision=params["repository_revision"],
        checked_out=refresh.Target(checkout["revision"], checkout["commit_message"]) if checkout else None,
        refresh=params["refresh"],
        stacks=None if params["stacks"] is None else tuple(params["stacks"]),
        sent=params["sent"],
        timeout=params["refresh_timeout"],
        lock_timeout=params["apt_lock_timeout"],
    )


def fetch(url):
    """Return the text at *url*. Raises OSError."""
    import urllib.request  # here, because it takes a while and is seldom needed

    if not url.startswith(("https://", "http://")):
        raise OSError("it is no http(s) address")
    with urllib.request.urlopen(url, timeout=KEY_LIMIT) as answer:  # noqa: S310 - the scheme was looked at
        return answer.read().decode("utf-8", errors="replace")


def unattended_of(module):
    """Return what the timer's runs did and is not evidence yet."""
    return [] if module.check_mode else unattended_log.collect(options.OPTIONS["state_dir"]["default"])


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        outcome = prepare.Preparation(request_of(module.params), argv.run, time, "/", fetch).prepare(check=module.check_mode)
    except PifleetError as error:
        module.fail_json(msg=str(error), refresh=asdict(refresh.status(places.RefreshPlaces.below())), unattended=unattended_of(module))
    if outcome.status.state == prepare.SUPERSEDED:
        module.warn(f"{outcome.status.error} Its run reconciles the stacks.")
    module.exit_json(
        changed=bool(outcome.changes),
        diff=as_diff(outcome.changes),
        plan=as_result(outcome.changes),
        refresh=asdict(outcome.status),
        path=outcome.path,
        home=outcome.home,
        temporary=outcome.temporary,
        wanted=list(outcome.missing),
        unattended=unattended_of(module),
    )


if __name__ == "__main__":
    main()
