# SPDX-License-Identifier: GPL-3.0-or-later
"""Which operating system a node runs: os-release(5)."""

from __future__ import annotations


def parse(text: str) -> dict[str, str]:
    """Return the keys of an os-release file."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}
