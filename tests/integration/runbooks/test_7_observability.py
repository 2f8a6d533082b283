# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet that is observed, and what its runbook says when an alert came."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.integration.observability.conftest import RECEIVERS, Receiver
from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story


@pytest.fixture
def receiver(checkout: Checkout, fleet: Fleet) -> Iterator[Receiver]:
    """Where the alerts go of the fleet that is observed until the test ends."""
    settings = checkout.inventory / "group_vars/k3s_cluster.yml"
    before = settings.read_text()
    takes = Receiver(fleet.address(NODE).rpartition(".")[0] + ".1")
    wanted = {
        "observability_enabled": True,
        "observability_backend": "packages",
        "observability_receivers": {name: f"{takes.base}/{name}" for name in RECEIVERS},
        "observability_loki_url": "",
    }
    settings.write_text("\n".join([before, *(f"{name}: {json.dumps(value)}" for name, value in wanted.items()), ""]))
    checkout.commit("Observed")
    yield takes
    takes.close()
    settings.write_text(before)
    checkout.commit("Not observed")


@pytest.mark.full
def test_observability(tell: Callable[..., Story], fleet: Fleet, checkout: Checkout, receiver: Receiver) -> None:
    with tell("docs/runbooks/observability.md") as page:
        page.run("playbooks/observability.yml")
        page.run("playbooks/alert_test.yml")
        assert {alert["labels"]["alertname"] for alert in receiver.alerts("critical")} >= {"PifleetAlertTest"}
        page.run("stacks_status")
        page.run("mode=status")
    # what it says of a node that has no alert
    text = (checkout.folder / "docs/runbooks/observability.md").read_text()
    units = {unit for words in re.findall(r"`systemctl status ([^`]+)`", text) for unit in words.split()}
    assert units
    state = "systemctl show -p LoadState --value "
    assert {unit: fleet.sh(fleet.servers[0], state + unit).strip() for unit in units} == dict.fromkeys(units, "loaded")
    assert set(re.findall(r"`journalctl -u ([a-z-]+)`", text)) == {"pifleet-stacks"}
    fleet.sh(NODE, "timedatectl; dmesg >/dev/null; promtool --version || true")
