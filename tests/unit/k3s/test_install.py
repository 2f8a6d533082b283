# SPDX-License-Identifier: GPL-3.0-or-later
"""The install plan: what changes on a node, whatever state it is in, and never more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import as_diff
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import config
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.install import (
    AGENT_TOKEN,
    BINARY,
    CONFIG,
    JOIN,
    REGISTRIES,
    TOKEN,
    Artifact,
    Desired,
    Facts,
    File,
    UnitState,
    env_path,
    make_plan,
    restart_inputs,
    secret_of,
    stat_line,
    unit_path,
    unit_text,
)

NEW = ("0" * 32, "1" * 32)
FULL_TOKEN = f"K10{'ab' * 32}::server:verysecretpassword"


def desired(**changes) -> Desired:
    base = Desired(
        role="agent",
        version="v1.34.4+k3s1",
        data_dir="/var/lib/rancher/k3s",
        config="node-name: pi-cluster-4.local\n",
        join="server: https://192.0.2.11:6443\n",
        servers=("https://192.0.2.11:6443", "https://192.0.2.12:6443"),
        token=FULL_TOKEN,
        agent_token=None,
        generate_tokens=False,
        environment="",
        registries="",
        files=(),
        binary=Artifact("/staged", BINARY, "aa", 0o755),
        images=None,
    )
    return replace(base, **changes)


FRESH = Facts(
    files={},
    stats={},
    recorded=None,
    unit=UnitState(),
    other_unit_installed=False,
    binary_sha256=None,
    binary_version="",
    images_sha256=None,
    managed=(),
    has_datastore=False,
    has_agent_data=False,
    server_secret=None,
    agent_secret=None,
    token_ca="",
    links={"kubectl": None, "crictl": None, "ctr": None},
)


def after(want: Desired, before: Facts = FRESH, **changes) -> Facts:
    """The facts as they are once *want*'s plan was carried out and its unit runs with those inputs."""
    plan = make_plan(want, before, NEW)
    files = dict(before.files) | {f.path: (f.content, f.mode) for f in plan.writes}
    files = {p: f for p, f in files.items() if p not in plan.removes}
    paths = [p for p in restart_inputs(want) if p in files or p == BINARY]
    stats = {p: stat_line(p, number, 10, 1_700_000_000_000_000_000) for number, p in enumerate(paths)}
    facts = replace(
        before,
        files=files,
        stats=stats,
        recorded="".join(stats[p] + "\n" for p in paths),
        unit=UnitState("active", True, False),
        binary_sha256=want.binary.sha256,
        binary_version=want.version,
        managed=tuple(sorted(files)),
        links=dict.fromkeys(before.links, BINARY),
        has_agent_data=want.role == "agent",
        has_datastore=want.role == "server",
        server_secret=secret_of(files[TOKEN][0]) if want.role == "server" else None,
        agent_secret=secret_of(files[AGENT_TOKEN][0]) if want.role == "server" else None,
    )
    return replace(facts, **changes)


def test_a_fresh_node_gets_everything_and_is_started():
    plan = make_plan(desired(), FRESH, NEW)
    assert {f.path for f in plan.writes} == {CONFIG, JOIN, TOKEN, env_path("agent"), unit_path("agent")}
    assert (plan.unit_action, plan.enable, plan.links) == ("start", True, ("kubectl", "crictl", "ctr"))
    assert [a.target for a in plan.installs] == [BINARY]


@pytest.mark.parametrize("role", ["server", "agent"])
def test_a_converged_node_changes_nothing(role):
    want = desired(role=role, generate_tokens=role == "server", token=None if role == "server" else FULL_TOKEN)
    assert make_plan(want, after(want), NEW).changes == ()


def test_every_secret_file_is_0600_and_in_no_diff():
    want = desired(role="server", agent_token="agentpassword", registries="configs: {password: registrypassword}\n")
    plan = make_plan(want, FRESH, NEW)
    assert all(f.mode == 0o600 for f in plan.writes if f.path in (TOKEN, AGENT_TOKEN, REGISTRIES, CONFIG, JOIN, env_path("server")))
    shown = str(as_diff(plan.changes)) + str(plan.changes)
    for secret in ("verysecretpassword", "agentpassword", "registrypassword"):
        assert secret not in shown
        assert secret not in unit_text("server", restart_inputs(want))


def test_settings_that_are_named_like_secrets_are_in_no_diff():
    have = desired(config="etcd-s3-sse-customer-key: old-value\nv: 1\n", environment='DB_PASS="old-value"\n')
    want = desired(config="etcd-s3-sse-customer-key: new-value\nv: 2\n", environment='DB_PASS="new-value"\n')
    plan = make_plan(want, after(have), NEW)
    assert {c.target for c in plan.changes} == {CONFIG, env_path("agent"), "k3s-agent"}
    shown = str(as_diff(plan.changes)) + str(plan.changes)
    assert "v: 2" in shown
    assert "value" not in shown


def test_the_two_tokens_of_a_new_cluster_are_independent():
    plan = make_plan(desired(role="server", token=None, generate_tokens=True, join=""), FRESH, NEW)
    written = {f.path: f.content for f in plan.writes}
    assert (written[TOKEN], written[AGENT_TOKEN]) == (NEW[0] + "\n", NEW[1] + "\n")


def test_a_killed_run_is_continued_by_a_restart():
    """The last run wrote the configuration and died before it restarted: what runs is older than what is on disk."""
    want = desired()
    facts = after(want)
    plan = make_plan(want, replace(facts, stats=facts.stats | {CONFIG: stat_line(CONFIG, 99, 11, 1)}), NEW)
    assert [(c.kind, c.reason) for c in plan.changes] == [("unit", "inputs_changed")]
    assert plan.unit_action == "restart"


def test_a_node_that_was_rebooted_or_restarted_by_hand_is_left_alone():
    want = desired()
    assert make_plan(want, after(want), NEW).unit_action == "none"


def test_an_adopted_unit_without_a_record_is_restarted_once():
    want = desired()
    assert make_plan(want, after(want, recorded=None), NEW).unit_action == "restart"


def test_a_stopped_unit_is_started_and_nothing_else():
    want = desired()
    plan = make_plan(want, after(want, unit=UnitState("inactive", True, False)), NEW)
    assert [(c.kind, c.after) for c in plan.changes] == [("unit", "start")]


@pytest.mark.parametrize("active", ["inactive", "active"])
def test_an_installation_for_a_restore_leaves_the_unit_as_it_is(active):
    want = desired(role="server", generate_tokens=True, start=False)
    plan = make_plan(want, replace(FRESH, unit=UnitState(active, False, False)), NEW)
    assert (plan.unit_action, plan.enable) == ("none", False)
    assert not [c for c in plan.changes if c.kind == "unit"]
    assert {f.path for f in plan.writes} >= {CONFIG, TOKEN, unit_path("server")}


def test_a_wrong_mode_is_repaired():
    want = desired()
    facts = after(want)
    plan = make_plan(want, replace(facts, files=facts.files | {CONFIG: (want.config, 0o644)}), NEW)
    assert [(c.target, c.reason) for c in plan.changes if c.kind == "file"] == [(CONFIG, "mode")]


def test_a_joined_node_keeps_its_server_as_long_as_that_is_one():
    want = desired()
    other = replace(want, join="server: https://192.0.2.12:6443\n")
    assert make_plan(other, after(want), NEW).changes == ()
    gone = replace(other, servers=("https://192.0.2.12:6443",))
    assert JOIN in {f.path for f in make_plan(gone, after(want), NEW).writes}


def test_a_node_that_never_joined_takes_the_new_server():
    want = desired()
    other = replace(want, join="server: https://192.0.2.12:6443\n")
    assert JOIN in {f.path for f in make_plan(other, after(want, has_agent_data=False), NEW).writes}


def test_a_token_that_is_not_the_clusters_is_refused_before_anything_changes():
    want = desired(role="server", token=None, generate_tokens=True, join="")
    with pytest.raises(PifleetError, match="not the token of the cluster"):
        make_plan(replace(want, token="another"), after(want), NEW)


def test_a_serving_agent_is_not_restarted_by_another_form_of_its_token():
    facts = after(desired())
    assert make_plan(desired(token="verysecretpassword"), facts, NEW).changes == ()
    rejected = replace(facts, unit=UnitState("activating", True, False), has_agent_data=False)
    for right in ("another", f"K10{'cd' * 32}::server:verysecretpassword"):
        assert File(TOKEN, right + "\n", secret=True) in make_plan(desired(token=right), rejected, NEW).writes, "one that never joined"


def test_a_lost_file_of_the_agent_token_is_written_again_with_the_token_that_agents_have():
    want = desired(role="server", token=None, generate_tokens=True, join="")
    facts = after(want)
    lost = replace(facts, files={p: f for p, f in facts.files.items() if p not in (TOKEN, AGENT_TOKEN)})
    plan = make_plan(want, lost, ("2" * 32, "3" * 32))
    assert {f.path: f.content for f in plan.writes} == {TOKEN: NEW[0] + "\n", AGENT_TOKEN: NEW[1] + "\n"}


RIGHT = (f"K10{'ab' * 32}::server:serverpassword", f"K10{'ab' * 32}::node:agentpassword")


@pytest.mark.parametrize("wrong", ["another", f"K10{'ab' * 32}::node:another", f"K10{'cd' * 32}::node:agentpassword"])
def test_an_agent_that_serves_is_given_no_token_that_the_cluster_does_not_take(wrong):
    facts = after(desired())
    with pytest.raises(PifleetError, match="k3s_agent_token of the inventory is not the cluster's"):
        make_plan(desired(token=wrong, cluster_tokens=RIGHT), facts, NEW)
    rejected = replace(facts, unit=UnitState("activating", True, False))
    assert TOKEN in {f.path for f in make_plan(desired(token=wrong, cluster_tokens=RIGHT), rejected, NEW).writes}, "k3s says why"


@pytest.mark.parametrize("right", ["agentpassword", "serverpassword", *RIGHT])
def test_an_agent_that_serves_gets_the_token_that_the_cluster_was_given(right):
    plan = make_plan(desired(token=right, cluster_tokens=RIGHT), after(desired()), NEW)
    assert (File(TOKEN, right + "\n", secret=True), "restart") == (plan.writes[0], plan.unit_action)


def test_a_server_takes_no_agent_token_of_another_cluster():
    want = desired(role="server", token=None, generate_tokens=True, join="")
    facts = after(want, token_ca=f"K10{'ab' * 32}")
    with pytest.raises(PifleetError, match="of another cluster"):
        make_plan(replace(want, agent_token=f"K10{'cd' * 32}::node:agentpassword"), facts, NEW)
    for new in ("agentpassword", f"K10{'ab' * 32}::node:agentpassword"):
        plan = make_plan(replace(want, agent_token=new), facts, NEW)
        assert ([f.content for f in plan.writes], plan.unit_action) == (["agentpassword\n"], "restart")


def test_an_agent_that_serves_gets_its_lost_token_again():
    facts = after(desired())
    lost = replace(facts, files={p: f for p, f in facts.files.items() if p != TOKEN})
    plan = make_plan(desired(token=RIGHT[1], cluster_tokens=RIGHT), lost, NEW)
    assert plan.writes == (File(TOKEN, RIGHT[1] + "\n", secret=True),)


def test_without_a_token_a_joiner_is_refused():
    with pytest.raises(PifleetError, match="no token to join"):
        make_plan(desired(token=None), FRESH, NEW)


def test_a_worker_never_becomes_a_server():
    with pytest.raises(PifleetError, match="runs k3s as agent"):
        make_plan(desired(role="server"), replace(FRESH, other_unit_installed=True), NEW)


def test_registries_that_are_not_wanted_any_more_are_removed_but_a_users_own_file_is_not():
    want = desired(registries="mirrors: {}\n")
    plan = make_plan(replace(want, registries=""), after(want), NEW)
    assert plan.removes == (REGISTRIES,)
    assert plan.unit_action == "restart"
    users_own = after(desired())
    users_own = replace(users_own, files=users_own.files | {REGISTRIES: ("mirrors: {}\n", 0o600)})
    assert make_plan(desired(), users_own, NEW).removes == ()


def test_before_the_download_the_version_decides():
    unknown = desired(binary=Artifact("/staged", BINARY, None, 0o755))
    assert make_plan(unknown, after(desired()), NEW).installs == ()
    assert make_plan(replace(unknown, version="v1.34.5+k3s1"), after(desired()), NEW).unit_action == "restart"


def test_images_are_installed_before_the_binary_so_that_a_kill_in_between_stages_both_again():
    images = Artifact("/staged-images", "/var/lib/rancher/k3s/agent/images/k3s-airgap-images-arm64.tar.zst", "bb", 0o644)
    assert [a.target for a in make_plan(desired(images=images), FRESH, NEW).installs] == [images.target, BINARY]


def test_new_images_alone_restart_nothing():
    images = Artifact("/staged-images", "/images.tar.zst", "bb", 0o644)
    plan = make_plan(desired(images=images), after(desired(), images_sha256="old"), NEW)
    assert [a.target for a in plan.installs] == [images.target]
    assert plan.unit_action == "none"


def test_extra_files_count_as_inputs():
    want = desired(files=(File("/etc/sysctl.d/90-kubelet.conf", "a=1\n", 0o644),))
    facts = after(want)
    changed = replace(want, files=(File("/etc/sysctl.d/90-kubelet.conf", "a=2\n", 0o644),))
    assert make_plan(changed, facts, NEW).unit_action == "restart"


@pytest.mark.parametrize(
    ("token", "secret"),
    [("plain", "plain"), (FULL_TOKEN, "verysecretpassword"), (f"K10{'ab' * 32}::node:with:colon\n", "with:colon"), ("a::b", "a::b")],
)
def test_secret_of(token, secret):
    assert secret_of(token) == secret


def test_config_text_is_sorted_yaml_that_survives_a_parser():
    text = config.config_text(
        "server",
        node_name="pi-cluster-1.local",
        node_ip="192.0.2.11",
        data_dir="/srv/k3s",
        extra={"tls-san": ["no", "a b", "10.0.0.1"], "kubelet-arg": ["x=1"], "v": 2, "debug": False, "note": "on"},
        cis_profile=True,
        datastore_endpoint="",
    )
    parsed = yaml.safe_load(text)
    assert parsed["tls-san"] == ["no", "a b", "10.0.0.1"]
    assert parsed["kubelet-arg"] == ["streaming-connection-idle-timeout=5m", "x=1"]
    assert (parsed["v"], parsed["debug"], parsed["note"], parsed["write-kubeconfig-mode"]) == (2, False, "on", "0600")
    assert parsed["secrets-encryption"] is True
    assert "token" not in parsed


@pytest.mark.parametrize("key", sorted(config.RESERVED))
def test_keys_of_the_collection_are_refused_in_extra_config(key):
    with pytest.raises(PifleetError, match=key):
        config.config_text("agent", node_name="n", node_ip="i", data_dir="d", extra={key: "x"}, cis_profile=False, datastore_endpoint="")


def test_environment_is_quoted_and_the_fleet_is_never_proxied():
    text = config.environment_text({"A": 'say "hi" \\ $x'}, "http://proxy:3128", "", ["example.org"])
    assert 'A="say \\"hi\\" \\\\ $x"\n' in text
    assert 'HTTPS_PROXY="http://proxy:3128"\n' in text
    assert ".svc,.cluster.local,example.org" in text


@pytest.mark.parametrize("name", ["K3S_TOKEN", "K3S_URL", "K3S_DATASTORE_ENDPOINT", "K3S_CONFIG_FILE"])
def test_variables_of_the_collection_are_refused_in_the_environment(name):
    with pytest.raises(PifleetError, match=f"k3s_extra_env: {name} is set by the collection"):
        config.environment_text({name: "x"}, "", "", [])


@pytest.mark.parametrize("bad", [{"A B": "x"}, {"A": "two\nlines"}, {"": "x"}])
def test_bad_environment_is_refused(bad):
    with pytest.raises(PifleetError, match="k3s_extra_env"):
        config.environment_text(bad, "", "", [])


def test_join_text():
    assert config.join_text(server_url="", cluster_init=False, labels={}, taints=[]) == ""
    assert "cluster-init: true" in config.join_text(server_url="", cluster_init=True, labels={}, taints=[])
    text = config.join_text(server_url="https://192.0.2.11:6443", cluster_init=True, labels={"b": "2", "a": "1"}, taints=["x=y:NoSchedule"])
    assert "cluster-init" not in text
    assert text.index("a=1") < text.index("b=2")
