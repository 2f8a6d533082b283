# SPDX-License-Identifier: GPL-3.0-or-later
"""Installation of packages with apt-get: bounded waiting for its locks, lists updated only when they are too old, causes named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import CommandError, Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import scrub

# needrestart (Ubuntu) would ask, or restart services, in the middle of a bootstrap: listing is enough.
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "APT_LISTCHANGES_FRONTEND": "none"}
# A configuration file that the user changed stays; --no-install-recommends: a node has what it was asked to have.
_INSTALL = (
    "apt-get",
    "install",
    "--yes",
    "--no-install-recommends",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
)
_LOCKED = re.compile(r"Could not get lock|Unable to acquire the dpkg frontend lock|lock was locked by another process|Unable to lock", re.I)
_HELD_BY = re.compile(r"held by process (\d+ \([^)]*\))|another process with pid (\d+)")
_OLD_LISTS = re.compile(
    r"Unable to locate package|has no installation candidate|is not available|404 +Not Found|maybe run apt-get update|Hash Sum mismatch"
)
_CAUSES = (
    (
        r"No space left on device|don't have enough free space",
        "The disk is full: free some space (`apt-get clean`, `journalctl --vacuum-size=50M`).",
    ),
    (r"is not valid yet|Release file .* is expired", "The node's clock is wrong: see base_os_ntp_servers."),
    (
        r"Temporary failure|Could not (resolve|connect)|Unable to connect|Network is unreachable|timed out|Failed to fetch|Cannot initiate",
        "No package source answers: check the node's network, DNS, proxy (/etc/apt/apt.conf.d) and /etc/apt/sources.list.",
    ),
    (r"NO_PUBKEY|is not signed", "A package source is not trusted: correct its key in /etc/apt."),
    (r"Read-only file system", "The root file system is read-only: check the SD card (`dmesg`)."),
)
_UNKNOWN = re.compile(r"Unable to locate package|no installation candidate", re.I)
_STEP_LIMIT = 1800.0  # seconds for one apt-get on a slow card


class Apt:
    """Runs apt-get through *run*; *sleep* and *clock* (monotonic seconds) are those of the process.

    *unknown_package*: what to do about a package that no source of the node has.
    """

    def __init__(
        self,
        run: Runner,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        lock_timeout: float,
        unknown_package: str = "Correct base_os_packages: no source of this node has a package of that name.",
    ) -> None:
        self._run, self._sleep, self._clock = run, sleep, clock
        self._lock_timeout = lock_timeout
        self._unknown_package = unknown_package

    def repair(self) -> None:
        """Finish what a killed dpkg left. Raises CommandError."""
        self._must(self._locked(["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]))

    def install(self, names: Sequence[str]) -> None:
        """Install the packages *names*, or files where they are paths. Raises CommandError with the cause and what to do about it."""
        done = self._locked([*_INSTALL, *names])
        if not done.ok and _OLD_LISTS.search(done.stdout + done.stderr):
            updated = self._locked(["apt-get", "update"])
            done = self._locked([*_INSTALL, *names])
            if not done.ok:  # what the update said is the cause of what the install says
                done = Completed(done.argv, done.rc, done.stdout, updated.stderr + done.stderr)
        self._must(done)

    def _locked(self, argv: Sequence[str]) -> Completed:
        """Run *argv*, again while another process holds a lock of dpkg or apt, for at most the lock's timeout."""
        until = self._clock() + self._lock_timeout
        while True:
            done = self._run(argv, stdin="", timeout=_STEP_LIMIT, env=_ENVIRONMENT)
            if done.ok or not _LOCKED.search(done.stderr) or self._clock() >= until:
                return done
            self._sleep(2.0)

    def _must(self, done: Completed) -> None:
        if done.ok:
            return
        said = [line for line in scrub(done.stderr.strip() or done.stdout.strip()).splitlines() if line.strip()]
        what = f"`{' '.join(done.argv[:2])}` failed with exit code {done.rc}: {' | '.join(said[:3] + said[3:][-3:])}"
        if _LOCKED.search(done.stderr):
            held = _HELD_BY.search(done.stderr)
            who = next((group for group in held.groups() if group), "another process") if held else "another process"
            raise CommandError(
                f"The package lock was held by {who} for {self._lock_timeout:g} s. {what}",
                "Wait for it (unattended-upgrades runs after boot), or end it; base_os_apt_lock_timeout waits longer.",
            )
        raise CommandError(what, self._cause(done.stdout + done.stderr))

    def _cause(self, said: str) -> str:
        found = next((hint for pattern, hint in _CAUSES if re.search(pattern, said, re.I)), "")
        return found or (self._unknown_package if _UNKNOWN.search(said) else "Run the command on the node to see all of it.")
