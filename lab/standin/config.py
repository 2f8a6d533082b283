# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of ``k3s server`` and ``k3s agent``: config.yaml, its drop-ins, the environment, the command line.

The keys are those of k3s v1.34 (its sources pkg/cli/cmds/server.go and agent.go); a key k3s does not know ends it, as there.
"""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import log
from .files import read

CONFIG_FILE = "/etc/rancher/k3s/config.yaml"
DATA_DIR = "/var/lib/rancher/k3s"

_BOTH_LISTS = """
airgap-extra-registry cluster-dns kube-proxy-arg kubelet-arg node-external-dns node-external-ip node-internal-dns node-ip
node-label node-taint
"""
_SERVER_LISTS = """
cluster-cidr disable etcd-arg kube-apiserver-arg kube-cloud-controller-arg kube-cloud-controller-manager-arg kube-controller-arg
kube-controller-manager-arg kube-scheduler-arg service-cidr tls-san
"""
_BOTH_TEXTS = """
config container-runtime-endpoint data-dir default-runtime flannel-cni-conf flannel-conf flannel-iface image-credential-provider-bin-dir
image-credential-provider-config image-service-endpoint lb-server-port log node-name nonroot-devices pause-image private-registry
resolv-conf server snapshotter token token-file v vmodule vpn-auth vpn-auth-file
"""
_SERVER_TEXTS = """
advertise-address advertise-port agent-token agent-token-file bind-address cluster-domain cluster-reset-restore-path datastore-cafile
datastore-certfile datastore-endpoint datastore-keyfile default-local-storage-path egress-selector-mode etcd-s3-access-key etcd-s3-bucket
etcd-s3-bucket-lookup-type etcd-s3-config-secret etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-folder etcd-s3-proxy etcd-s3-region
etcd-s3-retention etcd-s3-secret-key etcd-s3-session-token etcd-s3-timeout etcd-snapshot-dir etcd-snapshot-name
etcd-snapshot-reconcile-interval etcd-snapshot-retention etcd-snapshot-schedule-cron flannel-backend helm-job-image https-listen-port
secrets-encryption-provider service-node-port-range servicelb-namespace supervisor-port system-default-registry write-kubeconfig
write-kubeconfig-group write-kubeconfig-mode
"""
_BOTH_SWITCHES = """
alsologtostderr debug disable-apiserver-lb disable-default-registry-endpoint docker enable-pprof prefer-bundled-bin
protect-kernel-defaults rootless selinux with-node-id
"""
_SERVER_SWITCHES = """
cluster-init cluster-reset disable-agent disable-apiserver disable-cloud-controller disable-controller-manager disable-etcd
disable-helm-controller disable-kube-proxy disable-network-policy disable-scheduler embedded-registry etcd-disable-snapshots
etcd-expose-metrics etcd-s3 etcd-s3-insecure etcd-s3-skip-ssl-verify etcd-snapshot-compress flannel-external-ip flannel-ipv6-masq kine-tls
secrets-encryption supervisor-metrics tls-san-security
"""
_SHORT = {"d": "data-dir", "t": "token", "s": "server", "o": "write-kubeconfig", "i": "node-ip", "l": "log", "c": "config"}
_ENVIRONMENT = {
    "K3S_AGENT_TOKEN": "agent-token",
    "K3S_AGENT_TOKEN_FILE": "agent-token-file",
    "K3S_CLUSTER_INIT": "cluster-init",
    "K3S_CLUSTER_RESET": "cluster-reset",
    "K3S_DATASTORE_ENDPOINT": "datastore-endpoint",
    "K3S_KUBECONFIG_GROUP": "write-kubeconfig-group",
    "K3S_KUBECONFIG_MODE": "write-kubeconfig-mode",
    "K3S_KUBECONFIG_OUTPUT": "write-kubeconfig",
    "K3S_LB_SERVER_PORT": "lb-server-port",
    "K3S_NODE_NAME": "node-name",
    "K3S_RESOLV_CONF": "resolv-conf",
    "K3S_SELINUX": "selinux",
    "K3S_SYSTEM_DEFAULT_REGISTRY": "system-default-registry",
    "K3S_TOKEN": "token",
    "K3S_TOKEN_FILE": "token-file",
    "K3S_URL": "server",
    "K3S_VPN_AUTH": "vpn-auth",
    "K3S_VPN_AUTH_FILE": "vpn-auth-file",
}
_TRUE, _FALSE = ("true", "1", "t", "yes"), ("false", "0", "f", "no", "")


def kinds(command: str) -> dict[str, str]:
    """Every key of ``server`` or ``agent`` and its kind: list, text or switch."""
    lists, texts, switches = _BOTH_LISTS, _BOTH_TEXTS, _BOTH_SWITCHES
    if command == "server":
        lists, texts, switches = f"{lists} {_SERVER_LISTS}", f"{texts} {_SERVER_TEXTS}", f"{switches} {_SERVER_SWITCHES}"
    groups = (("list", lists), ("text", texts), ("switch", switches))
    return {key: kind for kind, keys in groups for key in keys.split()}


@dataclass(slots=True)
class Config:
    """The settings in force. *command* is server or agent; *values* has text, lists of text, or booleans."""

    command: str
    values: dict[str, Any] = field(default_factory=dict)

    def text(self, key: str, default: str = "") -> str:
        return str(self.values.get(key) or default)

    def items(self, key: str, default: Sequence[str] = ()) -> list[str]:
        return list(self.values.get(key) or default)

    def on(self, key: str) -> bool:
        return bool(self.values.get(key, False))

    @property
    def data_dir(self) -> str:
        return self.text("data-dir", DATA_DIR).rstrip("/")

    @property
    def server_dir(self) -> str:
        return f"{self.data_dir}/server"

    @property
    def agent_dir(self) -> str:
        return f"{self.data_dir}/agent"

    @property
    def tls_dir(self) -> str:
        return f"{self.data_dir}/server/tls"

    @property
    def node_name(self) -> str:
        return self.text("node-name", socket.gethostname()).lower()

    @property
    def port(self) -> int:
        return int(self.text("https-listen-port", "6443"))

    @property
    def cluster_cidr(self) -> str:
        return self.items("cluster-cidr", ["10.42.0.0/16"])[0]

    @property
    def service_cidr(self) -> str:
        return self.items("service-cidr", ["10.43.0.0/16"])[0]

    @property
    def domain(self) -> str:
        return self.text("cluster-domain", "cluster.local")


def load(command: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Raises FatalError in k3s's words for what it would refuse."""
    given = from_arguments(command, arguments)
    path = str(given.get("config") or environment.get("K3S_CONFIG_FILE") or CONFIG_FILE)
    values: dict[str, Any] = {}
    for file in [path, *sorted(glob.glob(f"{path}.d/*.yaml") + glob.glob(f"{path}.d/*.yml"))]:
        if os.path.exists(file):
            merge_file(command, values, file, read(file))
    for variable, key in _ENVIRONMENT.items():
        if environment.get(variable) and key in kinds(command):
            values[key] = environment[variable]
    values.update(given)
    settled = {key: settle(command, key, value) for key, value in values.items()}
    for secret in ("token", "agent-token"):
        token_file = settled.get(f"{secret}-file")
        if token_file and not settled.get(secret):
            try:
                settled[secret] = read(token_file).strip()
            except OSError as problem:
                raise log.FatalError(f"open {token_file}: {(problem.strerror or '').lower()}") from None
    return Config(command, settled)


def from_arguments(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    known, rest = kinds(command), list(arguments)
    values: dict[str, Any] = {}
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.lstrip("-").partition("=")
        key = _SHORT.get(name, name)
        if not argument.startswith("-") or key not in known:
            raise log.FatalError(f"flag provided but not defined: -{key}")
        if not has_value:
            if known[key] == "switch":
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise log.FatalError(f"flag needs an argument: -{key}")
        if known[key] == "list":
            values[key] = [*values.get(key, []), *_split(value)]
        else:
            values[key] = value
    return values


def merge_file(command: str, values: dict[str, Any], path: str, text: str) -> None:
    """Lay the keys of one file over *values*; ``key+`` appends to a list."""
    import yaml

    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as problem:
        raise log.FatalError(f"failed to parse config file {path}: {str(problem).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise log.FatalError(f"failed to parse config file {path}: yaml: unmarshal errors: cannot unmarshal into yaml.MapSlice")
    for raw, value in content.items():
        key = str(raw)
        name = _SHORT.get(key.rstrip("+"), key.rstrip("+"))
        # k3s skips what it does not know in a file (its stripInvalidFlags), and refuses it on the command line
        if name not in kinds(command):
            log.warning(f"Unknown flag --{name} found in config.yaml, skipping\n")
            continue
        if key.endswith("+"):
            value = [*_as_list(values.get(name, [])), *_as_list(value)]
        values[name] = value


def settle(command: str, key: str, value: Any) -> Any:
    """*value* in the type of *key*."""
    kind = kinds(command)[key]
    if kind == "list":
        return _as_list(value)
    if kind == "switch":
        text = str(value).lower()
        if text not in _TRUE + _FALSE:
            raise log.FatalError(f'invalid boolean value "{value}" for -{key}: parse error')
        return text in _TRUE
    return "" if value is None else str(value)


def _as_list(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(item) for item in value]
    return _split("" if value is None else str(value))


def _split(value: str) -> list[str]:
    # arguments of a component may contain commas of their own (feature-gates=A=true,B=true)
    return [value] if re.match(r"^[\w-]+=.*,.*=", value) else [item for item in value.split(",") if item]
