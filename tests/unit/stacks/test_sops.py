# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted files of a stack, with an engine that takes ``ENC:`` for an encryption."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import sops
from ansible_collections.pifleet.ops.plugins.module_utils._stacks.ports import EngineMissingError

TABLE = {"services": {"web": {"image": "app:1", "restart": "always", "environment": {"A": "b"}, "volumes": ["./app.conf:/app.conf"]}}}


def tree(root: Path) -> dict[str, bytes]:
    """Content of all files below *root*, links as such."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() or path.is_symlink()]
    return {str(path.relative_to(root)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes() for path in paths}


@pytest.fixture
def sealed(node: Any) -> Any:
    """A node with one stack that mounts a file which is encrypted, and one without."""
    node.stack("web", TABLE, **{"app.sops.conf": "ENC:one"})
    node.stack("other")
    return node


@pytest.mark.parametrize(
    ("name", "plain"),
    [("app.sops.env", "app.env"), ("a/b.sops.tar.gz", "a/b.tar.gz"), ("app.env", ""), ("sops.env", ""), (".sops.env", ".env")],
)
def test_where_the_plaintext_goes(name, plain):
    assert sops.plain_name(name) == plain


def test_it_is_decrypted_once_and_again_when_either_side_changed(sealed):
    plain = sealed.path / "web/app.conf"
    assert not sealed.reconcile().failed and plain.read_text() == "one" and plain.stat().st_mode & 0o777 == 0o600
    sealed.engine.calls.clear()
    assert not sealed.reconcile().changed and "decrypt" not in sealed.verbs()
    plain.write_text("edited")
    assert not sealed.reconcile().changed and plain.read_text() == "one", "it is put back before anything is compared"
    (sealed.path / "web/app.sops.conf").write_text("ENC:two")
    changed = sealed.one(sealed.reconcile())
    assert [d.reason for d in changed.drift] == ["mounted_file_changed"] and plain.read_text() == "two"


def test_what_cannot_be_decrypted_fails_its_stack_and_no_other(sealed):
    sealed.reconcile()
    before = sealed.running()
    (sealed.path / "web/app.sops.conf").write_text("for somebody else")
    for _ in range(2):  # the old plaintext is not taken for that of the new one
        report = sealed.reconcile()
        assert [s.name for s in report.failed] == ["web"] and "app.sops.conf cannot be decrypted" in report.failure
    assert sealed.running() == before
    (sealed.path / "web/app.conf").unlink()
    (sealed.path / "web/app.conf").mkdir()
    (sealed.path / "web/app.sops.conf").write_text("ENC:two")
    assert "app.conf" in sealed.one(sealed.reconcile()).last_error


@pytest.mark.parametrize("tracked", [True, False])
def test_a_check_decrypts_elsewhere_and_predicts(sealed, tracked):
    sealed.reconcile()
    (sealed.path / "web/app.sops.conf").write_text("ENC:two")
    (sealed.path / "web/link.conf").symlink_to("app.conf")
    (sealed.path / "other/data").mkdir()
    (sealed.path / "other/data/of-a-container").write_text("large")
    os.mkfifo(sealed.path / "other/data/pipe")
    files = {"web/compose.yaml", "web/app.sops.conf", "web/app.conf", "web/link.conf", "other/compose.yaml"}
    only = {"tracked": frozenset(files)} if tracked else {}
    before, kept = tree(sealed.path), tree(sealed.state)
    predicted = sealed.reconcile(check=True, **only)
    assert [d.reason for d in sealed.one(predicted).drift] == ["mounted_file_changed"]
    assert (tree(sealed.path), tree(sealed.state)) == (before, kept), "nothing was touched"
    done = sealed.reconcile(**only)
    assert done.as_result()["plan"] == predicted.as_result()["plan"]
    assert not sealed.reconcile(check=True, **only).changed


def test_a_check_copies_the_desired_state_alone(sealed, monkeypatch):
    """What containers wrote is not copied, and still there for Compose."""
    (sealed.path / "web/data").mkdir()
    (sealed.path / "web/data/large").write_text("x")
    (sealed.path / ".git").mkdir()
    seen: dict[str, Any] = {}
    resolve = sealed.engine.resolve

    def spy(source: Any, **more: Any) -> Any:
        seen[source.project] = {p.name: p.is_symlink() for p in Path(source.folder).iterdir()}
        seen["root"] = {p.name: p.is_symlink() for p in Path(source.folder).parent.iterdir()}
        return resolve(source, **more)

    monkeypatch.setattr(sealed.engine, "resolve", spy)
    sealed.reconcile(check=True, tracked=frozenset({"web/compose.yaml", "web/app.sops.conf", "web/app.conf", "other/compose.yaml"}))
    assert seen["web"] == {"compose.yaml": False, "app.sops.conf": False, "app.conf": False, "data": True}
    assert seen["root"] == {"web": False, "other": False, ".git": True}


def test_a_check_before_sops_or_the_key_came_predicts_and_says_what_it_cannot_know(node):
    node.stack("web", {**TABLE, "x-pifleet": {"policy": "apply"}}, **{"app.sops.conf": "ENC:one"})
    node.engine.decrypt, decrypt = _no_sops, node.engine.decrypt
    predicted = node.reconcile(check=True)
    assert not predicted.failed and node.one(predicted).drift[0].reason == "stack_missing"
    assert "app.sops.conf" in predicted.warnings[0] and "sops is not installed" in predicted.warnings[0]
    assert not (node.path / "web/app.conf").exists()
    assert "sops is not installed" in node.one(node.reconcile()).last_error, "a run does not take it for empty"
    assert not node.running()
    node.engine.decrypt = decrypt
    assert node.one(node.reconcile()).status == "synced"


def _no_sops(*_: Any, **__: Any) -> None:
    raise EngineMissingError("sops is not installed on this node.")
