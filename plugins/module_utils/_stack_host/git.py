# SPDX-License-Identifier: GPL-3.0-or-later
"""Git as a source of desired state: the checkout on the controller, and a repository that a node fetches from. Nothing is ever pushed."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.refresh import Target

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REFERENCE = re.compile(r"(?!-)[\w./+-]+")
_WITH_PASSWORD = re.compile(r"[a-z+]+://[^/@]*:[^/@]*@")
#: no setting, hook, prompt or program of the machine has a say (git(1), git-config(1))
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GIT_OPTIONAL_LOCKS": "0",
}
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.autocrlf": "false",
    "gc.autoDetach": "false",
    "protocol.ext.allow": "never",
    # a server that stalls: under 1000 bytes a second for half a minute
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
}
_NETWORK = re.compile(
    r"Could not (resolve|connect)|unable to access|Connection (refused|timed out|reset)|No route to host|Network is unreachable"
    r"|Temporary failure|Could not read from remote|timed out|early EOF|hung up|no end after|not appear to be a git repository"
    r"|Authentication failed|Permission denied|could not read Username|Host key verification failed",
    re.I,
)
_CAUSES = (
    (r"Authentication failed|could not read Username|returned error: 40[13]", "Correct stacks_repository_token."),
    (r"Permission denied \(publickey", "Correct stacks_repository_ssh_key, and let the repository know its public half."),
    (r"Host key verification failed", "Put the server's host key into stacks_repository_known_hosts (`ssh-keyscan HOST`)."),
    (r"No space left on device", "The disk is full: free some space, then run again."),
    (r"not found|not appear to be a git repository|does not exist", "Correct stacks_repository."),
)


@dataclass(frozen=True, slots=True)
class Access:
    """How a repository is reached. *token*: password for https; *ssh_key*: file with a private key; *known_hosts*: file of host keys."""

    url: str
    token: str = ""
    ssh_key: str = ""
    known_hosts: str = ""


class Git:
    """Runs git through *run*, each command at most *timeout* seconds. Credentials go through its environment, never its arguments.

    *trusted*: a repository that may belong to another user (git-config(1), safe.directory).
    """

    def __init__(self, run: Runner, access: Access | None = None, timeout: float = 300.0, trusted: str = "") -> None:
        self._run, self._access, self._timeout = run, access, timeout
        self._trusted = trusted

    def __call__(self, *words: str, repository: Path | None = None) -> Completed:
        where = ["--git-dir", str(repository)] if repository else []
        return self._run(["git", *where, *words], env=self._environment(), timeout=self._timeout)

    def _environment(self) -> dict[str, str]:
        settings = _SETTINGS | ({"safe.directory": self._trusted} if self._trusted else {})
        environment = dict(_ENVIRONMENT)
        if self._access:
            if self._access.token:
                pair = base64.b64encode(f"x-access-token:{self._access.token}".encode()).decode()
                settings[f"http.{self._access.url}.extraHeader"] = f"Authorization: Basic {pair}"
            environment["GIT_SSH_COMMAND"] = _ssh_command(self._access)
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for at, (key, value) in enumerate(settings.items()):
            environment[f"GIT_CONFIG_KEY_{at}"], environment[f"GIT_CONFIG_VALUE_{at}"] = key, value
        return environment

    def must(self, what: str, *words: str, repository: Path | None = None) -> str:
        """Return the output of a command. Raises PifleetError that begins with *what*, with the cause."""
        done = self(*words, repository=repository)
        if not done.ok:
            raise PifleetError(f"{what}: {self.said(done)}", self.hint(done))
        return done.stdout

    def said(self, done: Completed) -> str:
        """Return the lines of git that matter, without secrets."""
        lines = [line.removeprefix("fatal: ") for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        text = " | ".join(lines[-3:]) or f"exit code {done.rc}"
        return scrub(text, [self._access.token] if self._access else ()) + ("" if text.endswith(".") else ".")

    def hint(self, done: Completed) -> str:
        if done.rc == 127:
            return "Install git."
        found = next((hint for pattern, hint in _CAUSES if re.search(pattern, done.stderr)), "")
        return found or ("Check the network, DNS and the server." if _NETWORK.search(done.stderr) else "")

    # --------------------------------------------------------------------------------------------------------- what both use
    def message(self, repository: Path, revision: str) -> str:
        """Return the commit message of *revision*."""
        return self.must("The commit cannot be read", "log", "-1", "--format=%B", revision, "--", repository=repository).rstrip("\n")

    def archive(self, repository: Path, revision: str, folder: str, into: Path) -> None:
        """Write *folder* at *revision* to *into*; an archive without a file where the revision does not have the folder."""
        found = self("cat-file", "-t", f"{revision}:{folder}", repository=repository)
        if found.ok and found.stdout.strip() == "tree":
            words = ("archive", "--format=tar", f"--output={into}", revision, "--", folder)
            self.must("The revision cannot be read from the repository", *words, repository=repository)
            return
        self.must("The revision cannot be read from the repository", "cat-file", "-e", f"{revision}^{{tree}}", repository=repository)
        import tarfile  # here, because most runs make no archive

        with tarfile.open(into, "w"):
            pass


class RemoteRepository:
    """Source: the node fetches a repository into a bare clone, which is a cache: one that is broken is made anew."""

    def __init__(self, run: Runner, access: Access, revision: str, folder: str, clone: Path, timeout: float = 300.0) -> None:
        refuse_settings(access.url, revision, folder, access.token)
        self._run, self._timeout = run, timeout
        self._git = Git(run, access, timeout)
        self._access, self._revision, self._clone = access, revision, clone
        self.folder = folder
        self._commit = ""

    @property
    def wants(self) -> str:
        return self._revision or "HEAD"

    def elsewhere(self, clone: Path) -> RemoteRepository:
        """Return the same source with another clone."""
        return RemoteRepository(self._run, self._access, self._revision, self.folder, clone, self._timeout)

    def target(self, *, again: bool = False) -> Target:
        if again or not self._commit:
            self._commit = self._resolve()
        return Target(self._commit, "")

    def _resolve(self) -> str:
        if _COMMIT.fullmatch(self._revision):
            return self._revision
        names = [f"refs/heads/{self.wants}", f"refs/tags/{self.wants}^{{}}", f"refs/tags/{self.wants}"] if self._revision else ["HEAD"]
        listed = self._git.must(f"{self._access.url} does not answer", "ls-remote", "--", self._access.url, *names)
        found = {name: commit for commit, tab, name in (line.partition("\t") for line in listed.splitlines()) if tab}
        commit = next((found[name] for name in names if name in found), "")
        if not commit:
            what = f"branch or tag {self._revision}" if self._revision else "default branch"
            hint = "Set stacks_revision to a branch, a tag, or a full commit hash."
            raise PifleetError(f"{self._access.url} has no {what}.", hint)
        return commit

    def archive(self, target: Target, into: Path) -> Target:
        try:
            return self._take(target.revision, into)
        except _ElsewhereError:
            raise
        except PifleetError:
            shutil.rmtree(self._clone, ignore_errors=True)
            return self._take(target.revision, into)

    def _take(self, commit: str, into: Path) -> Target:
        self._fetch(commit)
        self._git.archive(self._clone, commit, self.folder, into)
        return Target(commit, self._git.message(self._clone, commit))

    def _fetch(self, commit: str) -> None:
        if not self._clone.is_dir():
            self._git.must("A repository cannot be made on the node", "init", "--quiet", "--bare", str(self._clone))
        if self._git("cat-file", "-e", f"{commit}^{{tree}}", repository=self._clone).ok:
            return
        url = self._access.url
        done = self._git("fetch", "--quiet", "--no-tags", "--depth=1", "--", url, f"+{commit}:refs/pifleet/desired", repository=self._clone)
        if not done.ok and not _NETWORK.search(done.stderr):
            # a server that gives no single commits, or no shallow history (gitprotocol-v2(5), "want")
            everything = ("+refs/heads/*:refs/pifleet/heads/*", "+refs/tags/*:refs/pifleet/tags/*")
            done = self._git("fetch", "--quiet", "--no-tags", "--", url, *everything, repository=self._clone)
        if not done.ok:
            kind = _ElsewhereError if _NETWORK.search(done.stderr) else PifleetError
            raise kind(f"{url} cannot be fetched: {self._git.said(done)}", self._git.hint(done))
        if not self._git("cat-file", "-e", f"{commit}^{{tree}}", repository=self._clone).ok:
            raise _ElsewhereError(f"{url} has no commit {commit}.", "Correct stacks_revision.")


class _ElsewhereError(PifleetError):
    """The fault is not with the clone: a new one would not help."""


def refuse_settings(url: str, revision: str, folder: str, token: str = "") -> None:
    """Raise PifleetError for settings that git would take for something else, or that would show a secret."""
    if _WITH_PASSWORD.match(url):
        raise PifleetError("stacks_repository holds a password.", "Put it into stacks_repository_token, and the URL without it.")
    if token and url.lower().startswith("http://"):
        raise PifleetError("stacks_repository is no https URL, and its token would be sent for all to read.", "Write it with https://.")
    if url.startswith("-") or "\n" in url:
        raise PifleetError(
            f"stacks_repository is {url!r}, which is no URL of a git repository.", "Write such as https://host/owner/name.git."
        )
    if revision and not _REFERENCE.fullmatch(revision):
        raise PifleetError(f"stacks_revision is {revision!r}.", "Set it to a branch, a tag, or a full commit hash.")
    refuse_folder(folder)


def refuse_folder(folder: str) -> None:
    """Raise PifleetError for a folder that is none inside of a repository."""
    parts = folder.split("/")
    if not folder or folder.startswith(("/", "-")) or any(part in ("", ".", "..", ".git") for part in parts):
        raise PifleetError(f"stacks_folder is {folder!r}.", "Write the folder as seen from the repository's top, such as stacks.")


def _ssh_command(access: Access) -> str:
    """Return ssh with the one key and the one list of hosts that were given, and no question asked (ssh_config(5))."""
    words = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
    if access.ssh_key:
        words += ["-o", "IdentitiesOnly=yes", "-i", access.ssh_key]
    if access.known_hosts:
        words += ["-o", f"UserKnownHostsFile={access.known_hosts}"]
    return " ".join(words)
