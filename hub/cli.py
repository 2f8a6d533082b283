# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub's command line: ``serve``, and ``token add|list|revoke``."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import uvicorn
from ansible_collections.pifleet.ops.hub.app import create_app
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* and return its exit code: 2 for what a person has to correct."""
    args = _parser().parse_args(argv)
    try:
        done: int = args.run(args)
        return done
    except PifleetError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pifleet-hub", description="The hub: takes in evidence of fleets.")
    parser.add_argument("--database", default=".pifleet/hub.db", help="file, or postgresql:// URL (default: %(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the HTTP interface")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s); another one needs TLS")
    serve.add_argument("--port", type=int, default=8470, help="0: any free one (default: %(default)s)")
    serve.add_argument("--port-file", type=Path, help="write the port here once it listens")
    serve.add_argument("--tls-cert", type=Path, help="certificate with its chain, PEM")
    serve.add_argument("--tls-key", type=Path, help="its key, PEM")
    serve.set_defaults(run=_serve)
    token = commands.add_parser("token", help="manage tokens").add_subparsers(required=True, metavar="COMMAND")
    add = token.add_parser("add", help="make a token and print it, once")
    add.add_argument("name", help="for people and logs")
    add.add_argument("--owner", required=True, help="team or user, as in evidence.yml")
    add.add_argument("--fleet", required=True, help="fleet, as in evidence.yml")
    add.add_argument("--days", type=float, default=90, help="how long it holds (default: %(default)s)")
    add.set_defaults(run=_add)
    token.add_parser("list", help="show the tokens there are, without their texts").set_defaults(run=_list)
    revoke = token.add_parser("revoke", help="make a token invalid")
    revoke.add_argument("name")
    revoke.set_defaults(run=_revoke)
    return parser


def _store(args: argparse.Namespace) -> Store:
    place = args.database
    return Store(place, Path.cwd()) if "://" in place else Store(Path(place).absolute())


def _serve(args: argparse.Namespace) -> int:
    if bool(args.tls_cert) != bool(args.tls_key):
        raise PifleetError("--tls-cert and --tls-key belong together.", "Give both or none.")
    if args.host not in _LOOPBACK and not args.tls_cert:
        raise PifleetError(f"--host {args.host} is open to others, and without TLS tokens would be too.", "Give --tls-cert and --tls-key.")
    for path in filter(None, (args.tls_cert, args.tls_key)):
        if not os.access(path, os.R_OK):
            raise PifleetError(f"{path} cannot be read.", "Correct --tls-cert or --tls-key.")
    app = create_app(_store(args))
    config = uvicorn.Config(
        app,
        log_level="warning",
        ssl_certfile=args.tls_cert,
        ssl_keyfile=args.tls_key,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    listening = _listen(args.host, args.port)
    if args.port_file:
        atomic_file.write_atomic(args.port_file, f"{listening.getsockname()[1]}\n")
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise PifleetError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.", "Choose another --host or --port."
        ) from error


def _add(args: argparse.Namespace) -> int:
    if args.days <= 0:
        raise PifleetError(f"--days {args.days:g} is no time.", "Give a number above 0.")
    text = ApiTokens(_store(args)).add(args.name, "sync", f"{args.owner}/{args.fleet}", timedelta(days=args.days))
    print(text)  # noqa: T201
    return 0


def _list(args: argparse.Namespace) -> int:
    for found in ApiTokens(_store(args)).all():
        print(f"{found.name}\t{found.role}\t{found.source or '-'}\t{found.state}\tuntil {found.expires_at}")  # noqa: T201
    return 0


def _revoke(args: argparse.Namespace) -> int:
    ApiTokens(_store(args)).revoke(args.name)
    return 0
