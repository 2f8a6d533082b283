# SPDX-License-Identifier: GPL-3.0-or-later
"""What all servers of a cluster share, its CAs above all: kept in the datastore, encrypted with the server token (k3s's pkg/cluster)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess

from . import tokens
from .files import write

# Below the server folder. A server that joins gets them from another; one whose disk is new gets them from the datastore.
FILES = (
    "tls/server-ca.crt",
    "tls/server-ca.key",
    "tls/client-ca.crt",
    "tls/client-ca.key",
    "tls/request-header-ca.crt",
    "tls/request-header-ca.key",
    "tls/etcd/server-ca.crt",
    "tls/etcd/server-ca.key",
    "tls/etcd/peer-ca.crt",
    "tls/etcd/peer-ca.key",
    "tls/service.key",
    "cred/passwd",
    "cred/encryption-config.json",
)
PREFIX = "/bootstrap/"
CIPHER = ("enc", "-aes-256-cbc", "-pbkdf2", "-pass", "env:K3S_STANDIN_SECRET")


def key(token: str) -> str:
    """The datastore's key for a token: another token finds nothing."""
    return PREFIX + hashlib.sha256(secret_of(token).encode()).hexdigest()[:12]


def secret_of(token: str) -> str:
    return tokens.parse(token).secret


def pack(directory: str) -> str:
    """FILES that exist below *directory*, as JSON."""
    content = {}
    for name in FILES:
        path = f"{directory}/{name}"
        if os.path.exists(path):
            with open(path, "rb") as stream:
                content[name] = base64.b64encode(stream.read()).decode()
    return json.dumps(content)


def unpack(directory: str, packed: str) -> None:
    """Write them; what is there already and differs is replaced, as k3s does with what the datastore has."""
    for name, content in json.loads(packed).items():
        if name in FILES:
            mode = 0o644 if name.endswith(".crt") else 0o600
            write(f"{directory}/{name}", base64.b64decode(content).decode(), mode)


def encrypt(packed: str, token: str) -> str:
    return _openssl(packed, token, "-a", "-salt")


def decrypt(stored: str, token: str) -> str:
    """Raises ValueError where *token* is another one."""
    return _openssl(stored, token, "-a", "-d")


def _openssl(text: str, token: str, *options: str) -> str:
    environment = {**os.environ, "K3S_STANDIN_SECRET": secret_of(token)}
    done = subprocess.run(["/usr/bin/openssl", *CIPHER, *options], input=text.encode(), capture_output=True, check=False, env=environment)
    # CBC tells a wrong key by its padding only, which fits by chance once in 256 times
    if done.returncode or ("-d" in options and not done.stdout.startswith(b"{")):
        raise ValueError("cipher: message authentication failed")
    return done.stdout.decode()
