# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules for stacks ask about the desired state that is checked out on their node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import checkout, turn
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces


@contextmanager
def desired_state(path: str) -> Iterator[frozenset[str] | None]:
    """Keep it as it is while it is read, and yield the paths below *path*, a folder of stacks, of the files that belong to it.

    None where *path* is no folder of the checkout: all its files count then.
    """
    where = RefreshPlaces.below()
    with turn.reading(where.state):
        yield checkout.tracked(where.active, where.tree, path)
