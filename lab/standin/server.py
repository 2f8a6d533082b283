# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: datastore, certificates, control plane, supervisor; then the agent's part."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import secrets
import time

from . import agent, bootstrap, datastore, host, kubeconfig, log, manifests, pki, snapshots, tokens
from .api import Api
from .config import Config
from .controllers import EtcdNodes, Manifests, Nodes
from .datastore import Etcd, External, Sqlite, StoreError
from .endpoint import Endpoint
from .files import read, read_or, write
from .join import JoinError, Supervisor
from .processes import Children, arguments
from .release import Release

# Upstream's apiserver has no --advertise-port, so it keeps port 6443 on another loopback address and the front has the node's own.
API_HOST, API_PORT = "127.0.0.2", 6443
CLIENTS = {
    "client-admin": "/O=system:masters/CN=system:admin",
    "client-controller": "/CN=system:kube-controller-manager",
    "client-scheduler": "/CN=system:kube-scheduler",
    "client-kube-apiserver": "/O=system:masters/CN=kube-apiserver",
    "client-supervisor": "/O=system:masters/CN=system:k3s-supervisor",
    "client-kube-proxy": "/CN=system:kube-proxy",
    "client-k3s-controller": "/CN=system:k3s-controller",
}
KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"
PREPARING = "preparing server"
RECONCILE = f"{PREPARING}: failed to bootstrap cluster data: failed to reconcile with local datastore"
WAS_RESET = (
    "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. "
    "Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes"
)


class Server:
    """One server node."""

    def __init__(self, config: Config, release: Release, children: Children) -> None:
        self.config, self.release, self.children = config, release, children
        self.tls, self.directory = config.tls_dir, config.server_dir
        self.address = host.node_address(config.items("node-ip"))
        self.secret = self.agent_secret = ""
        self.store: Sqlite | External | Etcd

    def run(self) -> None:
        """Return when told to stop, or after a cluster reset. Raises FatalError where k3s would end."""
        log.info(f"Starting k3s {self.release.version} ({self.release.commit})")
        host.check_port(self.config.port)
        for folder in ("db", "manifests", "cred", "tls"):
            os.makedirs(f"{self.directory}/{folder}", mode=0o700, exist_ok=True)
        if self._is_reset():
            return
        self._open_datastore()
        api = self._api()
        self._start_apiserver()
        local = self._agent(api)
        local.start_runtime()
        self.children.wait("the API", api.ready)
        log.info("Kube API server is now running")
        self._start_controllers()
        self.children.wait("kube-system", lambda: api("GET", "/api/v1/namespaces/kube-system")[0] == 200)
        self._serve(api)
        self._start_background(api)
        local.run()

    def _agent(self, api: Api) -> agent.Agent:
        """The agent's part of this server, which joins the server itself."""
        joined = {"server": f"https://127.0.0.1:{self.config.port}", "token": read(f"{self.directory}/token").strip()}
        return agent.Agent(Config("server", {**self.config.values, **joined}), self.release, self.children, api.ready)

    # --- what is there before, and what is shared with other servers

    def _is_reset(self) -> bool:
        """Do what ``--cluster-reset`` asks for, if it does."""
        flag = f"{self.directory}/db/{datastore.RESET_FLAG}"
        if not self.config.on("cluster-reset"):
            if self.config.text("cluster-reset-restore-path"):
                raise log.FatalError("invalid flag use; --cluster-reset required with --cluster-reset-restore-path")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(flag)
            return False
        if os.path.exists(flag):
            raise log.FatalError(
                "cluster-reset was successfully performed, please remove the cluster-reset flag and start k3s normally, "
                f"if you need to perform another cluster reset, you must first manually delete the file {flag}"
            )
        etcd = Etcd(self.config, self.release, self.children, self.address)
        snapshot = self.config.text("cluster-reset-restore-path")
        if snapshot:
            if not os.path.exists(snapshot):
                raise log.FatalError(f"etcd: snapshot path does not exist: {snapshot}")
            with snapshots.opened(snapshot) as plain:
                etcd.restore(plain)
            if os.path.isdir(self.tls):
                log.info(f"Cluster reset: backing up certificates directory to {self.tls}-{int(time.time())}")
                os.rename(self.tls, f"{self.tls}-{int(time.time())}")
        elif not datastore.initialised(self.config):
            raise log.FatalError("etcd datastore is not started; cannot reset a server that has none")
        self._load_from_copy(etcd)
        self._certificates()
        etcd.certificates()
        etcd.force_new()
        write(flag, "")
        log.info(WAS_RESET)
        return True

    def _open_datastore(self) -> None:
        kind = datastore.kind_of(self.config)
        if kind != datastore.ETCD:
            external = kind == datastore.EXTERNAL
            self.store = External(self.config, self.release) if external else Sqlite(self.config, self.release, self.children)
            self.store.start()
            self._load(self.store.admin("get", bootstrap.key(self._known_token())) if self._known_token() else "", self._stored_keys())
            self._certificates()
            self._tokens()
        else:
            etcd = Etcd(self.config, self.release, self.children, self.address)
            fresh = not datastore.initialised(self.config) or os.path.exists(f"{etcd.folder}/tombstone")
            join = self._bootstrap_from_peer() if fresh and self.config.text("server") else None
            if not fresh and not os.path.exists(f"{self.tls}/server-ca.key"):
                self._load_from_copy(etcd)
            self._certificates()
            self._tokens()
            etcd.certificates()
            etcd.start(join)
            old = Sqlite(self.config, self.release, self.children)
            if fresh and join is None and os.path.exists(old.database):
                etcd.migrate(old)
            self.store = etcd
        self._save()
        self._kubeconfigs()

    def _known_token(self) -> str:
        return self.config.text("token") or read_or(f"{self.directory}/token").strip()

    def _stored_keys(self) -> list[str]:
        keys: list[str] = json.loads(self.store.admin("keys", bootstrap.PREFIX))
        return keys

    def _load_from_copy(self, etcd: Etcd) -> None:
        token = self._known_token()
        self._load(*etcd.stored_elsewhere(bootstrap.key(token) if token else bootstrap.PREFIX))

    def _load(self, stored: str, keys: list[str]) -> None:
        """Write what the datastore has for our token. Raises FatalError where it has something, but for another token."""
        if stored:
            bootstrap.unpack(self.directory, bootstrap.decrypt(stored, self._known_token()))
        elif keys:
            raise log.FatalError(f"{RECONCILE}: bootstrap data already found and encrypted with different token")

    def _save(self) -> None:
        token = read(f"{self.directory}/token").strip()
        if bootstrap.key(token) not in self._stored_keys():
            log.info("Saving cluster bootstrap data to datastore")
            self.store.admin("put", bootstrap.key(token), stdin=bootstrap.encrypt(bootstrap.pack(self.directory), token))

    def _bootstrap_from_peer(self) -> Supervisor:
        """Get the cluster's CAs from the server of the configuration."""
        begin = f"{PREPARING}: failed to bootstrap cluster data"
        checking = f"{begin}: failed to check if bootstrap data has been initialized"
        if not self.config.text("token"):
            raise log.FatalError(f"{checking}: token is required to join a cluster")
        try:
            peer = Supervisor(self.config.text("server"), self.config.text("token"), "server")
            peer.trust()
        except (JoinError, log.FatalError, PermissionError) as problem:
            raise log.FatalError(f"{checking}: failed to validate token: {problem}") from None
        try:
            bootstrap.unpack(self.directory, peer.get("/v1-k3s/server-bootstrap"))
        except JoinError as problem:
            raise log.FatalError(f"{begin}: {problem}") from None
        except PermissionError:
            raise log.FatalError(f"{begin}: {peer.url}/v1-k3s/server-bootstrap: 403 Forbidden") from None
        return peer

    # --- own files

    def _certificates(self) -> None:
        os.makedirs(self.tls, mode=0o700, exist_ok=True)
        for ca in ("server-ca", "client-ca", "request-header-ca"):
            pki.ensure_ca(self.tls, ca)
        services = ipaddress.ip_network(self.config.service_cidr)
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{self.config.domain}", "localhost"]
        names += [self.config.node_name, "127.0.0.1", API_HOST, self.address, str(services[1])]
        names += self.config.items("tls-san") + self.config.items("node-external-ip")
        if read_or(f"{self.tls}/.names") != " ".join(names):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.tls}/serving-kube-apiserver.crt")
        pki.ensure_leaf(self.tls, "server-ca", "serving-kube-apiserver", "/CN=kube-apiserver", "serverAuth", names)
        write(f"{self.tls}/.names", " ".join(names))
        for name, subject in CLIENTS.items():
            pki.ensure_leaf(self.tls, "client-ca", name, subject)
        pki.ensure_leaf(self.tls, "request-header-ca", "client-auth-proxy", "/CN=system:auth-proxy")
        if not os.path.exists(f"{self.tls}/service.key"):
            write(f"{self.tls}/service.key", pki.openssl("genrsa", "-traditional", "2048"))
        if self.config.on("secrets-encryption") and not os.path.exists(self._encryption):
            secret = base64.b64encode(secrets.token_bytes(32)).decode()
            providers = [{"aescbc": {"keys": [{"name": "aescbckey", "secret": secret}]}}, {"identity": {}}]
            shape = {"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1"}
            write(self._encryption, json.dumps({**shape, "resources": [{"resources": ["secrets"], "providers": providers}]}))

    @property
    def _encryption(self) -> str:
        return f"{self.directory}/cred/encryption-config.json"

    def _tokens(self) -> None:
        """The secrets of servers and agents, and the files that tell them."""
        known = {
            fields[1]: fields[0] for line in read_or(f"{self.directory}/cred/passwd").splitlines() if len(fields := line.split(",")) > 1
        }
        try:
            self.secret = self._given("token") or known.get("server") or secrets.token_hex(16)
            self.agent_secret = self._given("agent-token") or self.secret
        except tokens.TokenError as problem:
            raise log.FatalError(f"{PREPARING}: {problem}") from None
        self._write_tokens()

    def _write_tokens(self) -> None:
        ca = read(f"{self.tls}/server-ca.crt")
        lines = f"{self.agent_secret},node,node,k3s:agent\n{self.secret},server,server,k3s:server\n"
        write(f"{self.directory}/cred/passwd", lines)
        path = f"{self.directory}/token"
        write(path, tokens.compose(ca, "server", self.secret) + "\n")
        links = ["node-token"]
        if self.agent_secret == self.secret:
            links.append("agent-token")
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/agent-token")
            write(f"{self.directory}/agent-token", tokens.compose(ca, "node", self.agent_secret) + "\n")
        for name in links:
            link = f"{self.directory}/{name}"
            if not os.path.islink(link):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(link)
                os.symlink(path, link)

    def _given(self, key: str) -> str:
        value = self.config.text(key)
        return tokens.parse(value).secret if value else ""

    def _credentials(self) -> dict[str, list[str]]:
        return {"server": [self.secret], "node": [self.agent_secret]}

    def _kubeconfigs(self) -> None:
        ca, url = f"{self.tls}/server-ca.crt", f"https://{API_HOST}:{API_PORT}"
        for name in ("admin", "controller", "scheduler", "supervisor"):
            client = f"{self.tls}/client-{name}"
            kubeconfig.write_internal(f"{self.directory}/cred/{name}.kubeconfig", url, ca, f"{client}.crt", f"{client}.key")
        output = self.config.text("write-kubeconfig", KUBECONFIG)
        mode = int(self.config.text("write-kubeconfig-mode", "0600"), 8)
        client = f"{self.tls}/client-admin"
        kubeconfig.write_admin(output, f"https://127.0.0.1:{self.config.port}", ca, f"{client}.crt", f"{client}.key", mode)
        log.info(f"Wrote kubeconfig {output}")

    # --- processes

    def _api(self) -> Api:
        client = f"{self.tls}/client-supervisor"
        return Api(API_HOST, API_PORT, f"{self.tls}/server-ca.crt", f"{client}.crt", f"{client}.key")

    def _start_apiserver(self) -> None:
        tls = self.tls
        options = {
            "advertise-address": self.config.text("advertise-address", self.address),
            "allow-privileged": "true",
            "anonymous-auth": "false",
            "api-audiences": f"https://kubernetes.default.svc.{self.config.domain},k3s",
            "authorization-mode": "Node,RBAC",
            "bind-address": API_HOST,
            "client-ca-file": f"{tls}/client-ca.crt",
            "enable-admission-plugins": "NodeRestriction",
            "enable-bootstrap-token-auth": "true",
            "kubelet-certificate-authority": f"{tls}/server-ca.crt",
            "kubelet-client-certificate": f"{tls}/client-kube-apiserver.crt",
            "kubelet-client-key": f"{tls}/client-kube-apiserver.key",
            "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
            "permit-port-sharing": "true",
            "profiling": "false",
            "proxy-client-cert-file": f"{tls}/client-auth-proxy.crt",
            "proxy-client-key-file": f"{tls}/client-auth-proxy.key",
            "requestheader-allowed-names": "system:auth-proxy",
            "requestheader-client-ca-file": f"{tls}/request-header-ca.crt",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-username-headers": "X-Remote-User",
            "secure-port": str(API_PORT),
            "service-account-issuer": f"https://kubernetes.default.svc.{self.config.domain}",
            "service-account-key-file": f"{tls}/service.key",
            "service-account-signing-key-file": f"{tls}/service.key",
            "service-cluster-ip-range": self.config.service_cidr,
            "service-node-port-range": self.config.text("service-node-port-range", "30000-32767"),
            "storage-backend": "etcd3",
            "tls-cert-file": f"{tls}/serving-kube-apiserver.crt",
            "tls-private-key-file": f"{tls}/serving-kube-apiserver.key",
            **self.store.apiserver_options(),
        }
        if os.path.exists(self._encryption):
            options["encryption-provider-config"] = self._encryption
        argv = [self.release.program("kube-apiserver"), *arguments(options, self.config.items("kube-apiserver-arg"))]
        self.children.start("kube-apiserver", argv)

    def _start_controllers(self) -> None:
        # with several servers, only one of them may act
        elect = "false" if isinstance(self.store, Sqlite) else "true"
        tls, common = self.tls, {"bind-address": "127.0.0.1", "leader-elect": elect, "profiling": "false"}
        manager = {
            **common,
            **self._identity("controller"),
            "allocate-node-cidrs": "true",
            "cluster-cidr": self.config.cluster_cidr,
            "controllers": "*,tokencleaner,-service-lb-controller,-node-route-controller,-cloud-node-lifecycle-controller",
            "root-ca-file": f"{tls}/server-ca.crt",
            "secure-port": "10257",
            "service-account-private-key-file": f"{tls}/service.key",
            "service-cluster-ip-range": self.config.service_cidr,
            "use-service-account-credentials": "true",
        }
        signers = {
            "kube-apiserver-client": "client-ca",
            "kubelet-client": "client-ca",
            "kubelet-serving": "server-ca",
            "legacy-unknown": "server-ca",
        }
        for use, ca in signers.items():
            manager[f"cluster-signing-{use}-cert-file"] = f"{tls}/{ca}.crt"
            manager[f"cluster-signing-{use}-key-file"] = f"{tls}/{ca}.key"
        extra = self.config.items("kube-controller-manager-arg") + self.config.items("kube-controller-arg")
        self.children.start("kube-controller-manager", [self.release.program("kube-controller-manager"), *arguments(manager, extra)])
        if self.config.on("disable-scheduler"):
            return
        scheduler = {**common, **self._identity("scheduler"), "secure-port": "10259"}
        argv = [self.release.program("kube-scheduler"), *arguments(scheduler, self.config.items("kube-scheduler-arg"))]
        self.children.start("kube-scheduler", argv)

    def _identity(self, name: str) -> dict[str, str]:
        path = f"{self.directory}/cred/{name}.kubeconfig"
        return {"kubeconfig": path, "authentication-kubeconfig": path, "authorization-kubeconfig": path}

    def _serve(self, api: Api) -> None:
        """Let other nodes join."""
        endpoint = Endpoint(self.config, api, self._credentials)
        endpoint.server_routes["/v1-k3s/token"] = self._rotate
        if isinstance(self.store, Etcd):
            members = self.store.admin.members
            endpoint.server_routes["/v1-k3s/server-bootstrap"] = lambda _: bootstrap.pack(self.directory)
            endpoint.server_routes["/db/info"] = lambda _: json.dumps({"members": members()})
        endpoint.serve()
        listen = f"{self.config.text('bind-address')}:{self.config.port}"
        self.children.start(
            "front", [self.release.program("front"), "-tls", self.tls, "-listen", listen, "-apiserver", f"{API_HOST}:{API_PORT}"]
        )
        url = f"https://{self.address}:{self.config.port}"
        log.info(f"Server node token is available at {self.directory}/token")
        log.info(f"To join server node to cluster: k3s server -s {url} -t ${{SERVER_NODE_TOKEN}}")
        log.info(f"Agent node token is available at {self.directory}/agent-token")
        log.info(f"To join agent node to cluster: k3s agent -s {url} -t ${{AGENT_NODE_TOKEN}}")

    def _start_background(self, api: Api) -> None:
        labels = {"node-role.kubernetes.io/control-plane": "true"}
        if isinstance(self.store, Etcd):
            labels["node-role.kubernetes.io/etcd"] = "true"
            self.children.every(2.0, EtcdNodes(self.config, api, self.store).update, "etcd nodes")
            if not self.config.on("etcd-disable-snapshots"):
                self.children.every(20.0, snapshots.Schedule(self.config, self.store).update, "snapshots")
        self.children.every(2.0, Nodes(self.config, api, labels).update, "nodes")
        manifests.stage(self.config)
        self.children.every(5.0, Manifests(self.config, self.release).update, "manifests")

    def _rotate(self, body: str) -> str:
        """``k3s token rotate``: the shared data are encrypted with the new token, and only that one is accepted."""
        fresh = tokens.parse(json.loads(body)["newToken"]).secret
        old = self.secret
        keys = bootstrap.key(old), bootstrap.key(fresh)
        if self.agent_secret == old:
            self.agent_secret = fresh
        self.secret = fresh
        self._write_tokens()
        self.store.admin("put", keys[1], stdin=bootstrap.encrypt(bootstrap.pack(self.directory), fresh))
        with contextlib.suppress(StoreError):
            self.store.admin("delete", keys[0])
        log.info("Server token rotated")
        return "{}"
