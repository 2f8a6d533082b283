# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes the stacks of the controller's checkout may concern, so that the others are left alone. Pure.

What really runs on a node is decided there, by Compose's own reading of the files: in doubt a node is concerned.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml

_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_EXTENSION = "x-pifleet"


@dataclass(frozen=True, slots=True)
class NodeVars:
    """What the inventory says of a node. *remote*: it fetches its stacks itself; *known*: whether it is known that it never had any."""

    name: str
    enabled: bool
    remote: bool
    folder: str
    role: str
    never_had_any: bool


def is_compose(path: str) -> bool:
    """Whether a file is a compose file, or adds to one."""
    name = posixpath.basename(path)
    return name.endswith((".yaml", ".yml")) and name.startswith(("compose.", "docker-compose."))


def stacks_of(node: NodeVars, texts: Mapping[str, str]) -> list[str]:
    """Return the names of the stacks that may run on *node*. *texts*: content of the compose files by path in the repository."""
    found = {}
    for path in texts:
        folder, name = posixpath.split(path)
        if name in _NAMES and folder.startswith(f"{node.folder}/"):
            found[folder.removeprefix(f"{node.folder}/")] = _may_run(node, folder, texts)
    return sorted(name for name, may_run in found.items() if may_run)


def _may_run(node: NodeVars, folder: str, texts: Mapping[str, str]) -> bool:
    files = {path: text for path, text in texts.items() if posixpath.dirname(path) == folder}
    said = [path for path, text in files.items() if _EXTENSION in text]
    if not said:
        return True
    if len(said) > 1 or posixpath.basename(said[0]) not in _NAMES:
        return True  # merged by Compose
    try:
        table = yaml.load(files[said[0]], Loader=_Loader)  # noqa: S506 - a safe loader that knows Compose's own tags
    except yaml.YAMLError:
        return True  # the node says what is wrong with it
    options = table.get(_EXTENSION) if isinstance(table, dict) else None
    if not isinstance(options, dict):
        return True
    nodes, roles = _texts(options.get("nodes")), _texts(options.get("roles"))
    names = (node.name, node.name.split(".")[0])
    if nodes is None or roles is None:
        return True
    by_name = any(fnmatchcase(name, pattern) for name in names for pattern in nodes)
    return by_name or any(fnmatchcase(node.role, pattern) for pattern in roles) or not (nodes or roles)


def _texts(value: Any) -> Sequence[str] | None:
    """Return a list of texts, None for anything else, which the node refuses."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, list) else None


def concerned(nodes: Iterable[NodeVars], texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the nodes that stacks concern, with the stacks that may run there as far as the checkout tells.

    One that is switched off and ever had stacks is among them: its timer has to go.
    """
    found = {}
    for node in nodes:
        stacks = stacks_of(node, texts) if node.enabled and not node.remote else []
        if stacks or (node.enabled and node.remote) or not node.never_had_any:
            found[node.name] = stacks
    return found


class _Loader(yaml.SafeLoader):
    """Takes Compose's tags (``!reset``, ``!override``) for nothing."""


_Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)
