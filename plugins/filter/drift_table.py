# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of what is told of stacks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: drift_table
short_description: Stacks and their drift as a readable table
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - One line for each stack, nodes and stacks in the order of names; below it errors, and plans that wait for an acknowledgement.
options:
  _input:
    description:
      - What M(pifleet.ops.stack_reconcile), M(pifleet.ops.stack_info) or M(pifleet.ops.stack_acknowledge) returned, its list of stacks
        alone, or a dictionary of such results by node.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Show the stacks of all nodes
  ansible.builtin.debug:
    msg: "{{ results_by_node | pifleet.ops.drift_table }}"
"""

RETURN = r"""
_value:
  description: The table as text.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _stacks_text


def drift_table(results: Any) -> str:
    """Return the stacks of *results* as a table."""
    try:
        return _stacks_text.table(results)
    except PifleetError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"drift_table": drift_table}
