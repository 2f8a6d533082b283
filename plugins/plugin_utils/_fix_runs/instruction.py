# SPDX-License-Identifier: GPL-3.0-or-later
"""The grammar of instructions. The only list of its forms is here; docs/fix-runs.md shows the same, and a test holds both together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

BUMP, ADD, IMAGE_TAG, IMAGE, ENV, KEY, DIFF, AUTO = "bump", "add", "set_image_tag", "set_image", "set_env", "set_key", "diff", "auto"
#: how each form is written: what a refusal lists
FORMS: Mapping[str, str] = {
    BUMP: "bump NAME to VERSION [in FILE]",
    ADD: "add NAME VERSION [to FILE]",
    IMAGE_TAG: "set image tag TAG",
    IMAGE: "set image REFERENCE",
    ENV: "set env NAME=VALUE",
    KEY: "set key KEY to VALUE",
    DIFF: "apply diff FILE",
    AUTO: "auto",
}
#: what may follow each of them
SUFFIX = "and check COMMAND [NAME=VALUE ...]"

_NAME = r"(?P<name>@?[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*)"
_VERSION = r"(?P<version>[A-Za-z0-9][A-Za-z0-9_.+!-]{0,127})"
_FILE = r"(?P<file>[^\s]+)"
# https://github.com/distribution/reference (regexp.go): domain, path, tag, digest
_REFERENCE = (
    r"(?P<reference>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5}(?=/))?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?)"
)
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    BUMP: re.compile(rf"(?i:bump) {_NAME} (?i:to) {_VERSION}(?: (?i:in) {_FILE})?"),
    ADD: re.compile(rf"(?i:add) {_NAME} {_VERSION}(?: (?i:to) {_FILE})?"),
    IMAGE_TAG: re.compile(r"(?i:set image tag) (?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})"),
    IMAGE: re.compile(rf"(?i:set image) {_REFERENCE}"),
    ENV: re.compile(r"(?i:set env) (?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)"),
    KEY: re.compile(r"(?i:set key) (?P<key>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*) (?i:to) (?P<value>.+)"),
    DIFF: re.compile(r"(?i:apply diff) (?P<file>.+)"),
    AUTO: re.compile(r"(?i:auto)"),
}
_CHECK = re.compile(r"(?P<rest>.+) and check (?P<command>[a-zA-Z0-9][a-zA-Z0-9._-]*)(?P<parameters>(?: [a-z_]+=[^\s=]+)*)")
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Instruction:
    """*kind*: one of ``FORMS``; *values*: what stood in its places; *check*: a further command that verifies, with *parameters*."""

    text: str
    kind: str
    values: Mapping[str, str] = field(default_factory=dict)
    check: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse(text: str) -> Instruction:
    """Return what *text* instructs. Raises PifleetError that lists the accepted forms."""
    if len(text) > _LONGEST or re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029]", text):
        raise _unknown("An instruction is one line of at most 2000 characters.")
    whole = " ".join(text.split(" ")).strip()
    rest, check, parameters = whole, "", {}
    if found := _CHECK.fullmatch(whole):
        rest, check = found["rest"], found["command"]
        parameters = dict(pair.split("=", 1) for pair in found["parameters"].split())
    # "set image tag x" before "set image tag", in the order of FORMS
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(rest):
            values = {name: value for name, value in match.groupdict().items() if value is not None}
            return Instruction(whole, kind, values, check, parameters)
    if rest.lower().startswith(("set env", "set key")):
        raise _unknown(
            f"{text!r} is no instruction, or the end of one: Ansible takes words with `=` away.",
            'Give it as JSON: -e \'{"instruction": "…"}\'. ',
        )
    raise _unknown(f"{text!r} is no instruction.")


def _unknown(what: str, hint: str = "") -> PifleetError:
    forms = "; ".join(f"`{form}`" for form in FORMS.values())
    return PifleetError(what, f"{hint}Accepted are {forms}; each may end with `{SUFFIX}`. Nothing was recorded.")
