# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way in which a person's YAML becomes settings: whatever the schema does not know is refused by its place."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from pydantic import BaseModel, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


def parsed(kind: type[_Model], text: str, place: str, *, begins: str, hint: str) -> _Model:
    """Return what *text*, of the file *place*, holds. *begins*: what to say of one that holds no table; *hint*: where the keys are listed.

    Raises PifleetError that says what is wrong, and at which key.
    """
    try:
        table = yaml.load(text, Loader=Loader)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise PifleetError(f"{place} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(table, dict):
        raise PifleetError(f"{place} holds no table.", begins)
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise PifleetError(f"{place}: {'; '.join(_told(found) for found in error.errors())}.", hint) from None


def _told(found: Any) -> str:
    where = ".".join(str(part) for part in found["loc"])
    what = {"extra_forbidden": "there is no such key", "missing": "it is missing"}.get(found["type"], found["msg"])
    what = re.sub(r"^Value error, ", "", what).replace("should match pattern", "does not match")
    return f"{where}: {what}" if where else str(what)


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _value in node.value]
        twice = sorted({str(key) for key in keys if isinstance(key, str) and keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
