# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps of a rebuild of a worker know, as the role gives it."""

from __future__ import annotations

from typing import Any

NODE: dict[str, Any] = {
    "labels": {"pifleet.io/disk": "ssd", "kubernetes.io/arch": "arm64"},
    "taints": ["dedicated=media:NoSchedule"],
    "machine_id": "0" * 32,
    "version": "v1.34.1+k3s1",
    "internal_ip": "192.0.2.14",
    "ready": False,
}
POD: dict[str, Any] = {"name": "media/player-5d9", "controller": "ReplicaSet/player", "phase": "Running", "ready": True}
BARE_POD: dict[str, Any] = {"name": "default/by-hand", "controller": "", "phase": "Running", "ready": True}
VOLUME = {"name": "pvc-1", "claim": "media/library", "capacity": "5Gi", "storage_class": "local-path", "path": "/var/lib/rancher/x"}
OLD_KEY, NEW_KEY = "SHA256:" + "o" * 43, "SHA256:" + "n" * 43

DETAILS: dict[str, dict[str, Any]] = {
    "detect": {
        "node_before": NODE,
        "pods_before": [POD, BARE_POD],
        "volumes": [VOLUME],
        "host_key": {
            "known": [{"type": "ssh-ed25519", "fingerprint": OLD_KEY, "file": "/home/somebody/.ssh/known_hosts", "line": 3}],
            "offered": [{"type": "ssh-ed25519", "fingerprint": NEW_KEY}],
        },
    },
    "retire": {"removed": ["node pi-4.local", "secret kube-system/pi-4.local.node-password.k3s"], "snapshot": None},
    "prepare": {"host_key_replaced": True, "restarted": False},
    "install": {"version": "v1.34.1+k3s1"},
    "join": {"state": "joined"},
    "ready": {"node_after": {**NODE, "machine_id": "1" * 32, "ready": True}, "diff": "-machine_id: 000\n+machine_id: 111"},
    "workloads": {"pods_after": [POD], "waiting": [], "lost": ["default/by-hand"]},
}
