# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ``python -m lab`` as a user does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def lab(*words: str, inventory: Path, rc: int = 0) -> subprocess.CompletedProcess[str]:
    """One command on *inventory*, which must end with *rc*."""
    command = [sys.executable, "-m", "lab", words[0], "-i", str(inventory), *words[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == rc, done.stdout + done.stderr
    return done
