# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend buildx with the real plugin: a version goes out, and an image of another architecture reaches the registry as such."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import Login
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases import backends
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.images import Images
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Image

from lab import tools
from lab.console import Console
from tests.integration.releases.conftest import Site
from tests.support.registry import PASSWORD, USER, Registry


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of Docker's settings in which its client finds the plugin; the client of this machine has none."""
    folder = tmp_path / "docker"
    (folder / "cli-plugins").mkdir(parents=True)
    shutil.copy(tools.ensure("buildx", Console()), folder / "cli-plugins/docker-buildx")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return str(folder)


def test_version_goes_out_with_buildx(site: Site, plugin: str) -> None:
    site.configure(services=site.with_build(backend="buildx", platform="linux/amd64"))
    site.repository.commit("1.0.1")
    site.play("deploy", DOCKER_CONFIG=plugin)
    assert site.releases.get("prod-000001-1.0.1").status == "completed"
    assert {site.says(host) for host in site.fleet.workers} == {"1"}


def test_image_of_another_architecture(site: Site, plugin: str) -> None:
    """Built and pushed as arm64; this machine cannot run it, and neither can the nodes of the lab."""
    what = {"backend": "buildx", "context": "apps/web", "dockerfile": "Dockerfile", "platform": "linux/arm64"}
    image = Image("web", f"{site.registry.name}/fleet/web:arm", **what)
    images = Images(site.repository.root, backends.shipped(), Login(site.registry.name, USER, PASSWORD), {}, argv.run)
    try:
        pushed = images.push(images.build(image))
        assert configuration(site.registry, pushed.digest)["architecture"] == "arm64"
    finally:
        subprocess.run(["docker", "image", "rm", "-f", image.reference], check=False, capture_output=True, timeout=60)


def configuration(registry: Registry, digest: str) -> dict[str, Any]:
    """The configuration of the image *digest*, as the registry has it."""
    config = fetched(registry, f"manifests/{digest}")["config"]["digest"]
    return fetched(registry, f"blobs/{config}")


def fetched(registry: Registry, what: str) -> dict[str, Any]:
    request = urllib.request.Request(f"https://{registry.name}/v2/fleet/web/{what}")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json")
    with urllib.request.urlopen(request, timeout=10, context=ssl.create_default_context(cafile=str(registry.ca))) as answer:
        return dict(json.load(answer))
