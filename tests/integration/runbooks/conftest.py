# SPDX-License-Identifier: GPL-3.0-or-later
"""A person's own checkout and a fleet of two bare nodes. Tests run in the order of the files, each on what those before it left.

A test is the story of one page: it executes every command of it, in an order that makes sense, and looks at what became of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story

HERE = Path(__file__).resolve().parent
NODE = "pi-cluster-4.local"


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-runbooks")
    lab.up()
    # what the nodes do by themselves comes in no story
    lab.first_run_after("1d")
    yield lab
    if not os.environ.get("PIFLEET_LAB_KEEP"):
        lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture(scope="session")
def checkout(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("person") / "checkout", fleet)


@pytest.fixture
def tell(checkout: Checkout) -> Callable[..., Story]:
    """Begin the story of a page. *changed*: a text on it, and what somebody made of that."""

    def begin(page: str, env: Mapping[str, str] | None = None, changed: tuple[str, str] = ("", ""), **words: str) -> Story:
        text = (checkout.folder / page).read_text()
        assert changed[0] in text
        place = str(checkout.inventory)
        known = {"NODE": NODE, "INVENTORY": place, "inventory/my-fleet": place}
        return Story(text.replace(*changed), partial(checkout.shell, env=env), **{**known, **words})

    return begin
