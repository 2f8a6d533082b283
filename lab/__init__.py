# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: a fleet of an inventory as containers on this machine. ``python -m lab --help``; docs/lab.md."""

from __future__ import annotations

import sys
from pathlib import Path

# The collection's shared pieces (errors, argv, atomic files) are used under the name they have once installed.
_COLLECTIONS = str(Path(__file__).resolve().parent.parent / ".collections")
if _COLLECTIONS not in sys.path:
    sys.path.insert(0, _COLLECTIONS)
