# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way the cluster modules reach the Kubernetes API: kubectl, as a command, and what its failures mean.

Where the API is on the same host, plain questions are asked without starting one (``api``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.api import LocalApi, local_api

#: Written by a k3s server when it starts: https://docs.k3s.io/cluster-access.
SERVER_KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"

#: Who, to the API, applies what the inventory and the baseline say: https://kubernetes.io/docs/reference/using-api/server-side-apply/.
FIELD_MANAGER = "pifleet"

#: Options of every module that asks a cluster, documented by the fragment ``kubectl``.
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "kubeconfig": {"type": "path", "default": SERVER_KUBECONFIG},
    "kubectl": {"type": "list", "elements": "str"},
}

#: a file system of RAM on every Linux (tmpfs(5))
_RAM = "/dev/shm"

#: between two attempts to ask an API that does not answer
POLL_SECONDS = 1.0


class ApiError(PifleetError):
    """The API refused what was asked."""


class ApiUnreachableError(ApiError):
    """No API answers (yet): nothing listens, it is still starting, or this host has no kubeconfig or kubectl for it. Waiting may help."""


def default_command() -> list[str]:
    """Return ``k3s kubectl`` where k3s is installed, else ``kubectl``: the first has the cluster's own version."""
    for k3s in ("k3s", "/usr/local/bin/k3s"):
        if shutil.which(k3s):
            return [k3s, "kubectl"]
    return ["kubectl"]


class Kubectl:
    """Runs kubectl against one kubeconfig. Never raises for an exit code; callers judge the result.

    A context manager: what kubectl writes (its discovery cache, the files it compares) goes to a temporary folder of RAM that is gone
    afterwards, so that looking at a cluster leaves nothing on the node, and nothing secret comes to its storage.
    """

    def __init__(self, runner: Runner, kubeconfig: str, command: Sequence[str] | None = None) -> None:
        self._runner = runner
        # with a command of the user's own, that one is wanted for everything
        self._local: LocalApi | None = None if command else local_api(kubeconfig)
        self._command = list(command or default_command())
        self._scratch = tempfile.TemporaryDirectory(prefix="pifleet-kubectl-", dir=_RAM if os.path.isdir(_RAM) else None)
        self.kubeconfig = kubeconfig

    def __enter__(self) -> Kubectl:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._scratch.cleanup()

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None) -> Completed:
        """Run one kubectl call, at most *timeout* seconds."""
        argv = [*self._command, f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self._scratch.name}/cache", *arguments]
        # The flag decides; the variable keeps k3s's kubectl from looking at, and warning about, a file that was not asked for.
        environment = {"KUBECONFIG": self.kubeconfig, "TMPDIR": self._scratch.name, **(env or {})}
        return self._runner(argv, stdin=stdin, timeout=timeout, env=environment)

    def ask(self, *arguments: str, timeout: float = 20.0, patience: float = 0.0) -> str:
        """Return the output of one kubectl call.

        Raises ApiError where it failed, ApiUnreachableError where waiting may help: with *patience* it is asked again for so many
        seconds (an API is away for a moment when etcd elects).
        """
        end = time.monotonic() + patience
        while True:
            if arguments[:-1] == ("get", "--raw") and (answer := self.directly("GET", arguments[-1], timeout=timeout)) is not None:
                return answer
            done = self(*arguments, timeout=timeout)
            if done.ok:
                return done.stdout
            error = error_of(done, self.kubeconfig)
            if not isinstance(error, ApiUnreachableError) or time.monotonic() >= end:
                raise error
            time.sleep(POLL_SECONDS)

    def directly(self, method: str, path: str, body: str | None = None, timeout: float = 20.0) -> str | None:
        """Return the answer of an API on this host, asked without kubectl; None where kubectl has to be asked, which says why."""
        return self._local.ask(method, path, body, timeout) if self._local else None

    def get(self, *arguments: str, timeout: float = 20.0) -> str:
        """Return the output of one `kubectl get`. Raises as :meth:`ask`."""
        return self.ask("get", *arguments, timeout=timeout)

    def find(self, path: str, name: str, *, timeout: float = 20.0) -> Any:
        """Return the object called *name* of the list at *path* as the API has it, None where there is none. Raises as :meth:`get`.

        Asked by its path, kubectl asks this and nothing else; by its kind it would first ask for all kinds that there are.
        """
        items = json.loads(self.get("--raw", f"{path}?fieldSelector=metadata.name={name}", timeout=timeout))["items"]
        return items[0] if items else None


#: What kubectl says when it reached no API, or one that is not up yet.
#: kubernetes/kubectl pkg/cmd/util/helpers.go (StandardErrorMessage); client-go's transport errors; apiserver's readiness.
_NO_ANSWER = re.compile(
    r"Unable to connect to the server|connection to the server .* was refused|couldn't get current server API group list|connection refused"
    r"|no route to host|i/o timeout|TLS handshake timeout|no such host|ServiceUnavailable|apiserver not ready"
    r"|currently unable to handle the request|Client\.Timeout exceeded|context deadline exceeded|unexpected EOF|: EOF"
    r"|connection reset by peer|etcdserver: |http2: client connection lost|timed out waiting|TLS handshake error"
)


def unasked(done: Completed, kubeconfig: str) -> ApiError | None:
    """Return the one clear error where a kubectl call never came to be judged by the API; ApiUnreachableError where waiting may help.

    None where the API did judge it: what it said is then about what was asked.
    """
    said = _said(done)
    if "failed calling webhook" in said:
        return None  # the API judged it; that it could not reach an admission webhook reads much like the errors below
    if done.rc == 127:
        return ApiUnreachableError(f"there is no kubectl here: {said}.", "Run this on a server (`k3s kubectl`), or give option `kubectl`.")
    if "error loading config file" in said or ("no such file" in said and kubeconfig in said):
        hint = f"On a server it is {SERVER_KUBECONFIG}, written when k3s first starts."
        return ApiUnreachableError(f"kubeconfig {kubeconfig} cannot be used: {said}.", hint)
    if re.search(r"\(Unauthorized\)|must be logged in|asked for the client to provide credentials", said):
        return ApiError(f"the API refuses the credentials of {kubeconfig}: {said}.", "Fetch the kubeconfig again from a server.")
    if "x509: " in said:
        hint = "Fetch the kubeconfig again from a server; check the clocks of both machines."
        return ApiError(f"the API's certificate does not fit {kubeconfig}: {said}.", hint)
    if done.rc == 124 or _NO_ANSWER.search(done.stderr):
        hint = "Is k3s running there (`systemctl status k3s`) and its port 6443 open?"
        return ApiUnreachableError(f"no API answers at the server of {kubeconfig}: {said}.", hint)
    return None


def error_of(done: Completed, kubeconfig: str) -> ApiError:
    """Return the one clear error for a kubectl call that failed, whatever the reason."""
    return unasked(done, kubeconfig) or ApiError(f"kubectl failed with {kubeconfig}: {_said(done)}.")


#: client-go's log lines (klog): the same again, with a source line in front.
_LOG_LINE = re.compile(r"^[EWIF]\d{4} \d\d:")


def _said(done: Completed) -> str:
    lines = [line for line in done.stderr.strip().splitlines() if not _LOG_LINE.match(line)]
    return " | ".join(lines[-2:]).rstrip("?. ") or f"exit code {done.rc}"
