# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs to run k3s, as a plan: files, unit, tokens and whether the unit must be started or restarted.

Pure: facts in, plan out. The façade ``k3s_install`` reads the facts and carries out exactly the plan that check mode shows.

A restart is derived from state, never from "this run wrote something": the unit records at each start which inputs (inode, size,
modification time) it was started with, so a run that was killed between writing a file and restarting is finished by the next one,
and a node that was rebooted in between is not restarted again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.k3s_places import BINARY, CONFIG, TOKEN
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import Change
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK, scrub_settings

#: k3s merges config.yaml.d/*.yaml over config.yaml: https://docs.k3s.io/installation/configuration#configuration-file
JOIN = "/etc/rancher/k3s/config.yaml.d/10-join.yaml"
REGISTRIES = "/etc/rancher/k3s/registries.yaml"
AGENT_TOKEN = "/etc/rancher/k3s/agent-token"
#: where the role k3s_artifacts puts what it copies: folders that only root can write to, on the targets' file systems as a rule
STAGED_BINARY = "/usr/local/bin/.k3s.staged"
STAGED_IMAGES = "/var/lib/.k3s-airgap-images.staged"
LINKS = ("kubectl", "crictl", "ctr")

UNITS = {"server": "k3s", "agent": "k3s-agent"}


def unit_path(role: str) -> str:
    return f"/etc/systemd/system/{UNITS[role]}.service"


def env_path(role: str) -> str:
    return f"{unit_path(role)}.env"


def inputs_path(role: str) -> str:
    """Where the unit records what it was started with. On /run: gone after a reboot, as the process is."""
    return f"/run/pifleet-{UNITS[role]}.inputs"


@dataclass(frozen=True, slots=True)
class File:
    """One managed file. *secret*: its content appears in no diff."""

    path: str
    content: str
    mode: int = 0o600
    secret: bool = False
    #: whether a running k3s has to be restarted to notice a change
    restarts: bool = True


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified file that was staged on the node, to be moved to *target*. *sha256* None: not known before the download (check mode)."""

    staged: str
    target: str
    sha256: str | None
    mode: int


@dataclass(frozen=True, slots=True)
class Desired:
    """What the inventory wants of one node. Texts are complete file contents; an empty text means the file shall not be there."""

    role: str
    version: str
    data_dir: str
    config: str
    join: str
    #: servers that an existing join file may go on naming; a node is not restarted because another server would do as well
    servers: tuple[str, ...]
    token: str | None
    agent_token: str | None
    generate_tokens: bool
    environment: str
    registries: str
    files: tuple[File, ...]
    binary: Artifact
    images: Artifact | None
    sysctl_file: str = ""
    #: tokens by which the cluster takes a node of this role, where they were asked for
    cluster_tokens: tuple[str, ...] = ()
    #: whether the unit is brought up; a restore installs first, replaces the datastore, and starts only then
    start: bool = True


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of the unit. *needs_reload*: the file on disk is newer than what systemd has loaded."""

    active: str = "inactive"
    enabled: bool = False
    needs_reload: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What is on the node now.

    *files*: content and mode of each managed path that exists; *stats*: one line a path as ``stat_line`` gives it;
    *recorded*: what the unit was started with (None: not recorded); *managed*: paths of the last run's stamp.
    """

    files: Mapping[str, tuple[str, int]]
    stats: Mapping[str, str]
    recorded: str | None
    unit: UnitState
    other_unit_installed: bool
    binary_sha256: str | None
    binary_version: str
    images_sha256: str | None
    managed: tuple[str, ...]
    has_datastore: bool
    has_agent_data: bool
    #: what a server's data folder says of the tokens that it takes, None where it holds none
    server_secret: str | None
    agent_secret: str | None
    #: the CA hash of those tokens, as they begin (``K10…``); empty where there are none
    token_ca: str
    links: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """*changes* in order; *writes*, *removes*, *installs*, *links* carry them out; *unit_action* is none, start or restart."""

    changes: tuple[Change, ...]
    writes: tuple[File, ...]
    removes: tuple[str, ...]
    installs: tuple[Artifact, ...]
    links: tuple[str, ...]
    enable: bool
    unit_action: str


def stat_line(path: str, inode: int, size: int, mtime_ns: int) -> str:
    """The line that ``stat -c '%n %i %s %.9Y'`` prints (GNU coreutils), which is how the unit records its inputs."""
    return f"{path} {inode} {size} {mtime_ns // 10**9}.{mtime_ns % 10**9:09d}"


def unit_text(role: str, inputs: Iterable[str], sysctl_file: str = "") -> str:
    """The systemd unit, as https://get.k3s.io writes it, plus the record of its inputs. It holds no token and no setting:
    those are in config.yaml and the environment file, both 0600."""
    pre = [
        f"ExecStartPre=-/bin/sh -c \"exec stat -c '%%n %%i %%s %%.9Y' {' '.join(inputs)} >{inputs_path(role)} 2>/dev/null\"",
        "ExecStartPre=-/sbin/modprobe br_netfilter",
        "ExecStartPre=-/sbin/modprobe overlay",
    ]
    if sysctl_file:
        pre.append(f"ExecStartPre=-/sbin/sysctl -q -p {sysctl_file}")
    lines = [
        "# Managed by pifleet.ops",
        "[Unit]",
        f"Description=Lightweight Kubernetes ({role})",
        "Documentation=https://k3s.io",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
        "[Service]",
        "Type=notify",
        f"EnvironmentFile=-{env_path(role)}",
        "KillMode=process",
        "Delegate=yes",
        "User=root",
        "LimitNOFILE=1048576",
        "LimitNPROC=infinity",
        "LimitCORE=infinity",
        "TasksMax=infinity",
        "TimeoutStartSec=0",
        "Restart=always",
        "RestartSec=5s",
        *pre,
        f"ExecStart={BINARY} {role}",
    ]
    return "\n".join(lines) + "\n"


def secret_of(token: str) -> str:
    """The password part of a token in any of k3s's forms: ``K10<CA hash>::<user>:<password>`` or the password alone.
    https://docs.k3s.io/cli/token#token-format"""
    return token.strip().rsplit("::", 1)[-1].split(":", 1)[-1] if token.startswith("K10") else token.strip()


def restart_inputs(desired: Desired) -> tuple[str, ...]:
    """The paths whose change needs a restart, in a fixed order."""
    own = [BINARY, unit_path(desired.role), env_path(desired.role), CONFIG, JOIN, REGISTRIES, TOKEN]
    own += [AGENT_TOKEN] if desired.role == "server" else []
    return tuple(own + [f.path for f in desired.files if f.restarts])


def make_plan(desired: Desired, facts: Facts, new_secrets: tuple[str, str]) -> Plan:
    """Return what has to change on the node.

    *new_secrets*: two independent random passwords, for the server and the agent token of a cluster that has none yet (the caller
    makes them, so that this function stays pure); they enter no :class:`Change`.

    Raises PifleetError for a token that contradicts the cluster's own and for a node that already has the other role.
    """
    if facts.other_unit_installed:
        other = "agent" if desired.role == "server" else "server"
        raise PifleetError(
            f"This node runs k3s as {other} ({unit_path(other)}), but the inventory makes it a {desired.role}.",
            "Put it back into its group, or take it out of the cluster first with `playbooks/reset.yml --limit <node>`.",
        )
    wanted = [*_settings(desired), *_tokens(desired, facts, new_secrets), *desired.files]
    changes: list[Change] = []
    installs: list[Artifact] = []
    # images first: the binary is what says that a release is installed, so a run that was killed in between brings both again
    if desired.images and (facts.images_sha256 is None or desired.images.sha256 not in (facts.images_sha256, None)):
        changes.append(Change("artifact", desired.images.target, "version" if facts.images_sha256 else "missing", "", "airgap images"))
        installs.append(desired.images)
    if not _binary_is_right(desired, facts):
        reason = "version" if facts.binary_version else "missing"
        changes.append(Change("artifact", BINARY, reason, facts.binary_version, f"k3s {desired.version}"))
        installs.append(desired.binary)
    links = tuple(n for n in LINKS if facts.links.get(n) is None)
    changes += [Change("link", f"/usr/local/bin/{n}", "missing", "", BINARY) for n in links]
    writes = [f for f in wanted if _differs(f, facts)]
    changes += [_file_change(f, facts) for f in writes]
    keep = {f.path for f in wanted}
    removes = tuple(p for p in facts.managed if p not in keep and p in facts.files)
    changes += [Change("file", p, "unwanted", "" if p == REGISTRIES else scrub_settings(facts.files[p][0])) for p in removes]
    action = _unit_action(desired, facts, desired.binary in installs, writes, removes)
    unit = UNITS[desired.role]
    enable = desired.start and not facts.unit.enabled
    if enable:
        changes.append(Change("unit", unit, "disabled", "disabled", "enabled"))
    if action != "none":
        changes.append(Change("unit", unit, "inactive" if action == "start" else "inputs_changed", facts.unit.active, action))
    return Plan(tuple(changes), tuple(writes), removes, tuple(installs), links, enable, action)


def _settings(desired: Desired) -> list[File]:
    files = [
        File(CONFIG, desired.config),
        File(env_path(desired.role), desired.environment),
        File(unit_path(desired.role), unit_text(desired.role, restart_inputs(desired), desired.sysctl_file), 0o644),
    ]
    if desired.registries:
        files.append(File(REGISTRIES, desired.registries, secret=True))
    return files


def _tokens(desired: Desired, facts: Facts, new_secrets: tuple[str, str]) -> list[File]:
    """The join file and the token files. How a member once joined is history: with data on disk they stay as they are."""
    joined = facts.has_datastore if desired.role == "server" else facts.has_agent_data
    return [
        *([File(JOIN, _join_text(desired, facts, joined))] if desired.join or JOIN in facts.files else []),
        File(TOKEN, _token_text(desired, facts, new_secrets[0]) + "\n", secret=True),
        *([File(AGENT_TOKEN, _agent_token_text(desired, facts, new_secrets[1]) + "\n", secret=True)] if desired.role == "server" else []),
    ]


def _join_text(desired: Desired, facts: Facts, joined: bool) -> str:
    have = facts.files.get(JOIN, ("", 0))[0]
    if not have or not joined:
        return desired.join
    named = re.search(r"^server:\s*[\"']?(\S+?)[\"']?\s*$", have, re.M)
    if named is None or named[1] in desired.servers:
        return have
    return desired.join or have


def _token_text(desired: Desired, facts: Facts, new_secret: str) -> str:
    have = facts.files.get(TOKEN, ("", 0))[0].strip()
    if facts.server_secret is not None:  # a server with data: the cluster's own token is the truth
        if desired.token and secret_of(desired.token) != facts.server_secret:
            raise PifleetError(
                "k3s_token is not the token of the cluster that this server holds.",
                "Remove k3s_token from the inventory to keep the cluster's own, or rotate it with `k3s token rotate`.",
            )
        return have if secret_of(have) == facts.server_secret else (desired.token or facts.server_secret)
    if desired.token:
        if facts.has_agent_data and facts.unit.active == "active":
            # a serving agent keeps the form in which it joined: another one of the same secret would only restart it
            if secret_of(have) == secret_of(desired.token):
                return have
            _refuse_foreign(desired.token, desired.cluster_tokens)
        return desired.token.strip()
    if have:
        return have
    if desired.generate_tokens:
        return new_secret
    raise PifleetError("There is no token to join the cluster with.", "Let a server of the cluster be reachable, or set k3s_token.")


def _refuse_foreign(token: str, known: Iterable[str]) -> None:
    """Refuse *token* for a node that serves, where the cluster takes only those *known*: started anew it could not join again."""
    right = [k for k in known if secret_of(k) == secret_of(token) and (not token.startswith("K10") or ca_of(k) in ("", ca_of(token)))]
    if known and not right:
        raise PifleetError(
            "k3s_agent_token of the inventory is not the cluster's: this agent serves, and could not join again. It was left as it is.",
            "Remove it from the inventory, so that the agent keeps the token that it has, or correct it. "
            "To give the cluster a new one, run for the servers too.",
        )


def ca_of(token: str) -> str:
    """The CA hash that a token in the full form carries, as it begins (``K10…``), empty in the others."""
    return token.partition("::")[0] if token.startswith("K10") else ""


def _agent_token_text(desired: Desired, facts: Facts, new_secret: str) -> str:
    have = facts.files.get(AGENT_TOKEN, ("", 0))[0].strip()
    if desired.agent_token:
        if facts.token_ca and ca_of(desired.agent_token) not in ("", facts.token_ca):
            raise PifleetError(
                "k3s_agent_token of the inventory is of another cluster: its CA hash is not that of the cluster that this server holds.",
                "Remove it from the inventory to keep the cluster's own, or give a new token without the part up to `::node:`.",
            )
        return have if have and secret_of(have) == secret_of(desired.agent_token) else secret_of(desired.agent_token)
    # a file that was lost: k3s keeps what it was started with beside its data (pkg/server/server.go, printTokens), and agents go by that
    return have or facts.agent_secret or new_secret


def _binary_is_right(desired: Desired, facts: Facts) -> bool:
    if facts.binary_sha256 is None:
        return False
    if desired.binary.sha256 is None:
        return facts.binary_version == desired.version
    return facts.binary_sha256 == desired.binary.sha256


def _differs(file: File, facts: Facts) -> bool:
    have = facts.files.get(file.path)
    return have is None or have != (file.content, file.mode)


def _file_change(file: File, facts: Facts) -> Change:
    have = facts.files.get(file.path)
    before = "" if have is None else have[0]
    reason = "missing" if have is None else ("content" if before != file.content else "mode")
    if file.secret:
        return Change("file", file.path, reason, MASK if have else "", MASK)
    if reason == "mode" and have is not None:
        return Change("file", file.path, reason, f"mode {have[1]:04o}", f"mode {file.mode:04o}")
    return Change("file", file.path, reason, scrub_settings(before), scrub_settings(file.content))


def _unit_action(desired: Desired, facts: Facts, new_binary: bool, writes: Iterable[File], removes: Iterable[str]) -> str:
    if not desired.start:
        return "none"
    if facts.unit.active not in ("active", "activating", "reloading"):
        return "start"
    inputs = restart_inputs(desired)
    touched = {f.path for f in writes} | set(removes) | ({BINARY} if new_binary else set())
    now = [facts.stats[p] for p in inputs if p in facts.stats]
    stale = facts.recorded is None or facts.recorded.splitlines() != now
    return "restart" if stale or touched & set(inputs) or facts.unit.needs_reload else "none"
