# SPDX-License-Identifier: GPL-3.0-or-later
"""Records every command of some names that a run on this machine starts, and holds those that a test wants to be held."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class Commands:
    """Programs in front of the real ones. ``env`` puts them there; *names*: of programs."""

    def __init__(self, folder: Path, *names: str) -> None:
        self._folder = folder
        self._log = folder / "commands.log"
        folder.mkdir(parents=True)
        self._log.touch()
        for name in names:
            real = shutil.which(name)
            script = folder / name
            script.write_text(
                f'#!/bin/sh\nprintf "%s\\n" "{name} $(echo "$*" | tr "\\n" " ")" >>{self._log}\n'
                f'for word; do while [ -e {folder}/hold-"$word" ]; do sleep 0.05; done; done\nexec {real} "$@"\n'
            )
            script.chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": f"{self._folder}:{os.environ['PATH']}"}

    def hold(self, word: str) -> None:
        """Let commands with *word* among their arguments wait until ``let_go``."""
        (self._folder / f"hold-{word}").touch()

    def let_go(self, word: str) -> None:
        (self._folder / f"hold-{word}").unlink()

    def ran(self, *words: str) -> list[str]:
        """The commands with all of *words*, in order."""
        return [line for line in self._log.read_text().splitlines() if all(word in line.split() for word in words)]

    def forget(self) -> None:
        self._log.write_text("")
