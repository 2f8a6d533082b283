# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of a release on the controller: built by the backend that the plan names, pushed to the registry, known by their digests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import Login, logged_in
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.backends import BUILD_SECONDS, BuildOptions, Registry
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.backends.docker import must
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.model import Image

_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")
_PUSH_SECONDS = 1800.0


class Images:
    """The controller's side of images. *root*: the repository's; *timeouts*: seconds of a build by service."""

    def __init__(
        self, root: Path, backends: Registry, login: Login | None, timeouts: Mapping[str, float], run: argv.Runner = argv.run
    ) -> None:
        self._root, self._backends, self._login, self._timeouts, self._run = root, backends, login, timeouts, run

    def build(self, image: Image) -> Image:
        """Build *image*, unless its content is known already, and return what is known of it then. Raises PifleetError."""
        if image.digest or not image.backend:
            return image
        work_dir = self._root / image.context
        options = BuildOptions(
            work_dir=work_dir,
            tag=image.reference,
            dockerfile=image.dockerfile,
            platform=image.platform,
            args=image.args,
            timeout=self._timeouts.get(image.service, BUILD_SECONDS),
        )
        reference = self._backends.of(image.backend).build(options, self._run)
        found = _DIGEST.search(reference)
        if found:
            return replace(image, digest=found[1])
        if reference != image.reference:
            raise PifleetError(f"The build backend {image.backend} made {reference} where {image.reference} was asked for.")
        return image

    def push(self, image: Image) -> Image:
        """Push *image*, unless the registry has it, and return it with the digest under which the registry has it. Raises PifleetError."""
        if image.digest or not image.backend:
            return image
        with logged_in(self._run, self._login) as docker:
            done = self._run([*docker, "push", image.reference], timeout=_PUSH_SECONDS)
            must(done, f"{image.reference} was not pushed", "Is the registry up, and has it room?")
        return replace(image, digest=self._digest(image))

    def _digest(self, image: Image) -> str:
        done = self._run(["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image.reference])
        must(done, f"{image.reference} cannot be looked at")
        found = [entry.partition("@")[2] for entry in json.loads(done.stdout) or () if entry.partition("@")[0] == image.repository]
        if len(found) != 1:
            raise PifleetError(f"Docker knows {len(found)} digests of {image.reference} in its registry, where one is expected.")
        return str(found[0])
