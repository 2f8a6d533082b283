# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be told of a file that sops encrypted, without a key: for whom, by which choice of values, and what of it is in clear text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.policy import EVERYTHING, SELECTIONS, Selection, fingerprint

Form = Literal["yaml", "json", "dotenv", "ini", "binary"]
_FORMS: dict[str, Form] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".env": "dotenv", ".ini": "ini"}
_CIPHER = re.compile(r"ENC\[AES256_GCM,data:.*,iv:.+,tag:.+,type:\w+\]", re.S)
#: in the flat forms a list of tables becomes names like age__list_0__map_recipient
_FLAT = re.compile(r"(\w+?)__list_(\d+)__map_(\w+)")
#: the key under which each kind of recipient has its name, https://github.com/getsops/sops/blob/main/stores/stores.go
_NAMED_BY = {"age": "recipient", "pgp": "fp", "kms": "arn", "gcp_kms": "resource_id", "azure_kv": "name", "hc_vault": "key_name"}


@dataclass(frozen=True, slots=True)
class Plain:
    """A value, or a comment, that is in clear text: its keys, and its line where that is known. Never the value itself."""

    path: tuple[str, ...]
    line: int | None


@dataclass(frozen=True, slots=True)
class Encrypted:
    """*plain*: what of it is in clear text, given what has to be encrypted; *modified*: when it was encrypted last, as sops writes it."""

    recipients: frozenset[str]
    selection: Selection
    plain: tuple[Plain, ...]
    mac: bool
    modified: str


def form_of(path: str) -> Form:
    """Return in which form sops keeps the file *path*, by the end of its name."""
    return _FORMS.get(PurePosixPath(path).suffix, "binary")


def read(path: str, text: str, wanted: Selection = EVERYTHING) -> Encrypted | None:
    """Return what is known of the file *path*, or None where sops did not encrypt it. *wanted*: the choice of values by policy."""
    form = form_of(path)
    if form in ("yaml", "json", "binary"):
        # sops writes JSON with tabs, which YAML does not take; there is none within its texts
        return _tree(text if form == "yaml" else text.replace("\t", " "), wanted, commented=form == "yaml")
    return _lines(text, wanted, form)


def _tree(text: str, wanted: Selection, *, commented: bool) -> Encrypted | None:
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        meta = next(filter(None, (_sops_of(node) for node in nodes)), None)
    except (yaml.YAMLError, RecursionError):
        return None
    if meta is None:
        return None
    plain = [p for node in nodes for p in _plain_values(node, (), wanted)]
    if commented and wanted.how.startswith("unencrypted"):
        plain += _comments(text)
    return _made(meta, plain)


def _sops_of(node: yaml.Node) -> Mapping[str, Any] | None:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "sops" and isinstance(value, yaml.MappingNode):
            meta = yaml.safe_load(yaml.serialize(value))
            return meta if isinstance(meta, dict) and "mac" in meta else None
    return None


def _plain_values(node: yaml.Node, path: tuple[str, ...], wanted: Selection) -> Iterator[Plain]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not (path == () and key.value == "sops"):
                yield from _plain_values(value, (*path, str(key.value)), wanted)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:  # sops gives the parts of a list no name of their own
            yield from _plain_values(value, path, wanted)
    # what is empty or null has nothing to hide, and sops leaves it
    elif node.value and node.tag != "tag:yaml.org,2002:null" and wanted.covers(path) and not _CIPHER.fullmatch(node.value):
        yield Plain(path, node.start_mark.line + 1)


def _comments(text: str) -> list[Plain]:
    lines = enumerate(text.splitlines(), start=1)
    return [Plain(("a comment",), n) for n, line in lines if re.match(r"\s*#(?!ENC\[)\s*\S", line)]


def _lines(text: str, wanted: Selection, form: Form) -> Encrypted | None:
    """Files of ``NAME=value``: dotenv has its metadata under names with ``sops_``, ini in a section."""
    flat: dict[str, str] = {}
    plain = []
    section = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if form == "ini" and (found := re.fullmatch(r"\[(.+)\]", line)):
            section = found[1]
            continue
        name, _equals, value = (part.strip() for part in line.partition("="))
        if (form == "ini" and section == "sops") or (form == "dotenv" and name.startswith("sops_")):
            flat[name.removeprefix("sops_")] = value.replace("\\n", "\n")
        elif line.startswith(("#", ";")):
            if not line.lstrip("#; ").startswith("ENC[") and line.strip("#; "):
                plain.append(Plain(("a comment",), number))
        elif value and not _CIPHER.fullmatch(value.strip("\"'")) and wanted.covers((section, name)):
            plain.append(Plain((name,), number))
    return _made(_unfolded(flat), plain) if "mac" in flat else None


def _unfolded(flat: Mapping[str, str]) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for name, value in flat.items():
        if found := _FLAT.fullmatch(name):
            entries = meta.setdefault(found[1], {})
            entries.setdefault(found[2], {})[found[3]] = value
        else:
            meta[name] = value
    return {name: list(value.values()) if isinstance(value, dict) else value for name, value in meta.items()}


def _made(meta: Mapping[str, Any], plain: list[Plain]) -> Encrypted:
    groups = meta.get("key_groups") or [meta]
    recipients = [r for group in groups if isinstance(group, Mapping) for r in _recipients(group)]
    chosen = [Selection(how, str(meta[how])) for how in SELECTIONS if meta.get(how)]
    return Encrypted(
        frozenset(recipients),
        chosen[0] if chosen else EVERYTHING,
        tuple(plain),
        bool(meta.get("mac")),
        str(meta.get("lastmodified") or ""),
    )


def _recipients(group: Mapping[str, Any]) -> Iterator[str]:
    for kind, key in _NAMED_BY.items():
        for entry in group.get(kind) or ():
            name = str(entry.get(key, "")) if isinstance(entry, Mapping) else ""
            yield fingerprint(name) if kind == "pgp" else name if kind == "age" else f"{kind}:{name}"
