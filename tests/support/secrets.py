# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's folder with secrets: real sops, keys of age and GnuPG that are made for one test and go with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyrage

from lab import tools
from lab.console import Console
from tests.support.controller import ROOT, Played

INVENTORY = f"""
all:
  children:
    k3s_cluster:
      children:
        control_plane:
          hosts:
            one: {{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}
        workers: {{}}
      vars: {{fleet_name: f, k3s_version: v1.34.4+k3s1, evidence_anchor: false}}
"""


@cache
def sops() -> Path:
    return tools.ensure("sops", Console())


@dataclass
class Keys:
    """The private keys of one person, in files of RAM (tests/integration/secrets looks for plaintext on disks)."""

    home: Path
    identities: list[str] = field(default_factory=list)

    def age(self) -> str:
        """Make a key, and return its public part."""
        identity = pyrage.x25519.Identity.generate()
        self.identities.append(str(identity))
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.home / "keys.txt"
        file.touch(0o600)
        file.write_text("".join(f"{one}\n" for one in self.identities))
        return str(identity.to_public())

    def gnupg(self, name: str) -> str:
        """Make a key of GnuPG without a passphrase, and return its fingerprint."""
        home = self.home / "gnupg"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
        subprocess.run(
            [*argv, "--quick-generate-key", f"{name}@example.org", "rsa2048", "encrypt,sign", "0"], check=True, capture_output=True
        )
        listed = subprocess.run([*argv, "--list-keys", "--with-colons", name], check=True, capture_output=True, text=True).stdout
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def trust(self, other: Keys, fingerprint: str) -> None:
        """Take over the public key of somebody's GnuPG, without which nothing can be encrypted for it."""
        home = self.home / "gnupg"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = subprocess.run(["gpg", "--homedir", other.home / "gnupg", "--export", fingerprint], check=True, capture_output=True).stdout
        subprocess.run(["gpg", "--homedir", home, "--batch", "--import"], input=public, check=True, capture_output=True)

    @property
    def env(self) -> dict[str, str]:
        return {"SOPS_AGE_KEY_FILE": str(self.home / "keys.txt"), "GNUPGHOME": str(self.home / "gnupg")}


@dataclass
class SecretsFleet:
    """The folder of one test, under git."""

    folder: Path
    keys: Keys
    inventory: str = INVENTORY

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.git("init", "-q")
        self.write("hosts.yml", self.inventory)
        self.write(".gitignore", ".pifleet/\n")

    def git(self, *args: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", "-C", self.folder, *identity, *args], check=True, capture_output=True, text=True).stdout

    def write(self, path: str, text: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def policy(self, *recipients: str, gnupg: tuple[str, ...] = ()) -> None:
        """The reference fleet's own policy, for these recipients."""
        whole = (ROOT / ".sops.yaml").read_text()
        place = ">-\n      age1-replace-by-an-operators-key,\n      age1-replace-by-the-recovery-key"
        assert place in whole
        more = f"\n    pgp: {','.join(gnupg)}" if gnupg else ""
        self.write(".sops.yaml", whole.replace(place, ",".join(recipients) + more))

    def encrypt(self, path: str, plaintext: str) -> Path:
        """Encrypt as the policy says; the plaintext comes by a pipe."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        done = self.sops("encrypt", "--filename-override", path, "/dev/stdin", text=plaintext)
        assert done.returncode == 0, done.stderr
        file.write_text(done.stdout)
        return file

    def decrypt(self, path: str, keys: Keys | None = None) -> str | None:
        """Return the plaintext, None where these keys do not open it."""
        done = self.sops("decrypt", path, keys=keys)
        return done.stdout if done.returncode == 0 else None

    def sops(self, *args: str, text: str = "", keys: Keys | None = None) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **(keys or self.keys).env}
        return subprocess.run([sops(), *args], cwd=self.folder, input=text, env=env, capture_output=True, text=True, check=False)

    @property
    def env(self) -> dict[str, str]:
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CACHE_PLUGIN": "memory", "COLUMNS": "400"}
        link = self.keys.home / "bin"
        link.mkdir(parents=True, exist_ok=True)
        if not (link / "sops").exists():
            (link / "sops").symlink_to(sops())
        return {**os.environ, **settings, **self.keys.env, "PATH": f"{link}:{os.environ['PATH']}"}

    @property
    def decrypting(self) -> dict[str, str]:
        """The environment in which Ansible decrypts variables of an inventory, by the vars plugin of requirements.yml."""
        script = [ROOT / "scripts/setup-community-sops"]
        collections = subprocess.run(script, check=True, capture_output=True, text=True, timeout=600).stdout.strip()
        return {
            **self.env,
            "ANSIBLE_COLLECTIONS_PATH": f"{ROOT / '.collections'}:{collections}",
            "ANSIBLE_VARS_ENABLED": "host_group_vars,community.sops.sops",
        }

    def argv(self, playbook: str, *args: str) -> list[str]:
        where = ("-i", str(self.folder / "hosts.yml"), "-e", f"fleet_root={self.folder}")
        return [sys.executable, "-m", "ansible", "playbook", *where, *args, f"playbooks/{playbook}.yml"]

    def play(self, playbook: str, *args: str, env: dict[str, str] | None = None) -> Played:
        done = subprocess.run(
            self.argv(playbook, *args), cwd=ROOT, env={**self.env, **(env or {})}, text=True, timeout=300, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return Played(done.returncode, done.stdout)

    def check(self, *args: str) -> tuple[int, dict[str, Any]]:
        """Run playbooks/secrets_check.yml for programs, and return its exit code and what it says."""
        played = self.play("secrets_check", "-e", "output=json", *args)
        return played.rc, json.loads(next(line for line in played.out.splitlines() if line.startswith('{"ok"')))

    def rules(self) -> list[tuple[str, str]]:
        """(path, rule) of each finding; the exit code has to fit."""
        rc, found = self.check()
        assert rc == (2 if found["findings"] else 0)
        return [(f["path"], f["rule"]) for f in found["findings"]]
