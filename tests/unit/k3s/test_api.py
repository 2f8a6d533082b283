# SPDX-License-Identifier: GPL-3.0-or-later
"""The API of the own host, asked without kubectl: over real TLS with client certificates, and what makes kubectl be asked instead."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.api import local_api
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.kubectl import Kubectl
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    """A CA with its certificate, as k3s has one: EC keys, SHA-256."""

    def __init__(self, name: str) -> None:
        self.name, self.key = named(name), ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(self.name, self.key, ca=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        now = datetime.now(tz=timezone.utc)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        builder = builder.not_valid_after(now + timedelta(hours=1)).add_extension(x509.BasicConstraints(ca, None), critical=True)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(address, critical=False).sign(self.key, hashes.SHA256())

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """(certificate, key) as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        kinds = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        return self._sign(named(name), key).public_bytes(serialization.Encoding.PEM), key.private_bytes(*kinds)


class Answers(BaseHTTPRequestHandler):
    """Says what it was asked, and refuses what is below /no."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        asked = {"method": self.command, "path": self.path, "body": body, "type": self.headers.get("Content-Type")}
        self.send_response(404 if self.path.startswith("/no") else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"items": [asked]}).encode())

    def do_GET(self) -> None:
        self.answer()

    def do_PATCH(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def log_message(self, *_words: object) -> None:
        return


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("k3s-ca")


@pytest.fixture(scope="module")
def port(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of an API that takes clients of the authority only."""
    folder = tmp_path_factory.mktemp("api")
    certificate, key = authority.issue("k3s")
    (folder / "server.pem").write_bytes(certificate + key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cadata=authority.pem.decode())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def kubeconfig(folder: Path, server: str, authority: Authority, client: tuple[bytes, bytes]) -> str:
    authority_text, certificate, key = (base64.b64encode(pem).decode() for pem in (authority.pem, *client))
    text = (
        f"apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority_text}\n    server: {server}\n  name: default\n"
        f"users:\n- name: default\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
    path = folder / "k3s.yaml"
    path.write_text(text)
    return str(path)


def told(answer: str | None) -> dict[str, str]:
    assert answer is not None
    (asked,) = json.loads(answer)["items"]
    return dict(asked)


@pytest.fixture
def own(tmp_path: Path, authority: Authority, port: int) -> str:
    return kubeconfig(tmp_path, f"https://127.0.0.1:{port}", authority, authority.issue("admin"))


def test_it_asks_and_changes_as_the_kubeconfigs_user(own: str) -> None:
    api = local_api(own)
    assert api is not None
    assert told(api.ask("GET", "/api/v1/nodes?fieldSelector=metadata.name=a"))["path"] == "/api/v1/nodes?fieldSelector=metadata.name=a"
    patched = told(api.ask("PATCH", "/api/v1/nodes/a", '{"spec": {}}'))
    assert (patched["method"], patched["body"], patched["type"]) == ("PATCH", '{"spec": {}}', "application/merge-patch+json")
    assert told(api.ask("DELETE", "/api/v1/nodes/a"))["method"] == "DELETE"


def test_what_is_refused_is_left_to_kubectl(own: str) -> None:
    api = local_api(own)
    assert api is not None
    assert api.ask("GET", "/no/such/thing") is None


def test_an_api_with_another_authority_is_not_believed(tmp_path: Path, authority: Authority, port: int) -> None:
    api = local_api(kubeconfig(tmp_path, f"https://127.0.0.1:{port}", Authority("another"), authority.issue("admin")))
    assert api is not None
    assert api.ask("GET", "/api/v1/nodes") is None


def test_a_client_that_the_api_does_not_know_is_left_to_kubectl(tmp_path: Path, authority: Authority, port: int) -> None:
    api = local_api(kubeconfig(tmp_path, f"https://127.0.0.1:{port}", authority, Authority("another").issue("admin")))
    assert api is not None
    assert api.ask("GET", "/api/v1/nodes") is None


def test_where_nothing_listens_there_is_no_answer(tmp_path: Path, authority: Authority) -> None:
    api = local_api(kubeconfig(tmp_path, "https://127.0.0.1:1", authority, authority.issue("admin")))
    assert api is not None
    assert api.ask("GET", "/api/v1/nodes") is None


@pytest.mark.parametrize("server", ["https://192.0.2.1:6443", "http://127.0.0.1:6443", "https://127.0.0.1.example:6443"])
def test_only_the_own_host_is_asked_directly(tmp_path: Path, authority: Authority, server: str) -> None:
    assert local_api(kubeconfig(tmp_path, server, authority, authority.issue("admin"))) is None


@pytest.mark.parametrize(
    ("old", "new"), [("client-key-data: ", "client-key-data: AAAA"), ("data: ", "data: %"), ("authority-data", "authority")]
)
def test_a_kubeconfig_that_cannot_be_read_is_kubectls(own: str, old: str, new: str) -> None:
    path = Path(own)
    path.write_text(path.read_text().replace(old, new))
    assert local_api(own) is None


def test_no_kubeconfig_is_kubectls_to_explain(tmp_path: Path) -> None:
    assert local_api(str(tmp_path / "none.yaml")) is None


def test_kubectl_is_started_only_for_what_has_no_answer(own: str) -> None:
    calls: list[tuple[str, ...]] = []

    def run(argv, **_options) -> Completed:
        calls.append(tuple(word for word in argv[1:] if not word.startswith("--kube") and not word.startswith("--cache")))
        return Completed(("kubectl",), 0, "of kubectl", "")

    with Kubectl(run, own) as kubectl:
        assert told(kubectl.get("--raw", "/api/v1/pods"))["path"] == "/api/v1/pods"
        assert calls == []
        assert kubectl.get("--raw", "/no/such/thing") == "of kubectl"
        assert kubectl.get("nodes") == "of kubectl"
    assert [call[-2:] for call in calls] == [("--raw", "/no/such/thing"), ("get", "nodes")]
    with Kubectl(run, own, ["mine"]) as kubectl:
        assert kubectl.get("--raw", "/api/v1/pods") == "of kubectl"
