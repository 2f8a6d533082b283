# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that all modules for stacks share (documented by the fragment ``stacks``), and the settings they become."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import POLICIES, Settings

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "path": {"type": "path", "required": True},
    "home": {"type": "path"},
    "revision": {"type": "str", "default": ""},
    "commit_message": {"type": "str", "default": ""},
    "policy": {"type": "str", "choices": list(POLICIES), "default": "apply"},
    "scope": {"type": "list", "elements": "str", "default": []},
    "node_role": {"type": "list", "elements": "str", "default": []},
    "node_name": {"type": "str"},
    "images_coming": {"type": "bool", "default": False},
    "ignore": {"type": "list", "elements": "str", "default": []},
    "remove": {"type": "bool", "default": False},
    "remove_volumes": {"type": "bool", "default": False},
    "allow_empty": {"type": "bool", "default": False},
    "parallel": {"type": "int", "default": 4},
    "timeout": {"type": "float", "default": 300},
    "stable_seconds": {"type": "float", "default": 3},
    "owner": {"type": "str", "default": "stacks"},
    "state_dir": {"type": "path", "default": "/var/lib/pifleet/stacks"},
    "age_key_file": {"type": "path", "default": "/etc/pifleet/age-key.txt"},
}


#: what a value of each type may be, and how that is called
_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "path": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "list": ((list, tuple), "a list of texts"),
}


def settings(params: Mapping[str, Any], *, unattended: bool = False) -> Settings:
    """Return the settings that *params*, named as OPTIONS, ask for; what is missing has its default.

    The unattended entry point gives the table of its configuration file.
    Raises PifleetError for a value of another type (the text ``false`` would count as true), or that nothing can be done with.
    """
    for name, option in OPTIONS.items():
        if params.get(name) is not None:
            _refuse_other_types(name, params[name], option)
    for name, least, what in (
        ("timeout", 0.001, "a number of seconds above 0"),
        ("parallel", 1, "1 or more"),
        ("stable_seconds", 0, "0 or more"),
    ):
        if (value := params.get(name)) is not None and not value >= least:
            raise PifleetError(f"{name} is {value:g}.", f"Give {what}.")
    given = {name: params[name] for name in OPTIONS if params.get(name) is not None}
    roles = given.pop("node_role", ())
    for name in ("scope", "ignore"):
        given[name] = tuple(given.get(name, ()))
    given.setdefault("node_name", os.uname().nodename)
    return Settings(**given, node_roles=tuple([roles] if isinstance(roles, str) else roles), unattended=unattended)


def _refuse_other_types(name: str, value: Any, option: Mapping[str, Any]) -> None:
    """Raise PifleetError where *value* is not what *option* takes. One role may be a text."""
    types, what = _TYPES[option["type"]]
    wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
    if wrong and not (name == "node_role" and isinstance(value, str)):
        raise PifleetError(f"{name} is {value!r}.", f"Give {what}.")
    if isinstance(value, (list, tuple)) and not all(isinstance(item, str) for item in value):
        raise PifleetError(f"{name} is {value!r}.", f"Give {what}.")
    if "choices" in option and value not in option["choices"]:
        raise PifleetError(f"{name} is {value!r}.", f"Give one of {', '.join(option['choices'])}.")
