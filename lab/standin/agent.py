# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's part, which servers run too: join, then containerd, kubelet, kube-proxy and the pod network."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from . import containerd, host, kubeconfig, log, pki
from .api import Api
from .balancer import Balancer
from .config import Config
from .files import read, write
from .join import JoinError, Supervisor
from .network import PodNetwork
from .processes import Children, arguments, notify
from .release import Release

NODE_PASSWORD = "/etc/rancher/node/password"
MAX_OPEN_FILES = 20000  # a lab node's limit; kubelet's default is above it
RETRY, VALIDATE_RETRY = 5.0, 2.0  # seconds, as in k3s's pkg/agent
REJECTED = (
    f"Node password rejected, duplicate hostname or contents of '{NODE_PASSWORD}' may not match server node-passwd entry, "
    "try enabling a unique node name with the --with-node-id flag"
)


class Agent:
    """One node's agent. *ready*: what else must hold before systemd is told that k3s is ready (a server's own API)."""

    def __init__(self, config: Config, release: Release, children: Children, ready: Callable[[], bool] | None = None) -> None:
        self.config, self.release, self.children = config, release, children
        self.ready = ready
        self.address = host.node_address(config.items("node-ip"))
        self.server = config.text("server")
        # an agent reaches all servers through a balancer of its own, a server its own API
        self.api_url = f"https://127.0.0.1:{config.text('lb-server-port', '6444')}" if config.command == "agent" else self.server
        self.balancer: Balancer | None = None

    def run(self) -> None:
        """Return when told to stop. Raises FatalError where k3s would end."""
        host.prepare()
        if self.config.command == "agent":
            self.balancer = self._start_balancer()
        supervisor = Supervisor(self.api_url, self.config.text("token"), "node" if self.config.command == "agent" else "")
        self._validate(supervisor)
        settings = self._join(supervisor)
        self.start_runtime()
        self._start_kubelet(settings)
        self._start_proxy(settings)
        network = PodNetwork(self._api(supervisor), self.config.node_name, self.config.agent_dir, settings["ClusterIPRange"])
        self.children.every(1.0, network.update, "network")
        if self.balancer is not None:
            balancer = self.balancer
            self.children.every(5.0, lambda: balancer.learn(network.api), "balancer")
        self.children.wait("kubelet", kubelet_healthy)
        if self.ready is not None:
            self.children.wait("the API", self.ready)
        log.info("k3s agent is up and running" if self.config.command == "agent" else "k3s is up and running")
        notify("READY=1\n")
        self.children.watch()

    def start_runtime(self) -> None:
        """Have containerd with the airgap images. A server does it while its API starts."""
        if "containerd" not in self.children.running:
            host.prepare()
            containerd.start(self.config, self.children)
            containerd.import_images(self.config.agent_dir)

    def _start_balancer(self) -> Balancer:
        host.check_port(int(self.api_url.rpartition(":")[2]), "127.0.0.1", "Error starting load balancer")
        balancer = Balancer(f"{self.config.agent_dir}/etc/k3s-agent-load-balancer.json", self.server)
        argv = [self.release.program("front"), "-balance", balancer.file, "-listen", self.api_url.removeprefix("https://")]
        self.children.start("balancer", argv)
        return balancer

    def _validate(self, supervisor: Supervisor) -> None:
        while True:
            try:
                return supervisor.trust()
            except (JoinError, PermissionError) as problem:
                log.error(f"Failed to validate connection to cluster at {self.server}: {problem}")
            self._pause(VALIDATE_RETRY)

    def _join(self, supervisor: Supervisor) -> Mapping[str, Any]:
        while True:
            try:
                return self._fetch(supervisor)
            except PermissionError:
                problem = REJECTED
            except JoinError as failure:
                problem = str(failure)
            log.info(f"Waiting to retrieve agent configuration; server is not ready: {problem}")
            self._pause(RETRY)

    def _pause(self, seconds: float) -> None:
        self.children.check()
        if self.children.stopping.wait(seconds):
            raise SystemExit(0)

    def _fetch(self, supervisor: Supervisor) -> Mapping[str, Any]:
        """Certificates and settings from the server, written where kubelet and kube-proxy look."""
        directory = self.config.agent_dir
        try:
            settings: Mapping[str, Any] = json.loads(supervisor.get("/v1-k3s/config"))
        except JoinError as problem:
            raise JoinError(f"failed to retrieve configuration from server: {problem}") from None
        for name in ("client-ca.crt", "server-ca.crt"):
            write(f"{directory}/{name}", supervisor.get(f"/v1-k3s/{name}"))
        who = {"k3s-Node-Name": self.config.node_name, "k3s-Node-Password": node_password(), "k3s-Node-IP": self.address}
        for name in ("serving-kubelet", "client-kubelet", "client-kube-proxy", "client-k3s-controller"):
            key = f"{directory}/{name}.key"
            pki.ensure_key(key)
            write(f"{directory}/{name}.crt", supervisor.post(f"/v1-k3s/{name}.crt", pki.request(key), who))
        ca = f"{directory}/server-ca.crt"
        for name, client in (("kubelet", "client-kubelet"), ("kubeproxy", "client-kube-proxy"), ("k3scontroller", "client-k3s-controller")):
            kubeconfig.write_internal(
                f"{directory}/{name}.kubeconfig", self.api_url, ca, f"{directory}/{client}.crt", f"{directory}/{client}.key"
            )
        return settings

    def _api(self, supervisor: Supervisor) -> Api:
        directory = self.config.agent_dir
        client = f"{directory}/client-kube-proxy"
        return Api(supervisor.host, supervisor.port, f"{directory}/server-ca.crt", f"{client}.crt", f"{client}.key")

    def _start_kubelet(self, settings: Mapping[str, Any]) -> None:
        directory = self.config.agent_dir
        file = f"{directory}/etc/kubelet.conf.d/00-k3s-defaults.conf"
        write(file, json.dumps(self._kubelet_configuration(settings), indent=2))
        labels = ["node.kubernetes.io/instance-type=k3s", *self.config.items("node-label")]
        options = {
            "config": file,
            "hostname-override": self.config.node_name,
            "kubeconfig": f"{directory}/kubelet.kubeconfig",
            "node-ip": self.address,
            "node-labels": ",".join(labels),
        }
        if self.config.items("node-taint"):
            options["register-with-taints"] = ",".join(self.config.items("node-taint"))
        if self.config.on("protect-kernel-defaults"):
            options["protect-kernel-defaults"] = "true"
        argv = [self.release.program("kubelet"), *arguments(options, self.config.items("kubelet-arg"))]
        self.children.start("kubelet", argv)

    def _kubelet_configuration(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        directory = self.config.agent_dir
        os.makedirs(f"{directory}/pod-manifests", exist_ok=True)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{directory}/client-ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "clusterDNS": [settings["ClusterDNS"]],
            "clusterDomain": settings["ClusterDomain"],
            "containerRuntimeEndpoint": f"unix://{containerd.SOCKET}",
            "evictionHard": {"imagefs.available": "5%", "nodefs.available": "5%"},
            "evictionMinimumReclaim": {"imagefs.available": "10%", "nodefs.available": "10%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "maxOpenFiles": MAX_OPEN_FILES,
            "oomScoreAdj": 0,
            "resolvConf": host.resolv_conf(self.config.text("resolv-conf"), self.config.data_dir),
            "serializeImagePulls": False,
            "staticPodPath": f"{directory}/pod-manifests",
            "syncFrequency": "30s",
            "tlsCertFile": f"{directory}/serving-kubelet.crt",
            "tlsPrivateKeyFile": f"{directory}/serving-kubelet.key",
        }

    def _start_proxy(self, settings: Mapping[str, Any]) -> None:
        if settings.get("DisableKubeProxy"):
            return
        directory = self.config.agent_dir
        write(
            f"{directory}/etc/kube-proxy.json",
            json.dumps(
                {
                    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                    "kind": "KubeProxyConfiguration",
                    "mode": "iptables",
                    "clusterCIDR": settings["ClusterIPRange"],
                    "healthzBindAddress": "127.0.0.1:10256",
                    "metricsBindAddress": "127.0.0.1:10249",
                    "hostnameOverride": self.config.node_name,
                    "clientConnection": {"kubeconfig": f"{directory}/kubeproxy.kubeconfig"},
                    "oomScoreAdj": 0,
                    # setting them is denied in a container
                    "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
                }
            ),
        )
        argv = [self.release.program("kube-proxy"), "--config", f"{directory}/etc/kube-proxy.json"]
        self.children.start("kube-proxy", argv)


def node_password() -> str:
    """This node's own password, made at its first join and kept outside the data folder."""
    if not os.path.exists(NODE_PASSWORD):
        write(NODE_PASSWORD, secrets.token_hex(16) + "\n")
    return read(NODE_PASSWORD).strip()


def kubelet_healthy() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", 10248, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    finally:
        connection.close()
