# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration: one command, once, in a container of the new image that is removed afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.engine import environment, said
from ansible_collections.pifleet.ops.plugins.module_utils._release_host.project import Places


def migrate(places: Places, service: str, command: Sequence[str], timeout: float, run: Runner = argv.run) -> str:
    """Run *command* with the networks, volumes and variables of *service* as staged, at most *timeout* seconds; return what it said last.

    A container of the same migration that an interrupted run left is waited for first: two at once would harm the data.
    Raises PifleetError where it fails.
    """
    name = f"{places.project}-migration-{service}"
    _settle(name, timeout, run)
    compose = ["docker", "compose", "--ansi", "never", "-p", places.project, "--project-directory", places.staged]
    file = os.path.join(places.staged, "compose.yaml")
    words = [*compose, "-f", file, "run", "--rm", "--no-deps", "--quiet-pull", "-T", "--name", name, service, *command]
    try:
        done = run(words, timeout=timeout, env=environment(), bare=True)
    finally:
        # what Compose itself did not remove, as after the time limit
        run(["docker", "rm", "--force", "--volumes", name], timeout=60)
        shutil.rmtree(places.staged, ignore_errors=True)
    if not done.ok:
        raise PifleetError(f"the migration of {service} ended with exit code {done.rc}: {said(done)}.")
    # what Compose itself says goes to standard error
    return said(replace(done, stderr=""))


def _settle(name: str, timeout: float, run: Runner) -> None:
    state = run(["docker", "inspect", "--format", "{{.State.Running}}", name])
    if not state.ok:
        return
    if state.stdout.strip() == "true" and not run(["docker", "wait", name], timeout=timeout).ok:
        raise PifleetError(
            f"the migration container {name} of an interrupted run still runs after {timeout:g} seconds.",
            f"Look at it (`docker logs {name}`), end it (`docker rm -f {name}`), and resume.",
        )
    run(["docker", "rm", "--force", "--volumes", name], timeout=60)
