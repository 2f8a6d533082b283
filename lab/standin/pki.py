# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates through the openssl program: Python's standard library signs none."""

from __future__ import annotations

import ipaddress
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence

from .files import read, write

CA_DAYS, LEAF_DAYS = "3650", "365"


def openssl(*arguments: str) -> str:
    return openssl_in("", *arguments)


def openssl_in(text: str, *arguments: str) -> str:
    done = subprocess.run(["/usr/bin/openssl", *arguments], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def ensure_key(path: str) -> None:
    if not os.path.exists(path):
        write(path, openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout"))


def ensure_ca(tls: str, name: str) -> None:
    certificate, key = f"{tls}/{name}.crt", f"{tls}/{name}.key"
    if os.path.exists(certificate):
        return
    ensure_key(key)
    uses = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign")
    subject = f"/CN=k3s-{name}@{int(time.time())}"
    write(certificate, openssl("req", "-x509", "-new", "-key", key, "-days", CA_DAYS, "-subj", subject, *uses), 0o644)


def request(key: str) -> str:
    """A signing request; the signer decides the subject."""
    return openssl("req", "-new", "-key", key, "-subj", "/CN=request")


def sign(tls: str, ca: str, csr: str, subject: str, use: str = "clientAuth", names: Sequence[str] = ()) -> str:
    """The certificate chain for *csr*: leaf, then CA. *names*: host names and addresses for a server's certificate."""
    with tempfile.TemporaryDirectory() as folder:
        extensions = f"basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage={use}\n"
        if names:
            extensions += f"subjectAltName={','.join(alternative_names(names))}\n"
        write(f"{folder}/extensions", extensions)
        write(f"{folder}/csr", csr)
        signer = ("-CA", f"{tls}/{ca}.crt", "-CAkey", f"{tls}/{ca}.key", "-set_serial", f"0x{secrets.token_hex(8)}")
        shape = ("-days", LEAF_DAYS, "-subj", subject, "-extfile", f"{folder}/extensions")
        return openssl("x509", "-req", "-in", f"{folder}/csr", *signer, *shape) + read(f"{tls}/{ca}.crt")


def ensure_leaf(tls: str, ca: str, name: str, subject: str, use: str = "clientAuth", names: Sequence[str] = ()) -> None:
    ensure_key(f"{tls}/{name}.key")
    if not os.path.exists(f"{tls}/{name}.crt"):
        write(f"{tls}/{name}.crt", sign(tls, ca, request(f"{tls}/{name}.key"), subject, use, names), 0o644)


def alternative_names(names: Iterable[str]) -> list[str]:
    """In openssl's notation, each once, in order."""
    found = []
    for name in dict.fromkeys(names):
        try:
            ipaddress.ip_address(name)
            found.append(f"IP:{name}")
        except ValueError:
            found.append(f"DNS:{name}")
    return found
