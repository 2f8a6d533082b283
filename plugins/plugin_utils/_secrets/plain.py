# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in files that are not encrypted: a Kubernetes Secret with values, a setting named like a secret, or what looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import has_secret_shape

#: on a line that is no secret though it looks like one: the mark that detect-secrets has for it
ALLOWED = "pragma: allowlist secret"
_NAME = re.compile(r"(?i)(token|passw(or)?d|passphrase|secret|credential|(api|private|secret|access|auth|encryption|age)[_-]?key)s?$")
_LINE = re.compile(r"^\s*(?:-\s+|export\s+)?[\"']?([A-Za-z][\w.-]*)[\"']?\s*[=:]\s*(.+?)\s*$")
#: no secret themselves: templates and references, paths, what is masked, and words that say whether
_REFERENCE = re.compile(
    r"(?is).*(\{\{|\$\{|\$\(|<[\w -]+>).*|\$\w+|!vault.*|(~|\.{0,2})/\S*|\*+|\.{3}|(true|false|yes|no|none|null)|[\[{|>&*].*"
)
_SECRET_KIND = re.compile(r"^kind:\s*[\"']?Secret[\"']?\s*(#.*)?$", re.M)


@dataclass(frozen=True, slots=True)
class Leak:
    """*rule* is ``kubernetes_secret`` or ``detected_secret``; *what* says what was seen there, never the secret."""

    rule: str
    line: int
    what: str


def leaks(path: str, text: str) -> list[Leak]:
    """Return the secrets that *text*, of the file *path*, holds in clear text, by line; at most one a line."""
    lines = text.splitlines()
    found: dict[int, Leak] = {}
    tree = _nodes(text) if PurePosixPath(path).suffix in (".yaml", ".yml", ".json") else None
    if tree is None:
        seen = [*_templated_secrets(text), *_settings(lines)]
    else:
        seen = [leak for node in tree for leak in (*_secret_objects(node), *_named(node))]
    for leak in (*seen, *_patterns(lines)):
        if ALLOWED not in lines[leak.line - 1]:
            found.setdefault(leak.line, leak)
    return [found[line] for line in sorted(found)]


def _nodes(text: str) -> list[yaml.Node] | None:
    """The documents of *text*, or None where it is no YAML, and its lines are looked at."""
    if re.search(r"^\s*\{\{|:\s+\{\{", text, re.M):
        return None  # a template of a chart, whose braces YAML would take for tables
    try:
        return [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except (yaml.YAMLError, RecursionError):
        return None


def _secret_objects(node: yaml.Node) -> Iterator[Leak]:
    """The Kubernetes Secrets in a document, alone or in a List, that have values."""
    if not isinstance(node, yaml.MappingNode):
        return
    parts = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    if getattr(parts.get("kind"), "value", None) == "Secret":
        for name in ("data", "stringData"):
            value = parts.get(name)
            if isinstance(value, yaml.MappingNode) and value.value:
                yield Leak("kubernetes_secret", node.start_mark.line + 1, f"a Kubernetes Secret with {name}")
                return
    items = parts.get("items")
    for item in items.value if isinstance(items, yaml.SequenceNode) else ():
        yield from _secret_objects(item)


def _templated_secrets(text: str) -> Iterator[Leak]:
    """The same in a template of a chart, where only literal values count."""
    at = 1
    for document in re.split(r"^---.*\n", text, flags=re.M):
        if _SECRET_KIND.search(document):
            inside = False
            for number, line in enumerate(document.splitlines()):
                inside = bool(re.match(r"(data|stringData):", line)) or (inside and line.startswith((" ", "#", "{")))
                found = _LINE.match(line)
                if inside and line.startswith(" ") and found and not _REFERENCE.fullmatch(found[2]):
                    yield Leak("kubernetes_secret", at + number, "a value in a Kubernetes Secret")
        at += document.count("\n") + 1


def _named(node: yaml.Node, inside: bool = False) -> Iterator[Leak]:
    """Values whose key is named like a secret (*inside*), and those of a list of ``NAME=value``, as Compose takes them."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _named(value, isinstance(key, yaml.ScalarNode) and bool(_NAME.search(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _named(value)
            if isinstance(value, yaml.ScalarNode):
                yield from _settings([value.value], value.start_mark.line)
    elif inside and node.value and not node.tag.endswith((":bool", ":null")) and not _REFERENCE.fullmatch(node.value):
        yield Leak("detected_secret", node.start_mark.line + 1, "a value that is named like a secret")


def _settings(lines: list[str], first: int = 0) -> Iterator[Leak]:
    for number, line in enumerate(lines, start=first + 1):
        found = _LINE.match(line)
        if found and _NAME.search(found[1]):
            value = found[2].strip("\"'")
            if value and not _REFERENCE.fullmatch(value):
                yield Leak("detected_secret", number, f"a value that is named like a secret ({found[1]})")


def _patterns(lines: list[str]) -> Iterator[Leak]:
    """What looks like a secret whatever it is named: private keys, and tokens of known services."""
    for number, line in enumerate(lines, start=1):
        if has_secret_shape(line) and not re.search(r"\{\{|\$\{", line):
            yield Leak("detected_secret", number, "what looks like a key or a token")
