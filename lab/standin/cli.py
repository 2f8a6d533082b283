# SPDX-License-Identifier: GPL-3.0-or-later
"""k3s's command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from . import release as releases

USAGE = """\
NAME:
   k3s - Kubernetes, but small and simple

USAGE:
   k3s [global options] command [command options]

VERSION:
   {version} ({commit})

COMMANDS:
   server       Run management server
   agent        Run node agent
   kubectl      Run kubectl
   ctr          Run ctr
   crictl       Run crictl
   token        Manage tokens
   etcd-snapshot
   secrets-encrypt

This is the stand-in of the pifleet lab, not k3s itself.
"""
GO_VERSION = "go1.24.12"  # what k3s v1.34.4 was built with; only shown
TOOLS = ("kubectl", "ctr", "crictl")
KUBECONFIG = "/etc/rancher/k3s/k3s.yaml"


def main(argv: Sequence[str]) -> int:
    """Run k3s, or, called by its name through a link, one of TOOLS."""
    called = os.path.basename(argv[0])
    words = list(argv[1:]) if called not in TOOLS else [called, *argv[1:]]
    command = words[0] if words else "--help"
    release = releases.load()
    if command in ("--version", "-v"):
        sys.stdout.write(f"k3s version {release.version} ({release.commit})\ngo version {GO_VERSION}\n")
        return 0
    if command in TOOLS:
        return tool(command, words[1:], release)
    if command in ("server", "agent"):
        return run(command, words[1:], release)
    if command in ("token", "etcd-snapshot", "secrets-encrypt"):
        return administer(command, words[1:], release)
    sys.stdout.write(USAGE.format(version=release.version, commit=release.commit))
    if command in ("--help", "-h", "help"):
        return 0
    sys.stdout.write(f"No help topic for '{command}'\n")
    return 3


def tool(name: str, rest: Sequence[str], release: releases.Release) -> int:
    """Become *name*; returns only where the lab has no such program."""
    program = {"kubectl": release.program("kubectl"), "ctr": "/usr/bin/ctr", "crictl": release.program("crictl")}[name]
    environment = dict(os.environ)
    if name == "kubectl" and "KUBECONFIG" not in environment and not any(word.startswith("--kubeconfig") for word in rest):
        environment["KUBECONFIG"] = KUBECONFIG
        if os.path.exists(KUBECONFIG) and not os.access(KUBECONFIG, os.R_OK):
            sys.stderr.write(
                f"WARN[0000] Unable to read {KUBECONFIG}, please start server with --write-kubeconfig-mode or --write-kubeconfig-group "
                "to modify kube config permissions\n"
            )
    environment.setdefault("CONTAINERD_ADDRESS", "/run/k3s/containerd/containerd.sock")
    environment.setdefault("CONTAINERD_NAMESPACE", "k8s.io")
    if os.path.exists(program):
        os.execve(program, [name, *rest], environment)
    sys.stderr.write(f"k3s stand-in: {name} is not part of the lab\n")
    return 127


def administer(command: str, rest: Sequence[str], release: releases.Release) -> int:
    """Act on the running server of this node."""
    from . import admin, log

    try:
        return admin.COMMANDS[command](rest, release)
    except log.FatalError as problem:
        log.log("fatal", f"Error: {problem}")
        return 1


def run(command: str, arguments: Sequence[str], release: releases.Release) -> int:
    """Run a server or an agent until told to stop."""
    from . import agent, config, host, log, server
    from .processes import Children

    children = Children()

    def stop(*_: object) -> None:
        children.stop()
        # threads that serve joins are still at work; nothing of theirs needs an end
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        settings = config.load(command, arguments, os.environ)
        if command == "server":
            host.validate_cgroups()
            server.Server(settings, release, children).run()
        else:
            if not settings.text("token"):
                raise log.FatalError("--token is required")
            if not settings.text("server"):
                raise log.FatalError("--server is required")
            log.info(f"Starting k3s agent {release.version} ({release.commit})")
            host.validate_cgroups()
            agent.Agent(settings, release, children).run()
        code = 0
    except log.FatalError as problem:
        log.log("fatal", f"Error: {problem}")
        code = 1
    children.stop()
    os._exit(code)
