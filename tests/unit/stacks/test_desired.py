# SPDX-License-Identifier: GPL-3.0-or-later
"""What Compose answered, turned into what is compared: each decision, on answers of its form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import desired, files
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Options, Service, Stack


def built(tmp_path: Path, model: dict[str, Any], content: dict[str, str] | None = None, **more: Any) -> Stack:
    """The stack ``web`` whose folder has *content*, of Compose's answer *model*, in which ``@`` stands for the stack's folder."""
    folder = tmp_path / "web"
    for name, text in {"compose.yaml": "", **(content or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    [found] = files.find(str(tmp_path))
    return desired.build(found, _placed(model, str(folder)), root=str(tmp_path), **more)


def _placed(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _placed(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_placed(part, folder) for part in value]
    return value.replace("@", folder) if isinstance(value, str) else value


def service(tmp_path: Path, table: dict[str, Any], content: dict[str, str] | None = None, **model: Any) -> Service:
    return built(tmp_path, {"services": {"a": {"image": "app:1", **table}}, **model}, content).services["a"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("yes", "must be a table of keys, not a text"),
        (["a"], "not a list"),
        (1, "not a number"),
        ({"node": "x"}, "has no key node"),
        ({"policy": "perhaps"}, "policy is 'perhaps'"),
        ({"nodes": [1]}, "nodes must be a list of texts"),
        ({"roles": {"a": 1}}, "roles must be a list of texts"),
        ({"suspended": "yes"}, "suspended must be true or false"),
        ({"remove": 1}, "remove must be true or false"),
    ],
)
def test_what_a_stack_says_of_itself_is_understood_or_refused(table, says):
    with pytest.raises(PifleetError, match=f"(?s)web/compose.yaml: x-pifleet.*{says}"):
        desired.options_of({"x-pifleet": table}, "web/compose.yaml")


def test_what_a_stack_may_say_of_itself():
    assert desired.options_of({}, "w") == Options()
    told = {"nodes": "pi-*", "roles": ["workers"], "policy": "detect", "suspended": True, "drift_ignore": ["stopped"], "remove": False}
    assert desired.options_of({"x-pifleet": told}, "w") == Options(("pi-*",), ("workers",), "detect", True, ("stopped",), remove=False)


def test_a_stack_without_services_is_refused(tmp_path):
    with pytest.raises(PifleetError, match="it has no services"):
        built(tmp_path, {"services": {}})


@pytest.mark.parametrize(
    "tables", [{"a": {"container_name": "x", "scale": 2}}, {"a": {"container_name": "x"}, "b": {"container_name": "x"}}]
)
def test_a_name_that_two_containers_would_have_is_refused(tmp_path, tables):
    with pytest.raises(PifleetError, match="the container_name x would be that of"):
        built(tmp_path, {"services": {name: {"image": "app:1", **table} for name, table in tables.items()}})


@pytest.mark.parametrize(
    ("table", "policy", "job"),
    [
        ({}, "no", False),
        ({"restart": "no"}, "no", True),
        ({"restart": "on-failure:3"}, "on-failure", True),
        ({"restart": "always"}, "always", False),
        ({"deploy": {"restart_policy": {"condition": "none"}}}, "no", True),
        ({"deploy": {"restart_policy": {"condition": "on-failure", "max_attempts": 3}}}, "on-failure", True),
        ({"deploy": {"restart_policy": {"condition": "any", "max_attempts": 3}}}, "always", False),
        ({"deploy": {"restart_policy": {"delay": "5s"}}}, "always", False),
    ],
)
def test_whether_a_service_may_end(tmp_path, table, policy, job):
    found = service(tmp_path, table)
    assert (found.limits["RestartPolicy"], found.job, found.undecided) == (policy, job, table == {})


@pytest.mark.parametrize(
    ("table", "scale"), [({}, 1), ({"scale": 0}, 0), ({"deploy": {"replicas": 3}}, 3), ({"scale": 2, "deploy": {"replicas": 3}}, 2)]
)
def test_how_many_containers_a_service_has(tmp_path, table, scale):
    assert service(tmp_path, table).scale == scale


def test_limits_come_from_either_place(tmp_path):
    assert service(tmp_path, {"mem_limit": "1048576", "cpus": 0.5}).limits == {
        "Memory": "1048576",
        "NanoCpus": "500000000",
        "RestartPolicy": "no",
    }
    deploy = {"resources": {"limits": {"memory": "2097152", "cpus": "1.5"}}}
    assert service(tmp_path, {"deploy": deploy}).limits == {"Memory": "2097152", "NanoCpus": "1500000000", "RestartPolicy": "no"}
    assert service(tmp_path, {}).limits["Memory"] == "0"


def test_what_a_service_is_recreated_with(tmp_path):
    table = {
        "depends_on": {"db": {"condition": "service_started", "restart": True}, "log": {"condition": "service_started"}},
        "network_mode": "service:net",
        "ipc": "service:ipc",
        "pid": "host",
        "volumes_from": ["vol:ro", "container:other"],
    }
    found = service(tmp_path, table)
    assert (found.follows, found.shares, found.networks) == (("db", "ipc", "net", "vol"), "net", None)


def test_the_number_of_replicas_and_the_order_of_starts_change_no_hash(tmp_path):
    plain = service(tmp_path, {"deploy": {"labels": {"x": "1"}}})
    other = service(tmp_path, {"deploy": {"labels": {"x": "1"}, "replicas": 3}, "depends_on": {}, "pull_policy": "always", "scale": 3})
    assert plain.hash == other.hash
    assert plain.hash != service(tmp_path, {"deploy": {"labels": {"x": "2"}}}).hash


# -- what is mounted -----------------------------------------------------------------------------------------------------------
def test_content_of_configs_and_secrets_counts_wherever_it_is(tmp_path):
    table = {"configs": [{"source": "inline"}, {"source": "file"}], "secrets": [{"source": "env"}, {"source": "other"}]}
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("1")
    model = {
        "configs": {"inline": {"content": "a"}, "file": {"file": "@/c.conf"}},
        "secrets": {"env": {"environment": "TOKEN"}, "other": {"file": str(outside)}},
    }
    content = {"c.conf": "1", ".env": "TOKEN=1"}

    def made() -> Service:
        return service(tmp_path, table, content, **model)

    first = made()
    assert set(first.files) == {"c.conf", ".env", str(outside)} and "configs.inline" in first.keys
    hashes = {first.hash}
    model["configs"]["inline"]["content"] = "b"
    hashes.add(made().hash)
    for name in content:
        content[name] += "2"
        hashes.add(made().hash)
    outside.write_text("2")
    hashes.add(made().hash)
    assert len(hashes) == 5
    model["secrets"]["other"]["file"] = "@/nope"
    with pytest.raises(PifleetError, match=r"nope, of secrets.other, does not exist"):
        made()


def test_a_mounted_file_of_the_desired_state_around_the_stack_counts(tmp_path):
    (tmp_path / "shared/deep").mkdir(parents=True)
    (tmp_path / "shared/x.conf").write_text("1")
    (tmp_path / "shared/deep/y.conf").write_text("1")
    mounts = [
        {"type": "bind", "source": f"{tmp_path}/shared", "target": "/shared"},
        {"type": "bind", "source": f"{tmp_path}/shared/x.conf", "target": "/x"},
        {"type": "bind", "source": "/etc/hostname", "target": "/h"},
        {"type": "bind", "source": "/nowhere/data", "target": "/data"},
        {"type": "volume", "source": "data", "target": "/v/"},
        {"type": "tmpfs", "target": "/t"},
        {"type": "volume", "target": "/anonymous"},
    ]
    found = service(tmp_path, {"volumes": mounts}, volumes={"data": {"name": "web_data"}})
    assert set(found.files) == {"../shared/x.conf", "../shared/deep/y.conf"}
    assert "volume web_data /v" in found.mounts and found.volumes == ("web_data",)
    (tmp_path / "shared/deep/y.conf").write_text("2")
    assert service(tmp_path, {"volumes": mounts}, volumes={"data": {"name": "web_data"}}).hash != found.hash


@pytest.mark.parametrize(("source", "target"), [("@/gone", "/x"), ("/srv/gone.conf", "/x"), ("/srv/gone", "/etc/x.conf")])
def test_a_file_that_is_not_there_is_refused_because_docker_would_make_a_folder(tmp_path, source, target):
    with pytest.raises(PifleetError, match=r"does not exist\. Docker would make a folder of it"):
        service(tmp_path, {"volumes": [{"type": "bind", "source": source, "target": target}]})


def test_what_an_image_is_built_from_counts_and_the_compose_file_does_not(tmp_path):
    table = {"build": {"context": "@", "dockerfile": "Dockerfile"}, "image": None}
    content = {"Dockerfile": "FROM x", "compose.yaml": "# one"}
    first = service(tmp_path, table, content)
    assert first.build and first.image == "web-a"
    assert service(tmp_path, table, {**content, "compose.yaml": "# two"}).hash == first.hash
    assert service(tmp_path, table, {**content, "Dockerfile": "FROM y"}).hash != first.hash


def test_paths_are_those_of_where_it_will_be_applied(tmp_path):
    model = {
        "services": {"a": {"image": "app:1", "volumes": [{"type": "bind", "source": "@/c.conf", "target": "/c"}], "command": ["@x", "@"]}}
    }
    home = "/var/lib/pifleet/desired-state/stacks/web"
    moved = built(tmp_path, model, {"c.conf": "1"}, home=home)
    assert moved.services["a"].mounts == (f"bind {home}/c.conf /c",)
    assert moved.services["a"].hash != built(tmp_path, model, {"c.conf": "1"}).services["a"].hash


def test_networks_and_volumes_of_others_are_not_its_to_define(tmp_path):
    model = {
        "services": {"a": {"image": "app:1", "networks": {"own": None, "theirs": None}}},
        "networks": {"own": {"name": "web_own", "ipam": {}}, "theirs": {"name": "theirs", "external": True}},
        "volumes": {"kept": {"name": "kept", "external": True}},
    }
    found = built(tmp_path, model)
    assert (set(found.networks), dict(found.volumes), found.services["a"].networks) == ({"web_own"}, {}, ("theirs", "web_own"))


def test_a_key_that_is_ignored_is_in_no_hash(tmp_path):
    model = {"services": {"a": {"image": "app:1", "environment": {"TZ": "x", "B": "y"}, "labels": {"io.pifleet.stack.name": "forged"}}}}
    ignored = built(tmp_path, model, ignore=("b/config_changed:environment.B", "a/config_changed:environment.T*")).services["a"]
    assert set(ignored.keys) == {"image", "environment.B"}
