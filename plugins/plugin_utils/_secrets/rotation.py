# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation of encrypted files: one after the other, each verified before it replaces the old one, with a journal and a way back.

The journal (``.pifleet/secrets/rotation.json``) holds no secret: paths and hashes. The old files, encrypted as they were, are kept beside
it until the next rotation. Killed anywhere, the next run of the same rotation goes on with the files that are not done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import encrypted
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.policy import EVERYTHING, FILE, Policy, parse

What = Literal["data_keys", "recipients"]
#: of one file: nothing was done; the old file is kept; the new one is in its place and verified
State = Literal["pending", "kept", "done"]


class RotationError(PifleetError):
    """A rotation that cannot begin, or did not verify. The file that it stopped at is as it was."""


class Sops(Protocol):
    """The port to sops: ciphertext in, ciphertext or plaintext out."""

    def decrypt(self, path: str, content: str) -> str: ...
    def rotate(self, path: str, content: str) -> str: ...
    def update(self, path: str, content: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Step:
    """*before*, *after*: SHA-256 of the encrypted file; *before* is empty until it is kept."""

    path: str
    state: State = "pending"
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Journal:
    """A rotation: *replaced*: recipients by those that took their place; *steps*: its files, in order."""

    id: str
    what: What
    started_at: str
    replaced: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(step.path for step in self.steps if step.state != "done")


def differing(files: Mapping[str, bytes], paths: Iterable[str], policy: Policy) -> tuple[str, ...]:
    """Return those of the encrypted files *paths* whose recipients are not those of *policy*."""
    found = []
    for path in paths:
        rule = policy.rule_for(path)
        seen = encrypted.read(path, files[path].decode(errors="replace"))
        if rule and seen and seen.recipients != rule.recipients:
            found.append(path)
    return tuple(found)


def with_recipients(policy_text: str, replaced: Mapping[str, str]) -> str:
    """Return the text of the policy with recipients replaced. Raises RotationError for one that is not there, or no key."""
    text = policy_text
    for old, new in replaced.items():
        if old not in text:
            raise RotationError(f"{old} is no recipient in {FILE}.", "Give `replace` as {OLD: NEW}, with recipients as they stand there.")
        text = text.replace(old, new)
    if bad := [name for rule in parse(text).rules for name in rule.placeholders]:
        raise RotationError(f"{bad[0]} is no key.", "Give a public key of age (age1…), or a whole fingerprint of GnuPG.")
    return text


class Files:
    """The journal, the old files and the new ones, in the fleet's folder *root*, whose state is in *state*."""

    def __init__(self, root: Path, state: Path, sops: Callable[[str], Sops]) -> None:
        self._root = root
        self._place = state / "secrets"
        self._sops = sops

    def unfinished(self) -> Journal | None:
        """Return the rotation that was begun and did not come to its end."""
        return self._read("rotation.json")

    def last(self) -> Journal | None:
        """Return the last rotation that came to its end."""
        return self._read("last.json")

    def begin(self, journal: Journal) -> Journal:
        """Begin a rotation, and put the policy's new recipients in their place. The old files of the one before are let go."""
        if journal.replaced:
            self._keep(FILE, journal.id)
        self._write(journal)
        (self._place / "last.json").unlink(missing_ok=True)
        for folder in (self._place / "kept").glob("*"):
            if folder.name != journal.id:
                shutil.rmtree(folder, ignore_errors=True)
        return journal

    def go_on(self, journal: Journal) -> Journal:
        """Do what is left of *journal*, and return it as done. Raises SopsError or RotationError with all done before it kept."""
        text = atomic_file.read_text(self._root / FILE) or ""
        if journal.replaced:
            fresh = with_recipients(text, dict(journal.replaced)) if any(old in text for old, _new in journal.replaced) else text
            if fresh != text:
                atomic_file.write_atomic(self._root / FILE, fresh)
                text = fresh
        policy, sops = parse(text), self._sops(text)
        for number, step in enumerate(journal.steps):
            if step.state != "done":
                journal = self._step(journal, number, policy, sops)
        return journal

    def finish(self, journal: Journal) -> None:
        """The rotation is recorded: its journal becomes the last one, whose old files stay for the way back."""
        atomic_file.write_atomic(self._place / "last.json", json.dumps(asdict(journal), indent=1) + "\n", 0o600, folder_mode=0o700)
        (self._place / "rotation.json").unlink(missing_ok=True)

    def take_back(self, journal: Journal) -> tuple[str, ...]:
        """Put the old files back, where nobody has changed the new ones, and return which. Raises RotationError where somebody has."""
        changed = [s.path for s in journal.steps if s.state == "done" and _digest(self._content(s.path)) != s.after]
        if changed:
            raise RotationError(f"{changed[0]} was changed since it was rotated. Nothing was taken back.", "Take it back by git instead.")
        old_policy = self._kept(FILE, journal.id)
        text = old_policy if journal.replaced and old_policy is not None else atomic_file.read_text(self._root / FILE) or ""
        sops, back = self._sops(text), []
        for step in journal.steps:
            old = self._kept(step.path, journal.id) if step.state != "pending" else None
            if old is not None and old != self._content(step.path):
                sops.decrypt(step.path, old)  # what cannot be read any more is not put back
                atomic_file.write_atomic(self._root / step.path, old, _mode(self._root / step.path))
                back.append(step.path)
        if old_policy is not None and journal.replaced:
            atomic_file.write_atomic(self._root / FILE, old_policy)
            back.append(FILE)
        for name in ("rotation.json", "last.json"):
            (self._place / name).unlink(missing_ok=True)
        return tuple(back)

    def _step(self, journal: Journal, number: int, policy: Policy, sops: Sops) -> Journal:
        step = journal.steps[number]
        old = self._content(step.path)
        if step.state == "kept" and _digest(old) != step.before:
            # killed after the new file was in its place: it is verified like any other, against the one that was kept
            kept = self._kept(step.path, journal.id)
            if kept is not None:
                self._verify(step.path, kept, old, journal.what, policy, sops)
                return self._noted(journal, number, replace(step, state="done", after=_digest(old)))
        self._keep(step.path, journal.id)
        journal = self._noted(journal, number, replace(step, state="kept", before=_digest(old)))
        new = sops.update(step.path, old) if journal.what == "recipients" else old
        if journal.what == "data_keys" or _loses_somebody(step.path, old, new):
            # who can read the data key now could read it ever after
            new = sops.rotate(step.path, new)
        self._verify(step.path, old, new, journal.what, policy, sops)
        target = self._root / step.path
        atomic_file.write_atomic(target, new, _mode(target))
        if sops.decrypt(step.path, self._content(step.path)) != sops.decrypt(step.path, old):
            atomic_file.write_atomic(target, old, _mode(target))
            raise RotationError(f"{step.path}: what was written does not hold what was read. It was put back.", "Run it again.")
        return self._noted(journal, number, replace(journal.steps[number], state="done", after=_digest(new)))

    def _verify(self, path: str, old: str, new: str, what: What, policy: Policy, sops: Sops) -> None:
        """Compare two forms of a file in memory. Raises RotationError where the new one is not what it has to be."""
        rule = policy.rule_for(path)
        seen, before = encrypted.read(path, new, rule.selection if rule else EVERYTHING), encrypted.read(path, old)
        wrong = ""
        if rule is None or seen is None or before is None:
            wrong = "is not encrypted by a rule any more"
        elif seen.plain:
            wrong = "would have values in clear text"
        elif seen.recipients != (rule.recipients if what == "recipients" else before.recipients):
            wrong = "would be for other recipients"
        elif what == "data_keys" and new == old:
            wrong = "has the same data key as before"
        elif sops.decrypt(path, new) != sops.decrypt(path, old):
            wrong = "would hold something else than before"
        if wrong:
            raise RotationError(f"{path} {wrong}: it was left as it is.", "Run playbooks/secrets_check.yml, then this again.")

    def _noted(self, journal: Journal, number: int, step: Step) -> Journal:
        noted = replace(journal, steps=(*journal.steps[:number], step, *journal.steps[number + 1 :]))
        self._write(noted)
        return noted

    def _write(self, journal: Journal) -> None:
        atomic_file.write_atomic(self._place / "rotation.json", json.dumps(asdict(journal), indent=1) + "\n", 0o600, folder_mode=0o700)

    def _read(self, name: str) -> Journal | None:
        text = atomic_file.read_text(self._place / name)
        if text is None:
            return None
        try:
            table = json.loads(text)
            steps = tuple(Step(**step) for step in table.pop("steps"))
            return Journal(**{**table, "replaced": tuple((a, b) for a, b in table["replaced"]), "steps": steps})
        except (ValueError, TypeError, KeyError) as error:
            raise RotationError(f"{self._place / name} is damaged: {error}.", "Move it away, and run secrets_check.yml.") from None

    def _keep(self, path: str, rotation: str) -> None:
        content = self._content(path)
        atomic_file.write_atomic(self._place / "kept" / rotation / path, content, 0o600, folder_mode=0o700)

    def _kept(self, path: str, rotation: str) -> str | None:
        return atomic_file.read_text(self._place / "kept" / rotation / path)

    def _content(self, path: str) -> str:
        text = atomic_file.read_text(self._root / path)
        if text is None:
            raise RotationError(f"{path} is gone since the rotation began.", "Bring it back by git, or take the rotation back.")
        return text


def _loses_somebody(path: str, old: str, new: str) -> bool:
    before, after = encrypted.read(path, old), encrypted.read(path, new)
    return bool(before and after and before.recipients - after.recipients)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
