# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's key is judged as ssh would, and replaced without harm to any other line."""

from __future__ import annotations

import base64
import os
import re
import resource
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv, atomic_file
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.plugin_utils import _ssh_host_key as keys
from ansible_collections.pifleet.ops.plugins.plugin_utils._ssh_host_key import Entry, HostKeyError, Key, Marker, Ssh, Target, Verdict
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
SSH = Ssh(argv.run)
HOST = "pi-4.example"


def key(number: int, kind: str = "ssh-ed25519") -> Key:
    """A key of that type; nobody has the secret one."""
    parts = [kind.encode(), *([b"\1\0\1"] if kind == "ssh-rsa" else []), bytes([number]) * (257 if kind == "ssh-rsa" else 32)]
    return Key(kind, base64.b64encode(b"".join(len(p).to_bytes(4, "big") + p for p in parts)).decode())


OLD, NEW, OTHER = key(1), key(2), key(3)
OLD_RSA, NEW_RSA = key(1, "ssh-rsa"), key(2, "ssh-rsa")
TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


def line(names: str, what: Key, marker: str = "") -> str:
    return f"{marker} {names} {what.type} {what.blob}".strip() + "\n"


def target(*files: Path, names: Sequence[str] = (HOST,), hashed: bool = False) -> Target:
    return Target(HOST, 22, tuple(names), tuple(map(str, files)), (), TYPES, hashed=hashed)


def entry(what: Key, marker: Marker = Marker.KNOWN) -> Entry:
    return Entry(what, "known_hosts", 1, HOST, marker)


def replace(*files: Path, wanted: Sequence[Key] = (NEW,), check: bool = False, hashed: bool = False) -> list[keys.Replaced]:
    return keys.replace_files(target(*files, hashed=hashed), wanted, SSH.find, check=check)


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    folder = tmp_path / "ssh"
    folder.mkdir()
    return folder / "known_hosts"


# --- keys and lines


@pytest.mark.parametrize("what", [OLD, NEW_RSA])
def test_fingerprint_is_that_of_ssh_keygen(what: Key, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{what.type} {what.blob}\n")
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "key.pub")], check=True, capture_output=True, text=True).stdout
    assert shown.split()[1] == what.fingerprint


@pytest.mark.parametrize("text", ["", "ssh-ed25519", f"{HOST} ssh-ed25519", f"{HOST} ssh-ed25519 notbase64", f"{HOST} ssh-rsa {OLD.blob}"])
def test_line_without_a_key_is_none(text: str) -> None:
    assert keys.parse_line(text.encode(), "f", 1) is None
    assert keys.parse_line(f"@unheard {text}".encode(), "f", 1) is None


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_garbage_is_no_key_and_no_crash(data: bytes) -> None:
    assert keys.parse_line(data, "f", 1) is None
    assert keys.parse_scan(data.decode("latin-1")) == []


def test_scan_is_sorted_and_without_comments() -> None:
    printed = f"# {HOST}:22 SSH-2.0-OpenSSH\n{line(HOST, NEW_RSA)}{HOST} broken\n{line('[pi-4]:2222', NEW)}{line(HOST, NEW)}"
    assert keys.parse_scan(printed) == [NEW, NEW_RSA]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (HOST, ""),
        ("PI-4.Example", ""),
        (f"{HOST},192.0.2.4", "192.0.2.4"),
        (f"pi-3,{HOST}", "pi-3"),
        ("pi-*", f"pi-*,!{HOST}"),
        (f"pi-?.*,!pi-9,{HOST}", f"pi-?.*,!pi-9,!{HOST}"),
        (f"{HOST},!pi-9", ""),
        ("|1|c2FsdA==|aGFzaA==", ""),
    ],
)
def test_name_is_taken_out_of_a_line(patterns: str, left: str) -> None:
    assert keys.without_name(patterns, HOST) == left


def test_hashed_name_is_found_by_ssh_keygen() -> None:
    content = line(keys.hashed_name(f"[{HOST}]:2222", b"s" * 20), NEW).encode()
    assert SSH.find(f"[{HOST}]:2222", content) == [1]
    assert SSH.find(HOST, content) == []


# --- what a key is worth


@pytest.mark.parametrize(
    ("known", "offered", "verdict"),
    [
        ([], [NEW], Verdict.UNKNOWN),
        ([entry(OLD, Marker.AUTHORITY)], [NEW], Verdict.UNKNOWN),
        ([entry(OLD, Marker.REVOKED)], [NEW], Verdict.UNKNOWN),
        ([entry(OLD)], [], Verdict.SILENT),
        ([entry(OLD)], [key(1, "ssh-unheard-of")], Verdict.SILENT),
        ([entry(OLD)], [OLD], Verdict.SAME),
        ([entry(OLD), entry(NEW)], [NEW], Verdict.SAME),
        ([entry(OLD)], [NEW], Verdict.CHANGED),
        ([entry(OLD_RSA)], [NEW, OLD_RSA], Verdict.SAME),
        ([entry(OLD_RSA)], [NEW, NEW_RSA], Verdict.CHANGED),
        ([entry(OLD_RSA)], [NEW], Verdict.CHANGED),
        # of two common types ssh negotiates the first
        ([entry(OLD), entry(OLD_RSA)], [NEW, OLD_RSA], Verdict.CHANGED),
        ([entry(OLD), entry(OLD_RSA)], [OLD, NEW_RSA], Verdict.SAME),
        ([entry(OLD), entry(NEW, Marker.REVOKED)], [NEW], Verdict.REVOKED),
        ([entry(OLD), entry(OLD, Marker.REVOKED)], [OLD], Verdict.REVOKED),
    ],
)
def test_verdicts(known: list[Entry], offered: list[Key], verdict: Verdict) -> None:
    assert keys.judge(known, offered, TYPES) is verdict


# --- the connection


@pytest.mark.parametrize("path", ["/tmp/plain", "/tmp/with space/known hosts", '/tmp/quo"te', "/tmp/back\\slash", "/tmp/per%cent"])
def test_pin_means_that_file_to_ssh(path: str) -> None:
    words = keys.split_args(shlex.join(keys.pin_words(path)))
    done = argv.run(["ssh", "-F", "none", "-G", *words, "-o", "UserKnownHostsFile=/later", HOST], stdin="")
    config = keys.parse_config(done.stdout)
    assert (config["userknownhostsfile"], config["globalknownhostsfile"], config["stricthostkeychecking"]) == (path, "/dev/null", "true")
    assert keys.unpinned(["-C", *words, "-v"], path) == ["-C", "-v"]
    assert keys.unpinned(words, "/another") == words


def ssh_target(*words: str, host: str = "PI-4.example") -> Target:
    return SSH.target("ssh", ["-F", "none", *words], host)


def test_target_is_what_ssh_would_use(tmp_path: Path) -> None:
    one, two = tmp_path / "a b" / "known hosts", tmp_path / "two"
    one.parent.mkdir()
    one.touch()
    found = ssh_target("-o", "Port=2222", "-o", f'UserKnownHostsFile="{one}" {two} /dev/null', "-o", "HashKnownHosts=yes")
    assert (found.address, found.port, found.names) == (HOST, 2222, (f"[{HOST}]:2222",))
    assert (found.user_files, found.hashed, found.proxy) == ((str(one), str(two)), True, "")
    assert found.key_types[0] == "ssh-ed25519" and "ssh-rsa" in found.key_types
    assert not any("cert" in kind or kind.startswith("rsa-sha2") for kind in found.key_types)


@pytest.mark.parametrize(
    ("printed", "there", "files"),
    [
        ("/a/known_hosts /a/known_hosts2", set(), ["/a/known_hosts", "/a/known_hosts2"]),
        ("/a b/known hosts", {"/a b/known hosts"}, ["/a b/known hosts"]),
        ("/a b/known hosts", set(), ["/a b/known hosts"]),
        ("/a b/known hosts /c d", {"/c d"}, ["/a b/known hosts", "/c d"]),
        ("/a b /dev/null /c", {"/a b"}, ["/a b", "/c"]),
        ("/a other", {"/a", "other"}, ["/a", "other"]),
        ("/dev/null", set(), []),
        ("none", set(), []),
        ("", set(), []),
    ],
)
def test_files_that_ssh_prints_without_quotes(printed: str, there: set[str], files: list[str]) -> None:
    assert list(keys.files_of(printed, there.__contains__)) == files


def test_alias_has_no_port() -> None:
    assert ssh_target("-o", "Port=2222", "-o", "HostKeyAlias=Node").names == ("node",)


def test_no_known_hosts_at_all() -> None:
    found = ssh_target("-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=none")
    assert (found.user_files, found.global_files) == ((), ())
    with pytest.raises(HostKeyError, match="keep no known_hosts"):
        keys.check_replaceable(found, [])


@pytest.mark.parametrize(("option", "proxy"), [("ProxyJump=me@jump:33", "me@jump:33"), ("ProxyCommand=nc %h %p", "nc %h %p")])
def test_proxy(option: str, proxy: str) -> None:
    assert ssh_target("-o", option).proxy == proxy
    assert ssh_target("-o", f"{option.split('=')[0]}=none").proxy == ""


def test_addresses_are_names_where_ssh_checks_them() -> None:
    config = {"hostname": HOST, "port": "22", "checkhostip": "yes"}
    found = keys.target_of(config, os.path.exists, lambda _name: ["192.0.2.4", HOST])
    assert found.names == (HOST, "192.0.2.4")
    assert keys.target_of({**config, "proxyjump": "jump"}, os.path.exists, lambda _name: ["192.0.2.4"]).names == (HOST,)


def test_settings_that_ssh_refuses_are_named() -> None:
    for words, host in ((["-o", "NoSuchOption=1"], HOST), ([], "-oProxyCommand=true")):
        with pytest.raises(HostKeyError, match=f"ssh refuses the settings of {host}"):
            ssh_target(*words, host=host)
    with pytest.raises(HostKeyError, match="cannot be read"):
        keys.split_args("-o 'open")


class Answers:
    """Runs nothing: gives one answer to every command."""

    def __init__(self, rc: int, stdout: str = "") -> None:
        self.rc, self.stdout = rc, stdout
        self.asked: list[tuple[str, ...]] = []

    def __call__(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60.0, env: Mapping[str, str] | None = None
    ) -> Completed:
        self.asked.append(tuple(argv))
        return Completed(tuple(argv), self.rc, self.stdout, "it said no")


def test_ssh_keygen_is_asked_once_about_the_same_file() -> None:
    answers = Answers(0, f"# Host {HOST} found: line 3 \n")
    ssh = Ssh(answers)
    assert ssh.find(HOST, b"one") == ssh.find(HOST, b"one") == [3]
    ssh.find(HOST, b"two")
    ssh.find("other", b"two")
    assert len(answers.asked) == 3


@pytest.mark.parametrize(("rc", "says"), [(127, "not installed"), (124, "did not end")])
def test_programs_that_are_missing_or_hang(rc: int, says: str) -> None:
    ssh = Ssh(Answers(rc))
    for ask in (lambda: ssh.target("ssh", [], HOST), lambda: ssh.find(HOST, b""), lambda: ssh.scan(target())):
        with pytest.raises(HostKeyError, match=says):
            ask()


def test_program_that_is_no_ssh() -> None:
    with pytest.raises(HostKeyError, match="names no address"):
        Ssh(Answers(0, "hello\n")).target("/bin/wrapper", [], HOST)
    with pytest.raises(HostKeyError, match="cannot look"):
        Ssh(Answers(255)).find(HOST, b"x")


def test_scan_asks_as_ssh_would_connect() -> None:
    answers = Answers(0)
    Ssh(answers).scan(Target("192.0.2.4", 2222, (), (), (), (), family="inet"))
    assert answers.asked == [("ssh-keyscan", "-4", "-T", "5", "-p", "2222", "--", "192.0.2.4")]


def test_entries_of_several_files_and_markers(tmp_path: Path) -> None:
    user, more, system = tmp_path / "user", tmp_path / "more", tmp_path / "system"
    user.write_text(f"# mine\n{line(f'{HOST},192.0.2.4', OLD)}\xff garbage\n{line('*', OTHER, '@revoked')}", encoding="latin-1")
    system.write_text(line("*.example", OTHER, "@cert-authority") + line("pi-*", OLD_RSA))
    found = SSH.entries(Target(HOST, 22, (HOST,), (str(user), str(more)), (str(system),), TYPES))
    assert [(e.where, e.key, e.marker) for e in found] == [
        (f"{user}:2", OLD, Marker.KNOWN),
        (f"{user}:4", OTHER, Marker.REVOKED),
        (f"{system}:1", OTHER, Marker.AUTHORITY),
        (f"{system}:2", OLD_RSA, Marker.KNOWN),
    ]


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match=re.escape(f"{tmp_path} cannot be read")):
        SSH.entries(target(tmp_path))


# --- replacing


def test_only_the_host_is_replaced(known_hosts: Path) -> None:
    others = [
        "# a comment with pi-4.example in it\n",
        line("pi-3.example", OLD) + "\n",
        line("*.example", OTHER, "@cert-authority"),
        line(HOST, OTHER, "@revoked"),
        "garbage that is no line\n",
        line("[pi-4.example]:2222", OLD),
    ]
    mine = [line(HOST, OLD), line(f"192.0.2.4,{HOST}", OLD_RSA), line("pi-*", OLD)]
    before = others[0] + mine[0] + others[1] + others[2] + mine[1] + others[3] + others[4] + mine[2] + others[5].rstrip("\n")
    known_hosts.write_text(before)
    predicted = replace(known_hosts, wanted=[NEW, NEW_RSA], check=True)
    assert known_hosts.read_text() == before
    done = replace(known_hosts, wanted=[NEW, NEW_RSA])
    assert done == predicted
    left = [line("192.0.2.4", OLD_RSA), line(f"pi-*,!{HOST}", OLD)]
    kept = others[0] + others[1] + others[2] + left[0] + others[3] + others[4] + left[1] + others[5]
    assert known_hosts.read_text() == kept + line(HOST, NEW) + line(HOST, NEW_RSA)
    assert [(e.line, e.key) for e in done[0].removed] == [(2, OLD), (6, OLD_RSA), (9, OLD)]
    assert "pi-3" not in done[0].before + done[0].after and "192.0.2.4" not in done[0].before + done[0].after
    assert replace(known_hosts, wanted=[NEW, NEW_RSA]) == []
    assert SSH.find("pi-3.example", known_hosts.read_bytes())[-1] == 8, "the wildcard still holds for others"


def test_bytes_of_others_stay(known_hosts: Path) -> None:
    others = b"# caf\xe9\r\n\xff\xfe\0\x85 lone \r return\n" + line("pi-3", OLD).encode().replace(b"\n", b" caf\xe9\r\n")
    shared = f"{OLD.type} {OLD.blob} caf\xe9\n".encode("latin-1")
    known_hosts.write_bytes(others + line(HOST, OLD).encode() + f"pi-3,{HOST} ".encode() + shared)
    replace(known_hosts)
    assert known_hosts.read_bytes() == others + b"pi-3 " + shared + line(HOST, NEW).encode()


def test_several_files(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    one.write_text(line("pi-3", OLD))
    two.write_text(line(HOST, OLD))
    done = replace(one, two, three)
    assert [r.file for r in done] == [str(two)]
    assert (one.read_text(), two.read_text(), three.exists()) == (line("pi-3", OLD), line(HOST, NEW), False)
    three.write_text(line(HOST, OLD_RSA))
    assert [r.file for r in replace(one, two, three)] == [str(three)]
    assert (two.read_text(), three.read_text()) == (line(HOST, NEW), "")


def test_hashed(known_hosts: Path) -> None:
    known_hosts.write_text(line(keys.hashed_name(HOST, b"1" * 20), OLD) + line(keys.hashed_name("pi-3", b"2" * 20), OLD))
    (done,) = replace(known_hosts, hashed=True)
    assert HOST not in known_hosts.read_text() and HOST in done.before and HOST in done.after
    assert SSH.find(HOST, known_hosts.read_bytes()) == [2]
    assert replace(known_hosts, hashed=True) == []


def test_new_file_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "home" / ".ssh" / "known_hosts"
    replace(file, check=True)
    assert not file.parent.exists()
    replace(file)
    assert file.read_text() == line(HOST, NEW)
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)


def test_symlink_mode_and_owner_stay(known_hosts: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text(line(HOST, OLD))
    real.chmod(0o664)
    owner = (1234, 1235) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(real, *owner)
    known_hosts.symlink_to(real)
    replace(known_hosts)
    assert known_hosts.is_symlink() and real.read_text() == line(HOST, NEW)
    was = real.stat()
    assert (stat.S_IMODE(was.st_mode), was.st_uid, was.st_gid) == (0o664, *owner)


def test_disk_full(known_hosts: Path) -> None:
    before = line("pi-3", OLD) * 100 + line(HOST, OLD)
    known_hosts.write_text(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(HostKeyError, match="cannot be written on the controller"):
            replace(known_hosts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert known_hosts.read_text() == before
    assert os.listdir(known_hosts.parent) == ["known_hosts"]


def test_folder_that_cannot_be_written(known_hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known_hosts.write_text(line(HOST, OLD))
    monkeypatch.setattr(os, "access", lambda *_args: False)
    for attempt in (lambda: keys.check_replaceable(target(known_hosts), []), lambda: replace(known_hosts, check=True)):
        with pytest.raises(HostKeyError, match=re.escape(f"{known_hosts} cannot be written")):
            attempt()
    assert known_hosts.read_text() == line(HOST, OLD)


def test_two_runs_lose_no_line(known_hosts: Path) -> None:
    names = [f"pi-{n}" for n in range(8)]
    known_hosts.write_text("".join(line(name, OLD) for name in names))
    errors: list[BaseException] = []

    def one(name: str) -> None:
        try:
            keys.replace_files(target(known_hosts, names=[name]), [NEW], SSH.find, check=False)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(known_hosts.read_text().splitlines(keepends=True)) == sorted(line(name, NEW) for name in names)


def test_lock_of_a_run_that_hangs_is_told(known_hosts: Path) -> None:
    with (
        keys._locked(known_hosts.parent),
        pytest.raises(HostKeyError, match="in use by another run"),
        keys._locked(known_hosts.parent, 0.2),
    ):
        pass


KILLED = """
import os, sys
sys.path[:0] = [{root!r}, {root!r} + "/.collections"]
from pathlib import Path
from ansible_collections.pifleet.ops.plugins.module_utils._common import argv
from ansible_collections.pifleet.ops.plugins.plugin_utils import _ssh_host_key as keys
find = keys.Ssh(argv.run).find
target = keys.Target("h", 22, ({host!r},), ({file!r},), (), ())
print("ready", flush=True)
for number in range(10**6):
    keys.replace_files(target, [[keys.Key(*k) for k in {both!r}][number % 2]], find, check=False)
"""


def test_killed_at_any_instant_the_file_is_whole(known_hosts: Path) -> None:
    others = line("pi-3", OLD) * 2000
    known_hosts.write_text(others + line(HOST, OLD))
    both = [(k.type, k.blob) for k in (OLD, NEW)]
    script = KILLED.format(root=str(ROOT), host=HOST, file=str(known_hosts), both=both)
    for delay in (0.0, 0.013, 0.029, 0.041, 0.057):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        process.stdout.close()
        assert known_hosts.read_text() in {others + line(HOST, k) for k in (OLD, NEW)}
    replace(known_hosts, wanted=[OTHER])
    assert known_hosts.read_text() == others + line(HOST, OTHER)
    assert not (known_hosts.parent / ".known_hosts.pifleet").exists(), "what a killed run left is gone"


@given(st.lists(st.sampled_from(["mine", "other", "both", "comment", "blank", "garbage", "new"]), max_size=12), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_file_keeps_its_other_lines(parts: list[str], ends: bool) -> None:
    lines = {
        "mine": line(HOST, OLD),
        "other": line("pi-3", OLD),
        "both": line(f"pi-3,{HOST}", OLD_RSA),
        "comment": "# pi-4\n",
        "blank": "\n",
        "garbage": "x y\n",
        "new": line(HOST, NEW),
    }
    left = {**lines, "mine": "", "both": line("pi-3", OLD_RSA)}
    content = "".join(lines[p] for p in parts)
    content = content if ends else content.removesuffix("\n")
    revised = keys.revise(content.encode(), "f", [HOST], [NEW], SSH.find)
    assert revised.content.decode().rstrip("\n") == "".join(left[p] for p in parts).rstrip("\n")
    assert len(revised.removed) == parts.count("mine") + parts.count("both")
    assert bool(revised.kept) == ("new" in parts)


# --- the file of a run


def test_pinned_file_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "pinned"
    names = (HOST, "192.0.2.4")
    file.write_text(keys.pinned_text(names, [NEW_RSA, NEW]))
    assert keys.pinned_keys(str(file), names) == [NEW, NEW_RSA]
    assert keys.pinned_keys(str(file), (HOST, "192.0.2.5")) == [NEW, NEW_RSA], "its address changed since"
    for content in (None, b"", b"\xff\0garbage", line("pi-3", NEW).encode()):
        file.unlink(missing_ok=True)
        if content is not None:
            atomic_file.write_atomic(file, content)
        with pytest.raises(HostKeyError, match=f"has no keys of {HOST}"):
            keys.pinned_keys(str(file), names)


@pytest.mark.parametrize(("kind", "file"), [("ssh-ed25519", "ed25519"), ("ecdsa-sha2-nistp256", "ecdsa"), ("ssh-rsa", "rsa")])
def test_file_on_the_node_with_that_key(kind: str, file: str) -> None:
    assert keys.public_key_file(kind) == f"/etc/ssh/ssh_host_{file}_key.pub"
