# SPDX-License-Identifier: GPL-3.0-or-later
"""sops as a program. Plaintext comes and goes through pipes and stays in memory; what it writes is encrypted, in a folder of RAM."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.policy import FILE

#: a file system of RAM on every Linux (tmpfs(5))
RAM = "/dev/shm"
_SECONDS = 120
_COMMANDS = ("decrypt", "rotate", "set", "updatekeys")


class SopsError(PifleetError):
    """sops could not do what was asked."""


class Sops:
    """*policy*: the text of ``.sops.yaml``, by which recipients are updated."""

    def __init__(self, policy: str, run: argv.Runner = argv.run, ram: str = RAM) -> None:
        self._policy = policy
        self._run = run
        self._ram = ram

    def decrypt(self, path: str, content: str) -> str:
        """Return the plaintext of *content*, of the file *path*; its authentication code is verified. Raises SopsError."""
        return self._on_copy(path, content, lambda copy: self._sops(path, "decrypt", str(copy)))

    def rotate(self, path: str, content: str) -> str:
        """Return *content* encrypted with a new data key, for the same recipients. Raises SopsError."""
        return self._on_copy(path, content, lambda copy: self._sops(path, "rotate", str(copy)))

    def update(self, path: str, content: str) -> str:
        """Return *content* with its data key encrypted for the recipients of the policy. Raises SopsError."""

        def updated(copy: Path) -> str:
            # named, because sops takes paths as relative to it then, as the rules are written
            policy = str(copy).removesuffix(path) + FILE
            self._sops(path, "--config", policy, "updatekeys", "--yes", str(copy))
            return copy.read_text()

        return self._on_copy(path, content, updated)

    def with_value(self, path: str, content: str, key: str, value: str) -> str:
        """Return *content* with *value* under *key*; it goes through a pipe. Raises SopsError."""

        def changed(copy: Path) -> str:
            self._sops(path, "set", "--value-stdin", str(copy), f'["{key}"]', stdin=json.dumps(value))
            return copy.read_text()

        return self._on_copy(path, content, changed)

    def _on_copy(self, path: str, content: str, does: Callable[[Path], str]) -> str:
        """sops goes by the name of a file and by the ``.sops.yaml`` above it, and writes in place: it gets a folder of its own."""
        with tempfile.TemporaryDirectory(prefix="pifleet-sops-", dir=self._ram if Path(self._ram).is_dir() else None) as folder:
            copy = Path(folder, path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(content)
            Path(folder, FILE).write_text(self._policy)
            return does(copy)

    def _sops(self, path: str, *args: str, stdin: str | None = None) -> str:
        done = self._run(["sops", *args], stdin=stdin, timeout=_SECONDS)
        if done.rc == 127:
            raise SopsError("sops is not installed on the controller.", "Install it: https://getsops.io")
        if not done.ok:
            said = " ".join(line.strip() for line in scrub(done.stderr).splitlines()[-4:])[:300]
            command = next(word for word in args if word in _COMMANDS)
            raise SopsError(f"{path}: `sops {command}` failed: {said}", "Has your key been named (SOPS_AGE_KEY_FILE, GNUPGHOME)?")
        return done.stdout
