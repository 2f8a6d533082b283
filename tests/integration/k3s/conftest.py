# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared lab with a converged cluster, and modules run on its nodes one at a time, as a playbook runs them."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import BIN, NO_STACKS, ROOT, Fleet

Result = dict[str, Any]
#: Runs a module of the collection on a host with these options and returns what it returned; a failure is a result too.
Module = Callable[..., Result]


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The nodes of the lab, with a converged cluster. PIFLEET_TEST_INVENTORY names another lab than the shared one."""
    lab = Fleet(Path(os.environ.get("PIFLEET_TEST_INVENTORY", ROOT / "inventory/lab")), NO_STACKS)
    lab.up()
    lab.play().require()
    return lab


@pytest.fixture(scope="session")
def module(fleet: Fleet) -> Module:
    def run(host: str, name: str, options: Result, *, check: bool = False) -> Result:
        with tempfile.TemporaryDirectory(prefix="pifleet-test-") as results:
            flags = ["--check"] if check else []
            subprocess.run(
                [
                    BIN / "ansible",
                    host,
                    "-i",
                    fleet.inventory,
                    "-b",
                    "-m",
                    f"pifleet.ops.{name}",
                    "-a",
                    json.dumps(options),
                    "-t",
                    results,
                    *flags,
                ],
                cwd=ROOT,
                env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=300,
                check=False,
            )
            return dict(json.loads((Path(results) / host).read_text()))

    return run


@pytest.fixture
def server(fleet: Fleet) -> str:
    return fleet.servers[0]


@pytest.fixture
def worker(fleet: Fleet) -> str:
    return fleet.workers[-1]


@pytest.fixture
def space(fleet: Fleet) -> Iterator[str]:
    """The name of a namespace that does not exist; what a test makes of it goes in the background."""
    name = f"pifleet-test-{uuid.uuid4().hex[:8]}"
    yield name
    fleet.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
