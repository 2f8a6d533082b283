# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the files of a fleet's folder with its policy. Reads only, needs no key, and never says a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import encrypted, plain
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.policy import FILE, Policy, PolicyError, Rule, parse

#: where plain files are looked through for secrets: the desired state, and what is said about it
PLACES = (
    "cluster",
    "charts",
    "stacks",
    "fix_profiles",
    "releases",
    "releases.yml",
    "inventory",
    "docs/governance",
    "secrets",
    "evidence.yml",
)
#: bytes of a plain file that is looked through; what is larger is named
MAX_PLAIN = 1 << 20
_ENCRYPTED_NAME = re.compile(r".+\.sops\.[^./]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a file: *rule* names the kind, *text* says what was found, *hint* the way out."""

    path: str
    line: int | None
    rule: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Report:
    """*encrypted*, *scanned*: how many files of each kind were looked at. *notes*: what is worth knowing and no finding."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    encrypted: tuple[str, ...]
    scanned: int

    @property
    def ok(self) -> bool:
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        table = asdict(self)
        return {"ok": self.ok, **{key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}}


def check(files: Mapping[str, bytes], policy_text: str | None, places: Iterable[str] = PLACES) -> Report:
    """Return what is wrong with *files* (content by path, relative to the folder of the policy).

    *places*: folders and files that are looked through for secrets. Files named ``*.sops.*`` are looked at wherever they are.
    """
    places = tuple(places)
    findings: list[Finding] = []
    notes: list[str] = []
    try:
        policy = parse(policy_text) if policy_text is not None else None
        if policy is None:
            findings.append(Finding(FILE, None, "policy", f"there is no {FILE}", "Write one: docs/secrets.md shows it."))
    except PolicyError as error:
        policy = None
        findings.append(Finding(FILE, None, "policy", error.what, error.hint))
    secret, scanned = [], 0
    for path in sorted(files):
        content = files[path]
        if PurePosixPath(path).name == FILE and path != FILE:
            hint = f"Put its rules into {FILE} of the fleet's folder."
            findings.append(Finding(path, None, "policy", f"stands before the fleet's {FILE} for all files below it", hint))
            continue
        named = bool(_ENCRYPTED_NAME.fullmatch(PurePosixPath(path).name))
        if named or (policy and _in(path, places) and b"sops" in content and encrypted.read(path, _text(content))):
            secret.append(path)
            findings += _of_encrypted(path, content, policy, files) if policy else ()
        elif _in(path, places) and b"\0" not in content:
            if len(content) > MAX_PLAIN:
                notes.append(f"{path} has {len(content) >> 20} MB: it was not looked through for secrets.")
                continue
            scanned += 1
            findings += _of_plain(path, _text(content), policy)
    notes += _placeholders(policy, secret)
    return Report(tuple(findings), tuple(notes), tuple(secret), scanned)


def _of_encrypted(path: str, content: bytes, policy: Policy, files: Mapping[str, bytes]) -> list[Finding]:
    rule = policy.rule_for(path)
    if rule is None:
        return [
            Finding(path, None, "no_rule", f"no rule of {FILE} covers it", f"Add a rule, or move it to where one does: {_covered(policy)}.")
        ]
    found = encrypted.read(path, _text(content), rule.selection)
    encrypt = f"`sops encrypt --in-place {path}`"
    if found is None:
        if not content.strip():
            return []
        hint = f"{encrypt}. If it was committed, its secrets are known: change them too."
        return [Finding(path, None, "not_encrypted", f"is not encrypted, though {rule.name} says so", hint)]
    findings = []
    for one in found.plain[:5]:
        what = f"{'.'.join(one.path) or 'a value'} is in clear text, though the file is encrypted"
        hint = f"`sops decrypt --in-place --ignore-mac {path}` and {encrypt}. If it was committed, change that secret too."
        findings.append(Finding(path, one.line, "partly_encrypted", what, hint))
    if not found.mac:
        findings.append(
            Finding(path, None, "no_mac", "has no message authentication code", "Encrypt it again, from a copy that you trust.")
        )
    if found.selection != rule.selection:
        what = f"was encrypted with {_choice(found.selection)}; {rule.name} says {_choice(rule.selection)}"
        findings.append(Finding(path, None, "other_selection", what, f"`sops decrypt --in-place {path}` and {encrypt}."))
    findings += _of_recipients(path, found.recipients, rule)
    copy = path.replace(".sops.", ".", 1) if path.count(".sops.") == 1 else ""
    if copy in files:
        hint = f"Remove it (`git rm --cached {copy}`): it is made where it is needed."
        findings.append(Finding(copy, None, "plain_copy", f"looks like the plaintext of {path}", hint))
    return findings


def _of_recipients(path: str, recipients: frozenset[str], rule: Rule) -> list[Finding]:
    if rule.placeholders:
        what = f"{rule.name} has recipients that are no keys ({rule.placeholders[0]})"
        return [Finding(path, None, "policy", what, f"Replace them in {FILE}, then `sops updatekeys --yes {path}`.")]
    more, less = sorted(recipients - rule.recipients), sorted(rule.recipients - recipients)
    if not (more or less):
        return []
    said = [f"can be read by {', '.join(more)}, whom {rule.name} does not name"] if more else []
    said += [f"cannot be read by {', '.join(less)}, whom {rule.name} names"] if less else []
    hint = f"`sops updatekeys --yes {path}`."
    return [Finding(path, None, "wrong_recipient", "; ".join(said), hint)]


def _of_plain(path: str, text: str, policy: Policy | None) -> list[Finding]:
    rule = policy.rule_for(path) if policy else None
    if rule is not None and rule.pattern:
        what = f"is not encrypted, though {rule.name} says so"
        return [Finding(path, None, "not_encrypted", what, f"`sops encrypt --in-place {path}`.")] if text.strip() else []
    path_of = PurePosixPath(path)
    encrypted_name = path_of.with_name(f"{path_of.stem}.sops{path_of.suffix}")
    hint = (
        f"Encrypt it as {encrypted_name} (docs/secrets.md), and change the secret if it was committed. "
        f"Where it is no secret, end the line with `# {plain.ALLOWED}`."
    )
    return [Finding(path, leak.line, leak.rule, f"holds {leak.what}", hint) for leak in plain.leaks(path, text)]


def _placeholders(policy: Policy | None, secret: list[str]) -> list[str]:
    rules = [rule for rule in policy.rules if rule.placeholders] if policy else []
    if not rules or any(policy and policy.rule_for(path) in rules for path in secret):
        return []
    return [
        f"{', '.join(r.name for r in rules)}: the recipients are placeholders, so that sops refuses to encrypt: {FILE} says what to do."
    ]


def _choice(selection: Any) -> str:
    return f"{selection.how} {selection.what}"


def _covered(policy: Policy) -> str:
    return "; ".join(rule.pattern or "everything" for rule in policy.rules)


def _in(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


def files_of(root: Path, run: argv.Runner = argv.run) -> dict[str, bytes]:
    """Return the files of the fleet's folder by path: what git would commit, or all where there is no git. Links are not followed.

    Raises PifleetError where the folder cannot be read.
    """
    done = run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], timeout=60)
    names = [name for name in done.stdout.split("\0") if name] if done.ok else _walked(root)
    found = {}
    for name in names:
        path = root / name
        try:
            if path.is_file() and not path.is_symlink():
                found[name] = atomic_file.read_bytes(path) or b""
        except OSError as error:
            raise PifleetError(f"{path} cannot be read: {error.strerror}.", "It has to be, to be checked.") from error
    return found


def _walked(root: Path) -> list[str]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(Path(folder, name).relative_to(root)) for name in names]
    return found
