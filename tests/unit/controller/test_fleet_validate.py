# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before anything is touched: each rule by an inventory that breaks it, and by one that nearly does."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate import report, rules, specs
from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate.fleet import Fleet, Host
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
SPECS = specs.load()
GOOD: dict[str, Any] = {"k3s_version": "v1.34.4+k3s1"}


def fleet(servers: dict[str, dict[str, Any]], workers: dict[str, dict[str, Any]] | None = None, **common: Any) -> Fleet:
    """A fleet whose hosts have GOOD, then *common*, then their own variables; an address each unless it is given."""
    workers = workers or {}
    hosts = []
    for number, (name, own) in enumerate({**servers, **workers}.items(), start=11):
        hosts.append(Host(name, {**GOOD, "ansible_host": f"192.0.2.{number}", **common, **own}))
    return Fleet(tuple(hosts), tuple(h.name for h in hosts), tuple(servers), tuple(workers))


def problems(of: Fleet) -> list[str]:
    found = report.collect(of, (partial(specs.check, SPECS), *rules.RULES))
    return [f"[{','.join(p.hosts)}] {p.where}: {p.what}. {p.hint}" for p in found]


FOUR = fleet({"pi-1.local": {}}, {f"pi-{n}.local": {} for n in (2, 3, 4)})


@pytest.mark.parametrize(
    "good",
    [
        FOUR,
        fleet({"pi-1": {}, "pi-2": {}, "pi-3": {}}),
        fleet({"pi-1": {}, "pi-2": {}}, k3s_datastore_endpoint="postgres://u:p@db/k3s"),
        fleet({"PI-1.Local": {}}),
        fleet({"a": {}}, {"b": {}}, k3s_token="K10" + "a" * 64 + "::server:abc.def"),
        fleet({"a": {}}, {"b": {}}, k3s_token="correct-horse_battery.staple", k3s_agent_token="0123abc"),
        fleet({"a": {}}, {"b": {}}, k3s_api_endpoint="192.0.2.200"),
        fleet({"a": {}}, {"b": {}}, k3s_api_endpoint="k3s.example.org"),
        fleet({"a": {}}, {"b": {}}, k3s_api_endpoint="2001:db8::10"),
        fleet({"a": {"k3s_node_ip": "10.1.0.1,2001:db8::1"}}, {"b": {"k3s_node_ip": "10.1.0.2"}}),
        fleet({"a": {"ansible_host": "127.0.0.1", "ansible_port": 2222}}, {"b": {"ansible_host": "127.0.0.1", "ansible_port": 2223}}),
        fleet({"a": {"ansible_connection": "local"}}, {"b": {"ansible_connection": "local"}}, ansible_host="localhost"),
        fleet({"a": {}}, {"b": {}}, k3s_join_timeout="60", k3s_airgap_images="no", k3s_node_ip=None, k3s_artifact_dir=""),
        fleet({"a": {}}, {"b": {}}, k3s_node_taints=["a=b:NoSchedule", "x.y/z:NoExecute"]),
        fleet({"a": {}}, {"b": {}}, k3s_server_config={"cluster-cidr": "10.50.0.0/16,2001:db8:42::/56"}),
        fleet({"a": {}}, {"b": {}}, somebody_elses="x", k3sup_version="x"),
        fleet({"pi.a": {}}, {"pi.b": {}}, base_os_manage_hostname=False),
        fleet({"a": {}}, {"b": {}}, stacks_address_pools=[{"base": "fd00:213::/48", "size": 64}, {"base": "10.213.0.0/16", "size": 24}]),
        fleet({"a": {}}, {"b": {}}, k3s_artifact_dir=str(ROOT)),
        fleet(
            {"a": {"k3s_extra_env": {"A_1": "x", "B": 1}, "k3s_server_config": {"tls-san": ["x"]}}},
            {"b": {"k3s_server_config": {"token": "x"}}},
        ),
    ],
)
def test_fleet_that_can_work_is_not_refused(good: Fleet) -> None:
    assert problems(good) == []


BAD = [
    (fleet({}, {"a": {}}), ["[] group control_plane: has no host"]),
    (fleet({"a": {}, "b": {}}), ["[a,b] group control_plane: has 2 hosts, an even number", "Use 1 or 3, or set k3s_datastore_endpoint"]),
    (fleet({c: {} for c in "abcd"}), ["has 4 hosts", "Use 3 or 5"]),
    (fleet({"a": {"k3s_datastore_endpoint": "x"}, "b": {}, "c": {}}), ["[b,c] k3s_datastore_endpoint: is not set, but is on other"]),
    (replace(FOUR, workers=(*FOUR.workers, "pi-1.local")), ["[pi-1.local] groups control_plane and workers: host is in both"]),
    (replace(FOUR, workers=FOUR.workers[1:]), ["[pi-2.local] group k3s_cluster: host is neither"]),
    (replace(FOUR, cluster=FOUR.cluster[:-1]), ["[pi-4.local] group k3s_cluster: host is not in it", "children of k3s_cluster"]),
    (
        fleet({"a": {"ansible_host": "192.0.2.1"}}, {"b": {"ansible_host": "192.0.2.1"}}),
        ["[a,b] ansible_host: hosts have the same address"],
    ),
    (fleet({"a": {"ansible_host": "PI"}}, {"b": {"ansible_host": "pi"}}), ["[a,b] ansible_host: hosts have the same address pi"]),
    (
        fleet({"a": {"k3s_node_ip": "10.1.0.1"}}, {"b": {"k3s_node_ip": "10.1.0.1"}}),
        ["[a,b] k3s_node_ip, ansible_host: hosts have the same"],
    ),
    (fleet({"a": {"k3s_node_ip": "192.0.2.12"}}, {"b": {}}), ["[a,b] k3s_node_ip, ansible_host: hosts have the same address 192.0.2.12"]),
    (fleet({"Pi": {}}, {"pi": {}}), ["[Pi,pi] inventory name: hosts would all be the node pi"]),
    (fleet({"pi.a": {}}, {"pi.b": {}}), ["[pi.a,pi.b] inventory name: hosts would all get the hostname pi"]),
    (fleet({"pi_1": {}}), ["[pi_1] inventory name: is no name", "RFC 1123"]),
    (fleet({"-pi": {}}), ["is no name"]),
    (fleet({"pi..local": {}}), ["is no name"]),
    (fleet({"a" * 64: {}}), ["is no name", "at most 63"]),
    (fleet({"192.0.2.7": {}}), ["[192.0.2.7] inventory name: is an address", "ansible_host"]),
    (fleet({"a": {"k3s_node_ip": "a.local"}}), ["[a] k3s_node_ip: is 'a.local', which is no address"]),
    (fleet({"a": {"k3s_node_ip": "192.0.2"}}), ["which is no address"]),
    (fleet({"a": {"k3s_node_ip": "127.0.0.1"}}), ["cannot reach"]),
    (fleet({"a": {"k3s_node_ip": "0.0.0.0"}}), ["cannot reach"]),
    (fleet({"a": {}}, k3s_api_endpoint="pi-1.local"), ["[a] k3s_api_endpoint: is 'pi-1.local', which k3s cannot resolve"]),
    (fleet({"a": {}}, k3s_api_endpoint="pi-1"), ["k3s cannot resolve"]),
    (fleet({"a": {}}, k3s_api_endpoint="https://192.0.2.1"), ["k3s_api_endpoint", "without https:// and port"]),
    (fleet({"a": {}}, k3s_api_endpoint="192.0.2.1:6443"), ["without https:// and port"]),
    (fleet({"a": {}}, {"b": {"k3s_api_endpoint": "192.0.2.9"}}, k3s_api_endpoint="192.0.2.8"), ["192.0.2.8 on a; 192.0.2.9 on b"]),
    (fleet({"a": {}}, k3s_version="1.34.4"), ["[a] k3s_version: is '1.34.4', which is no version", "v1.34.4+k3s1"]),
    (fleet({"a": {}}, k3s_version="latest"), ["is no version"]),
    (
        fleet({"a": {}}, {"b": {"k3s_version": "v1.33.1+k3s1"}}),
        ["k3s_version: differs among the hosts: v1.34.4+k3s1 on a; v1.33.1+k3s1 on b"],
    ),
    (fleet({"a": {}}, k3s_version=""), ["[a] k3s_version: is not set, and has no default"]),
    (fleet({"a": {}}, k3s_version=None), ["[a] k3s_version: is not set"]),
    (fleet({"a": {}}, k3s_token="two words"), ["[a] k3s_token: has characters"]),
    (fleet({"a": {}}, k3s_token="user:word"), ["has characters"]),
    (fleet({"a": {}}, k3s_agent_token="K10abc::server:x"), ["[a] k3s_agent_token: begins with K10 but is no whole token"]),
    (fleet({"a": {"k3s_token": "one"}}, {"b": {"k3s_token": "two"}}), ["k3s_token: differs among the hosts: values are not shown"]),
    (fleet({"a": {}}, k3s_server_config={"cluster-cidr": "10.43.128.0/17"}), ["10.43.128.0/17 and 10.43.0.0/16 overlap"]),
    (fleet({"a": {}}, k3s_server_config={"service-cidr": "10.43.0.1/16"}), ["service-cidr: is '10.43.0.1/16', which is no network"]),
    (fleet({"a": {"ansible_host": "10.42.0.5"}}, {"b": {}}), ["[a] k3s_server_config: cluster-cidr: 10.42.0.0/16 holds the addresses"]),
    (
        fleet({"a": {"ansible_host": "10.213.4.5"}}, {"b": {}}),
        ["[a,b] stacks_address_pools: has 10.213.0.0/16, which holds the node's address"],
    ),
    (
        fleet({"a": {}}, {"b": {"stacks_address_pools": [{"base": "10.40.0.0/13", "size": 24}]}}),
        ["[b] stacks_address_pools: has 10.40.0.0/13, which holds k3s' network 10.42.0.0/16"],
    ),
    (fleet({"a": {"stacks_address_pools": [{"base": "home", "size": 24}]}}), ["stacks_address_pools: has 'home', which is no network"]),
    (
        fleet({"a": {}}, {"b": {}}, stacks_repository="https://me:s3cr3t@host/x.git"),
        ["[a,b] stacks_repository: holds a password. Put it into stacks_repository_token"],
    ),
    (
        fleet({"a": {}}, stacks_repository="http://host/x.git", stacks_repository_token="s3cr3t"),
        ["[a] stacks_repository: is no https URL, and its token would be sent for all to read. Write it with https"],
    ),
    (fleet({"a": {"stacks_revision": "--upload-pack=x"}}), ["[a] stacks_revision: is '--upload-pack=x'. Set it to a branch"]),
    (fleet({"a": {"stacks_folder": "../stacks"}}), ["[a] stacks_folder: is '../stacks'. Write the folder as seen from"]),
    (fleet({"a": {"stacks_artifact_dir": "/nonexistent"}}), ["[a] stacks_artifact_dir: is /nonexistent, which is no folder"]),
    (fleet({"a": {"stacks_timer_intervall": 5}}), ["stacks_timer_intervall", "Did you mean stacks_timer_interval?"]),
    (fleet({"a": {"k3s_server_config": {"cluster-cidr": "10.99.0.0/16"}}, "b": {}, "c": {}}), ["cluster-cidr: differs among the servers"]),
    (fleet({"a": {}}, k3s_node_taints=["NoSchedule"]), ["[a] k3s_node_taints: has 'NoSchedule', which is no taint"]),
    (
        fleet({"a": {}, "b": {}, "c": {}}, {"d": {}}, k3s_server_config={"agent-token": "secret", "tls-san": ["x"]}),
        ["[a,b,c] k3s_server_config: agent-token: is set by the collection", "Use k3s_agent_token instead."],
    ),
    (
        fleet({"a": {}}, {"b": {"k3s_agent_config": {"data-dir": "/x"}}}),
        ["[b] k3s_agent_config: data-dir: is set by the collection", "Use k3s_data_dir instead."],
    ),
    (
        fleet({"a": {}}, {"b": {}}, k3s_extra_env={"K3S_DATASTORE_ENDPOINT": "secret", "K3S_DEBUG": "true"}),
        ["[a,b] k3s_extra_env: K3S_DATASTORE_ENDPOINT: is set by the collection", "Use k3s_datastore_endpoint instead."],
    ),
    (fleet({"a": {"k3s_extra_env": {"A-B": "secret"}}}), ["[a] k3s_extra_env: has A-B, which", "letters, digits and _"]),
    (fleet({"a": {"k3s_extra_env": {"A": "x\ny"}}}), ["[a] k3s_extra_env: has A, which", "a value has one line"]),
    (fleet({"a": {}}, k3s_artifact_dir="/nonexistent"), ["[a] k3s_artifact_dir: is /nonexistent, which is no folder"]),
    (fleet({"a": {}}, k3s_join_timeout="soon"), ["[a] k3s_join_timeout: is refused", "convert to int", "(type int)"]),
    (fleet({"a": {}}, k3s_node_labels="a=b,c"), ["k3s_node_labels: is refused"]),
    (fleet({"a": {}}, k3s_disable=["treafik"]), ["k3s_disable: is refused", "treafik"]),
    (fleet({"a": {}}, base_os_swap_policy="off"), ["base_os_swap_policy: is refused", "keep, disable, zram"]),
    (fleet({"a": {}}, k3s_verison="v1"), ["[a] k3s_verison: is no variable", "Did you mean k3s_version?"]),
    (fleet({"a": {}}, base_os_qwertz=1), ["base_os_qwertz: is no variable", "belong to the collection"]),
    (fleet({"a": {}}, k3s_airgap_image=True), ["Did you mean k3s_airgap_images?"]),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_fleet_that_cannot_work_is_refused(bad: Fleet, says: list[str]) -> None:
    found = problems(bad)
    assert len(found) == 1, found
    assert all(text in found[0] for text in says), found[0]


def test_no_token_is_ever_told() -> None:
    secrets = ("hunter two", "K10deadbeef", "postgres://u:sesame@db")
    bad = fleet(
        {"a": {"k3s_token": secrets[0], "k3s_datastore_endpoint": [secrets[2]]}},
        {"b": {"k3s_token": secrets[1], "k3s_agent_token": {"x": secrets[0]}}},
    )
    text = "\n".join(problems(bad))
    assert "k3s_token" in text
    assert not [s for s in (*secrets, "deadbeef", "sesame", "hunter") if s in text]


def test_refused_value_of_a_secret_is_not_told() -> None:
    spec = specs.Specs({"base_os": {"k3s_pin": {"type": "int", "no_log": True}}})
    (what,) = (p.what for p in specs.check(spec, fleet({"a": {}}, k3s_pin="sesame")) if p.where == "k3s_pin")
    assert what == "is refused by its role (********)"


def test_template_that_fails_is_told_with_its_place() -> None:
    host = replace(FOUR.hosts[0], unresolved={"k3s_data_dir": "'nope' is undefined"}, origins={"k3s_data_dir": "group_vars/all.yml:3"})
    (found,) = problems(replace(FOUR, hosts=(host, *FOUR.hosts[1:])))
    assert found.startswith("[pi-1.local] k3s_data_dir (group_vars/all.yml:3): cannot be resolved: 'nope' is undefined. Correct")


def test_variable_that_needs_facts_is_left_to_its_role() -> None:
    host = replace(
        FOUR.hosts[0], vars={k: v for k, v in FOUR.hosts[0].vars.items() if k != "k3s_version"}, later=frozenset({"k3s_version"})
    )
    assert problems(replace(FOUR, hosts=(host, *FOUR.hosts[1:]))) == []


def test_all_problems_are_told_at_once_and_each_once() -> None:
    bad = fleet({"a": {}, "b": {}}, {"c_": {}}, k3s_join_timeout="x", k3s_verison="y", k3s_token="a b")
    found = report.collect(bad, (partial(specs.check, SPECS), *rules.RULES))
    text = report.message(found, len(bad.hosts))
    assert text.startswith("The inventory cannot work, for 5 reasons. Nothing was touched.\n1. ")
    assert text.count("[all 3 hosts]") == 3
    assert len(text.splitlines()) == 6


def test_long_lists_of_hosts_are_cut() -> None:
    bad = fleet({"a": {}}, {f"b{n}_": {} for n in range(9)})
    found = report.collect(bad, (rules.names,))
    assert "[b0_, b1_, b2_, b3_, b4_, b5_, and 3 more]" in report.message(found, 10)


hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["10.0.0.1", "v1.34.4+k3s1", "K10", "a.local", "a:b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("cluster-cidr"), inner, max_size=3),
    max_leaves=4,
)
variables = st.dictionaries(st.sampled_from(sorted(SPECS.known | {"ansible_host", "ansible_port", "k3s_nonsense"})), hostile, max_size=8)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.text("aB1-._ ", min_size=1, max_size=5), variables), max_size=4, unique_by=lambda h: h[0]))
def test_whatever_stands_in_an_inventory_there_is_no_traceback(hosts: list[tuple[str, dict[str, Any]]]) -> None:
    of = Fleet(
        tuple(Host(n, v) for n, v in hosts), tuple(n for n, _v in hosts), tuple(n for n, _v in hosts[:2]), tuple(n for n, _v in hosts[1:])
    )
    assert problems(of) == problems(of)


def test_what_one_entry_point_requires_is_not_asked_of_every_run(tmp_path: Path) -> None:
    (tmp_path / "base_os" / "meta").mkdir(parents=True)
    document = {"argument_specs": {e: {"options": {f"k3s_{e}": {"type": "int", "required": True}}} for e in ("main", "upgrade")}}
    (tmp_path / "base_os" / "meta" / "argument_specs.yml").write_text(yaml.safe_dump(document))
    own = specs.load(tmp_path)
    host = Host("a", {"k3s_upgrade": "x"})
    found = {p.where: p.what for p in specs.check(own, Fleet((host,), ("a",), ("a",), ()))}
    assert found["k3s_main"] == "is not set, and has no default"
    assert found["k3s_upgrade"].startswith("is refused")
    assert "not set" not in " ".join(p.what for p in specs.check(own, Fleet((Host("a", {"k3s_main": 1}),), ("a",), ("a",), ())))


def test_argument_spec_that_is_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(PifleetError, match="no role in"):
        specs.load(tmp_path)
    (tmp_path / "base_os" / "meta").mkdir(parents=True)
    for text in ("a: [", "", "argument_specs: 5", "argument_specs: {main: 5}"):
        (tmp_path / "base_os" / "meta" / "argument_specs.yml").write_text(text)
        with pytest.raises(PifleetError, match=r"argument_specs\.yml is no argument spec"):
            specs.load(tmp_path)


# --- the collection itself -----------------------------------------------------------------------------------------------


def test_every_default_of_a_role_has_a_spec() -> None:
    for path in sorted((ROOT / "roles").glob("*/defaults/main.yml")):
        assert set(yaml.safe_load(path.read_text()) or {}) <= SPECS.known, path


def test_what_a_run_sets_itself_is_not_taken_for_a_mistake() -> None:
    found = set()
    for path in [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]:
        text = path.read_text()
        found |= set(re.findall(r"^\s+register: (\w+)", text, re.M))
        for block in re.findall(r"set_fact:\n((?:\s+\w+:.*\n|\s{8,}.*\n)+)", text):
            found |= set(re.findall(r"^\s+(\w+): ", block, re.M))
    ours = {name for name in found if name.startswith(specs.PREFIXES)}
    assert ours, "the search finds nothing"
    assert ours - SPECS.known <= specs.RUNTIME


def test_inventories_of_the_checkout_name_known_variables_only() -> None:
    for path in (ROOT / "inventory").rglob("*.yml"):
        mentioned = set(re.findall(r"^#? *((?:k3s|base_os|post_bootstrap)_\w+):", path.read_text(), re.M))
        assert mentioned - {"k3s_cluster"} <= SPECS.known, path
