# SPDX-License-Identifier: GPL-3.0-or-later
"""Three lab nodes with Docker, a real registry, and a repository with something to release."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from lab import tools
from lab.console import Console
from tests.support.fleet import ROOT, Fleet, Process, Run
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.release_fleet import BASE, Repository, environment

HERE = Path(__file__).resolve().parent
GATEWAY = "172.30.115.1"
FULL = bool(os.environ.get("PIFLEET_TEST_FULL"))
# CI takes what the budget of releases allows: a version's life, two runs at once, a killed one, and one that is rolled out
collect_ignore = [] if FULL else ["test_2_failures.py", "test_3_rollback.py", "test_6_buildx.py"]


class Site:
    """The fleet, its registry, and one repository."""

    def __init__(self, fleet: Fleet, registry: Registry, root: Path) -> None:
        self.fleet, self.registry = fleet, registry
        self._paused: list[str] = []
        self.repository = Repository(root)
        self.repository.write("registry-password", f"{PASSWORD}\n")
        self.repository.write_yaml("services/compose.yaml", BASE)
        self.repository.write("services/site.conf", "one\n")
        self.app("1")
        self.configure()
        self.repository.commit("1.0.0")

    def configure(self, name: str = "prod", **changed: Any) -> None:
        self.repository.write_yaml("releases.yml", {"environments": {name: environment(self.registry.name, **changed)}})

    def app(self, said: str, *command: str) -> None:
        self.repository.service(tools.ensure("workload", Console()), said, *command)

    def play(self, playbook: str, *args: str, rc: int = 0, **env: str) -> Run:
        return self.start(playbook, *args, **env).wait(300).require(rc)

    def start(self, playbook: str, *args: str, **env: str) -> Process:
        words = ("-e", f"fleet_root={self.repository.root}", "-e", "environment=prod", *args)
        return self.fleet.start(f"playbooks/{playbook}.yml", *words, env=env)

    @property
    def releases(self) -> Releases:
        """The ledger, read by this process."""
        return Releases(Store(self.repository.root / ".pifleet/ledger.db"))

    def ids(self) -> list[str]:
        return [release.id for release in self.releases.of_environment("prod")]

    def says(self, host: str, project: str = "prod-workers", service: str = "web") -> str:
        """What the service on *host* says that it is."""
        address = f"docker inspect -f '{{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}}' {project}-{service}-1"
        return self.fleet.sh(host, f"curl -sS --max-time 5 http://$({address}):8080/version", check=False).strip()

    # -- configurations ---------------------------------------------------------------------------------------------------
    def with_migrations(self, pre: Sequence[str] = (), post: Sequence[str] = ()) -> dict[str, Any]:
        """The services, of which ``web`` has migrations."""
        services = environment(self.registry.name)["services"]
        services["web"]["migrations"] = {when: {"argv": list(words)} for when, words in (("pre", pre), ("post", post)) if words}
        return dict(services)

    def with_build(self, **keys: str) -> dict[str, Any]:
        """The services, built with other keys."""
        services = environment(self.registry.name)["services"]
        for service in services.values():
            service["build"] |= keys
        return dict(services)

    # -- runs -------------------------------------------------------------------------------------------------------------
    def told(self, playbook: str, *args: str) -> str:
        """What a run says that is refused, in one line."""
        return " ".join(self.play(playbook, *args, rc=2).output.split())

    def unattended(self) -> Run:
        """The part of ``site.yml`` that releases."""
        play = self.repository.root / ".pifleet/unattended.yml"
        parts = ROOT / "playbooks/parts"
        play.write_text(
            f"- import_playbook: {parts}/open_record.yml\n- import_playbook: {parts}/release.yml\n  vars:\n"
            f"    {{__release_wanted: true, __release_environment: prod, __release_unattended: true}}\n"
            f"- import_playbook: {parts}/close_record.yml\n"
        )
        return self.fleet.start(str(play), "-e", f"fleet_root={self.repository.root}").wait(300).require()

    def reconcile(self) -> None:
        """stack_reconcile on every node, as an unattended run of the releases' folder would call it."""
        play = self.repository.root / ".pifleet/reconcile.yml"
        task = {"path": "/var/lib/pifleet/releases/projects/prod", "owner": "release/prod"}
        table = [{"hosts": "all", "gather_facts": False, "become": True, "tasks": [{"pifleet.ops.stack_reconcile": task}]}]
        play.write_text(yaml.safe_dump(table))
        self.fleet.start(str(play)).wait(120).require()

    def watch(self, process: Process) -> dict[str, None]:
        """The phases that another process sees running, in order, until *process* ends."""
        seen: dict[str, None] = {}
        while process.process.poll() is None:
            for release in self.releases.of_environment("prod")[-1:]:
                seen |= {phase.name: None for phase in release.phases if phase.status == "running"}
            time.sleep(0.02)
        return seen

    def wait_for(self, release: str, phase: str) -> None:
        """Wait until *phase* of *release* runs."""
        for _attempt in range(3000):
            with suppress(PifleetError):
                if self.releases.get(release).phase(phase).status == "running":
                    return
            time.sleep(0.02)
        raise AssertionError(f"{release} did not come to {phase}")

    # -- nodes ------------------------------------------------------------------------------------------------------------
    def pause(self, host: str) -> None:
        """Let a node stop answering."""
        self._paused.append(f"pifleet-{self.fleet.inventory.name}-{host}")
        subprocess.run(["docker", "pause", self._paused[-1]], check=True, capture_output=True)

    def unpause(self) -> None:
        while self._paused:
            subprocess.run(["docker", "unpause", self._paused.pop()], check=True, capture_output=True)

    @contextmanager
    def unreachable(self, host: str) -> Iterator[None]:
        """Let a node refuse ssh, also on connections that are open."""
        self.fleet.sh(host, "systemctl stop ssh.socket ssh; pkill sshd; true", check=False)
        try:
            yield
        finally:
            self.fleet.sh(host, "systemctl start ssh")

    def pull(self, image: str) -> str:
        """The command by which a person brings an image to a node."""
        login = f"echo {PASSWORD} | docker login -u {USER} --password-stdin {self.registry.name} 2>&1"
        return f"{login} && docker pull {image} && docker logout {self.registry.name}"

    def containers(self, host: str) -> str:
        """Id, name and start of every container on *host*."""
        return self.fleet.sh(host, "docker ps -aq --no-trunc | xargs -r docker inspect -f '{{.Id}} {{.Name}} {{.State.StartedAt}}'")


def clean(fleet: Fleet) -> None:
    """Start the engines, and remove all that releases left."""
    for host in fleet.hosts:
        fleet.sh(
            host,
            "systemctl start docker; docker ps -aq | xargs -r docker rm -fv >/dev/null; "
            "docker image ls -q | sort -u | xargs -r docker image rm -f >/dev/null; "
            "docker volume ls -q | xargs -r docker volume rm >/dev/null; rm -rf /var/lib/pifleet/releases /var/lib/pifleet/stacks",
        )


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    lab = Fleet(HERE / "lab-releases")
    lab.up()
    yield lab
    lab.lab("down", "-i", str(lab.inventory))


@pytest.fixture(scope="session")
def registry(fleet: Fleet) -> Iterator[Registry]:
    with Registry(GATEWAY) as found:
        found.trusted_by(fleet)
        yield found


@pytest.fixture
def site(fleet: Fleet, registry: Registry, tmp_path: Path) -> Iterator[Site]:
    """A repository and ledger of the test's own, on clean nodes."""
    clean(fleet)
    yield Site(fleet, registry, tmp_path / "fleet")
    shutil.rmtree(tmp_path / "fleet", ignore_errors=True)
