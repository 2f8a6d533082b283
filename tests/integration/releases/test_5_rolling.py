# SPDX-License-Identifier: GPL-3.0-or-later
"""A new version behind a real reverse proxy, under constant requests: none fails, and a bad one goes no further than the canary."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections import Counter
from typing import Any

from tests.integration.releases.conftest import Site
from tests.support import proxy
from tests.support.release_fleet import BASE, environment

PROXIED = {"release-2.local": "172.30.115.12", "release-3.local": "172.30.115.13"}


class Requests:
    """Asks the proxies of both hosts until the block ends. *answers*: by host, what came back; anything but 200 is a failure."""

    def __init__(self) -> None:
        self.answers: dict[str, Counter[str]] = {host: Counter() for host in PROXIED}
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=pair) for pair in PROXIED.items()]

    def __enter__(self) -> Requests:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, host: str, address: str) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection(address, 8088, timeout=10)
            try:
                connection.request("GET", "/version")
                answer = connection.getresponse()
                said = answer.read().decode().strip()
                if answer.status == 200:
                    self.answers[host][said] += 1
                else:
                    self.failures.append(f"{host}: {answer.status} {said[:100]}")
            except OSError as error:
                self.failures.append(f"{host}: {error}")
            finally:
                connection.close()
            time.sleep(0.01)


def rolled(registry: str) -> dict[str, Any]:
    services = environment(registry)["services"]
    services["web"]["rollout"] = {"strategy": "rolling", "drain": 2}
    return {**services, "proxy": {"role": "workers"}}


def test_no_request_fails(site: Site) -> None:
    archive = proxy.archive()
    for host in PROXIED:
        name = f"pifleet-{site.fleet.inventory.name}-{host}"
        with archive.open("rb") as stream:
            subprocess.run(
                ["docker", "exec", "-i", name, "docker", "load", "--quiet"], stdin=stream, check=True, capture_output=True, timeout=120
            )
    site.repository.write_yaml("services/compose.yaml", {**BASE, "services": {**BASE["services"], "proxy": proxy.SERVICE}})
    site.repository.write("services/haproxy.cfg", proxy.CONFIG)
    site.configure(services=rolled(site.registry.name), health={"timeout": 60, "stable": 1}, retain=9)
    site.repository.commit("1.0.0-rolling")
    site.play("deploy")
    proxies = {host: [line for line in site.containers(host).splitlines() if "proxy" in line] for host in PROXIED}

    site.app("2")
    site.repository.commit("2.0.0")
    with Requests() as asked:
        time.sleep(2)
        site.play("deploy")
        time.sleep(2)
    assert not asked.failures and all(set(found) == {"1", "2"} and sum(found.values()) > 100 for found in asked.answers.values()), (
        asked.failures
    )
    assert {host: [line for line in site.containers(host).splitlines() if "proxy" in line] for host in PROXIED} == proxies
    assert all(site.containers(host).count("/prod-workers-web-") == 1 for host in PROXIED)

    # nothing is rolled where nothing changed
    before = {host: site.containers(host) for host in PROXIED}
    site.play("deploy")
    assert {host: site.containers(host) for host in PROXIED} == before

    # a version that does not get healthy: taken back at the canary, which serves all the time
    site.app("3", "serve", "-health", "bad")
    site.repository.commit("3.0.0")
    with Requests() as asked:
        site.play("deploy", rc=2)
    # (HAProxy takes a new server for healthy until it has asked it)
    assert not asked.failures and all(found["2"] > 100 for found in asked.answers.values()), (asked.failures, asked.answers)
    assert {host: site.containers(host) for host in PROXIED} == before
    release = site.releases.of_environment("prod")[-1]
    assert "not healthy in time" in release.phase("rollout").reason or "is unhealthy" in release.phase("rollout").reason

    # and back, without a failed request either
    with Requests() as asked:
        site.play("rollback", "-e", "to_version=1.0.0-rolling")
    assert not asked.failures, asked.failures
    assert all("1" in found for found in asked.answers.values())
