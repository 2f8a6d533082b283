# SPDX-License-Identifier: GPL-3.0-or-later
"""A real hub: the program, as a process of its own, over TLS on a loopback port, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".collections"


def certificates(folder: Path) -> Path:
    """Make a CA, and a certificate for 127.0.0.1 that it vouches for (``hub.pem``, ``hub.key``). Return the path of the CA's."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority, name = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("CA of the tests", "hub of the tests"))
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = {
        "ca.pem": _builder(authority, authority, authority_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True),
        "hub.pem": _builder(name, authority, key).add_extension(loopback, critical=False),
    }
    for file, builder in made.items():
        (folder / file).write_bytes(builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "hub.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return folder / "ca.pem"


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(tz=timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=2))
    )


@dataclass
class HubProcess:
    """*folder*: of the hub's database; *port*: kept over restarts; *runner*: what runs the hub's module instead of Python alone."""

    folder: Path
    tls: bool = True
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    runner: tuple[str, ...] = (sys.executable, "-m")
    ca: Path | None = None

    @property
    def store(self) -> Store:
        return Store(self.folder / "hub.db")

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Beside *folder*, whose disk may be full."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def pid(self) -> int:
        assert self.process is not None, "the hub does not run"
        return self.process.pid

    def token(self, source: str, name: str = "controller", days: float = 1) -> str:
        return ApiTokens(self.store).add(name, "sync", source, timedelta(days=days))

    def start(self) -> HubProcess:
        """Start the hub, and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        words = ["--database", str(self.folder / "hub.db"), "serve", "--port", str(self.port), "--port-file", str(self.folder / "port")]
        if self.tls:
            if self.ca is None:
                self.ca = certificates(self.folder)
            words += ["--tls-cert", str(self.folder / "hub.pem"), "--tls-key", str(self.folder / "hub.key")]
        (self.folder / "port").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.runner, "ansible_collections.pifleet.ops.hub", *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not (self.folder / "port").exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the hub does not start"
            time.sleep(0.02)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> HubProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
