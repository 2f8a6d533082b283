# SPDX-License-Identifier: GPL-3.0-or-later
"""kubeconfig files: k3s's own refer to files, the administrator's carries its certificates."""

from __future__ import annotations

import base64
import json

from .files import read, write


def write_internal(path: str, server: str, ca: str, certificate: str, key: str) -> None:
    """As k3s writes ``agent/kubelet.kubeconfig`` and ``server/cred/*.kubeconfig``."""
    cluster = {"server": server, "certificate-authority": ca}
    user = {"client-certificate": certificate, "client-key": key}
    _write(path, "local", cluster, "user", user, 0o600)


def write_admin(path: str, server: str, ca: str, certificate: str, key: str, mode: int) -> None:
    """As k3s writes /etc/rancher/k3s/k3s.yaml."""
    cluster = {"certificate-authority-data": _encoded(ca), "server": server}
    user = {"client-certificate-data": _encoded(certificate), "client-key-data": _encoded(key)}
    _write(path, "default", cluster, "default", user, mode)


def _encoded(path: str) -> str:
    return base64.b64encode(read(path).encode()).decode()


def _write(path: str, name: str, cluster: dict[str, str], user_name: str, user: dict[str, str], mode: int) -> None:
    lines = ["apiVersion: v1", "clusters:", "- cluster:"]
    lines += [f"    {key}: {_plain(value)}" for key, value in cluster.items()]
    lines += [f"  name: {name}", "contexts:", "- context:", f"    cluster: {name}", f"    user: {user_name}", f"  name: {name}"]
    lines += [f"current-context: {name}", "kind: Config", "preferences: {}", "users:", f"- name: {user_name}", "  user:"]
    lines += [f"    {key}: {_plain(value)}" for key, value in user.items()]
    write(path, "\n".join(lines) + "\n", mode)


def _plain(value: str) -> str:
    return value if ": " not in value and not value.startswith(("{", "[", "&", "*")) else json.dumps(value)
