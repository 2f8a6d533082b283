# SPDX-License-Identifier: GPL-3.0-or-later
"""Which datastore the k3s server of a node keeps its cluster in, for the cores that look at it and do not import each other."""

from __future__ import annotations

import re
from collections.abc import Callable

EXTERNAL = "external"

_ENDPOINT = re.compile(r"^datastore-endpoint[ \t]*:[ \t]*(?![ \t]|#|\"\"|''|~|null\b)\S", re.M)


def kind_of(data_dir: str, config: str, exists: Callable[[str], bool]) -> str | None:
    """Return ``etcd``, ``external`` or ``sqlite``, None where no server ever ran.

    *config*: content of ``config.yaml``, of which the endpoint is looked for and not read: there may be a password in it.
    In k3s's order (assignManagedDriver in pkg/cluster/managed.go): an etcd that is there, then the endpoint. With that nothing of the
    cluster is on the node but what the server got out of the datastore; ``server/token`` is the last it writes of it.
    """
    if exists(f"{data_dir}/server/db/etcd"):
        return "etcd"
    if _ENDPOINT.search(config):
        return EXTERNAL if exists(f"{data_dir}/server/token") else None
    return "sqlite" if exists(f"{data_dir}/server/db/state.db") else None
