# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of its own, one server and one worker, with a cluster that was just made. Tests run in the order of the files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import ROOT, Fleet, Run

HERE = Path(__file__).resolve().parent


class Operations(Fleet):
    """The fleet, with a folder of its own: what runs write is not in the checkout."""

    folder: Path

    def day(self, playbook: str, *args: str, env: dict[str, str] | None = None) -> Run:
        """Run a playbook on the fleet's own folder."""
        return self.play("-e", f"fleet_root={self.folder}", *args, playbook=f"playbooks/{playbook}.yml", env=env)

    def reviews(self) -> list[Path]:
        """The bundles there are, oldest first."""
        return sorted((self.folder / "docs/governance/reviews").glob("*"))


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operations]:
    lab = Operations(HERE / "lab-operations")
    lab.folder = tmp_path_factory.mktemp("fleet") / "fleet"
    shutil.copytree(ROOT / "cluster", lab.folder / "cluster")
    subprocess.run(["git", "init", "-q", lab.folder], check=True)
    commit = ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "Desired state"]
    subprocess.run(["git", "-C", lab.folder, "add", "--all"], check=True)
    subprocess.run(["git", "-C", lab.folder, *commit], check=True)
    lab.up()
    lab.day("bootstrap").require()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))
