# SPDX-License-Identifier: GPL-3.0-or-later
"""What the molecule scenario `fix_runs` begins with: `python -m tests.support.fix_scenario INVENTORY FOLDER`.

A node with the images, and below FOLDER/fleet a repository with a service that was deployed and fails for a missing dependency.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.support.fleet import ROOT, Fleet

sys.path[:0] = [str(ROOT / ".collections")]

from tests.integration.fix_runs.conftest import Shop, prepared  # noqa: E402


def up(inventory: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    fleet = Fleet(inventory)
    prepared(fleet)
    Shop(fleet, folder / "fleet").deploy(rc=2)


if __name__ == "__main__":
    up(*(Path(word).resolve() for word in sys.argv[1:]))
