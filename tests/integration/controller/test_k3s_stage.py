# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a release on their way to a node: check, apply, check, apply; what is there already; and what cannot be copied."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.controller import Controller

STAGE = """
- name: Stage the release
  hosts: one
  gather_facts: false
  tasks:
    - name: Copy the release to the node
      pifleet.ops.k3s_stage:
        files:
          - {src: "{{ fleet_root }}/k3s", dest: "{{ node }}/bin/.k3s staged", mode: "0755", sha256: "{{ sha256 | default(omit) }}"}
          - {src: "{{ fleet_root }}/images", dest: "{{ node }}/.images", mode: "0600", sha256: "{{ images_sha256 }}"}
      register: staged

    - name: Show it
      ansible.builtin.debug:
        var: staged.copied
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def node(controller: Controller) -> Path:
    folder = controller.folder / "node"
    (folder / "bin").mkdir(parents=True)
    (controller.folder / "k3s").write_bytes(os.urandom(3 << 20))
    (controller.folder / "images").write_bytes(b"images")
    return folder


def args(controller: Controller, node: Path) -> list[str]:
    sums = {"sha256": sha256(controller.folder / "k3s"), "images_sha256": sha256(controller.folder / "images")}
    return [word for k, v in {"node": str(node), **sums}.items() for word in ("-e", f"{k}={v}")]


def test_check_apply_check_apply(controller: Controller, node: Path) -> None:
    binary, images = node / "bin/.k3s staged", node / ".images"
    seen = []
    for check in (["--check"], [], ["--check"], []):
        played = controller.play(STAGE, *check, *args(controller, node))
        assert played.rc == 0, played.out
        seen.append((played.changed, binary.exists(), images.exists()))
    assert seen == [(1, False, False), (1, True, True), (0, True, True), (0, True, True)]
    assert (sha256(binary), sha256(images)) == (sha256(controller.folder / "k3s"), sha256(controller.folder / "images"))
    assert (binary.stat().st_mode & 0o7777, images.stat().st_mode & 0o7777) == (0o755, 0o600)
    assert binary.stat().st_uid == os.geteuid()


def test_what_is_there_whole_is_not_sent_again(controller: Controller, node: Path) -> None:
    """As after a kill between the two."""
    binary = node / "bin/.k3s staged"
    binary.write_bytes((controller.folder / "k3s").read_bytes())
    (node / ".images").write_bytes(b"ima")
    before = binary.stat().st_ino
    played = controller.play(STAGE, *args(controller, node))
    assert played.changed == 1
    assert (binary.stat().st_ino, (node / ".images").read_bytes()) == (before, b"images")
    assert str(node / ".images") in played.out and "staged.copied" in played.out and f"- {binary}" not in played.out


def test_a_file_whose_checksum_is_not_known_yet_is_predicted(controller: Controller, node: Path) -> None:
    """In check mode, before the download: there is no file on the controller either."""
    (controller.folder / "k3s").unlink()
    played = controller.play(STAGE, "--check", "-e", f"node={node}", "-e", "images_sha256=0")
    assert played.rc == 0, played.out
    assert played.changed == 1
    assert not (node / ".images").exists()


def test_what_cannot_be_copied_is_told(controller: Controller, node: Path) -> None:
    settings = args(controller, node)
    (node / "bin").rmdir()
    played = controller.play(STAGE, *settings)
    assert played.rc == 2
    assert "cannot be copied to the node" in " ".join(played.out.split())
    played.assert_clear()
    assert not (node / ".images").exists()


def test_a_file_that_the_controller_lacks_is_told(controller: Controller, node: Path) -> None:
    settings = args(controller, node)
    (controller.folder / "k3s").unlink()
    played = controller.play(STAGE, *settings)
    assert played.rc == 2
    assert "is not on the controller" in " ".join(played.out.split())
    played.assert_clear()
    assert list(node.rglob("*")) == [node / "bin"]
