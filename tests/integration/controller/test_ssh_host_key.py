# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's SSH host key changes: what the person sees, what the run trusts, and what is written down. Against a real sshd on loopback."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import system
from lab.console import Console
from tests.support.controller import Controller, Played
from tests.support.ports import free_port

KINDS = ("ed25519", "rsa")
PLAY = """
- name: Reach the node
  hosts: node
  gather_facts: false
  tasks:
    - name: Reach it
      ansible.builtin.ping:
      ignore_unreachable: true
      register: found
    - name: Look at its key
      pifleet.ops.ssh_host_key:
        state: inspected
        accept: "{{ rebuild_accept_new_host_key | default(false) }}"
        failure: "{{ found.msg }}"
      register: host_key
      when: found.unreachable | default(false)
    - name: Trust the new key
      ansible.builtin.set_fact:
        ansible_ssh_args: "{{ host_key.ssh_args }}"
      when: host_key.host_key_changed | default(false)
    - name: Show what the run trusts
      ansible.builtin.debug:
        msg: "PINNED {{ host_key.pinned | default('-') }} KNOWN {{ host_key.known | default([]) | to_json }}"
    - name: Reach it again
      ansible.builtin.ping:
    - name: Write the key down
      pifleet.ops.ssh_host_key:
        state: replaced
        pinned: "{{ host_key.pinned }}"
      when: host_key.host_key_changed | default(false)
    - name: Write it down again
      pifleet.ops.ssh_host_key:
        state: replaced
        pinned: "{{ host_key.pinned }}"
      register: again
      when: host_key.host_key_changed | default(false) and not ansible_check_mode
    - name: Nothing is left to do
      ansible.builtin.assert:
        that: again is not changed
"""
ACCEPT = ("-e", "rebuild_accept_new_host_key=true")
HEAD = PLAY.split("    - name: Reach it\n")[0]
PROXY = """
import os, socket, sys, threading
far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while data := os.read(0, 65536):
        far.sendall(data)
threading.Thread(target=send, daemon=True).start()
while data := far.recv(65536):
    os.write(1, data)
"""
OTHERS = "# kept by hand\n\n192.0.2.77 {key} other\n"


def keygen(*args: str) -> str:
    return subprocess.run(["ssh-keygen", *args], check=True, capture_output=True, text=True, timeout=60).stdout


def public(path: Path) -> str:
    """The type and the key of a public key's file."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


def fingerprint(path: Path) -> str:
    return keygen("-lf", f"{path}.pub").split()[1]


@dataclass
class Node:
    """An sshd on a port of its own. *folder* holds its keys, the user's key and the controller's known_hosts."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def name(self) -> str:
        return f"[127.0.0.1]:{self.port}"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "of the controller" / "known_hosts"

    def key(self, which: str, kind: str) -> Path:
        return self.folder / f"{which}_{kind}"

    def start(self, which: str, *more: str, kinds: tuple[str, ...] = KINDS) -> None:
        """(Re)start sshd with the host keys *which*. *more*: lines for its configuration."""
        self.stop()
        keys = [f"HostKey {self.key(which, kind)}" for kind in kinds]
        config = self.folder / "sshd_config"
        settings = [f"Port {self.port}", "ListenAddress 127.0.0.1", f"AuthorizedKeysFile {self.folder}/user.pub", "StrictModes no"]
        config.write_text("\n".join([*settings, *keys, "UsePAM no", "PermitRootLogin yes", "PidFile none", *more, ""]))
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as stream:
                return stream.recv(4) == b"SSH-"
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def knows(self, which: str, *, name: str = "", kinds: tuple[str, ...] = KINDS) -> str:
        """The lines of a known_hosts for the keys *which*."""
        return "".join(f"{name or self.name} {public(self.key(which, kind))}\n" for kind in kinds)

    def write(self, text: str) -> None:
        self.known_hosts.parent.mkdir(exist_ok=True)
        self.known_hosts.write_text(text)
        self.known_hosts.chmod(0o640)

    def inventory(self, *, ssh_args: str = "-o ControlMaster=no -o ControlPath=none", common: str = "", user_key: str = "user") -> Path:
        file = self.folder / "fleet.yml"
        file.write_text(
            f"""
all:
  hosts:
    node:
      ansible_host: 127.0.0.1
      ansible_port: {self.port}
      ansible_user: {getpass.getuser()}
      ansible_python_interpreter: /usr/bin/python3
      ansible_ssh_private_key_file: {self.folder}/{user_key}
      ansible_ssh_args: {ssh_args!r}
      ansible_ssh_common_args: >-
        -o 'UserKnownHostsFile="{self.known_hosts}"' -o GlobalKnownHostsFile=/dev/null -o HashKnownHosts=no {common}
"""
        )
        return file


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Old and new host keys, and those of users and of an authority."""
    with Console() as console:
        system.need({"sshd": ["openssh-server"], "ssh-keyscan": ["openssh-client"]}, console)
    folder = tmp_path_factory.mktemp("keys")
    for which in ("old", "new", "third"):
        for kind in KINDS:
            keygen("-q", "-t", kind, "-N", "", "-C", "", "-f", str(folder / f"{which}_{kind}"))
    for which in ("user", "stranger", "authority"):
        keygen("-q", "-t", "ed25519", "-N", "", "-f", str(folder / which))
    return folder


@pytest.fixture
def node(keys: Path, tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "node"
    shutil.copytree(keys, folder)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's own, which the package leaves to the service manager
    made = Node(folder, free_port())
    try:
        yield made
    finally:
        made.stop()


def plain(played: Played) -> str:
    return " ".join(played.out.split())


def test_changed_key_is_shown_and_not_accepted(controller: Controller, node: Node) -> None:
    node.start("new")
    node.write(node.knows("old"))
    for check in ([], ["--check"]):
        played = controller.play(PLAY, *check, inventory=node.inventory())
        assert (played.rc, played.recap["node"]["failed"]) == (2, 1), played.out
        text = plain(played)
        for kind in KINDS:
            assert f"{fingerprint(node.key('old', kind))} ({node.known_hosts}:{1 + KINDS.index(kind)})" in text
            assert f"offered: ssh-{kind} {fingerprint(node.key('new', kind))}" in text
        assert "rebuild_accept_new_host_key=true" in text and "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in text
        assert "Nothing was touched" in text
        played.assert_clear()
    assert node.known_hosts.read_text() == node.knows("old")


def test_check_apply_and_then_it_is_known(controller: Controller, node: Node, tmp_path: Path) -> None:
    node.start("new")
    others = OTHERS.format(key=public(node.key("third", "ed25519")))
    before = f"{node.knows('old', kinds=('rsa',))}{others}{node.knows('old', kinds=('ed25519',))}"
    node.write(before)
    env = {"ANSIBLE_LOCAL_TEMP": str(tmp_path / "of this run")}
    diffs = []
    for check in (["--check"], []):
        played = controller.play(PLAY, "--diff", *check, *ACCEPT, inventory=node.inventory(), env=env)
        assert (played.rc, played.changed) == (0, 1), played.out
        assert "192.0.2.77" not in played.out, "no other host in the diff"
        diffs.append(played.out.split("TASK [Write the key down]")[1].split("TASK")[0])
        if check:
            assert node.known_hosts.read_text() == before
        pinned = plain(played).split("PINNED ")[1].split(" KNOWN")[0]
        assert "/of this run/" in pinned and not Path(pinned).exists(), "gone with the run"
    assert diffs[0] == diffs[1], "predicted as it was done"
    assert node.known_hosts.read_text() == others + node.knows("new")
    assert node.known_hosts.stat().st_mode & 0o777 == 0o640
    after = controller.play(PLAY, *ACCEPT, inventory=node.inventory())
    assert (after.rc, after.changed, after.recap["node"]["skipped"] >= 3) == (0, 0, True), after.out
    assert [p.name for p in node.known_hosts.parent.iterdir()] == ["known_hosts"]


def test_hashed_names(controller: Controller, node: Node) -> None:
    node.start("new")
    node.write(f"{node.knows('old')}192.0.2.77 {public(node.key('third', 'rsa'))}\n")
    keygen("-q", "-H", "-f", str(node.known_hosts))
    other = node.known_hosts.read_text().splitlines()[2]
    common = "-o HashKnownHosts=yes"
    # of two values ssh takes the first: this one comes before the inventory's own
    fleet = node.inventory(ssh_args=f"-o ControlMaster=no -o ControlPath=none {common}")
    played = controller.play(PLAY, *ACCEPT, inventory=fleet)
    assert (played.rc, played.changed) == (0, 1), played.out
    text = node.known_hosts.read_text()
    assert "127.0.0.1" not in text and text.splitlines()[0] == other
    assert keygen("-F", node.name, "-f", str(node.known_hosts)).count(" found: line ") == len(KINDS)
    assert controller.play(PLAY, inventory=fleet).changed == 0


def test_alias(controller: Controller, node: Node) -> None:
    node.start("new")
    node.write(node.knows("old", name="pi-4.example"))
    fleet = node.inventory(common="-o HostKeyAlias=PI-4.example")
    assert controller.play(PLAY, *ACCEPT, inventory=fleet).changed == 1
    assert node.known_hosts.read_text() == node.knows("new", name="pi-4.example")


def test_one_key_of_several_types_is_enough(controller: Controller, node: Node) -> None:
    """ssh asks for a key that it knows: an RSA key that is the known one is no change, an Ed25519 key beside it no news."""
    node.start("new")
    node.write(node.knows("new", kinds=("rsa",)))
    played = controller.play(PLAY, inventory=node.inventory(user_key="stranger"))
    assert played.recap["node"]["unreachable"] >= 1 and "offered" not in played.out, played.out


@pytest.mark.parametrize("why", ["down", "no login", "never known"])
def test_other_reasons_stay_unreachable(controller: Controller, node: Node, why: str) -> None:
    node.write("" if why == "never known" else node.knows("new"))
    if why != "down":
        node.start("new")
    said = {"down": "Connection refused", "no login": "Permission denied", "never known": "Host key verification failed"}[why]
    played = controller.play(PLAY, *ACCEPT, inventory=node.inventory(user_key="stranger" if why == "no login" else "user"))
    recap = played.recap["node"]
    assert (played.rc, recap["failed"]) == (4, 0), played.out
    look = " ".join(played.out.split("TASK [Look at its key]")[1].split())
    assert said in look and "UNREACHABLE!" in look
    assert "TASK [Reach it again]" not in played.out
    played.assert_clear()
    assert node.known_hosts.read_text() == ("" if why == "never known" else node.knows("new"))


def test_pin_trusts_no_other_key(controller: Controller, node: Node) -> None:
    """The key changes once more after it was accepted: the run does not follow, whatever known_hosts says."""
    node.start("third")
    node.write(node.knows("third"))
    pinned = node.folder / "pinned hosts"
    pinned.write_text(node.knows("new"))
    pin = f"""-o 'UserKnownHostsFile="{pinned}"' -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes"""
    trust = f"    - name: Trust one key\n      ansible.builtin.set_fact:\n        ansible_ssh_args: {json.dumps(pin)}\n"
    play = f"{HEAD}{trust}    - name: Reach it\n      ansible.builtin.ping:\n"
    played = controller.play(play, inventory=node.inventory(), env={"ANSIBLE_HOST_KEY_CHECKING": "false"})
    assert (played.rc, played.recap["node"]["unreachable"]) == (4, 1), played.out
    pinned.write_text(node.knows("third"))
    node.write(node.knows("old"))
    assert controller.play(play, inventory=node.inventory()).rc == 0


def test_revoked_key_is_refused_whatever_is_accepted(controller: Controller, node: Node) -> None:
    node.start("new")
    text = f"{node.knows('old')}@revoked * {public(node.key('new', 'ed25519'))}\n"
    node.write(text)
    played = controller.play(PLAY, *ACCEPT, inventory=node.inventory())
    assert (played.rc, played.recap["node"]["failed"]) == (2, 1), played.out
    assert f"revoked: ssh-ed25519 {fingerprint(node.key('new', 'ed25519'))} ({node.known_hosts}:3)" in plain(played)
    played.assert_clear()
    assert node.known_hosts.read_text() == text


def test_proxy_is_told_with_a_way_out(controller: Controller, node: Node) -> None:
    node.start("new")
    node.write(node.knows("old"))
    (node.folder / "proxy.py").write_text(PROXY)
    fleet = node.inventory(common=f"-o 'ProxyCommand={sys.executable} {node.folder}/proxy.py %p'")
    played = controller.play(PLAY, *ACCEPT, inventory=fleet)
    text = plain(played)
    assert played.rc == 2 and "is reached through a proxy" in text and f"ssh-keygen -R '{node.name}' -f" in text, played.out
    assert node.known_hosts.read_text() == node.knows("old")
    node.write(f"@revoked * {public(node.key('third', 'rsa'))}\n")
    never_known = controller.play(PLAY, *ACCEPT, inventory=fleet)
    assert (never_known.rc, never_known.recap["node"]["failed"]) == (4, 0), never_known.out
    node.write(node.knows("old"))
    node.stop()
    down = controller.play(PLAY, *ACCEPT, inventory=fleet)
    assert (down.rc, down.recap["node"]["failed"]) == (4, 0), down.out


def test_old_key_of_all_users_is_told(controller: Controller, node: Node) -> None:
    """The system's known_hosts is not the user's to change: the new key goes beside it, and the old one is named."""
    node.start("new")
    everyone = node.folder / "everyone"
    everyone.write_text(node.knows("old"))
    quiet = f"-o ControlMaster=no -o ControlPath=none -o GlobalKnownHostsFile={everyone}"
    nowhere = controller.play(PLAY, *ACCEPT, inventory=node.inventory(ssh_args=f"{quiet} -o UserKnownHostsFile=/dev/null"))
    assert nowhere.rc == 2 and "ssh is told to keep no known_hosts" in plain(nowhere), nowhere.out
    assert "TASK [Trust the new key]" not in nowhere.out
    played = controller.play(PLAY, *ACCEPT, inventory=node.inventory(ssh_args=quiet))
    assert (played.rc, played.changed) == (0, 1), played.out
    assert f"still trusted by all users of this controller: {everyone}:1, {everyone}:2" in plain(played)
    assert (everyone.read_text(), node.known_hosts.read_text()) == (node.knows("old"), node.knows("new"))
    assert controller.play(PLAY, inventory=node.inventory(ssh_args=quiet)).changed == 0


def test_certificate_of_a_known_authority(controller: Controller, node: Node) -> None:
    """Trust comes from the authority: a new key with its certificate is no change, and one without is told."""
    key = node.key("new", "ed25519")
    keygen("-q", "-s", str(node.folder / "authority"), "-I", "node", "-h", "-n", "127.0.0.1", f"{key}.pub")
    text = f"{node.knows('old')}@cert-authority {node.name} {public(node.folder / 'authority')}\n"
    node.write(text)
    node.start("new", f"HostCertificate {key}-cert.pub")
    assert controller.play(PLAY, inventory=node.inventory()).rc == 0
    fleet = node.inventory(user_key="stranger")
    assert controller.play(PLAY, *ACCEPT, inventory=fleet).rc == 4
    node.write(text.splitlines()[-1] + "\n")
    node.start("new")
    played = controller.play(PLAY, *ACCEPT, inventory=fleet)
    assert played.rc == 4 and f"certificate authority ({node.known_hosts}:1)" in plain(played), played.out


def test_pinned_file_of_another_host_is_refused(controller: Controller, node: Node) -> None:
    node.start("new")
    node.write(node.knows("old"))
    wrong = node.folder / "pinned"
    for text in ("", "192.0.2.1 garbage\n", node.knows("new", name="192.0.2.1")):
        wrong.write_text(text)
        play = f"{HEAD}    - name: Write it down\n      pifleet.ops.ssh_host_key:\n        state: replaced\n        pinned: {wrong}\n"
        played = controller.play(play, inventory=node.inventory())
        assert played.rc == 2 and "has no keys of [127.0.0.1]" in plain(played), played.out
        played.assert_clear()
    assert node.known_hosts.read_text() == node.knows("old")


def test_local_host_has_no_key(controller: Controller) -> None:
    tasks = "  tasks:\n    - name: Look\n      pifleet.ops.ssh_host_key:\n        state: inspected\n        failure: it is gone\n"
    played = controller.play(f"- name: Look\n  hosts: one\n  gather_facts: false\n{tasks}")
    assert played.recap["one"]["unreachable"] == 1 and "it is gone" in played.out
