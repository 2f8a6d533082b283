# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's SSH key: what this controller knows of it, what the host offers now, and how the one takes the place of the other.

What a key is worth (``judge``) and how lines change (``revise``) is pure; ``Ssh`` asks OpenSSH's own programs through a port, and
``replace_files`` carries a change out under a lock.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import re
import shlex
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed, Runner
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

#: seconds that OpenSSH's programs get: `ssh -G` may run a `Match exec` of the user, ssh-keyscan waits SCAN_SECONDS for each key type
COMMAND_SECONDS = 20.0
SCAN_SECONDS = 5
#: seconds to wait for another run to be done with a known_hosts
LOCK_SECONDS = 20.0
NEW_FILE_MODE = 0o600

_DEFAULT_PORT = 22
_NO_FILE = {"/dev/null", "none"}
#: signature algorithms whose key has another type
_KEY_TYPES = {"rsa-sha2-256": "ssh-rsa", "rsa-sha2-512": "ssh-rsa"}
_FOUND = re.compile(r"^# Host .* found: line (\d+)\b", re.M)
_SIGNED_BY = re.compile(r"^\s*Signing CA: \S+ (SHA256:\S+)", re.M)


class HostKeyError(PifleetError):
    """Keys cannot be looked up, asked for or written."""


class Marker(Enum):
    """What a line of known_hosts says about its key."""

    KNOWN = ""
    AUTHORITY = "@cert-authority"
    REVOKED = "@revoked"


class Verdict(Enum):
    """What the offered keys are to this controller."""

    UNKNOWN = "unknown"  # the host was never known here
    SILENT = "silent"  # it offers no key that ssh would use
    SAME = "same"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A public key: its type, and the rest in base64."""

    type: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    def __str__(self) -> str:
        return f"{self.type} {self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a known_hosts that is about the host. *patterns*: the names in it."""

    key: Key
    file: str
    line: int
    patterns: str
    marker: Marker = Marker.KNOWN

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Target:
    """What ssh makes of a connection: where it goes, under which *names* it looks keys up, in which files, and through what."""

    address: str
    port: int
    names: tuple[str, ...]
    user_files: tuple[str, ...]
    global_files: tuple[str, ...]
    key_types: tuple[str, ...]
    proxy: str = ""
    family: str = "any"
    hashed: bool = False
    has_command: bool = False


@dataclass(frozen=True, slots=True)
class Revised:
    """A known_hosts as it is to be: its content, the entries that went, and the (name, key) pairs that it had already."""

    content: bytes
    removed: tuple[Entry, ...]
    kept: frozenset[tuple[str, Key]]


@dataclass(frozen=True, slots=True)
class Replaced:
    """*before* and *after*: the host's own lines of *file*, names readable."""

    file: str
    removed: tuple[Entry, ...]
    added: tuple[tuple[str, Key], ...]
    before: str
    after: str

    @property
    def changed(self) -> bool:
        return bool(self.removed or self.added)


Find = Callable[[str, bytes], list[int]]
"""Returns the numbers of the lines of a known_hosts's content that are about a name."""


# --- lines


def parse_key(kind: str, blob: str) -> Key | None:
    """Return the key, None for what is none."""
    try:
        raw = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return None
    name = kind.encode("utf-8", errors="replace")
    return Key(kind, blob) if raw.startswith(len(name).to_bytes(4, "big") + name) and len(raw) > len(name) + 4 else None


def parse_line(line: bytes, file: str, number: int) -> Entry | None:
    """Return a line of known_hosts, None for one that has no key."""
    # as bytes: only ASCII blanks separate, and Latin-1 keeps what is no UTF-8
    words = [word.decode("latin-1") for word in line.split()]
    marker = Marker.KNOWN
    if words and words[0].startswith("@"):
        known = [m for m in (Marker.AUTHORITY, Marker.REVOKED) if m.value == words[0]]
        if not known:
            return None
        marker, words = known[0], words[1:]
    key = parse_key(words[1], words[2]) if len(words) > 2 else None
    return Entry(key, file, number, words[0], marker) if key else None


def parse_scan(output: str) -> list[Key]:
    """Return the keys that ssh-keyscan printed, in the order of their types."""
    lines = [line.split() for line in output.splitlines() if not line.startswith("#")]
    return sorted({key for words in lines if len(words) > 2 and (key := parse_key(words[1], words[2]))})


def without_name(patterns: str, name: str) -> str:
    """Return the names of a line that are left without *name*, "" where none is.

    A wildcard that matches other hosts too stays, with *name* taken out of it.
    """
    left = [p for p in patterns.split(",") if p and p.lower() != name]
    if any(set(p) & set("*?") for p in left if not p.startswith("!")):
        return ",".join([*left, f"!{name}"])
    return "" if all(p.startswith(("!", "|")) for p in left) else ",".join(left)


def hashed_name(name: str, salt: bytes) -> str:
    """Return *name* as `HashKnownHosts yes` writes it."""
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def revise(content: bytes, file: str, names: Iterable[str], wanted: Iterable[Key], find: Find) -> Revised:
    """Take the host's *names* out of all lines with other keys than *wanted*. Markers, comments, other hosts' lines and the order stay."""
    lines: list[bytes | None] = [*split_lines(content)]
    right, removed, kept = set(wanted), list[Entry](), set[tuple[str, Key]]()
    for name in names:
        # a removed line stays as an empty one until the end, so that numbers mean the same for each name
        for number in find(name, b"".join(line if line is not None else b"\n" for line in lines)):
            entry = parse_line(lines[number - 1] or b"", file, number)
            if entry is None or entry.marker is not Marker.KNOWN:
                continue
            if entry.key in right:
                kept.add((name, entry.key))
                continue
            removed.append(entry)
            lines[number - 1] = _line_without(lines[number - 1] or b"", entry.patterns, name)
    return Revised(b"".join(line for line in lines if line is not None), tuple(removed), frozenset(kept))


def split_lines(content: bytes) -> list[bytes]:
    """Return lines as OpenSSH counts them: a carriage return ends none."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _line_without(line: bytes, patterns: str, name: str) -> bytes | None:
    left = without_name(patterns, name)
    return line.replace(patterns.encode("latin-1"), left.encode("latin-1"), 1) if left else None


# --- judging


def judge(entries: Sequence[Entry], offered: Sequence[Key], key_types: Sequence[str]) -> Verdict:
    """Return what *offered* is, as ssh would find: it negotiates the first type of *key_types* that is known and offered."""
    if revoked_by(entries, offered):
        return Verdict.REVOKED
    known = {e.key for e in entries if e.marker is Marker.KNOWN}
    if not known:
        return Verdict.UNKNOWN
    types = list(key_types) or sorted({key.type for key in offered})
    usable = [key for key in offered if key.type in types]
    if not usable:
        return Verdict.SILENT
    both = {key.type for key in usable} & {key.type for key in known}
    decisive = next((kind for kind in types if kind in both), None)
    return Verdict.SAME if any(key in known for key in usable if key.type == decisive) else Verdict.CHANGED


def revoked_by(entries: Iterable[Entry], offered: Sequence[Key]) -> list[Entry]:
    """Return the lines that revoke one of the offered keys."""
    return [e for e in entries if e.marker is Marker.REVOKED and e.key in offered]


# --- the connection


def pin_words(path: str, *, has_command: bool = False) -> list[str]:
    """Return ssh's arguments that make it trust the keys in *path* and no others. ssh takes the first value it sees: they come first."""
    quoted = re.sub(r'(["\\])', r"\\\1", path).replace("%", "%%")
    pairs = [f'UserKnownHostsFile="{quoted}"', "GlobalKnownHostsFile=/dev/null", "StrictHostKeyChecking=yes"]
    if has_command:
        pairs.append("KnownHostsCommand=none")
    return [word for pair in pairs for word in ("-o", pair)]


def unpinned(words: Sequence[str], path: str) -> list[str]:
    """Return ssh's arguments without those of ``pin_words``."""
    pin, left = pin_words(path), list(words)
    for start in range(len(left) - len(pin) + 1):
        if left[start : start + len(pin)] == pin:
            return [*left[:start], *left[start + len(pin) :]]
    return left


def parse_config(output: str) -> dict[str, str]:
    """Return what `ssh -G` printed; of a key that comes several times the first."""
    config: dict[str, str] = {}
    for line in output.splitlines():
        key, _space, value = line.partition(" ")
        config.setdefault(key.lower(), value.strip())
    return config


def target_of(config: dict[str, str], exists: Callable[[str], bool], resolve: Callable[[str], Iterable[str]]) -> Target:
    """Return what ssh's own settings mean. *exists* says if a file is there, *resolve* gives a name's addresses."""
    address, port = config["hostname"], int(config.get("port") or _DEFAULT_PORT)
    proxy = next((config[key] for key in ("proxyjump", "proxycommand") if config.get(key, "none").lower() != "none"), "")
    alias = config.get("hostkeyalias", "")
    names = [alias.lower()] if alias else [name_of(address, port)]
    if config.get("checkhostip") in {"yes", "true"} and not alias and not proxy:
        names += [name_of(found, port) for found in resolve(address)]
    algorithms = (config.get("hostkeyalgorithms") or "").split(",")
    return Target(
        address=address,
        port=port,
        names=tuple(dict.fromkeys(names)),
        user_files=files_of(config.get("userknownhostsfile", ""), exists),
        global_files=files_of(config.get("globalknownhostsfile", ""), exists),
        key_types=tuple(dict.fromkeys(_KEY_TYPES.get(a, a) for a in algorithms if a and "-cert-v" not in a)),
        proxy=proxy,
        family=config.get("addressfamily", "any"),
        hashed=config.get("hashknownhosts") in {"yes", "true"},
        has_command=config.get("knownhostscommand", "none").lower() != "none",
    )


def name_of(address: str, port: int) -> str:
    """Return the name under which ssh knows the key of a host."""
    return address.lower() if port == _DEFAULT_PORT else f"[{address.lower()}]:{port}"


def files_of(value: str, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the files of a list that `ssh -G` printed, which puts no quotes around paths with spaces."""
    words, found = [os.path.expanduser(word) for word in value.split()], list[str]()
    while words:
        size = next((n for n in range(len(words), 0, -1) if exists(" ".join(words[:n]))), 0) or _length(words, exists)
        path, words = " ".join(words[:size]), words[size:]
        if path not in _NO_FILE:
            found.append(path)
    return tuple(dict.fromkeys(found))


def _length(words: Sequence[str], exists: Callable[[str], bool]) -> int:
    """How many *words* are the path of a file that is not there yet: all up to the next absolute path."""
    ends = (n for n, word in enumerate(words) if n and (word.startswith("/") or word in _NO_FILE or exists(word)))
    return 1 if words[0] in _NO_FILE else next(ends, len(words))


def addresses_of(name: str) -> list[str]:
    """Return the addresses of *name*, none where it has none."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None)})
    except OSError:
        return []


# --- OpenSSH's programs


@dataclass(frozen=True, slots=True)
class Ssh:
    """Asks OpenSSH through *run*; about the same file ssh-keygen is asked once."""

    run: Runner
    _lines: dict[tuple[str, bytes], list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def target(self, executable: str, words: Sequence[str], host: str) -> Target:
        """Return what ssh makes of *words* (its arguments) and *host*, all its configuration files included."""
        done = self._done([executable, "-G", *words, "--", host])
        if not done.ok:
            said = " ".join(done.stderr.split()) or f"exit code {done.rc}"
            raise HostKeyError(f"ssh refuses the settings of {host}: {said}.", "Correct ansible_host, ansible_ssh_*_args or ~/.ssh/config.")
        config = parse_config(done.stdout)
        if not config.get("hostname"):
            raise HostKeyError(f"`{executable} -G {host}` names no address.", "Set ansible_ssh_executable to an OpenSSH client.")
        return target_of(config, os.path.isfile, addresses_of)

    def entries(self, target: Target) -> list[Entry]:
        """Return all lines about the host, those of the user's files first."""
        found: dict[tuple[str, int], Entry] = {}
        for file in (*target.user_files, *target.global_files):
            content = read(file)
            lines = split_lines(content)
            for name in target.names if content else ():
                for number in self.find(name, content):
                    entry = parse_line(lines[number - 1], file, number)
                    if entry:
                        found[file, number] = entry
        return list(found.values())

    def find(self, name: str, content: bytes) -> list[int]:
        """Return the numbers of the lines about *name*; hashed names and wildcards are ssh-keygen's business."""
        if (name, content) in self._lines:
            return self._lines[name, content]
        # every byte becomes one character: only the numbers of the lines are of interest here
        done = self._done(["ssh-keygen", "-F", name, "-f", "/dev/stdin"], content.decode("ascii", errors="replace").replace("\0", "?"))
        if done.rc not in (0, 1):
            raise HostKeyError(f"ssh-keygen cannot look {name} up: {' '.join(done.stderr.split())}.", "Correct the known_hosts.")
        self._lines[name, content] = [int(number) for number in _FOUND.findall(done.stdout)]
        return self._lines[name, content]

    def scan(self, target: Target, *, certificates: bool = False) -> str:
        """Return what ssh-keyscan says of the host's keys, "" where the host does not answer."""
        family = {"inet": ["-4"], "inet6": ["-6"]}.get(target.family, [])
        kind = ["-c"] if certificates else []
        return self._done(
            ["ssh-keyscan", *family, *kind, "-T", str(SCAN_SECONDS), "-p", str(target.port), "--", target.address],
            limit=4 * COMMAND_SECONDS,
        ).stdout

    def is_certified(self, target: Target, entries: Iterable[Entry]) -> bool:
        """Whether the host offers a certificate of an authority that is known for it."""
        authorities = {e.key.fingerprint for e in entries if e.marker is Marker.AUTHORITY}
        if not authorities:
            return False
        lines = [line.split(maxsplit=1)[-1] for line in self.scan(target, certificates=True).splitlines() if not line.startswith("#")]
        shown = [self._done(["ssh-keygen", "-L", "-f", "-"], f"{line}\n").stdout for line in lines]
        return any(set(_SIGNED_BY.findall(text)) & authorities for text in shown)

    def _done(self, argv: Sequence[str], stdin: str = "", *, limit: float = COMMAND_SECONDS) -> Completed:
        done = self.run(argv, stdin=stdin, timeout=limit)
        if done.rc == 127:
            raise HostKeyError(f"{argv[0]} is not installed on the controller.", "Install OpenSSH's client (package openssh-client).")
        if done.rc == 124:
            raise HostKeyError(f"{argv[0]} did not end within {limit:g} seconds.", "Look at what it waits for, and run again.")
        return done


# --- files


def read(path: str | Path) -> bytes:
    """Return the content of a known_hosts, nothing where there is none. Raises HostKeyError for one that cannot be read."""
    try:
        return atomic_file.read_bytes(path) or b""
    except OSError as error:
        raise HostKeyError(
            f"{path} cannot be read: {error.strerror or error}.", "Give access to it, or correct UserKnownHostsFile."
        ) from error


def pinned_text(names: Iterable[str], keys: Iterable[Key]) -> str:
    """Return a known_hosts with *keys* for *names* and nothing else."""
    together = ",".join(names)
    return "".join(f"{together} {key.type} {key.blob}\n" for key in keys)


def pinned_keys(path: str, names: Sequence[str]) -> list[Key]:
    """Return the keys that an inspection wrote into *path*. Raises HostKeyError for a file that is none of this host."""
    found = [parse_line(line, path, number) for number, line in enumerate(split_lines(read(path)), 1)]
    # the first name alone counts: the addresses after it may have become others since
    keys = sorted({e.key for e in found if e and names[0] in e.patterns.split(",")})
    if not keys:
        raise HostKeyError(
            f"{path} has no keys of {names[0]}.", "Give what `state: inspected` returned as pinned, in the same run and for the same host."
        )
    return keys


def check_replaceable(target: Target, entries: Sequence[Entry]) -> None:
    """Raise HostKeyError where an accepted key could not be written down later."""
    _first_file(target)
    held = [f for f in target.user_files if any(e.file == f and e.marker is Marker.KNOWN for e in entries)]
    for file in held or target.user_files[:1]:
        _check_writable(file)


def _first_file(target: Target) -> str:
    if not target.user_files:
        raise HostKeyError(
            "ssh is told to keep no known_hosts of this user (UserKnownHostsFile), so that a new key cannot replace the old one.",
            "Name a file there, or correct the old entry by hand.",
        )
    return target.user_files[0]


def _check_writable(file: str) -> None:
    place = Path(os.path.realpath(file))
    folder = next(p for p in place.parents if p.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HostKeyError(f"{file} cannot be written on the controller.", "Give this user access to its folder.")


def replace_files(target: Target, wanted: Sequence[Key], find: Find, *, check: bool) -> list[Replaced]:
    """Have the user's files know the host by *wanted* alone: one result for each file that is, or in check mode would be, changed.

    A file is replaced whole under a lock, mode and owner kept, and a symlink stays one. Raises HostKeyError with the file unchanged.
    """
    first = Path(os.path.realpath(_first_file(target))).parent
    try:
        with ExitStack() as held:
            if not check:
                first.mkdir(mode=0o700, parents=True, exist_ok=True)
                for folder in sorted({Path(os.path.realpath(file)).parent for file in target.user_files}):
                    if folder.is_dir():
                        held.enter_context(_locked(folder))
            return _replace_all(target, wanted, find, check=check)
    except OSError as error:
        raise HostKeyError(
            f"known_hosts cannot be written on the controller: {error.strerror or error} ({', '.join(target.user_files)}).",
            "Make room or give access, and run again.",
        ) from error


def _replace_all(target: Target, wanted: Sequence[Key], find: Find, *, check: bool) -> list[Replaced]:
    plans = [(file, revise(read(file), file, target.names, wanted, find)) for file in target.user_files]
    kept = {pair for _file, revised in plans for pair in revised.kept}
    missing = tuple((name, key) for name in target.names for key in wanted if (name, key) not in kept)
    first = next((file for file, revised in plans if revised.removed or revised.kept), target.user_files[0])
    done = []
    # no file before the one that gets the new keys changes: killed after it, the host is known
    for file, revised in plans:
        added = missing if file == first else ()
        result = _shown(file, revised, target.names, added)
        if not result.changed:
            continue
        _check_writable(file)
        if not check:
            _write(file, revised.content, _lines(added, hashed=target.hashed))
        done.append(result)
    return done


def _lines(added: Iterable[tuple[str, Key]], *, hashed: bool) -> bytes:
    names = [(hashed_name(name, os.urandom(20)) if hashed else name, key) for name, key in added]
    return "".join(f"{name} {key.type} {key.blob}\n" for name, key in names).encode()


def _shown(file: str, revised: Revised, names: Sequence[str], added: tuple[tuple[str, Key], ...]) -> Replaced:
    together = ",".join(names)
    stays = [f"{name} {key.type} {key.blob}" for name, key in sorted(revised.kept)]
    # a line of several names was removed once for each
    went = list(dict.fromkeys(f"{together} {e.key.type} {e.key.blob}" for e in revised.removed))
    came = [f"{name} {key.type} {key.blob}" for name, key in added]
    unique = tuple({(e.line, e.key): e for e in revised.removed}.values())
    return Replaced(file, unique, added, _text([*stays, *went]), _text([*stays, *came]))


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _write(file: str, content: bytes, more: bytes) -> None:
    """Replace *file*. Its owner and mode come first and the rename last, so that it never is there with others."""
    place = Path(os.path.realpath(file))
    seam = b"\n" if content and more and not content.endswith(b"\n") else b""
    if not place.exists():
        atomic_file.write_atomic(place, content + seam + more, NEW_FILE_MODE, folder_mode=0o700)
        return
    was = place.stat()
    new = place.with_name(f".{place.name}.pifleet")
    try:
        atomic_file.write_atomic(new, content + seam + more, stat.S_IMODE(was.st_mode))
        if (was.st_uid, was.st_gid) != (new.stat().st_uid, new.stat().st_gid):
            os.chown(new, was.st_uid, was.st_gid)
        os.replace(new, place)
    finally:
        new.unlink(missing_ok=True)
    atomic_file.fsync_folder(place.parent)


@contextmanager
def _locked(folder: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold *folder* against other runs. The lock goes with the process."""
    handle, deadline = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + seconds
    try:
        while not _flock(handle):
            if time.monotonic() > deadline:
                raise HostKeyError(f"{folder} is in use by another run.", "Wait for it to end, and run again.")
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- what a person reads


def described(keys: Iterable[Key], entries: Iterable[Entry]) -> str:
    """Return the offered keys and the known entries, one a line."""
    known = [f"known:   {e.key} ({e.where})" for e in entries if e.marker is Marker.KNOWN]
    return "\n".join([*known, *(f"offered: {key}" for key in keys)])


def public_key_file(kind: str) -> str:
    """Return where a node has its public key of a type."""
    short = next((s for s in ("ed25519", "ecdsa", "rsa") if s in kind), "*")
    return f"/etc/ssh/ssh_host_{short}_key.pub"


def split_args(text: str | None) -> list[str]:
    """Return ssh's arguments as Ansible splits them. Raises HostKeyError for an unclosed quote."""
    try:
        return [word.strip() for word in shlex.split(text or "") if word.strip()]
    except ValueError as error:
        raise HostKeyError(f"ssh's arguments cannot be read: {text!r}: {error}.", "Correct ansible_ssh_*_args.") from error
