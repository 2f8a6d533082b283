# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of the loopback interface for servers that stop and start again."""

from __future__ import annotations

import random
import socket
from pathlib import Path


def free_port() -> int:
    """Return a port that nobody listens on, and that is given to no connection of others while the server is down."""
    given, _last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    while True:
        port = random.SystemRandom().randrange(10_000, max(int(given), 20_000))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
