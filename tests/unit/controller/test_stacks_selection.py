# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes stacks concern, as far as the controller can tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._stacks_selection import NodeVars, concerned, is_compose, stacks_of

NODE = NodeVars("pi-4.local", enabled=True, remote=False, folder="stacks", role="workers", never_had_any=True)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("services: {}", True),
        ("x-pifleet: {nodes: [pi-4.local]}", True),
        ("x-pifleet: {nodes: [pi-4]}", True),
        ("x-pifleet: {nodes: 'pi-*'}", True),
        ("x-pifleet: {nodes: [pi-5.local]}", False),
        ("x-pifleet: {roles: [workers]}", True),
        ("x-pifleet: {roles: [control_plane]}", False),
        ("x-pifleet: {nodes: [pi-5.local], roles: [workers]}", True),
        ("x-pifleet: {policy: detect}", True),
        ("x-pifleet:", True),
        # in doubt the node is asked
        ("x-pifleet: {nodes: {a: 1}}", True),
        ("x-pifleet: [", True),
        ("- x-pifleet", True),
        ("services: {a: {ports: !override []}}\nx-pifleet: {nodes: [pi-5.local]}", False),
    ],
)
def test_by_name_and_role(text: str, runs: bool) -> None:
    assert stacks_of(NODE, {"stacks/web/compose.yaml": text}) == (["web"] if runs else [])


def test_files_that_compose_merges_leave_it_in_doubt() -> None:
    base = "x-pifleet: {nodes: [pi-5.local]}"
    assert stacks_of(NODE, {"stacks/web/compose.yaml": base, "stacks/web/compose.workers.yaml": "services: {}"}) == []
    assert stacks_of(NODE, {"stacks/web/compose.yaml": base, "stacks/web/compose.workers.yaml": base}) == ["web"]
    assert stacks_of(NODE, {"stacks/web/compose.yaml": "", "stacks/web/compose.workers.yaml": base}) == ["web"]


def test_only_what_lies_in_the_folder() -> None:
    texts = {"stacks/a/b/compose.yml": "", "other/c/compose.yaml": "", "stacks/compose.yaml": "", "stacks/d/docker-compose.yml": ""}
    assert stacks_of(NODE, texts) == ["a/b", "d"]
    assert stacks_of(replace(NODE, folder="other"), texts) == ["c"]


def test_who_is_concerned() -> None:
    texts = {"stacks/web/compose.yaml": "x-pifleet: {nodes: [pi-4]}"}
    nodes = [
        NODE,
        replace(NODE, name="pi-5.local"),
        replace(NODE, name="had", never_had_any=False),
        replace(NODE, name="off", enabled=False),
        replace(NODE, name="off-had", enabled=False, never_had_any=False),
        replace(NODE, name="remote", remote=True),
    ]
    assert concerned(nodes, texts) == {"pi-4.local": ["web"], "had": [], "off-had": [], "remote": []}
    assert concerned(nodes[:2], {}) == {}


def test_names_of_compose_files() -> None:
    assert [
        p
        for p in ("a/compose.yaml", "a/compose.workers.yml", "a/docker-compose.yml", "a/compose.txt", "a/my-compose.yaml")
        if is_compose(p)
    ] == [
        "a/compose.yaml",
        "a/compose.workers.yml",
        "a/docker-compose.yml",
    ]
