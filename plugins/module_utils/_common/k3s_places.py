# SPDX-License-Identifier: GPL-3.0-or-later
"""Where k3s is on a node, for the cores that look at it and do not import each other. https://docs.k3s.io/installation/configuration"""

from __future__ import annotations

BINARY = "/usr/local/bin/k3s"
CONFIG = "/etc/rancher/k3s/config.yaml"
DATA_DIR = "/var/lib/rancher/k3s"
#: A node's own password, a path: https://docs.k3s.io/architecture#how-agent-node-registration-works.
NODE_PASSWORD = "/etc/rancher/node/password"
#: What the node joins with.
TOKEN = "/etc/rancher/k3s/token"
#: What k3s_install did last.
STAMP = "/var/lib/pifleet/k3s.json"
