# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads Kubernetes manifests on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k8s_manifests
short_description: Read the objects of folders of Kubernetes manifests
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Returns every object of the C(*.yaml) and C(*.yml) files of the given folders, files in order of their names.
  - Fails with file and line for a file that is no YAML, and for a document that is no Kubernetes object.
options:
  _terms:
    description: Folders on the controller.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Apply the baseline
  pifleet.ops.k3s_manifests:
    objects: "{{ query('pifleet.ops.k8s_manifests', 'cluster/base/system') }}"
"""

RETURN = r"""
_raw:
  description: The objects.
  type: list
  elements: dict
"""

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase


def objects_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of one file; a ``List`` gives its items. Raises AnsibleLookupError naming the file."""
    try:
        return objects_in(path.read_text(encoding="utf-8"), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AnsibleLookupError(f"{path} is no valid YAML: {error}") from error


def objects_in(text: str, path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file's *text*. Raises yaml.YAMLError, which shows a part of it, and AnsibleLookupError, which does not."""
    documents = [d for d in yaml.safe_load_all(text) if d is not None]
    found: list[dict[str, Any]] = []
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, dict) or not all(document.get(k) for k in ("apiVersion", "kind")):
            raise AnsibleLookupError(f"{path}, document {number}: no Kubernetes object, apiVersion or kind is missing.")
        found += document["items"] if document["kind"] == "List" else [document]
    return found


class LookupModule(LookupBase):  # type: ignore[misc]
    """The lookup façade."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """Return the objects of all folders."""
        self.set_options(var_options=variables, direct=kwargs)
        objects: list[dict[str, Any]] = []
        for term in terms:
            folder = Path(term)
            if not folder.is_dir():
                raise AnsibleLookupError(f"{folder} is no folder of manifests. Create it, or correct post_bootstrap_manifest_dirs.")
            for path in sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml")):
                objects += objects_of(path)
        return objects
