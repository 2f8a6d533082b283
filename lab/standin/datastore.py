# SPDX-License-Identifier: GPL-3.0-or-later
"""The datastore: SQLite behind kine for a single server, etcd as soon as a second one is to join, or an etcd that somebody else runs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from typing import Any
from urllib.parse import urlsplit

from . import log, pki
from .config import Config
from .files import read, read_or, write
from .join import JoinError, Supervisor
from .processes import Children, arguments
from .release import Release

SQLITE, ETCD, EXTERNAL = "sqlite", "etcd", "external"
CLIENT_PORT, PEER_PORT = 2379, 2380
TEMPORARY = "http://127.0.0.1:2399"
HEARTBEAT, ELECTION = "500", "5000"  # milliseconds, as in k3s's pkg/etcd
RESET_FLAG = "reset-flag"


class StoreError(Exception):
    """The datastore refused or does not answer."""


def kind_of(config: Config) -> str:
    """k3s's assignManagedDriver: a datastore that exists decides, then the settings."""
    endpoint = config.text("datastore-endpoint")
    if endpoint and not initialised(config):
        if not endpoint.startswith("http://"):
            raise log.FatalError("of external datastores the lab's stand-in has etcd without TLS alone")
        return EXTERNAL
    if initialised(config) or config.on("cluster-init") or config.on("cluster-reset") or config.text("server"):
        return ETCD
    return SQLITE


def initialised(config: Config) -> bool:
    """Whether this server has been a member of an etcd cluster."""
    return os.path.isdir(f"{config.server_dir}/db/etcd/member/wal")


class Admin:
    """``etcd admin`` against one endpoint. *security*: CA, certificate and key, or nothing for kine's socket."""

    def __init__(self, release: Release, endpoint: str, security: tuple[str, str, str] | None = None) -> None:
        self.program, self.endpoint, self.security = release.program("etcd"), endpoint, security

    def __call__(self, *words: str, stdin: str = "", timeout: float = 30.0) -> str:
        command = [self.program, "admin", "--endpoint", self.endpoint]
        if self.security:
            ca, certificate, key = self.security
            command += ["--cacert", ca, "--cert", certificate, "--key", key]
        try:
            done = subprocess.run([*command, *words], input=stdin, capture_output=True, text=True, check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise StoreError("context deadline exceeded") from None
        if done.returncode:
            raise StoreError(done.stderr.strip() or f"{words[0]} failed")
        return done.stdout

    def members(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self("members"))["members"]
        return found

    def answers(self) -> bool:
        try:
            self("get", "health")
        except StoreError:
            return False
        return True


class Sqlite:
    """kine on ``server/db/state.db``."""

    def __init__(self, config: Config, release: Release, children: Children) -> None:
        self.release, self.children = release, children
        self.database = f"{config.server_dir}/db/state.db"
        self.socket = f"{config.server_dir}/kine.sock"
        self.admin = Admin(release, f"unix://{self.socket}")

    def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        endpoint = f"sqlite://{self.database}?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate"
        options = {"endpoint": endpoint, "listen-address": f"unix://{self.socket}", "metrics-bind-address": "0"}
        self.children.start("kine", [self.release.program("kine"), *arguments(options, [])])
        self.children.wait("kine", lambda: os.path.exists(self.socket))

    def stop(self) -> None:
        self.children.end("kine")

    def apiserver_options(self) -> dict[str, str]:
        return {"etcd-servers": f"unix://{self.socket}"}


class External:
    """An etcd that somebody else runs, at ``datastore-endpoint``."""

    def __init__(self, config: Config, release: Release) -> None:
        self.endpoint = config.text("datastore-endpoint")
        self.admin = Admin(release, self.endpoint)

    def start(self) -> None:
        if not self.admin.answers():
            raise log.FatalError("starting kubernetes: preparing server: building kine: context deadline exceeded")

    def apiserver_options(self) -> dict[str, str]:
        return {"etcd-servers": self.endpoint}


class Etcd:
    """One member of the servers' etcd cluster."""

    def __init__(self, config: Config, release: Release, children: Children, address: str) -> None:
        self.config, self.release, self.children, self.address = config, release, children, address
        self.tls = f"{config.tls_dir}/etcd"
        self.folder = f"{config.server_dir}/db/etcd"
        self.security = (f"{self.tls}/server-ca.crt", f"{self.tls}/client.crt", f"{self.tls}/client.key")
        self.admin = Admin(release, f"https://127.0.0.1:{CLIENT_PORT}", self.security)
        self.name = ""

    @property
    def peer_url(self) -> str:
        return f"https://{self.address}:{PEER_PORT}"

    def certificates(self) -> None:
        os.makedirs(self.tls, mode=0o700, exist_ok=True)
        for ca in ("server-ca", "peer-ca"):
            pki.ensure_ca(self.tls, ca)
        names = ["localhost", self.config.node_name, "127.0.0.1", self.address]
        pki.ensure_leaf(self.tls, "server-ca", "server-client", "/CN=etcd-server", "serverAuth,clientAuth", names)
        pki.ensure_leaf(self.tls, "peer-ca", "peer-server-client", "/CN=etcd-peer", "serverAuth,clientAuth", names)
        pki.ensure_leaf(self.tls, "server-ca", "client", "/CN=etcd-client")

    def start(self, join: Supervisor | None) -> None:
        """Start the member: as it was, as the first of a new cluster, or, with *join*, as a further one of an existing cluster."""
        self._clear_removed()
        if initialised(self.config):
            self.name = read(f"{self.folder}/name").strip()
            log.info("Managed etcd cluster bootstrap already complete and initialized")
            self._run({})
        else:
            self._set_name()
            if join is None:
                log.info("Managed etcd cluster initializing")
                self._run(self._initial([f"{self.name}={self.peer_url}"], "new"))
            else:
                log.info("Managed etcd cluster not yet initialized")
                self._run(self._initial(self._add(join), "existing"))
        # a learner answers nobody's reads; it becomes a voter when the leader has promoted it
        self.children.wait("etcd", self.admin.answers, 300)

    def _clear_removed(self) -> None:
        if os.path.exists(f"{self.folder}/tombstone"):
            log.info("tombstone file has been detected, removing data dir to rejoin the cluster")
            backup = f"{self.folder}-old-{secrets.token_hex(4)}"
            os.rename(self.folder, backup)

    def _set_name(self) -> None:
        path = f"{self.folder}/name"
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        if not os.path.exists(path):
            write(path, f"{self.config.node_name}-{secrets.token_hex(4)}")
        self.name = read(path).strip()

    def _add(self, join: Supervisor) -> list[str]:
        """Have the cluster know this member; returns ``name=url`` of all."""
        try:
            told = json.loads(join.get("/db/info"))["members"]
        except (JoinError, PermissionError) as problem:
            raise log.FatalError(f"etcd cluster join failed: {problem}") from None
        urls = [url for member in told if not member.get("isLearner") for url in member.get("clientURLs") or []]
        urls = [url for url in urls if urlsplit(url).hostname != self.address]
        last = "no voting member is known"
        for url in urls:
            try:
                return self._add_through(Admin(self.release, url, self.security))
            except StoreError as problem:
                last = str(problem)
        raise log.FatalError(f"etcd cluster join failed: {last}")

    def _add_through(self, admin: Admin) -> list[str]:
        cluster, known = [], False
        for member in admin.members():
            peer = (member.get("peerURLs") or [""])[0]
            own = urlsplit(peer).hostname == self.address
            name = member.get("name") or (self.name if own else "")
            if own and name == self.name:
                known = True
            elif name.rpartition("-")[0] == self.config.node_name:
                os.unlink(f"{self.folder}/name")
                raise log.FatalError("etcd cluster join failed: duplicate node name found, please use a unique name for this node")
            cluster.append(f"{name}={peer}")
        if not known:
            log.info(f"Adding member {self.name}={self.peer_url} to etcd cluster [{' '.join(cluster)}]")
            admin("add-learner", self.peer_url)
            cluster.append(f"{self.name}={self.peer_url}")
        log.info(f"Starting etcd for cluster [{' '.join(cluster)}]")
        return cluster

    def _initial(self, cluster: list[str], state: str) -> dict[str, str]:
        options = {"initial-advertise-peer-urls": self.peer_url, "initial-cluster": ",".join(cluster), "initial-cluster-state": state}
        return {**options, "initial-cluster-token": "etcd-cluster"}

    def _run(self, more: dict[str, str]) -> None:
        metrics = "http://127.0.0.1:2381"
        if self.config.on("etcd-expose-metrics"):
            metrics = f"http://{self.address}:2381,{metrics}"
        options = {
            "name": self.name,
            "data-dir": self.folder,
            "advertise-client-urls": f"https://{self.address}:{CLIENT_PORT}",
            "listen-client-urls": f"https://{self.address}:{CLIENT_PORT},https://127.0.0.1:{CLIENT_PORT}",
            "listen-metrics-urls": metrics,
            "listen-peer-urls": self.peer_url,
            "client-cert-auth": "true",
            "cert-file": f"{self.tls}/server-client.crt",
            "key-file": f"{self.tls}/server-client.key",
            "trusted-ca-file": f"{self.tls}/server-ca.crt",
            "peer-client-cert-auth": "true",
            "peer-cert-file": f"{self.tls}/peer-server-client.crt",
            "peer-key-file": f"{self.tls}/peer-server-client.key",
            "peer-trusted-ca-file": f"{self.tls}/peer-ca.crt",
            "heartbeat-interval": HEARTBEAT,
            "election-timeout": ELECTION,
            "snapshot-count": "10000",
            "experimental-initial-corrupt-check": "true",
            "logger": "zap",
            "log-outputs": "stderr",
            "log-level": "warn",
            **more,
        }
        self.children.start("etcd", [self.release.program("etcd"), *arguments(options, self.config.items("etcd-arg"))], ends=self._ended)

    def _ended(self, code: int) -> str:
        """Why etcd exited. It exits cleanly when the member was removed from the cluster."""
        if code == 0:
            write(f"{self.folder}/tombstone", "")
            return "this node has been removed from the cluster please restart k3s to rejoin the cluster"
        return f"etcd exited: {code}"

    def apiserver_options(self) -> dict[str, str]:
        ca, certificate, key = self.security
        return {"etcd-servers": f"https://127.0.0.1:{CLIENT_PORT}", "etcd-cafile": ca, "etcd-certfile": certificate, "etcd-keyfile": key}

    def migrate(self, sqlite: Sqlite) -> None:
        """Take over what a single server kept in SQLite (k3s's migrateFromSQLite)."""
        log.info("Migrating content from sqlite to etcd")
        sqlite.start()
        self.admin("migrate", sqlite.admin.endpoint, timeout=300)
        sqlite.stop()
        os.rename(sqlite.database, f"{sqlite.database}.migrated")

    def force_new(self) -> None:
        """Start as the only member of a new cluster with the present content (``--cluster-reset``)."""
        self.name = read_or(f"{self.folder}/name").strip()
        if not self.name:
            self._set_name()
        self._run({**self._initial([f"{self.name}={self.peer_url}"], "existing"), "force-new-cluster": "true"})
        self.children.wait("etcd", self.admin.answers, 60)
        (only,) = self.admin.members()
        self.admin("move", str(only["ID"]), self.peer_url)

    def restore(self, snapshot: str) -> None:
        """Replace the content by a snapshot's."""
        if os.path.isdir(self.folder):
            os.rename(self.folder, f"{self.folder}-old-{secrets.token_hex(4)}")
        name = f"{self.config.node_name}-{secrets.token_hex(4)}"
        Admin(self.release, "")("restore", snapshot, self.folder, name, self.peer_url, timeout=120)
        os.chmod(self.folder, 0o700)
        write(f"{self.folder}/name", name)

    def stored_elsewhere(self, key: str) -> tuple[str, list[str]]:
        """The value of *key* and all bootstrap keys, read through a temporary etcd on a copy: this server has no certificates yet."""
        copy = f"{self.folder}-tmp"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder, copy)
        options = {
            "name": read(f"{self.folder}/name").strip(),
            "data-dir": copy,
            "advertise-client-urls": TEMPORARY,
            "listen-client-urls": TEMPORARY,
            "listen-peer-urls": "http://127.0.0.1:2400",
            "force-new-cluster": "true",
            "log-level": "error",
        }
        self.children.start("etcd-tmp", [self.release.program("etcd"), *arguments(options, [])])
        admin = Admin(self.release, TEMPORARY)
        try:
            self.children.wait("the temporary etcd", admin.answers, 60)
            return admin("get", key), json.loads(admin("keys", "/bootstrap/"))
        finally:
            self.children.end("etcd-tmp")
            shutil.rmtree(copy, ignore_errors=True)
