# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells two copies of a server's credentials apart without showing them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

#: What a kubeconfig of k3s has of its cluster and its user: https://docs.k3s.io/cluster-access.
KEYS = ("certificate-authority-data", "client-certificate-data", "client-key-data")
_LINE = re.compile(rf"^\s+({'|'.join(KEYS)}):\s*[\"']?([^\s\"']+)[\"']?\s*$", re.M)


def digest(values: Mapping[str, object]) -> str:
    """Return the SHA-256 of the credentials in *values*, empty where one of KEYS is missing. A key is too long to be guessed from it."""
    found = [str(values.get(key) or "") for key in KEYS]
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if all(found) else ""


def digest_of_file(text: str) -> str:
    """Return :func:`digest` of a kubeconfig as k3s writes it, with one cluster and one user; empty for any other."""
    return digest(of_file(text))


def of_file(text: str) -> dict[str, str]:
    """Return the credentials (base64) by KEYS of a kubeconfig as k3s writes it, with one cluster and one user; nothing of any other."""
    found = dict(lines) if len(lines := _LINE.findall(text)) == len(KEYS) else {}
    return found if len(found) == len(KEYS) else {}
