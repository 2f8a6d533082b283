# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes evidence goes through here first: our own scrubber, and the tokens that detect-secrets knows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK, mask_shapes, scrub

_SECRET_NAMES = ("password", "passwd", "token", "secret", "api_key", "private_key")
#: how the name of a variable ends whose value is a secret
_SECRET_VARIABLES = ("pass", "password", "token", "secret", "_key")
#: detectors of detect-secrets that are left out: what is random (a digest is no secret), what our own scrubber masks with less around it,
#: addresses, and one that takes words like APACHE2LICENSE for a key
_LEFT_OUT = {"IPPublicDetector", "KeywordDetector", "BasicAuthDetector", "PrivateKeyDetector", "ArtifactoryDetector"}


def scrubbed(text: str, secrets: Iterable[str] = ()) -> str:
    """Return *text* with every one of *secrets*, and everything that looks like a secret, masked."""
    return _masked_tokens(scrub(text, secrets))


def is_secret_variable(name: str) -> bool:
    """Whether the value of a variable of the inventory is a secret, by its name."""
    return name.lower().endswith(_SECRET_VARIABLES)


def has_secret_shape(text: str) -> bool:
    """Whether *text* holds what is a secret by its own shape, whatever it is named."""
    return _masked_tokens(mask_shapes(text)) != text


def _masked_tokens(text: str) -> str:
    for pattern in _patterns():
        text = pattern.sub(MASK, text)
    return text


def cleaned(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return *value* as JSON can hold it, with everything masked that is a secret, looks like one, or is named like one."""
    return masked(_plain(value), secrets)


def masked(value: Any, secrets: Iterable[str] = ()) -> Any:
    """Return *value* with everything masked in its texts that is a secret, looks like one, or is named like one; the rest is left alone."""
    known = tuple(secrets)
    if isinstance(value, Mapping):
        return {key: MASK if _is_named_secret(key, part) else masked(part, known) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(part, known) for part in value]
    return scrub(value, known) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    exact = value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if exact else str(value)


def _is_named_secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and str(key).lower().endswith(_SECRET_NAMES)


def prepare() -> None:
    """Take the 0.1 seconds now that the first text would take. For ansible-playbook itself: each of its tasks has a process of its own,
    which begins with what is loaded there."""
    _patterns()


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    # paid by runs that keep a text
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    known: Any = get_mapping_from_secret_type_to_class().values()
    detectors = [d for d in known if issubclass(d, RegexBasedDetector) and d.__name__ not in _LEFT_OUT]
    return tuple(pattern for detector in sorted(detectors, key=lambda d: d.__name__) for pattern in detector().denylist)
