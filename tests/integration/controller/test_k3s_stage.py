# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a release on their way to a node: check, apply, check, apply; what is there already; and what cannot be copied."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.controller import Controller, wait_for_file

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

AHEAD = """
- name: Stage the release
  hosts: one
  gather_facts: false
  vars:
    files:
      - {src: "{{ fleet_root }}/k3s", dest: "{{ node }}/bin/.k3s staged", mode: "0755", sha256: "{{ sha256 }}"}
      - {src: "{{ fleet_root }}/images", dest: "{{ node }}/.images", mode: "0600", sha256: "{{ images_sha256 }}"}
  tasks:
    - name: Begin to copy
      pifleet.ops.k3s_stage:
        files: "{{ files }}"
        ahead: true

    - name: Do something else
      ansible.builtin.command: "{{ meanwhile | default('true') }}"
      delegate_to: localhost
      changed_when: false

    - name: Copy the release to the node
      pifleet.ops.k3s_stage:
        files: "{{ files }}"
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


def test_ahead_of_its_turn(controller: Controller, node: Path) -> None:
    """Check, apply, check, apply; what was copied ahead is not sent again, and reported once."""
    binary, images = node / "bin/.k3s staged", node / ".images"
    seen = []
    for check in (["--check"], [], ["--check"], []):
        played = controller.play(AHEAD, *check, *args(controller, node))
        assert played.rc == 0, played.out
        seen.append((played.changed, binary.exists(), images.exists()))
        assert ([str(binary), str(images)] == [path for path in (str(binary), str(images)) if f"- {path}" in played.out]) == (len(seen) < 3)
    assert seen == [(1, False, False), (1, True, True), (0, True, True), (0, True, True)]
    assert (binary.stat().st_mode & 0o7777, images.stat().st_mode & 0o7777) == (0o755, 0o600)


def gated(controller: Controller, node: Path) -> dict[str, str]:
    """Settings with which what arrives on the node is put into its place when `gate` is there, half a minute later at most."""
    programs = controller.folder / "programs"
    programs.mkdir()
    waits = f'for _ in $(seq 300); do [ -e {controller.folder}/gate ] && exec /bin/chown "$@"; sleep 0.1; done; exit 1'
    (programs / "chown").write_text(f"#!/bin/sh\ntouch {controller.folder}/arrived\n{waits}\n")
    (programs / "chown").chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "ANSIBLE_REMOTE_TMP": str(node / "tmp")}


def test_ahead_the_run_goes_on_meanwhile(controller: Controller, node: Path) -> None:
    """Only the task after it lets the copy end."""
    played = controller.play(
        AHEAD, *args(controller, node), "-e", f"meanwhile='touch {controller.folder}/gate'", env=gated(controller, node)
    )
    assert played.rc == 0, played.out
    assert played.changed == 1
    assert sha256(node / "bin/.k3s staged") == sha256(controller.folder / "k3s")


def test_a_copy_ahead_ends_with_its_run(controller: Controller, node: Path) -> None:
    """Nothing of it runs on or stays on the node."""
    command = controller.command(AHEAD, *args(controller, node), "-e", "meanwhile='sleep 60'")
    run = subprocess.Popen(command, env=controller.env(gated(controller, node)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_file(controller.folder / "arrived")
    run.kill()
    run.wait()
    deadline = time.monotonic() + 20
    while list((node / "tmp").iterdir()):
        assert time.monotonic() < deadline, list((node / "tmp").rglob("*"))
        time.sleep(0.1)
    assert not (node / "bin/.k3s staged").exists()


def test_what_fails_ahead_is_told_when_its_turn_comes(controller: Controller, node: Path) -> None:
    settings = args(controller, node)
    (node / "bin").rmdir()
    played = controller.play(AHEAD, *settings)
    assert played.rc == 2
    assert "Do something else" in played.out and "cannot be copied to the node" in " ".join(played.out.split())
    played.assert_clear()
