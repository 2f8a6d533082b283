# SPDX-License-Identifier: GPL-3.0-or-later
"""From bare nodes to a cluster: the pages about hardware and bootstrap, and the README's quick start."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story


def test_hardware(tell: Callable[..., Story], fleet: Fleet) -> None:
    with tell("docs/runbooks/hardware.md") as page:
        assert page.run("ping").count("SUCCESS") == len(fleet.hosts)
        assert "page_size" in page.run("pi_facts")


def test_bootstrap(tell: Callable[..., Story], fleet: Fleet, checkout: Checkout) -> None:
    with tell("docs/runbooks/bootstrap.md") as page:
        page.run("--check --diff")
        assert fleet.sh(NODE, "command -v k3s", check=False) == ""
        page.run("make site")
        assert fleet.ready() == set(fleet.hosts)
        assert page.run("playbooks/bootstrap.yml").count("changed=0") == len(fleet.hosts)
        nodes = page.run("get nodes")
        assert all(host in nodes for host in fleet.hosts)
        assert "playbooks/bootstrap.yml" in page.run("do=show")
        page.run("template=bootstrap")
        report = (checkout.folder / "docs/governance/reviews/bootstrap.md").read_text()
        assert all(host in report for host in fleet.hosts)
        page.run("-m ansible.builtin.ping")
