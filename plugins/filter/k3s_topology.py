# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Filter façade of the topology core."""

from __future__ import annotations

DOCUMENTATION = r"""
name: k3s_topology
short_description: Decide which server starts the cluster and which one the other nodes join
version_added: "0.1.0"
author: pifleet.ops contributors (@pifleet)
description:
  - Decides from the state of all servers of the inventory, those outside C(--limit) included.
  - Fails rather than risk a second cluster.
positional: servers, play_hosts, outside, force_init, restored, begun
options:
  _input:
    description:
      - The variable C(hostvars). Of each host of the run it uses C(pi_facts_result), what M(pifleet.ops.pi_facts) returned,
        and the addresses that the inventory gives (C(k3s_node_ip), else C(ansible_host) where it is an IPv4 address).
    type: dict
    required: true
  servers:
    description: The hosts of C(control_plane), in inventory order.
    type: list
    elements: str
    required: true
  play_hosts:
    description: The hosts of this run that answered.
    type: list
    elements: str
    required: true
  outside:
    description: The results of M(pifleet.ops.pi_facts) in loops over the servers, and where it matters the workers, outside this run.
    type: list
    elements: dict
    default: []
  force_init:
    description: Start a cluster although it is not certain that there is none.
    type: bool
    default: false
  restored:
    description: The server that a snapshot is restored on. It starts the cluster, and everyone else joins it.
    type: str
    default: ""
  begun:
    description: Rebuilds that did not end, by host, as M(pifleet.ops.run_record) returned them.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Decide the topology
  ansible.builtin.set_fact:
    topology: "{{ hostvars | pifleet.ops.k3s_topology(groups.control_plane, ansible_play_hosts, outside.results) }}"
"""

RETURN = r"""
_value:
  description:
    - "Keys C(init) (host or null), C(peer), C(peer_address), C(exists), C(urls), C(addresses) (of the servers, by host name), and
      C(join): the URL to join by host name."
    - C(answered) lists the hosts whose state is known, those outside the run included.
    - C(datastore) is what the C(peer) of a cluster that exists keeps it in, as M(pifleet.ops.pi_facts) returned it.
    - C(running) says whether the C(peer) of a cluster that exists runs, so that it can be asked.
    - C(doubtful) lists the hosts of the run that do not run a k3s that has joined, although there is a cluster that runs, those that
      lost their token, and those of C(begun).
    - C(unsettled) lists these, those with a conflict of versions, and those with a new SSH host key.
    - C(version_conflicts) says, by host name, why a bootstrap must not go on with a host, because its k3s has another version.
  type: dict
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.topology import Server, decide
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.versions import Installed, version_conflicts


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


#: systemd's words for a unit that is up or on its way
_UP = ("active", "activating", "reloading")


def _active(facts: Mapping[str, Any]) -> str:
    """systemd's word for the state of the k3s unit, empty where there is none."""
    return str(((facts.get("k3s") or {}).get("unit_state") or {}).get("active") or "")


def _has_new_key(variables: Mapping[str, Any]) -> bool:
    """Whether the host was reached by a new SSH host key in this run."""
    return bool((variables.get("__rebuild_host_key") or {}).get("host_key_changed"))


def _serves(facts: Mapping[str, Any], server: bool) -> bool:
    """Whether a k3s that has joined, and can again, is up on a host."""
    k3s = facts.get("k3s") or {}
    return _active(facts) == "active" and bool(k3s.get("datastore") if server else k3s.get("agent_data")) and bool(k3s.get("token"))


def _address(variables: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The address k3s uses for a host: as the inventory says, else of its default route. Never a name: k3s resolves no mDNS."""
    given = str(variables.get("k3s_node_ip") or "")
    connects_to = str(variables.get("ansible_host") or "")
    return given or str(facts.get("address") or "") or (connects_to if _is_address(connects_to) else "")


def k3s_topology(
    hostvars: Mapping[str, Mapping[str, Any]],
    servers: Sequence[str],
    play_hosts: Sequence[str],
    outside: Sequence[Mapping[str, Any]] = (),
    force_init: bool = False,
    restored: str = "",
    begun: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the topology of this run as a dictionary."""
    facts: dict[str, Mapping[str, Any]] = {name: hostvars[name]["pi_facts_result"]["pi"] for name in play_hosts}
    facts.update({result["item"]: result["pi"] for result in outside if "pi" in result})

    def server(name: str) -> Server:
        k3s = facts.get(name, {}).get("k3s") or {}
        return Server(
            name=name,
            address=_address(hostvars[name], facts.get(name, {})),
            in_play=name in play_hosts,
            reachable=name in facts,
            datastore=bool(k3s.get("datastore")),
            active=_active(facts.get(name, {})) in _UP,
        )

    joined = [name for name in facts if name not in servers and (facts[name].get("k3s") or {}).get("agent_data")]
    try:
        topology = decide([server(name) for name in servers], joined, force_init=force_init, restored=restored)
    except PifleetError as error:
        raise AnsibleFilterError(str(error)) from error
    running = topology.exists and not restored and _active(facts.get(topology.peer, {})) == "active"
    doubtful = [name for name in play_hosts if running and (name in (begun or {}) or not _serves(facts[name], name in servers))]
    conflicts = version_conflicts(_installed(hostvars, facts, servers, play_hosts))
    return {
        "version_conflicts": conflicts,
        "answered": list(facts),
        "init": topology.init,
        "peer": topology.peer,
        "peer_address": topology.peer_address,
        "exists": topology.exists,
        "datastore": (facts.get(topology.peer, {}).get("k3s") or {}).get("datastore") or "",
        "running": running,
        "doubtful": doubtful,
        "unsettled": [name for name in play_hosts if name in doubtful or name in conflicts or _has_new_key(hostvars[name])],
        "urls": list(topology.urls),
        "addresses": {name: _address(hostvars[name], facts.get(name, {})) for name in servers},
        "join": {name: topology.url_for(name) for name in dict.fromkeys([*servers, *play_hosts])},
    }


def _installed(
    hostvars: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]], servers: Sequence[str], play_hosts: Sequence[str]
) -> list[Installed]:
    """What each host that answered has of k3s, and what the inventory wants of it."""
    found = []
    for name, pi in facts.items():
        k3s = pi.get("k3s") or {}
        active = _active(pi) in _UP
        wanted = str(hostvars[name].get("k3s_version") or "")
        in_use = bool(wanted) and bool(active or k3s.get("datastore") or k3s.get("agent_data"))
        found.append(Installed(name, name in servers, name in play_hosts, str(k3s.get("version") or ""), in_use, wanted))
    return found


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"k3s_topology": k3s_topology}
