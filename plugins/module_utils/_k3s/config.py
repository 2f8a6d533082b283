# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts of k3s's configuration files, from the settings of one node. Option names: https://docs.k3s.io/cli/server, /cli/agent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.k3s_places import TOKEN

SYSCTL_FILE = "/etc/sysctl.d/90-kubelet.conf"
POD_SECURITY_FILE = "/etc/rancher/k3s/pod-security.yaml"
AUDIT_POLICY_FILE = "/etc/rancher/k3s/audit-policy.yaml"

#: Keys that the collection sets itself. A user who sets one of them elsewhere would get a node nobody expects.
RESERVED = {
    "token": "k3s_token",
    "token-file": "k3s_token",
    "agent-token": "k3s_agent_token",
    "agent-token-file": "k3s_agent_token",
    "server": "k3s_api_endpoint",
    "cluster-init": "the group control_plane",
    "data-dir": "k3s_data_dir",
    "datastore-endpoint": "k3s_datastore_endpoint",
    "node-name": "the host's name in the inventory",
    "node-label": "k3s_node_labels",
    "node-taint": "k3s_node_taints",
}

#: The same as variables of k3s's environment (https://docs.k3s.io/reference/env-variables), which k3s reads like its configuration.
RESERVED_VARIABLES = {f"K3S_{key.upper().replace('-', '_')}": setting for key, setting in RESERVED.items() if key != "server"} | {
    "K3S_URL": RESERVED["server"],
    "K3S_CONFIG_FILE": "k3s_server_config and k3s_agent_config",
}

#: what to do about a name that ``not_variables`` returns
VARIABLE_HINT = "A name has letters, digits and _; a value has one line."

# Always local: the fleet's own traffic never goes through a proxy (https://docs.k3s.io/advanced#configuring-an-http-proxy).
_NO_PROXY = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", ".svc", ".cluster.local")

# CIS profile: https://docs.k3s.io/security/hardening-guide
_CIS_KUBELET = ("streaming-connection-idle-timeout=5m",)
_CIS_CONTROLLER = ("terminated-pod-gc-threshold=10",)
CIS_SYSCTLS = "vm.panic_on_oom=0\nvm.overcommit_memory=1\nkernel.panic=10\nkernel.panic_on_oops=1\n"
CIS_POD_SECURITY = """\
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: PodSecurity
    configuration:
      apiVersion: pod-security.admission.config.k8s.io/v1
      kind: PodSecurityConfiguration
      defaults:
        enforce: restricted
        enforce-version: latest
        audit: restricted
        audit-version: latest
        warn: restricted
        warn-version: latest
      exemptions:
        usernames: []
        runtimeClasses: []
        namespaces: [kube-system, monitoring]
"""
CIS_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
  - level: Metadata
"""


def yaml_text(settings: Mapping[str, Any]) -> str:
    """Return *settings* (scalars and lists of scalars, as k3s's configuration is) as YAML, keys sorted. JSON scalars are YAML scalars."""
    lines = []
    for key, value in sorted(settings.items()):
        if isinstance(value, Mapping):
            raise PifleetError(f"k3s configuration: {key} is a mapping, and k3s takes only values and lists of values.")
        if isinstance(value, (list, tuple)):
            lines += [f"{key}:", *(f"  - {_scalar(v)}" for v in value)] if value else [f"{key}: []"]
        else:
            lines.append(f"{key}: {_scalar(value)}")
    return "# Managed by pifleet.ops\n" + "".join(line + "\n" for line in lines)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]*", value) and value.lower() not in _YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


# plain words that YAML 1.1 reads as something else than text
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}


def config_text(
    role: str, *, node_name: str, node_ip: str, data_dir: str, extra: Mapping[str, Any], cis_profile: bool, datastore_endpoint: str | None
) -> str:
    """Return ``config.yaml``. *extra*: further keys; a list is added to the collection's own, anything else replaces it.

    Raises PifleetError for a key that the collection sets itself.
    """
    clash = sorted(set(extra) & set(RESERVED))
    if clash:
        raise PifleetError(f"k3s_{role}_config: {clash[0]} is set by the collection.", f"Use {RESERVED[clash[0]]} instead.")
    settings: dict[str, Any] = {"node-name": node_name, "node-ip": node_ip, "data-dir": data_dir, "token-file": TOKEN}
    if role == "server":
        settings |= {"agent-token-file": "/etc/rancher/k3s/agent-token", "write-kubeconfig-mode": "0600"}
    if datastore_endpoint:
        settings["datastore-endpoint"] = datastore_endpoint
    if cis_profile:
        settings |= _cis_settings(role, data_dir)
    for key, value in extra.items():
        mine = settings.get(key)
        settings[key] = [*mine, *(v for v in value if v not in mine)] if isinstance(mine, list) and isinstance(value, list) else value
    return yaml_text(settings)


def _cis_settings(role: str, data_dir: str) -> dict[str, Any]:
    common: dict[str, Any] = {"protect-kernel-defaults": True, "kubelet-arg": list(_CIS_KUBELET)}
    if role == "agent":
        return common
    return common | {
        "secrets-encryption": True,
        "kube-apiserver-arg": [
            f"admission-control-config-file={POD_SECURITY_FILE}",
            f"audit-log-path={data_dir}/server/logs/audit.log",
            f"audit-policy-file={AUDIT_POLICY_FILE}",
            "audit-log-maxage=30",
            "audit-log-maxbackup=10",
            "audit-log-maxsize=100",
            "service-account-extend-token-expiration=false",
        ],
        "kube-controller-manager-arg": list(_CIS_CONTROLLER),
    }


def cis_files(role: str) -> dict[str, tuple[str, int]]:
    """Return the files of the CIS profile: content and mode by path."""
    files = {SYSCTL_FILE: (CIS_SYSCTLS, 0o644)}
    if role == "server":
        files |= {POD_SECURITY_FILE: (CIS_POD_SECURITY, 0o600), AUDIT_POLICY_FILE: (CIS_AUDIT_POLICY, 0o600)}
    return files


def join_text(*, server_url: str, cluster_init: bool, labels: Mapping[str, str], taints: Sequence[str]) -> str:
    """Return ``config.yaml.d/10-join.yaml``: how the node registers for the first time; empty when there is nothing to say.

    Once a node has joined this file is history: labels and taints are kept on the Node object, so that changing one restarts nothing.
    """
    settings: dict[str, Any] = {}
    if server_url:
        settings["server"] = server_url
    elif cluster_init:
        settings["cluster-init"] = True
    if labels:
        settings["node-label"] = [f"{k}={v}" for k, v in sorted(labels.items())]
    if taints:
        settings["node-taint"] = list(taints)
    return yaml_text(settings) if settings else ""


def environment_text(environment: Mapping[str, str], http_proxy: str, https_proxy: str, no_proxy: Sequence[str]) -> str:
    """Return the unit's EnvironmentFile: one ``KEY="value"`` a line, quoted as systemd.exec(5) reads it.

    Raises PifleetError for a name or value that systemd would not read, and for a variable that the collection sets itself.
    """
    if clash := sorted(set(environment) & set(RESERVED_VARIABLES)):
        raise PifleetError(f"k3s_extra_env: {clash[0]} is set by the collection.", f"Use {RESERVED_VARIABLES[clash[0]]} instead.")
    values = dict(environment)
    if http_proxy or https_proxy:
        values = {
            "HTTP_PROXY": http_proxy or https_proxy,
            "HTTPS_PROXY": https_proxy or http_proxy,
            "NO_PROXY": ",".join(dict.fromkeys((*_NO_PROXY, *no_proxy))),
        } | values
    if bad := not_variables(values):
        raise PifleetError(f"k3s_extra_env: {bad[0]} is no environment variable.", VARIABLE_HINT)
    return "".join(f'{k}="{_escaped(v)}"\n' for k, v in sorted(values.items()))


def not_variables(environment: Mapping[str, Any]) -> list[str]:
    """Return the names of *environment* that systemd would not read, or not with their value; sorted."""
    return sorted(k for k, v in environment.items() if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", k) or "\n" in str(v))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
