# SPDX-License-Identifier: GPL-3.0-or-later
"""A version of the fleet's own service is released, another one after its registry was away, and taken back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.releases import Releases
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

from lab import tools
from lab.console import Console
from tests.integration.runbooks.conftest import NODE
from tests.support.checkout import Checkout
from tests.support.fleet import Fleet
from tests.support.pages import Story
from tests.support.registry import PASSWORD, Registry
from tests.support.release_fleet import BASE, environment

SERVICE = {name: value for name, value in BASE["services"]["web"].items() if name != "volumes"}


class Shop:
    """A service of the checkout that is released to the node."""

    def __init__(self, checkout: Checkout, fleet: Fleet, registry: Registry) -> None:
        self.checkout, self.fleet, self.registry = checkout, fleet, registry
        folder = checkout.folder
        (folder / "registry-password").write_text(f"{PASSWORD}\n")
        with (folder / ".gitignore").open("a") as ignored:
            ignored.write("registry-password\n")
        self.context, base = folder / "apps/web", folder / "services/compose.yaml"
        self.context.mkdir(parents=True)
        base.parent.mkdir()
        base.write_text(json.dumps({"services": {"web": SERVICE}}))
        shutil.copy(tools.ensure("workload", Console()), self.context / "app")
        (self.context / "Dockerfile").write_text('FROM scratch\nCOPY app version /\nENTRYPOINT ["/app"]\nCMD ["serve"]\n')
        services = {"web": environment(registry.name)["services"]["web"]}
        self._before = (folder / "releases.yml").read_text()
        (folder / "releases.yml").write_text(yaml.safe_dump({"environments": {"prod": environment(registry.name, services=services)}}))

    def version(self, tag: str) -> None:
        (self.context / "version").write_text(f"{tag}\n")
        self.checkout.commit(tag)
        self.checkout.git("tag", tag)

    def says(self) -> str:
        address = "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' prod-workers-web-1"
        return self.fleet.sh(NODE, f"curl -sS --max-time 5 http://$({address}):8080/version", check=False).strip()

    def ids(self) -> list[str]:
        return [release.id for release in Releases(Store(self.checkout.folder / ".pifleet/ledger.db")).of_environment("prod")]

    def restore(self) -> None:
        self.fleet.sh(NODE, "docker rm -fv prod-workers-web-1; rm -rf /var/lib/pifleet/releases")
        (self.checkout.folder / "releases.yml").write_text(self._before)
        shutil.rmtree(self.context)
        shutil.rmtree(self.checkout.folder / "services")
        self.checkout.commit("No releases")


@pytest.fixture
def shop(checkout: Checkout, fleet: Fleet) -> Iterator[Shop]:
    with Registry(fleet.address(NODE).rpartition(".")[0] + ".1") as registry:
        registry.trusted_by(fleet)
        released = Shop(checkout, fleet, registry)
        yield released
        released.restore()


def test_releases(tell: Callable[..., Story], shop: Shop) -> None:
    shop.version("1.0.0")
    with tell("docs/runbooks/releases.md") as page:
        assert "1.0.0" in page.run("--check")
        assert (shop.ids(), shop.says()) == ([], "")
        deploy = page.take("ansible-playbook playbooks/deploy.yml -e environment=prod")
        code, output = shop.checkout.shell(deploy)
        assert (code, shop.says()) == (0, "1.0.0"), output[-3000:]
        shop.version("1.1.0")
        shop.registry.stop()
        assert shop.checkout.shell(deploy)[0] == 2
        shop.registry.start()
        page.run("resume=ID", ID=shop.ids()[-1])
        assert shop.says() == "1.1.0"
        listed = page.run("playbooks/releases.yml")
        assert [release for release in shop.ids() if release not in listed] == []
        page.run("playbooks/rollback.yml")
        assert shop.says() == "1.0.0"
