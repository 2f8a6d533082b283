# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence to a real hub, set up as its page says, and the rotation of what is secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.received import Received
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.hub import certificates
from tests.support.pages import Story
from tests.support.ports import free_port
from tests.support.secrets import Keys, sops


class Hub:
    """The machine of the hub's operator: *words* are what the page leaves to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.ca = certificates(folder)
        self.words = {
            "/var/lib/pifleet/hub.db": str(folder / "hub.db"),
            "hub.pem": str(folder / "hub.pem"),
            # the page's port may be taken here
            "hub.key": f"{folder / 'hub.key'} --port {self.port} --port-file {folder / 'port'}",
        }

    @contextmanager
    def serving(self, line: str, checkout: Checkout) -> Iterator[None]:
        """Let the hub serve, by the line of the page, until the block ends."""
        env = {
            **os.environ,
            "PYTHONPATH": str(checkout.folder / ".collections"),
            "PATH": f"{checkout.folder}/.venv/bin:{os.environ['PATH']}",
        }
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=checkout.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + 120
            while not (self.folder / "port").exists():
                assert process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def received(self) -> set[str]:
        return {key for key, _sha256 in Received(Store(self.folder / "hub.db")).list_events("team-a/pi-cluster", "", 10**9)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def ram() -> Iterator[Path]:
    """Where a person keeps private keys here."""
    folder = Path(tempfile.mkdtemp(prefix="pifleet-keys-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def a_token(said: str, folder: Path) -> str:
    """Put the token that the hub said into a file, and return its path."""
    (token,) = re.findall(r"pft_\S+", said)
    file = folder / "new-token"
    file.touch(0o600)
    file.write_text(f"{token}\n")
    return str(file)


def test_sync(tell: Callable[..., Story], checkout: Checkout, hub: Hub, ram: Path) -> None:
    with tell("docs/runbooks/sync.md", **hub.words) as page:
        settings = yaml.safe_load(page.block("hub_url:"))
        settings |= {"hub_url": f"https://127.0.0.1:{hub.port}", "token_file": str(ram / "token"), "ca_file": str(hub.ca)}
        (checkout.folder / "evidence.yml").write_text(json.dumps(settings))
        checkout.commit("A hub")
        token = a_token(page.run("token add"), ram)
        with hub.serving(page.take("serve"), checkout):
            page.run("mode=token", FILE=token)
            page.run("ansible-playbook playbooks/sync.yml")
            assert hub.received()
            page.run("ansible-playbook playbooks/sync.yml -e mode=status")
            page.run("check=true")
            (line,) = [line for line in page.run("output=json").splitlines() if line.startswith("{")]
            assert json.loads(line)
            page.run("mode=compare")
    (checkout.folder / "evidence.yml").unlink()
    checkout.commit("No hub")


@pytest.mark.parametrize(
    ("page", "part", "right", "wrong"),
    [
        ("sync.md", "mode=s", "-e mode=status", "-e mode=state"),
        ("evidence.md", "playbooks/e", "evidence_verify.yml", "evidence_check.yml"),
        ("hardware.md", "-m ", "ansible.builtin.ping", "ansible.builtin.pong"),
        ("drill.md", "--check", "-e node=NODE", "-e host=NODE"),
    ],
)
def test_a_command_that_was_changed_to_a_wrong_one_fails(tell: Callable[..., Story], page: str, part: str, right: str, wrong: str) -> None:
    """The playbook is another, the value of a variable, the module, the variable itself."""
    story = tell(f"docs/runbooks/{page}", changed=(right, wrong))
    with pytest.raises(AssertionError, match=f"{wrong}.*\nexit code [1-9]".replace("NODE", "[a-z0-9.-]+")):
        story.run(part)


@pytest.mark.full
def test_secrets(tell: Callable[..., Story], checkout: Checkout, hub: Hub, ram: Path, fleet: Fleet) -> None:
    keys = Keys(ram / "me")
    old, new = keys.age(), keys.age()
    env = {**keys.env, "PATH": f"{ram}:{checkout.folder / '.venv/bin'}:{os.environ['PATH']}"}
    (ram / "sops").symlink_to(sops())
    policy = checkout.folder / ".sops.yaml"
    before = policy.read_text()
    place = ">-\n      age1-replace-by-an-operators-key,\n      age1-replace-by-the-recovery-key"
    policy.write_text(before.replace(place, old))
    command = "python -m ansible_collections.pifleet.ops.hub --database /var/lib/pifleet/hub.db"
    serve = command + " serve --host 0.0.0.0 --tls-cert hub.pem --tls-key hub.key"
    for word, value in hub.words.items():
        command, serve = command.replace(word, value), serve.replace(word, value)

    def token(name: str) -> str:
        return a_token(checkout.shell(f"{command} token add {name} --owner team-a --fleet pi-cluster")[1], ram)

    def encrypted(text: str) -> str:
        code, said = checkout.shell(f"sops encrypt --filename-override secrets/hub.sops.yml /dev/stdin <<'END'\n{text}\nEND", env)
        assert code == 0, said
        return said

    secret = checkout.folder / "secrets/hub.sops.yml"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text(encrypted(f"hub_token: {Path(token('before')).read_text().strip()}"))
    settings = {"hub_url": f"https://127.0.0.1:{hub.port}", "owner": "team-a", "fleet": "pi-cluster", "ca_file": str(hub.ca)}
    settings["token_sops"] = {"file": "secrets/hub.sops.yml", "key": "hub_token"}
    (checkout.folder / "evidence.yml").write_text(json.dumps(settings))
    checkout.commit("Secrets")
    (hub.folder / "port").unlink(missing_ok=True)
    with hub.serving(serve, checkout), tell("docs/runbooks/secrets-rotation.md", env=env, age1OLD=old, age1NEW=new) as page:
        page.run("secrets_check")
        page.run("what=data_keys")
        page.run('"replace"')
        assert new in secret.read_text() and old not in secret.read_text()
        page.run("what=undo")
        assert old in secret.read_text() and new not in secret.read_text()
        page.run("ansible-playbook playbooks/rotate_secrets.yml -e what=recipients")
        kept = secret.read_text()
        page.run("what=hub_token", FILE=token("after"))
        assert secret.read_text() != kept
        page.run("what=k3s_token")
        page.run("what=k3s_agent_token")
        page.run("ansible-playbook site.yml")
        assert fleet.ready() == set(fleet.hosts)
        assert "k3s_agent_token" in page.run("kind=secrets")
    (checkout.folder / "evidence.yml").unlink()
    shutil.rmtree(secret.parent)
    policy.write_text(before)
    checkout.commit("No secrets")
