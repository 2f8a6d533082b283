# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends on the controller's Docker Engine: its own builder, and buildx for another architecture."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import said
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.scrubbing import scrubbed
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.backends import BuildOptions


class Docker:
    """``docker build``."""

    def check(self, run: Runner) -> None:
        must(run(["docker", "version", "--format", "{{.Server.Version}}"]), "The controller's Docker Engine does not answer")

    def build(self, options: BuildOptions, run: Runner) -> str:
        return _build(["docker", "build"], options, run)


class Buildx:
    """``docker buildx build``, for platforms other than the controller's. The image is loaded into the engine, from where it is pushed."""

    def check(self, run: Runner) -> None:
        must(
            run(["docker", "buildx", "version"]),
            "buildx is not there for the controller's docker",
            "Install Docker's buildx plugin (Debian: docker-buildx), or use the backend docker.",
        )

    def build(self, options: BuildOptions, run: Runner) -> str:
        return _build(["docker", "buildx", "build", "--load"], options, run)


def _build(command: Sequence[str], options: BuildOptions, run: Runner) -> str:
    platform = ["--platform", options.platform] if options.platform else []
    args = [word for key, value in sorted(options.args.items()) for word in ("--build-arg", f"{key}={value}")]
    file = str(options.work_dir / options.dockerfile)
    done = run([*command, "--tag", options.tag, "--file", file, *platform, *args, str(options.work_dir)], timeout=options.timeout)
    must(done, f"{options.tag} was not built from {options.work_dir}")
    return options.tag


def must(done: Completed, what: str, hint: str = "") -> None:
    """Raise PifleetError that begins with *what* where *done* did not succeed."""
    if not done.ok:
        raise PifleetError(f"{what}: {scrubbed(said(done))}.", hint or ("Install Docker on the controller." if done.rc == 127 else ""))
