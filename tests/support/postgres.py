# SPDX-License-Identifier: GPL-3.0-or-later
"""A real PostgreSQL of the tests' own: Debian's programs, a data folder under /tmp, and a socket there instead of a port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg

#: Debian keeps each version's programs in a folder of its own
PROGRAMS = "/usr/lib/postgresql/*/bin"


class Server:
    """A running server; ``fresh()`` makes an empty database and returns its URL. *below*: where its data goes, by default into memory."""

    def __init__(self, below: Path | None = None) -> None:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.folder = Path(tempfile.mkdtemp(prefix="pifleet-pg-", dir=below or memory))
        self._databases = 0

    def __enter__(self) -> Server:
        self._own()
        self._run("initdb", "--pgdata", str(self.folder / "data"), "--auth=trust", "--username=pifleet", "--encoding=UTF8", "--no-sync")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        self._run(
            "pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", "--log", str(self.folder / "log"),
            "--options", f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c max_connections=50 -c fsync=off", "start",
        )  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "--pgdata", str(self.folder / "data"), "--wait", "--mode", mode, "stop")

    def fresh(self, like: str = "template1") -> str:
        """Return the URL of a new database, empty or as *like*."""
        self._databases += 1
        name = f"ledger{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {like}")
        return self.url(name)

    @property
    def pid(self) -> int:
        """Of the server, whose children the processes of its connections are."""
        return int((self.folder / "data/postmaster.pid").read_text().split()[0])

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(host=str(self.folder), user="pifleet", dbname=database, autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, name: str, user: str = "pifleet") -> str:
        return f"postgresql://{user}@/{name}?host={self.folder}"

    def _own(self) -> None:
        """PostgreSQL refuses to run as root, so there it runs as the user of Debian's package."""
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)

    def _run(self, program: str, *args: str) -> None:
        found = sorted(Path("/").glob(f"{PROGRAMS.lstrip('/')}/{program}"))
        assert found, f"{program} is missing: install Debian's package postgresql"
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*as_user, str(found[-1]), *args],
            cwd=self.folder, env={**os.environ, "LC_ALL": "C.UTF-8", "PGCTLTIMEOUT": "240"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode(errors="replace")
