# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of what is told of stacks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_digest
short_description: Digest of a plan, as an acknowledgement names it
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Without a name it is the digest of the whole result, with one that of the stack, which is empty where the stack has no drift.
positional: stack
options:
  _input:
    description: What M(pifleet.ops.stack_reconcile), M(pifleet.ops.stack_info) or M(pifleet.ops.stack_acknowledge) returned.
    type: dict
    required: true
  stack:
    description: Name of a stack.
    type: str
"""

EXAMPLES = r"""
- name: Permit what was found
  pifleet.ops.stack_acknowledge:
    path: /var/lib/pifleet/desired-state/stacks
    stack: web
    plan_digest: "{{ result | pifleet.ops.plan_digest('web') }}"
"""

RETURN = r"""
_value:
  description: SHA-256 in hexadecimal digits, or nothing.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _stacks_text


def plan_digest(result: Any, stack: str | None = None) -> str:
    """Return the digest of the plan of *stack*, or of the whole *result*."""
    try:
        return _stacks_text.digest(result, stack)
    except PifleetError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan_digest": plan_digest}
