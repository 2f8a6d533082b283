# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab node for tests of stacks: writes desired state, runs the collection's modules on it, and looks by another way (docker).

The modules run as they are shipped, but started by ``python3 -m`` on the node rather than by Ansible over ssh: three times quicker, and
a test can kill them. Other tests go the whole way.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible

from lab import tools, workload
from lab.console import Console

ROOT = Path(__file__).resolve().parents[2]
CODE = "/opt/pifleet-test"  # where the modules and what they need of Ansible are on the node
DESIRED = "/srv/desired/stacks"
STATE = "/var/lib/pifleet/stacks"
APP = "pifleet/lab-app:1"
LABEL = "io.pifleet.stack."


@dataclass(frozen=True)
class Result:
    """What a module printed; *rc* its exit code, None where it printed no answer (killed)."""

    rc: int
    data: Mapping[str, Any]
    stderr: str
    seconds: float

    @property
    def changed(self) -> bool:
        return bool(self.data["changed"])

    @property
    def failed(self) -> bool:
        return bool(self.data.get("failed"))

    @property
    def message(self) -> str:
        return str(self.data.get("msg", ""))

    @property
    def stacks(self) -> dict[str, dict[str, Any]]:
        """Status by the stack's name."""
        rows = self.data["stacks"]
        assert [row["name"] for row in rows] == sorted(row["name"] for row in rows), "not in order of names"
        return {row["name"]: row for row in rows}

    @property
    def statuses(self) -> dict[str, str]:
        return {name: row["status"] for name, row in self.stacks.items()}

    @property
    def drift(self) -> dict[str, list[tuple[str, str]]]:
        """(service, reason) by stack, of those that have any."""
        found = {name: sorted((one["service"], one["reason"]) for one in row["drift"]) for name, row in self.stacks.items()}
        return {name: reasons for name, reasons in found.items() if reasons}

    def require(self, *, failed: bool = False) -> Result:
        assert self.data, f"no answer, exit code {self.rc}: {self.stderr[-3000:]}"
        assert "Traceback" not in self.stderr + json.dumps(self.data), self.stderr + json.dumps(self.data)
        assert self.failed == failed, json.dumps(self.data, indent=1)[-6000:]
        return self


class StackNode:
    """*container*: the node's name in the machine's engine."""

    def __init__(self, container: str) -> None:
        self.container = container

    # -- the node --------------------------------------------------------------------------------------------------------
    def exec(self, *argv: str, stdin: bytes | None = None, timeout: float = 300) -> subprocess.CompletedProcess[bytes]:
        command = ["docker", "exec", "--interactive", self.container, *argv]
        return subprocess.run(command, input=stdin or b"", capture_output=True, timeout=timeout, check=False)

    def sh(self, script: str, *, check: bool = True, timeout: float = 300) -> str:
        """Run a shell script as root; its standard output."""
        done = self.exec("bash", "-c", script, timeout=timeout)
        assert not check or done.returncode == 0, f"{script}: {done.stdout[-1000:]!r} {done.stderr[-2000:]!r}"
        return done.stdout.decode()

    def install(self) -> None:
        """Start the engine, load the images, and bring the modules of this checkout."""
        self.sh("systemctl start docker && mkdir -p /srv/desired")
        self.code()
        self.load(workload.archive("app", Console()))

    def load(self, archive: Path) -> None:
        done = self.exec("docker", "load", "--quiet", stdin=archive.read_bytes())
        assert done.returncode == 0, done.stderr

    def code(self) -> None:
        """Bring the modules as they are now."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for source, target in (
                (ROOT / "plugins/modules", "ansible_collections/pifleet/ops/plugins/modules"),
                (ROOT / "plugins/module_utils", "ansible_collections/pifleet/ops/plugins/module_utils"),
                (Path(ansible.__file__).parent / "module_utils", "ansible/module_utils"),
                (Path(ansible.__file__).parent / "release.py", "ansible/release.py"),
            ):
                archive.add(source, target, filter=lambda member: None if "__pycache__" in member.name else member)
        unpack = f"rm -rf {CODE} && mkdir -p {CODE} && tar -xC {CODE} && touch {CODE}/ansible/__init__.py"
        done = self.exec("bash", "-c", unpack, stdin=buffer.getvalue())
        assert done.returncode == 0, done.stderr

    def tool(self, name: str) -> None:
        """Bring a program of the lab to /usr/local/bin."""
        program = tools.ensure(name, Console()).read_bytes()
        self.exec("bash", "-c", f"cat >/usr/local/bin/{name} && chmod 755 /usr/local/bin/{name}", stdin=program)

    # -- desired state ---------------------------------------------------------------------------------------------------
    def write(self, files: Mapping[str, str | bytes], at: str = DESIRED) -> None:
        """Write files below *at*; their text may be indented."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in files.items():
                data = content if isinstance(content, bytes) else textwrap.dedent(content).lstrip("\n").encode()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o644
                archive.addfile(entry, io.BytesIO(data))
        done = self.exec("bash", "-c", f"mkdir -p {at} && tar -xC {at}", stdin=buffer.getvalue())
        assert done.returncode == 0, done.stderr

    def stack(self, name: str, compose: str, **files: str) -> None:
        """Write one stack: its compose file, and other files with ``__`` for a dot in their names."""
        more = {f"{name}/{file.replace('__', '.')}": text for file, text in files.items()}
        self.write({f"{name}/compose.yaml": compose, **more})

    def clean(self) -> None:
        """As if no stack had ever been here; images stay."""
        self.sh(
            f"systemctl is-active -q docker || systemctl start docker; docker ps -aq | xargs -r docker rm -fv >/dev/null; "
            f"docker network prune -f >/dev/null; docker volume ls -q | xargs -r docker volume rm >/dev/null; rm -rf {DESIRED} {STATE}; "
            f"mkdir -p {DESIRED}"
        )

    # -- modules ---------------------------------------------------------------------------------------------------------
    def command(self, module: str, options: Mapping[str, Any], *, check: bool = False, diff: bool = False) -> tuple[list[str], bytes]:
        """The command line on the node that runs *module*, and its standard input."""
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
        name = f"ansible_collections.pifleet.ops.plugins.modules.{module}"
        return ["env", f"PYTHONPATH={CODE}", "python3", "-B", "-m", name], json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()

    def run(self, module: str, *, check: bool = False, diff: bool = False, limit: float = 600, **options: Any) -> Result:
        argv, stdin = self.command(module, options, check=check, diff=diff)
        began = time.monotonic()
        done = self.exec(*argv, stdin=stdin, timeout=limit)
        return answer(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def start(self, module: str, **options: Any) -> Running:
        """The same, left running."""
        return Running(self, *self.command(module, options))

    def settings(self, **options: Any) -> dict[str, Any]:
        """Options of ``stack_reconcile`` for tests: *options*, and short samples."""
        return {"path": DESIRED, "revision": "a" * 40, "commit_message": "first", "stable_seconds": 0.2, "timeout": 60, **options}

    def reconcile(self, *, check: bool = False, diff: bool = False, **options: Any) -> Result:
        """``stack_reconcile`` to its end. *options*: the module's."""
        return self.run("stack_reconcile", check=check, diff=diff, **self.settings(**options))

    def info(self, **options: Any) -> Result:
        return self.run("stack_info", **{"path": DESIRED, **options}).require()

    def acknowledge(self, **options: Any) -> Result:
        return self.run("stack_acknowledge", **options)

    def recreate(self, container: str, relabel: Callable[[dict[str, str]], None] | None = None, *, start: bool = True) -> None:
        """Replace a container by hand with one made of the same settings, by the engine's API; *relabel* edits its labels in place."""
        old = self.inspect()[container]
        labels = old["Config"]["Labels"]
        if relabel:
            relabel(labels)
        networks = {name: {"Aliases": one["Aliases"]} for name, one in old["NetworkSettings"]["Networks"].items()}
        body = {**old["Config"], "Labels": labels, "HostConfig": old["HostConfig"], "NetworkingConfig": {"EndpointsConfig": networks}}
        self.sh(f"docker rm -f {container}")
        call = f"curl -sS --fail-with-body --unix-socket /run/docker.sock -H Content-Type:application/json -d @- http://docker/containers/create?name={container}"
        done = self.exec("bash", "-c", call, stdin=json.dumps(body).encode())
        assert done.returncode == 0, done.stdout
        if start:
            self.sh(f"docker start {container}")

    # -- the oracle ------------------------------------------------------------------------------------------------------
    def inspect(self, *, project: str = "") -> dict[str, dict[str, Any]]:
        """``docker inspect`` by container name, stopped ones too."""
        chosen = f"--filter label=com.docker.compose.project={project}" if project else ""
        text = self.sh(f"docker ps -aq {chosen} | xargs -r docker inspect")
        return {one["Name"].lstrip("/"): one for one in json.loads(text or "[]")}

    def identities(self, *, project: str = "") -> dict[str, tuple[str, str]]:
        """Id and start time by container name: what must not change where nothing was to be done."""
        return {name: (one["Id"], one["State"]["StartedAt"]) for name, one in self.inspect(project=project).items()}

    def everything(self) -> str:
        """All that a run may touch on a node, as text: containers, networks, volumes, images, our files. For "before equals after"."""
        form = "{{.Id}} {{.Name}} {{.State.Status}} {{.State.StartedAt}} {{json .Config.Labels}}"
        return self.sh(
            f"docker ps -aq --no-trunc | sort | xargs -r docker inspect --format {shlex.quote(form)}; "
            "docker network ls -q --no-trunc | sort; docker volume ls -q | sort; docker images -aq --no-trunc | sort; "
            "find /srv/desired /var/lib/pifleet /etc/pifleet /run/pifleet -xdev -printf '%p %m %s %T@ %y\\n' 2>/dev/null | sort; "
            "find /srv/desired /var/lib/pifleet /etc/pifleet -type f 2>/dev/null | sort | xargs -r sha256sum"
        )

    @contextmanager
    def counting_docker(self) -> Iterator[Callable[[], list[str]]]:
        """Put programs before docker and Compose that keep the command lines; gives a function that returns them."""
        log, plugins = "/tmp/docker-calls", "docker/cli-plugins/docker-compose"
        before = {"/usr/local/bin/docker": ("/usr/bin/docker", ""), f"/usr/local/lib/{plugins}": (f"/usr/libexec/{plugins}", "compose ")}
        self.sh(f"rm -f {log}")
        for path, (program, word) in before.items():
            self.write({path: f'#!/bin/sh\necho "{word}$*" >>{log}\nexec {program} "$@"\n'}, at="/")
            self.sh(f"chmod 755 {path}")
        try:
            yield lambda: self.sh(f"cat {log} 2>/dev/null", check=False).splitlines()
        finally:
            self.sh(f"rm -f {' '.join(before)}")

    def address(self, container: str) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return self.sh(f"docker inspect --format '{form}' {container}").split()[0]

    def get(self, container: str, path: str) -> str:
        """What a container's program answers over HTTP."""
        return self.sh(f"curl -sS --max-time 5 http://{self.address(container)}:8080{path}")

    def wait_for(self, what: str, script: str, timeout: float = 120) -> None:
        """Until *script* ends well on the node."""
        deadline = time.monotonic() + timeout
        while self.exec("bash", "-c", script).returncode != 0:
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}: {self.sh('docker ps -a', check=False)}"
            time.sleep(0.2)


class Running:
    """A module under way on a node, which a test may kill. *pid*: on the node."""

    def __init__(self, node: StackNode, argv: list[str], stdin: bytes) -> None:
        self.node, self._began = node, time.monotonic()
        # the shell tells its number and becomes the module
        command = ["docker", "exec", "--interactive", node.container, "bash", "-c", 'echo $$ >&2; exec "$@"', "-", *argv]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdin
        assert self._process.stderr
        self._process.stdin.write(stdin)
        self._process.stdin.close()
        self._process.stdin = None
        self.pid = int(self._process.stderr.readline())

    def kill(self, *, whole: bool = False) -> None:
        """SIGKILL to the module; *whole*: to the commands it started too, as when a node loses power."""
        below = "below() { echo $1; for child in $(pgrep -P $1); do below $child; done; }"
        self.node.sh(f"{below}; kill -KILL $(below {self.pid})" if whole else f"kill -KILL {self.pid}", check=False)
        self._process.wait(30)

    def wait(self, timeout: float = 600) -> Result:
        out, err = self._process.communicate(timeout=timeout)
        return answer(self._process.returncode, out, err, time.monotonic() - self._began)


def answer(rc: int, out: bytes, err: bytes, seconds: float) -> Result:
    """What a module printed: its last line that is JSON."""
    lines = [line for line in out.decode().splitlines() if line.startswith("{")]
    return Result(rc, json.loads(lines[-1]) if lines else {}, err.decode(errors="replace"), seconds)


def serves(image: str = APP, **more: str) -> str:
    """A service in flow style, with further keys as YAML text: ``serves(environment="{A: b}")``."""
    keys = ", ".join(f"{key}: {value}" for key, value in {"image": image, **more}.items())
    return f"{{{keys}}}"


def compose(services: Mapping[str, str], tail: str = "") -> str:
    """A compose file of services in flow style, and *tail* at top level."""
    lines = "".join(f"  {name}: {text}\n" for name, text in services.items())
    return f"services:\n{lines}{textwrap.dedent(tail)}"
