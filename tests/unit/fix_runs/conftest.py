# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._fix_host.service import Place, Service

from tests.support.docker_answers import Docker
from tests.support.fix_runs import Fleet, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "ledger.db")


@pytest.fixture
def docker() -> Docker:
    return Docker()


@pytest.fixture
def web(docker: Docker, tmp_path: Path) -> Service:
    (tmp_path / "stacks/shop").mkdir(parents=True)
    (tmp_path / "stacks/shop/compose.yaml").write_text("services: {}")
    return Service(Place(str(tmp_path / "stacks"), "shop", "web"), docker)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")
