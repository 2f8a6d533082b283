# SPDX-License-Identifier: GPL-3.0-or-later
"""The ports of the node that this code runs on."""

from __future__ import annotations

import json
import sys
import syslog
import time
from collections.abc import Mapping

from ansible_collections.pifleet.ops.plugins.module_utils._stacks.docker_cli import DockerCli
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import Log, Ports


class NodeClock:
    """See :class:`ports.Clock`."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def to_journal(event: str, fields: Mapping[str, str]) -> None:
    """Write one JSON line to the system's log under the name ``pifleet-stacks``."""
    syslog.openlog("pifleet-stacks")
    syslog.syslog(syslog.LOG_ERR if event == "failed" else syslog.LOG_INFO, json.dumps({"event": event, **fields}, ensure_ascii=False))


def to_output(event: str, fields: Mapping[str, str]) -> None:
    """Write one JSON line to the standard output, which systemd takes into the journal."""
    sys.stdout.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def ports(log: Log = to_journal) -> Ports:
    """Return the ports of this node."""
    return Ports(DockerCli(), NodeClock(), log)
