# SPDX-License-Identifier: GPL-3.0-or-later
"""What k3s's own messages mean: the states of a join, what to do in each, and the wordings that name them.

Every pattern names the source file its wording comes from. Paths without a repository are k3s-io/k3s, read in versions between v1.19
and v1.34; where a wording changed between those, both are here. What k3s wraps around it (`starting kubernetes: preparing server: …`,
`Error: …`) changes often, so patterns match inside a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

READY = "ready"
STARTING = "starting"
TOKEN_REJECTED = "token_rejected"
NODE_PASSWORD_REJECTED = "node_password_rejected"
CA_MISMATCH = "ca_mismatch"
SERVER_UNREACHABLE = "server_unreachable"
CLOCK_SKEW = "clock_skew"
CGROUP_MEMORY_MISSING = "cgroup_memory_missing"
NO_DEFAULT_ROUTE = "no_default_route"
PORT_IN_USE = "port_in_use"
DISK_PRESSURE = "disk_pressure"
CRASH_LOOP = "crash_loop"
UNKNOWN = "unknown"

STATES = (
    READY,
    STARTING,
    TOKEN_REJECTED,
    NODE_PASSWORD_REJECTED,
    CA_MISMATCH,
    SERVER_UNREACHABLE,
    CLOCK_SKEW,
    CGROUP_MEMORY_MISSING,
    NO_DEFAULT_ROUTE,
    PORT_IN_USE,
    DISK_PRESSURE,
    CRASH_LOOP,
    UNKNOWN,
)

#: What to do. ``{node}``, ``{server}``, ``{port}``, ``{holder}``, ``{data_dir}`` and ``{unit}`` are filled in.
HINTS: Mapping[str, str] = {
    READY: "",
    STARTING: "k3s is still starting. Wait, or raise `k3s_join_timeout`.",
    TOKEN_REJECTED: (
        "The server refuses this node's token. Compare it with {data_dir}/server/token on a server, or leave `k3s_token` and "
        "`k3s_agent_token` out of the inventory, so that site.yml takes the cluster's own."
    ),
    NODE_PASSWORD_REJECTED: (
        "The cluster knows a node of this name with another password: this one was reinstalled, or two nodes share the name. "
        "For a reinstalled node: `kubectl -n kube-system delete secret {node}.node-password.k3s`, or the rebuild playbook with "
        "--limit for it. Else give the nodes different names."
    ),
    CA_MISMATCH: (
        "The server at {server} is not the one that the token comes from: its CA is another. Is the address right, and was the "
        "cluster built anew? A node of a former cluster needs `playbooks/reset.yml` first."
    ),
    SERVER_UNREACHABLE: (
        "No k3s server answers at {server}. Is k3s running there, is its port open between the nodes, and is the address right? "
        "(k3s cannot resolve `.local` names.)"
    ),
    CLOCK_SKEW: (
        "The clocks of this node and the server disagree, so certificates look expired or not yet valid. "
        "Let time sync finish on both (`timedatectl`), then run again."
    ),
    CGROUP_MEMORY_MISSING: (
        "The kernel runs without the memory cgroup controller. Append `cgroup_memory=1 cgroup_enable=memory` to the one line of "
        "cmdline.txt (/boot/firmware or /boot) and reboot; the role base_os does both."
    ),
    NO_DEFAULT_ROUTE: (
        "The node has no default route, so k3s cannot choose an address. Give the node a gateway (`ip route` shows none), then run again."
    ),
    PORT_IN_USE: "Stop what listens on port {port}: {holder}. Then run again.",
    DISK_PRESSURE: (
        "The file system of {data_dir} is full or nearly so. Free space there (`journalctl --vacuum-size=100M`, "
        "`k3s crictl rmi --prune`), or use a larger disk or another `k3s_data_dir`."
    ),
    CRASH_LOOP: "k3s ends again and again for a reason that is not recognised: see `evidence`, `log` and `journalctl -u {unit} -e`.",
    UNKNOWN: "See `log`, `systemctl status {unit}` and `journalctl -u {unit} -e` on the node.",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """A wording, the state it means and what to do about it. A line that *unless* matches too is not meant."""

    state: str
    pattern: re.Pattern[str]
    hint: str
    unless: re.Pattern[str] | None = None

    def explains(self, said: str) -> bool:
        """Return whether the message *said* has this cause."""
        return bool(self.pattern.search(said)) and not (self.unless and self.unless.search(said))


def _cause(state: str, pattern: str, hint: str = "", unless: str = "") -> Cause:
    return Cause(state, re.compile(pattern), hint or HINTS[state], re.compile(unless) if unless else None)


#: Certificates of image registries and webhooks are no concern of the join.
_OTHER_TLS = r"(?i)\bpull|image|registry|webhook"

#: The first that explains a message decides, so the more specific stands first.
_CAUSES: tuple[Cause, ...] = (
    # pkg/cgroups/cgroups_linux.go: `failed to find memory cgroup, you may need to add "cgroup_memory=1 cgroup_enable=memory" …` (v1),
    # `failed to find memory cgroup (v2)`. kubernetes pkg/kubelet/cm/container_manager_linux.go: `system validation failed - Following
    # Cgroup subsystem not mounted: [memory]`.
    _cause(CGROUP_MEMORY_MISSING, r"[Ff]ailed to find memory cgroup|Following Cgroup subsystem not mounted: \[[^\]]*memory"),
    # k8s.io/apimachinery pkg/util/net/interface.go, through pkg/util (GetHostnameAndIPs) and apiserver; flannel-io/flannel
    # pkg/ip/iface.go.
    _cause(NO_DEFAULT_ROUTE, r"no default routes found in|unable to select an IP from default routes|[Uu]nable to find default route"),
    # Go crypto/x509/verify.go: `x509: certificate has expired or is not yet valid: current time … is before …`, or `… is after …`.
    # OpenSSL says it in two wordings.
    _cause(CLOCK_SKEW, r"certificate (?:has expired or )?is not yet valid|certificate has expired", unless=_OTHER_TLS),
    # pkg/agent/config/config.go (getNodeNamedCrt), for HTTP 403. A server's `unable to verify hash for node '…'` (pkg/nodepassword)
    # is about the other node and no reason for the server itself.
    _cause(NODE_PASSWORD_REJECTED, r"Node password rejected"),
    # Same file, any other status; 400 comes from pkg/nodepassword/validate.go: `header node name does not match auth node name`.
    _cause(
        NODE_PASSWORD_REJECTED,
        r"/v1-k3s/(?:client|serving)-kubelet\.crt: 400",
        "This node's certificates are for another node name: it was renamed after it had joined. Rename it back, or reset it "
        "(`playbooks/reset.yml` with --limit for it) and run again.",
    ),
    # pkg/clientaccess/token.go (validateCAHash, getCACerts).
    _cause(CA_MISMATCH, r"token CA hash does not match the Cluster CA certificate hash"),
    _cause(
        CA_MISMATCH,
        r"x509: certificate is valid for .*, not ",
        "The server's certificate does not name the address that this node uses ({server}). Add that address to `k3s_tls_san`.",
        unless=_OTHER_TLS,
    ),
    # Go crypto/x509 and OpenSSL, for a node that still trusts the CA of a former cluster.
    _cause(
        CA_MISMATCH,
        r"certificate signed by unknown authority|self.signed certificate in certificate chain|unable to get (?:local )?issuer certificate",
        unless=_OTHER_TLS,
    ),
    # pkg/clientaccess/token.go (get: `<url>: <status>`): /v1-k3s/config for agents, /v1-k3s/server-bootstrap for servers, where an agent
    # token gets 403. Up to v1.19 agents said `token is not valid: https://…/apis: 401 Unauthorized`.
    _cause(TOKEN_REJECTED, r"/v1-k3s/[\w.-]+: 40[13]\b|token is not valid: \S+: 401"),
    # pkg/clientaccess/token.go (parseToken), pkg/cli/agent and pkg/cli/server, pkg/cluster (bootstrap, normalizeToken).
    _cause(
        TOKEN_REJECTED,
        r"invalid token (?:format|CA hash length)|token must not be empty|failed to normalize (?:server )?token|_TOKEN is required to join"
        r"|--token is required",
        "The token in this node's configuration is empty or no k3s token. Leave `k3s_token` out of the inventory, so that site.yml "
        "takes the cluster's own, or give the whole content of {data_dir}/server/token of a server.",
    ),
    # pkg/cluster/storage.go (getBootstrapKeyFromStorage).
    _cause(
        TOKEN_REJECTED,
        r"bootstrap data already found and encrypted with different token",
        "The datastore of this server was made with another token. Give that one (it was in {data_dir}/server/token), or wipe the "
        "server with `playbooks/reset.yml`.",
    ),
    # EADDRINUSE as Go and Python word it: supervisor 6443, load balancer of an agent 6444 (pkg/agent/loadbalancer), kubelet 10250.
    _cause(PORT_IN_USE, r"[Aa]ddress already in use"),
    # ENOSPC and EDQUOT as Go words them; SQLITE_FULL.
    _cause(DISK_PRESSURE, r"[Nn]o space left on device|[Dd]isk quota exceeded|database or disk is full"),
    # The causes that follow have no state of their own in the contract: k3s loops, and the hint tells why.
    # pkg/etcd/etcd.go (join).
    _cause(
        CRASH_LOOP,
        r"duplicate node name found, please use a unique name",
        "etcd still has a member of this node's name. Run the rebuild playbook with --limit for it: it removes the member "
        "(annotation `etcd.k3s.cattle.io/remove=true`) before the node joins again.",
    ),
    # pkg/cluster/bootstrap.go (compareConfig).
    _cause(
        CRASH_LOOP,
        r"critical configuration value mismatch",
        "This server's configuration differs from the others' in a value that all servers must share (cluster-cidr, service-cidr, "
        "cluster-dns, cluster-domain, disable, secrets-encryption, …). Set it for the group, not for one host.",
    ),
    # pkg/server/handlers/handlers.go (Bootstrap) answers HTTP 400 with `etcd disabled`; the joiner shows the status.
    _cause(
        CRASH_LOOP,
        r"/v1-k3s/server-bootstrap: 400",
        "The first server keeps its data in SQLite, which no second server can join. Convert it to embedded etcd "
        "(`cluster-init: true` and a restart), or keep one server.",
    ),
    # pkg/cluster/bootstrap.go (ReconcileBootstrapData).
    _cause(
        CRASH_LOOP,
        r"newer than datastore and could cause a cluster outage",
        "Files under {data_dir}/server differ from the datastore. Remove those that `evidence` names, and start k3s again.",
    ),
    # urfave/cli and pkg/configfilearg.
    _cause(
        CRASH_LOOP,
        r"flag provided but not defined|unknown flag: |failed to parse config",
        "This k3s version does not know a setting that `evidence` names, or a file of /etc/rancher/k3s is no valid YAML. "
        "Correct `k3s_server_config` or `k3s_agent_config`.",
    ),
)

#: Go's and Python's words for "nobody answers there" …
_NO_ANSWER = re.compile(
    r"[Cc]onnection refused|[Nn]o route to host|[Nn]etwork is unreachable|timed out|i/o timeout|no such host|Name or service not known"
    r"|\bEOF\b|[Cc]onnection reset|context deadline exceeded|Client\.Timeout exceeded|TLS handshake timeout"
)
#: … in the lines that are about the server to join: pkg/agent/run.go (createProxyAndValidateToken), pkg/agent/config/config.go (Get),
#: pkg/clientaccess/token.go.
_ABOUT_SERVER = re.compile(
    r"Failed to validate connection to cluster|Waiting to retrieve agent configuration|failed to get CA certs"
    r"|[Ff]ailed to retrieve configuration|/cacerts|/v1-k3s/"
)
_UNREACHABLE = Cause(SERVER_UNREACHABLE, _NO_ANSWER, HINTS[SERVER_UNREACHABLE])
_OWN_PORT = re.compile(r"https://(?:127\.0\.0\.1|localhost|\[::1\]):(\d+)")

#: Once the kubelet runs, the server, its CA, the token and the node password have been accepted, so older lines about those are
#: history. pkg/daemons/agent/agent.go: `Running kubelet --…`; pkg/agent/run.go, pkg/cli/server: `… is up and running`.
_JOINED = re.compile(r"Running kubelet |\bis up and running")
_OVERCOME_BY_JOINING = frozenset({TOKEN_REJECTED, NODE_PASSWORD_REJECTED, CA_MISMATCH, SERVER_UNREACHABLE, CLOCK_SKEW})

#: sirupsen/logrus TextFormatter, as k3s prints when it writes to no terminal.
_LOGRUS = re.compile(r'level=\w+ msg=(?:"((?:[^"\\]|\\.)*)"|(\S+))(?:.*?\berror="((?:[^"\\]|\\.)*)")?')
#: How k3s ends: logrus fatal, a Go panic, klog fatal, pkg/signals (RequestShutdown), cobra's `"command failed" err=…`.
_END = re.compile(r'level=(?:fatal|panic)|^panic: |^F\d{4} |[Ss]hutdown request received|"command failed"')


def message(text: str) -> str:
    """Return what a journal line says: the message of a logrus line with its quoting undone, else the line itself."""
    found = _LOGRUS.search(text)
    if not found:
        return text.strip()
    said = (found[1] or found[2] or "") + (f": {found[3]}" if found[3] else "")
    return said.replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\")


def is_end(text: str) -> bool:
    """Return whether with this line k3s said why it ends."""
    return bool(_END.search(text))


def is_joined(said: str) -> bool:
    """Return whether the message *said* shows that the server has accepted the node."""
    return bool(_JOINED.search(said))


def overcome_by_joining(state: str) -> bool:
    """Return whether a cause of *state* is history once the server has accepted the node."""
    return state in _OVERCOME_BY_JOINING


def classify(said: str, role: str, port: int) -> Cause | None:
    """Return what the message *said* means for a node of *role* whose server port is *port*, None where it means nothing here."""
    for cause in _CAUSES:
        if cause.explains(said):
            return cause
    if not (_ABOUT_SERVER.search(said) and _NO_ANSWER.search(said)):
        return None
    own = _OWN_PORT.search(said)
    if role == "server" and own and int(own[1]) == port:
        return None  # a server's agent asks the server in its own process, which is not up yet: a normal part of starting
    return _UNREACHABLE
