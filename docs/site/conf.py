# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings for the site: the collection's own pages, and the reference that antsibull-docs writes into ``reference``."""

from __future__ import annotations

from typing import Any

project = "pifleet.ops"
copyright = "pifleet.ops contributors"  # noqa: A001 - Sphinx's name
html_title = "pifleet.ops"
html_theme = "alabaster"
html_theme_options = {"description": "A fleet of Raspberry Pi nodes run from one git repository", "page_width": "1200px"}
html_copy_source = False
root_doc = "index"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
include_patterns = ["index.md", "README.md", "docs/**", "roles/*/README.md", "reference/**"]
exclude_patterns = ["docs/governance/reviews/**", "docs/site/**"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_heading_anchors = 3
# what a page shows as text may be any language, or none
highlight_language = "text"
suppress_warnings = ["misc.highlighting_failure"]

#: what the reference says of Ansible itself, in the labels of Ansible's own documentation
ANSIBLE = "https://docs.ansible.com/ansible-core/2.19"
LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "callback_plugins": "plugins/callback.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}
BUILTIN = "ansible_collections.ansible.builtin."


def of_ansible(_app: Any, _env: Any, node: Any, content: Any) -> Any:
    """Return the link for a label of Ansible's documentation; a label that nobody has stays a warning."""
    from docutils import nodes

    target = str(node.get("reftarget", ""))
    if target.startswith(BUILTIN):
        place = f"collections/ansible/builtin/{target.removeprefix(BUILTIN).split('__')[0]}.html"
    elif target in LABELS:
        place = LABELS[target]
    else:
        return None
    return nodes.reference("", "", content, refuri=f"{ANSIBLE}/{place}", internal=False)


def setup(app: Any) -> None:
    app.connect("missing-reference", of_ansible)
