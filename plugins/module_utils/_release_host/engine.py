# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on the node's Docker Engine, by digest: looked for, pulled, protected from pruning, removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub

#: tag of an image that a release keeps: `docker image prune` removes what has a digest alone (moby, daemon/images/image_prune.go)
KEPT = "pifleet-"
_PULL_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Login:
    """*server*: the registry's name and port; *password*: goes through stdin alone."""

    server: str
    user: str
    password: str


class Engine:
    """Runs docker through *run*. Raises PifleetError for what does not succeed."""

    def __init__(self, run: Runner = argv.run, login: Login | None = None) -> None:
        self._run, self._login = run, login

    def missing(self, references: Iterable[str]) -> list[str]:
        """Return those of *references* that are not on the node. Raises where Docker does not answer."""
        wanted = sorted(set(references))
        if not wanted:
            return []
        done = self._run(["docker", "version", "--format", "{{.Server.Version}}"])
        if not done.ok:
            raise PifleetError(
                f"Docker does not answer: {said(done)}.",
                "A release needs Docker on its hosts: the role stacks brings it (playbooks/stacks.yml).",
            )
        return [reference for reference in wanted if not self._run(["docker", "image", "inspect", "--format", "x", reference]).ok]

    def pull(self, references: Sequence[str]) -> None:
        """Pull *references*."""
        if not references:
            return
        with logged_in(self._run, self._login) as docker:
            for reference in references:
                done = self._run([*docker, "pull", "--quiet", reference], timeout=_PULL_SECONDS)
                if not done.ok:
                    raise PifleetError(
                        f"{reference} cannot be pulled: {said(done, self._secrets)}.", "Is the registry up, and is there room?"
                    )

    def protect(self, references: Iterable[str]) -> None:
        """Give each of *references*, with a digest, a tag, so that pruning does not take it for unused."""
        for reference in references:
            if tag := kept_tag(reference):
                must(self._run(["docker", "image", "tag", reference, tag]), f"{reference} cannot be tagged")

    def remove(self, references: Iterable[str]) -> list[str]:
        """Remove those of *references* that are here and that no container uses, and return them."""
        wanted = list(references)
        here = self._here() if wanted else set()
        removed = []
        for reference in wanted:
            names = [name for name in (kept_tag(reference), reference) if name in here]
            if names and self._run(["docker", "image", "rm", *names], timeout=120).ok:
                removed.append(reference)
        return removed

    def _here(self) -> set[str]:
        """The references of all images that are here, by tag and by digest; none where Docker does not answer."""
        shown = "{{.Repository}}:{{.Tag}} {{.Repository}}@{{.Digest}}"
        return set(self._run(["docker", "image", "ls", "--digests", "--no-trunc", "--format", shown]).stdout.split())

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self._login.password,) if self._login else ()


@contextlib.contextmanager
def logged_in(run: Runner, login: Login | None) -> Iterator[list[str]]:
    """Give the command docker, logged in for as long as the block lasts. Raises PifleetError where the registry refuses."""
    if login is None:
        yield ["docker"]
        return
    folder = tempfile.mkdtemp(prefix="pifleet-docker-")  # 0700
    try:
        docker = ["docker", "--config", folder]
        done = run([*docker, "login", "--username", login.user, "--password-stdin", login.server], stdin=login.password)
        if not done.ok:
            raise PifleetError(f"{login.server} refuses the login of {login.user}: {said(done, (login.password,))}.")
        yield docker
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def kept_tag(reference: str) -> str:
    """Return the tag under which an image with a digest is kept, empty for one without."""
    repository, _at, digest = reference.partition("@sha256:")
    return f"{repository}:{KEPT}{digest[:12]}" if digest else ""


def must(done: Completed, what: str) -> Completed:
    """Return *done*, or raise PifleetError that begins with *what*."""
    if not done.ok:
        raise PifleetError(f"{what}: {said(done)}.")
    return done


def said(done: Completed, secrets: Iterable[str] = ()) -> str:
    """Return the last lines of what a command said, free of secrets and of what no terminal shows."""
    words = done.stderr if done.rc == argv.TIMED_OUT else f"{done.stdout}\n{done.stderr}"
    lines = ["".join(c if c.isprintable() else "?" for c in line)[:300].strip() for line in words.splitlines() if line.strip()]
    return scrub(" | ".join(lines[-5:]), secrets).rstrip(".") or ("" if done.ok else f"exit code {done.rc}")


def environment() -> dict[str, str]:
    """Return the environment of Compose: nothing of the host's that a file could name."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or name.startswith("DOCKER_")}
