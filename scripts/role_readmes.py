# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the variables of each role into its README, from `meta/argument_specs.yml`: `python scripts/role_readmes.py [--check]`.

What stands above the marker is written by hand and stays. With --check nothing is written; the exit code says whether it would be.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LICENCE = "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->\n"
MARKER = "<!-- Below: written by scripts/role_readmes.py from meta/argument_specs.yml -->\n"
#: what ansible-doc knows as markup, and how Markdown writes it: C(x), O(x), V(x), E(x), I(x), B(x); M(x) and P(x#y) are names of plugins
_CODE = re.compile(r"\b[COVE]\(([^()]*(?:\([^()]*\)[^()]*)*)\)")
_NAME = re.compile(r"\b[MP]\(([^()#]+)(?:#\w+)?\)")
_WORDS = re.compile(r"\b([IB])\(([^()]+)\)")


def readme_of(role: Path) -> str:
    """Return what the README of *role* has to be."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    path = role / "README.md"
    head = path.read_text().split(MARKER)[0] if path.exists() else _head_of(role.name, specs)
    return f"{head.rstrip()}\n\n{MARKER}\n" + "\n".join(_variables(entry, spec, many=len(specs) > 1) for entry, spec in specs.items())


def _head_of(name: str, specs: Mapping[str, Any]) -> str:
    said = (
        ["\n".join(f"- {markdown(text)}" for text in _texts(spec.get("description"))) for spec in specs.values()] if len(specs) == 1 else []
    )
    short = next(iter(specs.values()))["short_description"] if len(specs) == 1 else ""
    return "\n\n".join([f"{LICENCE}# {name}", *filter(None, [f"{short}." if short else "", *said])])


def _variables(entry: str, spec: Mapping[str, Any], *, many: bool) -> str:
    lines = [f"## Variables of `{entry}`" if many else "## Variables", ""]
    if many:
        lines += [f"{spec['short_description']}.", ""]
    options = spec.get("options") or {}
    if not options:
        return "\n".join([*lines, "None.", ""])
    lines += ["| variable | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, option in options.items():
        lines.append(f"| `{name}` | {_type(option)} | {_default(option)} | {_meaning(option)} |")
    return "\n".join([*lines, ""])


def _type(option: Mapping[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def _default(option: Mapping[str, Any]) -> str:
    if option.get("required"):
        return "**required**"
    if "default" not in option or option["default"] is None:
        return ""
    value = option["default"]
    text = str(value).lower() if isinstance(value, bool) else '""' if value == "" else str(value)
    return "`" + " ".join(text.split()).replace("|", "\\|") + "`"


def _meaning(option: Mapping[str, Any]) -> str:
    said = " ".join(markdown(text) for text in _texts(option.get("description")))
    choices = ", ".join(f"`{choice}`" for choice in option.get("choices", ()))
    inside = ", ".join(f"`{name}`" for name in option.get("options") or ())
    more = [f"One of {choices}." if choices else "", f"Keys: {inside}." if inside else ""]
    return " ".join(filter(None, [said, *more])).replace("|", "\\|")


def _texts(said: Any) -> Iterable[str]:
    return [said] if isinstance(said, str) else said or []


def markdown(text: str) -> str:
    """Return a text of ansible-doc in Markdown."""
    text = _NAME.sub(r"`\1`", _CODE.sub(r"`\1`", " ".join(text.split())))
    return _WORDS.sub(lambda m: f"*{m[2]}*" if m[1] == "I" else f"**{m[2]}**", text)


def main(argv: list[str] | None = None, roles: Path = ROOT / "roles") -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where something would be written")
    check = parser.parse_args(argv).check
    stale = []
    for role in sorted(path for path in roles.iterdir() if (path / "meta/argument_specs.yml").exists()):
        wanted, path = readme_of(role), role / "README.md"
        if not path.exists() or path.read_text() != wanted:
            stale.append(role.name)
            if not check:
                path.write_text(wanted)
    for name in stale:
        print(f"roles/{name}/README.md {'is not current: run python scripts/role_readmes.py' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
