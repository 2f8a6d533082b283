# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy: ``.sops.yaml``, as sops reads it (https://getsops.io/docs/#using-sops-yaml-conf-to-select-kms-pgp-and-age-for-new-files)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _strict_yaml

FILE = ".sops.yaml"
DOCS = "docs/secrets.md lists the keys."
#: the four ways in which sops chooses the values that it encrypts
SELECTIONS = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
_KNOWN = {"path_regex", "age", "pgp", "key_groups", "shamir_threshold", "mac_only_encrypted", *SELECTIONS}
_AGE = re.compile(r"age1[02-9ac-hj-np-z]{58}|ssh-(ed25519|rsa) [A-Za-z0-9+/]+=*( \S+)?")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}")


class PolicyError(PifleetError):
    """``.sops.yaml`` is no policy."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which values of a file are encrypted: *how* is one of sops's four keys, *what* its suffix or pattern."""

    how: str = "unencrypted_suffix"
    what: str = "_unencrypted"

    def covers(self, path: Sequence[str]) -> bool:
        """Whether the value below the keys *path* has to be encrypted."""
        if self.how.endswith("suffix"):
            found = any(part.endswith(self.what) for part in path)
        else:
            found = any(re.search(self.what, part) for part in path)
        return found != self.how.startswith("unencrypted")


#: what sops does without being told
EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Rule:
    """One creation rule. *number* counts from 1, as a person does; *placeholders* are recipients that are no keys yet."""

    number: int
    pattern: str
    recipients: frozenset[str]
    placeholders: tuple[str, ...] = ()
    selection: Selection = EVERYTHING

    @property
    def name(self) -> str:
        return f"rule {self.number} of {FILE}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, of which the first that fits a path counts."""

    rules: tuple[Rule, ...]

    def rule_for(self, path: str) -> Rule | None:
        """Return the rule for *path*, which is relative to the folder of ``.sops.yaml``."""
        return next((rule for rule in self.rules if re.search(rule.pattern, path)), None)


def parse(text: str) -> Policy:
    """Return the policy that *text*, of ``.sops.yaml``, is. Raises PolicyError that names the rule and the key."""
    try:
        table = yaml.load(text, Loader=_strict_yaml.Loader)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise PolicyError(f"{FILE} is no YAML: {' '.join(str(error).split())}.", DOCS) from None
    rules = table.get("creation_rules") if isinstance(table, dict) else None
    if not isinstance(rules, list) or not rules:
        raise PolicyError(f"{FILE} has no creation_rules: nothing would have to be encrypted.", f"Write one for each kind of file. {DOCS}")
    return Policy(tuple(_rule(number, rule) for number, rule in enumerate(rules, start=1)))


def _rule(number: int, table: Any) -> Rule:
    place = f"Rule {number} of {FILE}"
    if not isinstance(table, dict):
        raise PolicyError(f"{place} is no table.", DOCS)
    if unknown := sorted(set(map(str, table)) - _KNOWN):
        raise PolicyError(f"{place}: {unknown[0]} is not supported: recipients are keys of age or of GnuPG.", DOCS)
    pattern = str(table.get("path_regex") or "")
    selected = [(how, str(table[how])) for how in SELECTIONS if table.get(how)]
    if len(selected) > 1:
        raise PolicyError(f"{place} has {selected[0][0]} and {selected[1][0]}.", "sops takes one of them.")
    for what in (pattern, *(value for how, value in selected if how.endswith("regex"))):
        try:
            re.compile(what)
        except re.error as error:
            raise PolicyError(f"{place}: `{what}` is no regular expression: {error}.", "Correct it.") from None
    groups = table.get("key_groups")
    given = [r for group in (groups if groups else [table]) for r in _recipients(place, group)]
    if not given:
        raise PolicyError(f"{place} has no recipients: nobody could read what it covers.", "Give `age:` or `pgp:`.")
    good = frozenset(text for text, valid in given if valid)
    return Rule(number, pattern, good, tuple(t for t, valid in given if not valid), Selection(*selected[0]) if selected else EVERYTHING)


def _recipients(place: str, group: Any) -> list[tuple[str, bool]]:
    """Return each recipient of a rule, or of one of its groups, and whether it is a key."""
    if not isinstance(group, Mapping) or set(group) - _KNOWN:
        raise PolicyError(f"{place}: a group of keys is no table of age and pgp.", DOCS)
    found = [(text, bool(_AGE.fullmatch(text))) for text in _texts(group.get("age"))]
    for text in _texts(group.get("pgp")):
        name = fingerprint(text)
        found.append((name, bool(_FINGERPRINT.fullmatch(name))))
    return found


def _texts(value: Any) -> list[str]:
    """Return a list of sops, which is one, or a text with commas."""
    parts = value if isinstance(value, list) else str(value or "").split(",")
    return [text for part in parts if (text := str(part).strip())]


def fingerprint(text: str) -> str:
    """Return a fingerprint of GnuPG as all of them are compared."""
    return text.replace(" ", "").upper()
