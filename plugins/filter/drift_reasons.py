# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of what is told of stacks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: drift_reasons
short_description: Reasons of drift
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Each reason once, in alphabetical order.
options:
  _input:
    description:
      - What M(pifleet.ops.stack_reconcile), M(pifleet.ops.stack_info) or M(pifleet.ops.stack_acknowledge) returned, its list of stacks
        alone, or a dictionary of such results by node.
    type: raw
    required: true
"""

EXAMPLES = r"""
- name: Stop where a container was changed by hand
  ansible.builtin.fail:
    msg: Somebody works on this node.
  when: "'label_tampered' in result | pifleet.ops.drift_reasons"
"""

RETURN = r"""
_value:
  description: The reasons.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _stacks_text


def drift_reasons(results: Any) -> list[str]:
    """Return each reason of drift in *results* once."""
    try:
        return _stacks_text.reasons(results)
    except PifleetError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"drift_reasons": drift_reasons}
