# SPDX-License-Identifier: GPL-3.0-or-later
"""Merging the fleet's context harms nothing else, shows no key, and writes only what differs."""

from __future__ import annotations

import copy
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import credentials
from ansible_collections.pifleet.ops.plugins.plugin_utils import _kubeconfig
from ansible_collections.pifleet.ops.plugins.plugin_utils._kubeconfig import Fetched, KubeconfigError, merge, parse_fetched, replace_file
from hypothesis import example, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
SERVER = "https://192.0.2.10:6443"
KEY = "U0VDUkVUIEtFWQ=="
K3S = f"""
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
preferences: {{}}
users:
- name: default
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: {KEY}
"""
ROTATED = K3S.replace("Q0VSVA==", "TkVXIENFUlQ=")
OTHERS = """\
apiVersion: v1
kind: Config
preferences:
  colors: on
clusters:
- name: work
  cluster:
    server: https://work.example:6443
    insecure-skip-tls-verify: yes
users:
- name: work
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: login
      env: null
    auth-provider:
      config:
        expiry: 2024-01-02T03:04:05Z
        id: 0123
        time: 12:30:45
        big: 1_000
contexts:
- name: work
  context:
    cluster: work
    user: work
    namespace: "1e3"
current-context: work
x-own: [1.50, 0x1F, ~, "yes"]
"""


@pytest.fixture
def fetched() -> Fetched:
    return parse_fetched(K3S, "k3s.yaml")


def merged(existing: str | None, fetched: Fetched | None, context: str = "fleet", server: str = SERVER) -> _kubeconfig.Merged:
    return merge(existing, "config", fetched, context, server)


def entry(text: str, part: str, name: str) -> dict[str, Any]:
    return next(e for e in yaml.safe_load(text)[part] if e["name"] == name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_file_that_is_not_there_yet(fetched: Fetched) -> None:
    done = merged(None, fetched)
    data = yaml.safe_load(done.text)
    assert data["current-context"] == "fleet"
    assert (data["apiVersion"], data["kind"]) == ("v1", "Config")
    assert entry(done.text, "contexts", "fleet")["context"] == {"cluster": "fleet", "user": "fleet"}
    assert entry(done.text, "clusters", "fleet")["cluster"] == {"certificate-authority-data": "Q0E=", "server": SERVER}
    assert entry(done.text, "users", "fleet")["user"] == {"client-certificate-data": "Q0VSVA==", "client-key-data": KEY}


@pytest.mark.parametrize(
    "existing", ["", "{}", "apiVersion: v1\nclusters: null\nusers: null\ncontexts: null\ncurrent-context: ''\nkind: Config\n"]
)
def test_empty_file(fetched: Fetched, existing: str) -> None:
    assert yaml.safe_load(merged(existing, fetched).text)["current-context"] == "fleet"


def test_others_stay_byte_for_byte(fetched: Fetched) -> None:
    """Dates, octal numbers, ``yes``: YAML libraries write some of them differently from how they were."""
    text = merged(OTHERS, fetched).text
    for line in OTHERS.splitlines():
        if "x-own" not in line and '"' not in line:
            assert line in text.splitlines(), line
    assert yaml.safe_load(text)["current-context"] == "work"
    before, after = yaml.safe_load(OTHERS), yaml.safe_load(text)
    for part in ("clusters", "users", "contexts"):
        assert after[part][:-1] == before[part]
    assert after["x-own"] == before["x-own"]
    assert entry(text, "contexts", "work")["context"]["namespace"] == "1e3"


def test_second_time_changes_nothing(fetched: Fetched) -> None:
    first = merged(OTHERS, fetched)
    again = merged(first.text, fetched)
    assert (first.changed, again.changed) == (True, False)
    assert again.text == first.text


@pytest.mark.parametrize("what", ["server", "key"])
def test_difference_is_a_change(fetched: Fetched, what: str) -> None:
    first = merged(OTHERS, fetched).text
    if what == "server":
        done = merged(first, fetched, server="https://192.0.2.99:6443")
    else:
        done = merged(first, Fetched(fetched.cluster, {**fetched.user, "client-certificate-data": "TkVX", "client-key-data": "TkVX"}))
    assert done.changed
    assert done.before != done.after
    assert yaml.safe_load(done.text)["contexts"] == yaml.safe_load(first)["contexts"]
    assert len(yaml.safe_load(done.text)["clusters"]) == 2


def test_what_a_person_added_to_ours_stays(fetched: Fetched) -> None:
    data = yaml.safe_load(merged(None, fetched).text)
    data["contexts"][0]["context"]["namespace"] = "monitoring"
    data["clusters"][0]["cluster"] |= {"proxy-url": "http://proxy:3128", "insecure-skip-tls-verify": True}
    done = merged(yaml.safe_dump(data), fetched, server="https://192.0.2.99:6443").text
    assert entry(done, "contexts", "fleet")["context"]["namespace"] == "monitoring"
    assert entry(done, "clusters", "fleet")["cluster"]["proxy-url"] == "http://proxy:3128"
    assert "insecure-skip-tls-verify" not in entry(done, "clusters", "fleet")["cluster"], "kubectl refuses it beside a CA"


def test_context_of_that_name_of_another_cluster_is_refused(fetched: Fetched) -> None:
    with pytest.raises(KubeconfigError, match=r"context 'work' already.*k3s_kubeconfig_context"):
        merged(OTHERS.replace("cluster: work\n    user: work", "cluster: w2\n    user: w2"), fetched, context="work")


def test_diff_shows_no_key(fetched: Fetched) -> None:
    done = merged(OTHERS.replace("exec:", "token: hunter2\n    exec:"), fetched)
    shown = done.before + done.after
    assert KEY not in shown
    assert "Q0VSVA" not in shown
    assert "hunter2" not in shown
    assert "work" not in shown.replace("current-context: work", "")
    assert SERVER in shown


def test_prediction_before_there_is_a_server(fetched: Fetched) -> None:
    for existing in (None, OTHERS, merged(OTHERS, fetched).text):
        done = merged(existing, None)
        assert done.changed
        assert SERVER in done.after


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "just text",
        "- a\n- b\n",
        "clusters: text\n",
        "clusters:\n- cluster: {}\n",
        "users:\n- text\n",
        "--- {}\n--- {}\n",
        "a: !!python/object:x {}\n",
    ],
)
def test_file_that_is_no_kubeconfig_is_refused(fetched: Fetched, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=r"left alone"):
        replace_file(path, lambda existing: merge(existing, str(path), fetched, "fleet", SERVER), check=False)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text", ["", "{}", K3S.replace("client-key-data", "x"), K3S.replace("certificate-authority-data", "x"), K3S[:200], "<html>"]
)
def test_server_file_that_is_not_whole_is_refused(text: str) -> None:
    with pytest.raises(KubeconfigError, match=r"k3s\.yaml of pi-1"):
        parse_fetched(text, "k3s.yaml of pi-1")


@pytest.mark.parametrize(
    "server", ["", "192.0.2.1", "http://192.0.2.1:6443", "https://", "https://a:99999", "https://a:b", "https://u:p@a", "https://a/x"]
)
def test_address_that_is_none_is_refused(server: str) -> None:
    with pytest.raises(KubeconfigError, match="is no address of an API"):
        _kubeconfig.check_server(server)


@pytest.mark.parametrize("server", [SERVER, "https://[2001:db8::1]:6443", "https://api.example.org"])
def test_address_of_an_api(server: str) -> None:
    assert _kubeconfig.check_server(server) == server


names = st.text("abc-.", min_size=1, max_size=4)
scalars = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.dates())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xyz", min_size=1, max_size=3), inner, max_size=2),
    max_leaves=5,
)
entries = st.lists(st.tuples(names, values), max_size=3, unique_by=lambda e: e[0])


@settings(deadline=None, max_examples=60)
@given(entries, entries, entries, st.one_of(st.none(), names), st.dictionaries(st.text("uvw", min_size=1, max_size=3), values, max_size=3))
@example([], [], [("a", "\x85")], None, {})
def test_nothing_of_others_is_ever_changed(clusters, users, contexts, current, unknown) -> None:  # type: ignore[no-untyped-def]
    data = {
        "clusters": [{"name": n, "cluster": v} for n, v in clusters],
        "users": [{"name": n, "user": v} for n, v in users],
        "contexts": [{"name": n, "context": v} for n, v in contexts],
        **({"current-context": current} if current else {}),
        **unknown,
    }
    before = copy.deepcopy(data)
    done = merged(yaml.safe_dump(data), parse_fetched(K3S, "x"), context="fleet")
    after = yaml.safe_load(done.text)
    for part in ("clusters", "users", "contexts"):
        assert [e for e in after[part] if e["name"] != "fleet"] == before[part]
        assert [e["name"] for e in after[part]].count("fleet") == 1
    assert after["current-context"] == (current or "fleet")
    assert {k: after[k] for k in unknown} == unknown
    assert not merged(done.text, parse_fetched(K3S, "x"), context="fleet").changed


# --- the file ------------------------------------------------------------------------------------------------------------


def apply(path: Path, fetched: Fetched | None, *, check: bool = False, context: str = "fleet") -> _kubeconfig.Merged:
    return replace_file(path, lambda existing: merge(existing, str(path), fetched, context, SERVER), check=check)


def test_file_is_private(tmp_path: Path, fetched: Fetched) -> None:
    path = tmp_path / "new" / ".kube" / "config"
    assert apply(path, fetched).changed
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert not apply(path, fetched).changed
    path.chmod(0o644)
    done = apply(path, fetched)
    assert done.changed
    assert "mode: 0644" in done.before
    assert mode(path) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["config"], "no lock and no temporary file stays"


def test_check_writes_nothing(tmp_path: Path, fetched: Fetched) -> None:
    path = tmp_path / "new" / "config"
    assert apply(path, fetched, check=True).changed
    assert not path.parent.exists()


def test_unchanged_file_is_not_written(tmp_path: Path, fetched: Fetched) -> None:
    apply(tmp_path / "config", fetched)
    before = (tmp_path / "config").stat()
    apply(tmp_path / "config", fetched)
    after = (tmp_path / "config").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_symlink_stays_one(tmp_path: Path, fetched: Fetched) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "config").symlink_to("dotfiles/kube")
    apply(tmp_path / "config", fetched)
    assert (tmp_path / "config").is_symlink()
    assert "fleet" in (tmp_path / "dotfiles" / "kube").read_text()


@pytest.mark.parametrize("in_the_way", ["file where the folder should be", "folder where the file should be"])
def test_place_that_cannot_be_written(tmp_path: Path, fetched: Fetched, in_the_way: str) -> None:
    path = tmp_path / "kube" / "config"
    if in_the_way.startswith("file"):
        path.parent.write_text("")
    else:
        path.mkdir(parents=True)
    with pytest.raises(KubeconfigError, match=r"cannot be written.*k3s_kubeconfig_path"):
        apply(path, fetched)


def test_many_at_once_lose_nothing(tmp_path: Path, fetched: Fetched) -> None:
    path = tmp_path / "config"
    threads = [threading.Thread(target=apply, args=(path, fetched), kwargs={"context": f"fleet-{n}"}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {c["name"] for c in yaml.safe_load(path.read_text())["contexts"]} == {f"fleet-{n}" for n in range(8)}


def test_lock_of_kubectl_is_respected(tmp_path: Path, fetched: Fetched, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    (tmp_path / "config.lock").touch()  # client-go: an empty file of this name
    monkeypatch.setattr(_kubeconfig.locked.__wrapped__, "__defaults__", (0.2,))  # type: ignore[attr-defined]
    with pytest.raises(KubeconfigError, match=r"in use.*config\.lock"):
        apply(path, fetched)
    assert not path.exists()
    assert (tmp_path / "config.lock").exists()


HOLDER = """
import sys, time
sys.path.insert(0, ".collections")
from pathlib import Path
from ansible_collections.pifleet.ops.plugins.plugin_utils._kubeconfig import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_of_a_killed_run_is_taken_over(tmp_path: Path, fetched: Fetched) -> None:
    path = tmp_path / "config"
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (tmp_path / "config.lock").exists()
    started = time.monotonic()
    assert apply(path, fetched).changed
    assert time.monotonic() - started < _kubeconfig.LOCK_SECONDS / 2
    assert os.listdir(tmp_path) == ["config"]


def test_credentials_that_the_controller_has_are_known_by_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "config"
    digest = credentials.digest_of_file(K3S)
    assert _kubeconfig.held(path, "fleet", digest) is None, "there is no file yet"
    path.write_text(merge(OTHERS, "config", parse_fetched(K3S, "k3s.yaml"), "fleet", SERVER).text)
    held = _kubeconfig.held(path, "fleet", digest)
    assert held is not None
    assert not merge(path.read_text(), "config", held, "fleet", SERVER).changed
    assert merge(path.read_text(), "config", held, "fleet", "https://192.0.2.20:6443").changed, "its address is another matter"
    for other in (credentials.digest_of_file(ROTATED), credentials.digest_of_file(""), "0" * 64):
        assert _kubeconfig.held(path, "fleet", other) is None
    assert _kubeconfig.held(path, "work", digest) is None


@pytest.mark.parametrize("text", ["", "{}", K3S.replace("client-key-data", "token"), K3S + K3S, K3S.replace(KEY, "")])
def test_what_is_no_kubeconfig_of_k3s_has_no_digest(text: str) -> None:
    assert credentials.digest_of_file(text) == ""


def test_the_digest_is_of_all_credentials() -> None:
    whole = dict(zip(credentials.KEYS, "abc", strict=True))
    assert len({credentials.digest(whole | {key: "z"}) for key in credentials.KEYS} | {credentials.digest(whole)}) == 4
    assert credentials.digest(dict(list(whole.items())[1:])) == ""
