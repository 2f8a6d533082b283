# SPDX-License-Identifier: GPL-3.0-or-later
"""A node with a new card comes back by each of the runbook's commands."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.runbooks.conftest import NODE
from tests.support.fleet import Fleet
from tests.support.pages import Story


def test_rebuild(tell: Callable[..., Story], fleet: Fleet) -> None:
    before = fleet.nodes()[NODE]["metadata"]["uid"]
    with tell("docs/runbooks/rebuild-node.md") as page:
        fleet.wipe(NODE, stale_host_key=True)
        page.run("--check --diff")
        assert fleet.nodes()[NODE]["metadata"]["uid"] == before
        page.run("site.yml --limit")
        assert fleet.ready() == set(fleet.hosts)
        assert fleet.nodes()[NODE]["metadata"]["uid"] != before
        page.run("playbooks/rebuild.yml")
