# SPDX-License-Identifier: GPL-3.0-or-later
"""The hub's command line: ``serve``, and ``token add|list|revoke``."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import get_args

import uvicorn
from ansible_collections.pifleet.ops.hub.app import create_app
from ansible_collections.pifleet.ops.hub.execution import Settings
from ansible_collections.pifleet.ops.hub.known import KnownSecrets
from ansible_collections.pifleet.ops.hub.office import Office, open_office
from ansible_collections.pifleet.ops.hub.plays import Runner
from ansible_collections.pifleet.ops.hub.queue import open_queue
from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils import _fleet_root
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence import identity
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.api_tokens import ApiTokens, Role
from ansible_collections.pifleet.ops.plugins.plugin_utils._evidence.ledgers import ledger_of
from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.store import Store

#: characters of a webhook's secret
_SECRET = 16
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* and return its exit code: 2 for what a person has to correct."""
    args = command_line().parse_args(argv)
    try:
        done: int = args.run(args)
        return done
    except PifleetError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2


def command_line() -> argparse.ArgumentParser:
    """Return what the program takes as arguments."""
    parser = argparse.ArgumentParser(prog="pifleet-hub", description="The hub: works for a fleet, and takes in evidence of fleets.")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--fleet-root", type=Path, help="folder of the fleet that it works for, whose ledger is the database")
    place.add_argument(
        "--database", default=".pifleet/hub.db", help="file, or postgresql:// URL, of a hub without a fleet (default: %(default)s)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve the HTTP interface")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s); another one needs TLS")
    serve.add_argument("--port", type=int, default=8470, help="0: any free one (default: %(default)s)")
    serve.add_argument("--port-file", type=Path, help="write the port here once it listens")
    serve.add_argument("--tls-cert", type=Path, help="certificate with its chain, PEM")
    serve.add_argument("--tls-key", type=Path, help="its key, PEM")
    serve.add_argument("--stacks-folder", default="stacks", help="folder of the stacks in the fleet's repository (default: %(default)s)")
    serve.add_argument("-i", "--inventory", action="append", default=[], help="inventory of the fleet; else that of its ansible.cfg")
    serve.add_argument("--webhook-secret-file", type=Path, help="file with the secret that webhooks are signed with; else none is taken")
    serve.set_defaults(run=_serve)
    token = commands.add_parser("token", help="manage tokens").add_subparsers(required=True, metavar="COMMAND")
    add = token.add_parser("add", help="make a token and print it, once")
    add.add_argument("name", help="for people and logs")
    add.add_argument("--role", choices=get_args(Role), default="sync", help="what it is for (default: %(default)s)")
    add.add_argument("--owner", help="of role sync: team or user, as in evidence.yml")
    add.add_argument("--fleet", help="of role sync: fleet, as in evidence.yml")
    add.add_argument("--login", help="of another role: login of the person who holds it, as the ledger has it")
    add.add_argument("--days", type=float, default=90, help="how long it holds (default: %(default)s)")
    add.set_defaults(run=_add)
    token.add_parser("list", help="show the tokens there are, without their texts").set_defaults(run=_list)
    revoke = token.add_parser("revoke", help="make a token invalid")
    revoke.add_argument("name")
    revoke.set_defaults(run=_revoke)
    return parser


def _fleet_root_of(args: argparse.Namespace) -> Path | None:
    return _fleet_root.resolve(str(args.fleet_root), None, os.getcwd()) if args.fleet_root else None


def _store(args: argparse.Namespace) -> Store:
    if root := _fleet_root_of(args):
        return ledger_of(identity.load(root))
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
    store, root = _store(args), _fleet_root_of(args)
    app = create_app(store, _opened(root, store, args) if root else None)
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


def _opened(root: Path, store: Store, args: argparse.Namespace) -> Office:
    secret = (atomic_file.read_bytes(args.webhook_secret_file) or b"").strip() if args.webhook_secret_file else b""
    if args.webhook_secret_file and len(secret) < _SECRET:
        raise PifleetError(f"{args.webhook_secret_file} has no secret of {_SECRET} characters or more.", "Write one into it.")
    settings = Settings.of(os.environ, root)
    if args.inventory:
        settings = replace(settings, inventory=tuple(os.path.abspath(place) for place in args.inventory))
    queue, play = open_queue(settings, store), Runner(root, settings.inventory)
    return open_office(
        root,
        store,
        queue,
        play,
        stacks_folder=args.stacks_folder,
        webhook_secret=secret,
        told=settings.measure,
        secrets=KnownSecrets(root, settings.inventory),
    )


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
    text = ApiTokens(_store(args)).add(args.name, args.role, _holder(args), timedelta(days=args.days))
    print(text)  # noqa: T201
    return 0


def _holder(args: argparse.Namespace) -> str:
    """Whose token it becomes."""
    if args.role == "sync":
        if not (args.owner and args.fleet) or args.login:
            raise PifleetError("A token of the role sync is for the evidence of a fleet.", "Give --owner and --fleet, and no --login.")
        return f"{args.owner}/{args.fleet}"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", args.login or "") or args.owner or args.fleet:
        raise PifleetError(f"A token of the role {args.role} is a person's.", "Give --login, and neither --owner nor --fleet.")
    return str(args.login)


def _list(args: argparse.Namespace) -> int:
    for found in ApiTokens(_store(args)).all():
        print(f"{found.name}\t{found.role}\t{found.source or '-'}\t{found.state}\tuntil {found.expires_at}")  # noqa: T201
    return 0


def _revoke(args: argparse.Namespace) -> int:
    ApiTokens(_store(args)).revoke(args.name)
    return 0
