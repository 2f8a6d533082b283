# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options of the modules that work on the stacks of a node."""

from __future__ import annotations


class ModuleDocFragment:
    """The documentation of ``module_utils/_stacks/options.py`` (OPTIONS)."""

    DOCUMENTATION = r"""
options:
  path:
    description:
      - Folder of stacks on the node. A folder in it with a file that Compose itself looks for is a stack; deeper ones count too
        (C(a/b) is the stack of that name, with the Compose project C(a-b)).
    type: path
    required: true
  home:
    description:
      - Where O(path) stands when it is applied. In a check of a desired state that is not on the node yet, O(path) is a temporary
        copy of it, and this is the place it will have.
      - Default is O(path).
    type: path
  revision:
    description: Full commit hash that the desired state was taken from.
    type: str
    default: ""
  commit_message:
    description: Message of that commit. Any text survives.
    type: str
    default: ""
  policy:
    description:
      - What is done about drift. V(apply) repairs it, V(detect) reports it, V(acknowledge) applies a plan only after
        M(pifleet.ops.stack_acknowledge) named its digest.
      - A stack may say otherwise under C(x-pifleet) in its compose file (C(policy)).
    type: str
    choices: [apply, detect, acknowledge]
    default: apply
  scope:
    description:
      - Globs of stack names, and of node roles written as V(role:<glob>). With either kind given, at least one of that kind must match.
      - A stack out of scope is reported as such and never touched. Default is that all are in scope.
    type: list
    elements: str
    default: []
  node_role:
    description:
      - Roles of this node, which C(x-pifleet.roles) selects by and for which C(compose.<role>.yaml) is added.
    type: list
    elements: str
    default: []
  node_name:
    description: Name of this node, which C(x-pifleet.nodes) selects by, whole or up to its first dot. Default is the host's name.
    type: str
  images_coming:
    description:
      - In check mode, that images will have been loaded on the node before the run that is predicted, so that one that is missing and may
        not be pulled is no error.
    type: bool
    default: false
  ignore:
    description:
      - Drift that is none, as globs of V([service/]reason[:key]), such as V(unhealthy), V(web/stopped) or V(config_changed:environment.TZ).
      - A stack may add to them under C(x-pifleet) in its compose file (C(drift_ignore)).
    type: list
    elements: str
    default: []
  remove:
    description:
      - Whether stacks of the same owner that the desired state no longer has are removed. Volumes stay.
      - What was last deployed may say otherwise under C(x-pifleet) in its compose file (C(remove)).
    type: bool
    default: false
  remove_volumes:
    description: Whether a removal takes the stack's named volumes too.
    type: bool
    default: false
  allow_empty:
    description: Whether a desired state without any stack may remove stacks.
    type: bool
    default: false
  parallel:
    description: How many stacks are worked on at a time.
    type: int
    default: 4
  timeout:
    description: Seconds for the whole attempt at one stack, and for any other command. What takes longer is killed and reported.
    type: float
    default: 300
  stable_seconds:
    description: Seconds for which the containers of a stack must be seen running, and healthy, before it is called synced.
    type: float
    default: 3
  owner:
    description: Whose stacks these are. Those of another owner are never touched.
    type: str
    default: stacks
  state_dir:
    description: Folder on the node for what is known of each stack.
    type: path
    default: /var/lib/pifleet/stacks
  age_key_file:
    description: Key with which C(*.sops.*) files are decrypted on the node.
    type: path
    default: /etc/pifleet/age-key.txt
attributes:
  check_mode:
    description: Predicts exactly what a run would do, also where Docker is not installed yet, and touches nothing.
    support: full
  diff_mode:
    description: Shows each service that would be changed with its reasons. Values of variables are never shown.
    support: full
requirements:
  - Docker Engine and Compose 2.20 or newer on the node; C(sops) where files are encrypted
"""
