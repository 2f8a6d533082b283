# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose file that is put after the user's own, and gives the containers of a stack their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ansible_collections.pifleet.ops.plugins.module_utils._stacks import labels
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.drift import compose_hash, service_hash
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Settings, Stack

SUFFIX = ".override.yaml"

#: What JSON may hold as it is and YAML may not, or takes for the end of a line: https://yaml.org/spec/1.2.2/#51-character-set.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def text(given: Mapping[str, Mapping[str, str]]) -> str:
    """Return the file (JSON, which is YAML) that gives services their labels. Compose leaves ``$$`` alone and makes it ``$``."""
    services = {
        name: {"labels": {key: value.replace("$", "$$") for key, value in sorted(table.items())}} for name, table in sorted(given.items())
    }
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps({"services": services}, indent=1, ensure_ascii=False))


def storable(message: str) -> str:
    """Return *message* as a label can hold it: what is no character (bytes that are no UTF-8, NUL) is replaced."""
    return message.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def new_labels(stack: Stack, settings: Settings, images: Mapping[str, str], applied_at: str) -> dict[str, dict[str, str]]:
    """Return the labels that each service of *stack* would get if it were made anew. *images*: ids by reference."""
    whole = compose_hash(stack, images)
    return {
        name: {
            labels.NAME: stack.name,
            labels.OWNER: settings.owner,
            labels.REVISION: settings.revision,
            labels.COMPOSE_HASH: whole,
            labels.COMMIT_MESSAGE: storable(settings.commit_message),
            labels.APPLIED_AT: applied_at,
            labels.SERVICE_HASH: service_hash(service, images.get(service.image, "")),
        }
        for name, service in stack.services.items()
    }
