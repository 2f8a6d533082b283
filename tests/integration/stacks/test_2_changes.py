# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change touches and what it does not: one service, a revision, a commit message, a lost state file, what is meant to be still."""

from __future__ import annotations

import json

from tests.support.stack_node import LABEL, STATE, StackNode, compose, serves

OLD, NEW = "a" * 40, "b" * 40
PAIR = compose({"a": serves(), "b": serves()})
AWKWARD = (
    """fix "web", 'db', and a,b=c; cost $5 ${HOME} $$ $(id) ${UNSET:?no} $PATH C:\\temp\\new \\n \\$HOME \\""",
    "title\n\nbody: [a, b]\n# no comment\n- item\n",
    "  {a: b} & *c !d %e @f `g` | > --- two  blanks\tand a tab, \U0001f680 f\u00fcr Z\u00fcrich \u2028 end ",
    "",
)


def three(node: StackNode) -> None:
    for name in ("one", "two", "three"):
        node.stack(name, PAIR)


def test_one_changed_service_is_one_compose_call_and_one_new_container(node: StackNode) -> None:
    three(node)
    node.reconcile().require()
    before = node.identities()
    node.stack("two", compose({"a": serves(), "b": serves(environment="{A: b}")}))
    with node.counting_docker() as calls:
        result = node.reconcile(revision=NEW).require()
        ups = [call for call in calls() if " up " in call]
    after = node.identities()
    assert {name for name in before if before[name] != after[name]} == {"two-b-1"}
    assert [name for name, row in result.stacks.items() if row["changed"]] == ["two"]
    assert len(ups) == 1
    labels = {name: one["Config"]["Labels"] for name, one in node.inspect().items()}
    assert labels["two-b-1"][f"{LABEL}revision"] == NEW
    assert labels["two-a-1"][f"{LABEL}revision"] == OLD


def test_nothing_changed_is_two_calls_and_no_compose(node: StackNode) -> None:
    three(node)
    with node.counting_docker() as calls:
        node.reconcile().require()
        before = len(calls())
        assert not node.reconcile().require().changed
        made = calls()[before:]
    assert [call.split()[0] for call in made] == ["ps", "inspect"]


def test_a_new_revision_restarts_nothing_and_is_shown(node: StackNode) -> None:
    three(node)
    node.reconcile().require()
    before = node.identities()
    result = node.reconcile(revision=NEW, commit_message="docs only").require()
    assert not result.changed
    assert node.identities() == before
    for rows in (result.stacks, node.info().stacks):
        assert {(row["revision"], row["commit_message"]) for row in rows.values()} == {(NEW, "docs only")}


def test_any_commit_message_survives(node: StackNode) -> None:
    for number, message in enumerate(AWKWARD):
        node.stack("web", compose({"a": serves(environment=f"{{A: '{number}'}}")}))
        node.reconcile(commit_message=message).require()
        container = node.inspect()["web-a-1"]
        assert container["Config"]["Labels"][f"{LABEL}commit_message"] == message
        assert not node.reconcile(revision=NEW, commit_message=f"{message}!").require().changed
        assert node.inspect()["web-a-1"]["Id"] == container["Id"]
        assert node.info().stacks["web"]["commit_message"] == f"{message}!"


def test_a_value_with_dollars_and_backslashes_arrives_as_compose_means_it(node: StackNode) -> None:
    node.stack(
        "web",
        """
        services:
          a:
            image: pifleet/lab-app:1
            environment:
              PLAIN: "a$$NAME $${HOME} \\\\d+ \\\\\\\\"
              OURS: "${PIFLEET_SECRET:-none}"
            labels: {note: "100$$ $${x} \\\\"}
            command: [serve, -crash-if, "/no$$such${MISSING:-}"]
        """,
    )
    node.reconcile().require()
    container = node.inspect()["web-a-1"]
    assert {"PLAIN=a$NAME ${HOME} \\d+ \\\\", "OURS=none"} <= set(container["Config"]["Env"])
    assert container["Config"]["Labels"]["note"] == "100$ ${x} \\"
    assert container["Config"]["Cmd"] == ["serve", "-crash-if", "/no$such"]
    assert not node.reconcile().require().changed


def test_a_lost_state_file_is_recovered_from_the_labels(node: StackNode) -> None:
    three(node)
    node.reconcile(commit_message="first words").require()
    known = node.info().stacks["two"]
    before = node.identities()
    node.sh(f"rm -rf {STATE}")
    row = node.info().stacks["two"]
    assert row["recovered"] is True
    assert (row["status"], row["revision"], row["compose_hash"]) == ("synced", OLD, known["compose_hash"])
    assert row["commit_message"] == "first words"
    assert row["last_sync_at"]
    assert not node.reconcile(commit_message="first words").require().changed
    assert node.identities() == before
    assert not node.info().stacks["two"].get("recovered")


def test_a_broken_state_file_is_as_a_lost_one(node: StackNode) -> None:
    three(node)
    node.reconcile().require()
    before = node.identities()
    for garbage in ("", "{", "[]", '{"version": 99}', "\\xff\\xfe"):
        node.sh(f"for file in $(find {STATE} -name '*.json'); do printf '{garbage}' >$file; done")
        assert node.info().stacks["two"]["revision"] == OLD
    assert not node.reconcile().require().changed
    assert node.info().stacks["two"]["recovered"] is False
    assert node.identities() == before


def test_stopped_containers_count_when_state_is_recovered(node: StackNode) -> None:
    node.stack("web", PAIR)
    node.reconcile().require()
    node.stack("web", compose({"a": serves(environment="{A: b}"), "b": serves()}))
    node.reconcile(revision=NEW).require()
    node.sh(f"rm -rf {STATE}; docker stop -t 0 web-a-1")
    assert node.info().stacks["web"]["revision"] == NEW


def test_what_is_meant_to_be_still_is_no_drift(node: StackNode) -> None:
    job = "{image: 'pifleet/lab-app:1', command: [once], restart: 'no'}"
    node.stack("scaled", compose({"a": serves(), "b": serves(scale="0")}))
    node.stack("job", compose({"a": serves(), "b": job}))
    node.stack("profiled", compose({"a": serves(), "b": serves(profiles="[debug]")}))
    node.stack("asleep", compose({"a": serves(), "b": serves()}))
    node.stack("ignored", compose({"a": serves(), "b": serves()}))
    node.reconcile().require()
    node.wait_for("the job's end", "[ $(docker inspect -f '{{.State.Status}}' job-b-1) = exited ]")
    node.stack("asleep", compose({"a": serves(), "b": serves()}, "x-pifleet: {suspended: true}\n"))
    node.stack("ignored", compose({"a": serves(), "b": serves()}, "x-pifleet: {drift_ignore: [limits_changed]}\n"))
    node.reconcile().require()
    node.sh("docker stop -t 0 asleep-a-1; docker update --memory 64m --memory-swap 64m ignored-a-1")
    before = node.identities()
    for policy in ("detect", "acknowledge", "apply"):
        result = node.reconcile(policy=policy, revision=NEW).require()
        assert not result.changed
        assert result.drift == {}
        assert result.stacks["asleep"]["suspended"] is True
    assert node.identities() == before
    assert node.inspect()["ignored-a-1"]["HostConfig"]["Memory"] == 64 << 20


def test_a_job_that_ended_badly_is_told(node: StackNode) -> None:
    node.stack("job", compose({"a": serves(), "b": "{image: 'pifleet/lab-app:1', command: [once, '0', '3'], restart: 'no'}"}))
    row = node.reconcile().require(failed=True).stacks["job"]
    assert row["status"] == "failed"
    assert "3" in row["last_error"]


def test_a_profile_or_scale_switched_off_removes_what_ran(node: StackNode) -> None:
    node.stack("web", compose({"a": serves(), "b": serves()}))
    node.reconcile().require()
    node.stack("web", compose({"a": serves(), "b": serves(scale="0")}))
    assert node.reconcile().require().changed
    assert set(node.inspect()) == {"web-a-1"}


def test_any_file_name_that_compose_looks_for_and_a_role_s_own_file(node: StackNode) -> None:
    for name in ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"):
        node.write({f"{name.replace('.', '-')}/{name}": compose({"a": serves()})})
    node.write({"roles/compose.yaml": compose({"a": serves()}), "roles/compose.workers.yaml": compose({"b": serves()})})
    result = node.reconcile(node_role="workers").require()
    assert set(result.statuses.values()) == {"synced"}
    assert {"roles-a-1", "roles-b-1", "compose-yml-a-1", "docker-compose-yaml-a-1"} <= set(node.inspect())


def test_out_of_scope_is_reported_and_never_touched(node: StackNode) -> None:
    three(node)
    node.stack("elsewhere", compose({"a": serves()}, "x-pifleet: {nodes: [another-node]}\n"))
    node.stack("servers", compose({"a": serves()}, "x-pifleet: {roles: [control_plane]}\n"))
    result = node.reconcile(scope=["t*", "elsewhere", "servers"], node_role="workers").require()
    assert set(node.inspect()) == {"two-a-1", "two-b-1", "three-a-1", "three-b-1"}
    assert json.dumps(result.stacks["one"]).count("scope")
