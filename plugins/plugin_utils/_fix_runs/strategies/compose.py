# SPDX-License-Identifier: GPL-3.0-or-later
"""Typed edits of a compose file: one value of the service is put in its place, and every other character stays."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs import instruction
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.model import Edit
from ansible_collections.pifleet.ops.plugins.plugin_utils._fix_runs.strategies import Case, Proposal

#: in the order in which Compose looks for them: compose-go, cli/options.go
_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
_NOTHING = "Nothing was changed."


class Set:
    """``set image tag``, ``set image``, ``set env`` and ``set key``."""

    needs_look = False

    def propose(self, case: Case) -> Proposal:
        name, text = file_of(case)
        service, values = case.profile.service, case.wanted.values
        if case.wanted.kind == instruction.IMAGE_TAG:
            reference = f"{repository(image_of(text, service, name))}:{values['tag']}"
            after, what = set_value(text, service, ("image",), reference), f"set the image of {service} to {reference}"
        elif case.wanted.kind == instruction.IMAGE:
            after, what = set_value(text, service, ("image",), values["reference"]), f"set the image of {service} to {values['reference']}"
        elif case.wanted.kind == instruction.ENV:
            # the value may be a secret by another name: the diff is scrubbed where it is shown, this line does not have it at all
            after, what = set_environment(text, service, values["name"], values["value"]), f"set {values['name']} of {service}"
        else:
            path = tuple(values["key"].split("."))
            after, what = set_value(text, service, path, values["value"]), f"set {values['key']} of {service} to {values['value']}"
        return Proposal((edit(case, name, text, after),), what)


def edit(case: Case, name: str, before: str, after: str) -> Edit:
    """Return the edit of the file *name* of the stack. Raises PifleetError where nothing would change."""
    if before == after:
        raise PifleetError(f"{case.tree.folder}/{name} is so already.", _NOTHING)
    return Edit(f"{case.tree.folder}/{name}", before, after)


def file_of(case: Case) -> tuple[str, str]:
    """Return name and content of the stack's compose file."""
    for name in _NAMES:
        if name in case.tree.texts:
            return name, case.tree.texts[name]
    raise PifleetError(f"{case.tree.folder} has no compose file.", _NOTHING)


def image_of(text: str, service: str, name: str) -> str:
    """Return the image that the compose file names for *service*. Raises PifleetError where it names none, or by a variable."""
    node = _child(_service(_root(text), service), "image")
    if not isinstance(node, yaml.ScalarNode) or "$" in node.value:
        raise PifleetError(f"{name} names no image of {service} that can be changed.", f"Give a whole one: set image REFERENCE. {_NOTHING}")
    return str(node.value)


def repository(reference: str) -> str:
    """Return an image's reference without tag and digest."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}{tail.partition(':')[0]}"


def set_environment(text: str, service: str, name: str, value: str) -> str:
    """Return *text* with the variable *name* of *service* set. A dollar sign stays one: Compose writes it ``$$``."""
    value = value.replace("$", "$$")
    node = _child(_service(_root(text), service), "environment")
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if isinstance(item, yaml.ScalarNode) and item.value.partition("=")[0] == name:
                return _replaced(text, item, f"{name}={value}", as_text=True)
        return _inserted_item(text, node, f"{name}={value}")
    return set_value(text, service, ("environment", name), value, as_text=True)


def set_value(text: str, service: str, path: Sequence[str], value: str, *, as_text: bool = False) -> str:
    """Return *text* with the key *path* of *service* set to *value*. *as_text*: it is one, whatever it looks like.

    Raises PifleetError where the file is written in a way that leaves no single place for it.
    """
    if not as_text and isinstance(_scalar(value), (dict, list)):
        raise PifleetError(f"{value!r} is no single value.", f"Give a diff. {_NOTHING}")
    node: yaml.Node = _service(_root(text), service)
    for number, key in enumerate(path):
        child = _child(node, key)
        if child is None or _is_empty(child):
            new = _set(text, node, child, path[number:], value, as_text=as_text)
            break
        node = child
    else:
        if not isinstance(node, yaml.ScalarNode) or node.style in ("|", ">"):
            raise PifleetError(f"{'.'.join(path)} of {service} is no single value.", f"Give a diff. {_NOTHING}")
        new = _replaced(text, node, value, as_text=as_text)
    _check(text, new, service, path, value if as_text else _scalar(value))
    return new


# -- where things are -----------------------------------------------------------------------------------------------------------------
def _root(text: str) -> yaml.Node:
    try:
        found = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise PifleetError(f"The compose file is no YAML: {' '.join(str(error).split())}.", _NOTHING) from error
    if found is None:
        raise PifleetError("The compose file is empty.", _NOTHING)
    return found


def _service(root: yaml.Node, service: str) -> yaml.Node:
    services = _child(root, "services")
    found = _child(services, service) if services is not None else None
    if not isinstance(found, yaml.MappingNode):
        raise PifleetError(f"The compose file has no service {service}.", f"Correct `service` in the profile. {_NOTHING}")
    return found


def _child(node: yaml.Node, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        raise PifleetError(f"{key} has no place in the compose file: what is above it is no table.", f"Give a diff. {_NOTHING}")
    return next((value for name, value in node.value if name.value == key), None)


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.start_mark.index == node.end_mark.index


# -- what is written ------------------------------------------------------------------------------------------------------------------
def _scalar(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _rendered(value: str, *, as_text: bool, quote: str = "", flow: bool = False) -> str:
    safe = bool(re.fullmatch(r"[A-Za-z0-9_./@+=-][A-Za-z0-9_./:@+= -]*(?<![ :])", value)) and ": " not in value
    try:
        plain = yaml.safe_load(value)
    except yaml.YAMLError:
        plain, safe = None, False  # such as `=`, which is a type of its own that nobody reads
    if quote == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    if quote == '"' or not safe or (as_text and plain != value) or (flow and ":" in value):
        return json.dumps(value, ensure_ascii=False)
    return value


def _replaced(text: str, node: yaml.ScalarNode, value: str, *, as_text: bool) -> str:
    quoted = node.style if node.style in ("'", '"') else ""
    written = _rendered(value, as_text=as_text or bool(quoted), quote=quoted)
    return text[: node.start_mark.index] + written + text[node.end_mark.index :]


def _set(text: str, parent: yaml.Node, empty: yaml.Node | None, path: Sequence[str], value: str, *, as_text: bool) -> str:
    """*text* with a key that is not there yet."""
    written = _rendered(value, as_text=as_text, flow=len(path) > 1)
    for key in reversed(path[1:]):
        written = f"{{{key}: {written}}}"
    if empty is not None:
        return f"{text[: empty.start_mark.index]} {written}{text[empty.start_mark.index :]}"
    if not isinstance(parent, yaml.MappingNode):
        raise PifleetError(f"{path[0]} has no place in the compose file.", f"Give a diff. {_NOTHING}")
    entry = f"{path[0]}: {written}"
    if parent.flow_style:
        at = parent.start_mark.index + 1
        return f"{text[:at]}{entry}{', ' if parent.value else ''}{text[at:]}"
    first = parent.value[0][0].start_mark
    return f"{text[: first.index]}{entry}\n{' ' * first.column}{text[first.index :]}"


def _inserted_item(text: str, node: yaml.SequenceNode, item: str) -> str:
    written = _rendered(item, as_text=True, flow=bool(node.flow_style))
    if node.flow_style:
        at = node.start_mark.index + 1
        return f"{text[:at]}{written}{', ' if node.value else ''}{text[at:]}"
    dash = text.rindex("-", 0, node.value[0].start_mark.index)
    column = dash - (text.rfind("\n", 0, dash) + 1)
    return f"{text[:dash]}- {written}\n{' ' * column}{text[dash:]}"


def _check(before: str, after: str, service: str, path: Sequence[str], value: Any) -> None:
    """What was written must be what was meant, by the word of a parser that did not write it."""
    try:
        wanted, found = yaml.load(before, Loader=_Loader), yaml.load(after, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise PifleetError("The compose file is written in a way that this edit would break.", f"Give a diff. {_NOTHING}") from error
    table = wanted["services"][service]
    for key in path[:-1]:
        if table.get(key) is None:
            table[key] = {}
        table = table[key]
    table[path[-1]] = value
    if wanted != found:
        raise PifleetError(
            f"{'.'.join(path)} of {service} cannot be set by itself: it is shared, or written in an unusual way.",
            f"Give a diff. {_NOTHING}",
        )


class _Loader(yaml.SafeLoader):
    """Takes Compose's tags (``!reset``, ``!override``) for nothing."""


_Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)
