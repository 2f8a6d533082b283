# SPDX-License-Identifier: GPL-3.0-or-later
"""A real image registry of the tests' own: Debian's docker-registry, with TLS and a login, on the lab's address of this machine."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from lab import paths
from lab.system import root
from tests.support import debian
from tests.support.fleet import Fleet

USER, PASSWORD = "deployer", "registry-password"
#: bcrypt of PASSWORD, as the registry's htpasswd wants it
_HASH = "$2b$04$7vIa4s/I8bMhUlCtsbtzC.epvVN6KLkj2KvAakLRZcnfE98mb0fu2"


def program() -> Path:
    """The registry, unpacked from Debian's package into the lab's cache."""
    home = paths.cache() / "tools" / "docker-registry"
    with paths.locked(home.with_suffix(".lock")):
        if not (home / "usr/bin/docker-registry").exists():
            with tempfile.TemporaryDirectory() as folder:
                debian.download(["docker-registry"], Path(folder))
                subprocess.run(["dpkg", "-x", *(str(p) for p in Path(folder).glob("*.deb")), str(home)], check=True, timeout=60)
    return home / "usr/bin/docker-registry"


class Registry:
    """Listens on *address*:*port*. The engine of this machine trusts it; ``ca`` is for others. Its content goes when the block ends.

    *folder*: where it keeps everything, a new one if None is given; *data*: where it keeps images, if not in there.
    """

    def __init__(self, address: str, port: int = 5443, folder: Path | None = None, data: Path | None = None) -> None:
        self.name = f"{address}:{port}"
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pifleet-registry-"))
        self._data = data or self.folder / "data"
        self.ca = self.folder / "ca.crt"
        self.log = self.folder / "log"
        self._address, self._port = address, port
        self._trust = Path("/etc/docker/certs.d") / self.name
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        self.set_up()
        return self

    def set_up(self) -> int:
        """Make certificate and login, start, and return the pid."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._certificate()
        (self.folder / "htpasswd").write_text(f"{USER}:{_HASH}\n")
        subprocess.run([*root(), "install", "-D", "-m", "644", str(self.ca), str(self._trust / "ca.crt")], check=True, timeout=60)
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self.forget()

    def forget(self) -> None:
        """Remove everything, and this machine's trust."""
        subprocess.run([*root(), "rm", "-rf", str(self._trust)], check=False, timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> int:
        config = self.folder / "config.yml"
        config.write_text(
            f"""version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {self._data}}}, delete: {{enabled: true}}}}
auth: {{htpasswd: {{realm: tests, path: {self.folder}/htpasswd}}}}
http:
  addr: {self.name}
  tls: {{certificate: {self.ca}, key: {self.folder}/key.pem}}
"""
        )
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen([str(program()), "serve", str(config)], stdout=stream, stderr=stream, start_new_session=True)
        for _attempt in range(100):
            if self._answers():
                return self._process.pid
            time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-2000:])

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def trusted_by(self, fleet: Fleet) -> None:
        """Let the engines of the nodes trust it."""
        folder = f"/etc/docker/certs.d/{self.name}"
        for host in fleet.hosts:
            fleet.sh(host, f"mkdir -p {folder} && printf %s '{self.ca.read_text()}' >{folder}/ca.crt")

    def pushes(self) -> int:
        """How many manifests were put so far."""
        return sum('"PUT ' in line and "/manifests/" in line for line in self.log.read_text(errors="replace").splitlines())

    def _certificate(self) -> None:
        subject = ["-subj", "/CN=registry of the tests", "-addext", f"subjectAltName=IP:{self._address}"]
        files = ["-keyout", str(self.folder / "key.pem"), "-out", str(self.ca)]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        subprocess.run(["openssl", "req", "-x509", *kind, *files, *subject], check=True, capture_output=True, timeout=60)

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            urllib.request.urlopen(f"https://{self.name}/v2/", timeout=2, context=context)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            return False
        return True
