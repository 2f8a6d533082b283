# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of what is told of stacks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: compose_images
short_description: Images that a compose file names
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Each reference once, in alphabetical order. Variables in them are not resolved.
options:
  _input:
    description: The compose file as loaded from YAML.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Pull the images of a stack ahead of time
  ansible.builtin.command:
    argv: [docker, pull, "{{ item }}"]
  loop: "{{ lookup('ansible.builtin.file', 'stacks/web/compose.yaml') | from_yaml | pifleet.ops.compose_images }}"
  changed_when: true
"""

RETURN = r"""
_value:
  description: The references.
  type: list
  elements: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _stacks_text


def compose_images(document: Any) -> list[str]:
    """Return the references of images in a compose file."""
    try:
        return _stacks_text.images(document)
    except PifleetError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"compose_images": compose_images}
