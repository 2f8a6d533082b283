# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted files of a stack: ``<name>.sops.<ending>`` is decrypted to ``<name>.<ending>`` beside it, which only root can read."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import files
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.case import Case
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Settings, known
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Engine, EngineMissingError

_ENCRYPTED = re.compile(r"(.*?)\.sops(\.[^/]*)")


def plain_name(path: str) -> str:
    """Return where the plaintext of an encrypted file goes; empty for a file that is not encrypted."""
    match = _ENCRYPTED.fullmatch(path)
    return match[1] + match[2] if match else ""


def stale(case: Case) -> list[str]:
    """Return the encrypted files of a stack whose plaintext is missing, or not what they were last decrypted to."""
    if case.folder is None or case.error:
        return []
    kept, content = (case.record.sops if case.record else {}), case.folder.content
    encrypted = [path for path in sorted(content) if plain_name(path)]
    return [path for path in encrypted if kept.get(path) != (content[path], content.get(plain_name(path)))]


def decrypt(cases: Sequence[Case], settings: Settings, engine: Engine, *, check: bool = False) -> list[str]:
    """Decrypt what is stale. A stack of which a file cannot be decrypted has that as its error.

    In a *check* on a node that has no sops or no key yet, which the role brings, such a file counts as empty, and a warning is returned.
    """
    warnings = []
    for case in cases:
        failed = set(stale(case))
        for path in sorted(failed):
            try:
                _decrypt(case, path, settings, engine)
                failed.remove(path)
            except EngineMissingError as error:
                if check:
                    _keep(case, path, b"")
                    warnings.append(f"The stack {case.name} is predicted as if {path}, which cannot be decrypted yet, were empty: {error}")
                else:
                    case.error = f"{path} cannot be decrypted: {error}"
            except PifleetError as error:
                case.error = f"{path} cannot be decrypted: {error}"
            except OSError as error:
                case.error = f"{path} cannot be decrypted: {error.filename}: {error.strerror}."
        if case.folder:
            content = case.folder.content
            found = {path: (content[path], content.get(plain_name(path), "")) for path in sorted(content) if plain_name(path)}
            # the plaintext of one that failed is an older one's: it is not to be taken for its own in the next run
            case.sops = {path: pair for path, pair in found.items() if pair[1] and path not in failed}
    return warnings


def _decrypt(case: Case, path: str, settings: Settings, engine: Engine) -> None:
    folder = known(case.folder)  # only such cases are stale
    with tempfile.TemporaryDirectory(prefix="pifleet-sops-") as scratch:  # 0700
        target = os.path.join(scratch, os.path.basename(plain_name(path)))
        engine.decrypt(os.path.join(folder.path, path), target, key_file=settings.age_key_file, timeout=settings.timeout)
        _keep(case, path, atomic_file.read_bytes(target) or b"")


def _keep(case: Case, path: str, text: bytes) -> None:
    """Write *text* as the plaintext of the encrypted file *path*."""
    folder, plain = known(case.folder), plain_name(path)
    atomic_file.write_atomic(os.path.join(folder.path, plain), text, 0o600)
    case.folder = replace(folder, content={**folder.content, plain: files.file_digest(os.path.join(folder.path, plain))})
