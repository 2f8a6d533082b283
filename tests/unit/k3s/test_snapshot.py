# SPDX-License-Identifier: GPL-3.0-or-later
"""Bundles of snapshots: what they hold, which one is meant, and which ones are never restored."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._k3s import bundle
from ansible_collections.pifleet.ops.plugins.module_utils._k3s.snapshot import (
    Bundle,
    Manifest,
    Member,
    SnapshotError,
    alone,
    checked_name,
    default_name,
    is_material,
    manifest_of,
    marker,
    refuse_misfit,
    refuse_unrestored,
    retired,
    select,
)
from hypothesis import given
from hypothesis import strategies as st

TOKEN = "K10" + "ab" * 32 + "::server:verysecret"
CONTENT = {"db/state.db": b"SQLite format 3\0" * 100, "server/token": f"{TOKEN}\n".encode(), "server/tls/server-ca.key": b"key"}


def manifest(**changes) -> Manifest:
    base = Manifest(
        name="pi-1-20261121T083604Z",
        fleet="lab",
        created="2026-11-21T08:36:04Z",
        k3s_version="v1.34.4+k3s1",
        datastore="sqlite",
        node="pi-1",
        reason="manual",
        marked=True,
        members={},
    )
    return replace(base, **changes)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A good bundle."""
    sources = {}
    for name, data in CONTENT.items():
        sources[name] = tmp_path / name.replace("/", "_")
        sources[name].write_bytes(data)
    target = tmp_path / "kept" / "one.tar.gz"
    bundle.write(target, manifest(members={n: bundle.member_of(p) for n, p in sources.items()}), sources)
    return target


def archive(path: Path, *members: tuple[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo("server/token")
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    return path


# -- bundles -----------------------------------------------------------------------------------------------------------------
def test_a_bundle_reads_back_and_only_its_owner_may_read_it(made, tmp_path):
    found, token = bundle.read_verified(made)
    assert found.members["db/state.db"] == Member(bundle.member_of(tmp_path / "db_state.db").sha256, 1600)
    assert token == TOKEN
    assert (made.stat().st_mode & 0o777, made.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert bundle.extract(made, tmp_path / "out") == found
    for name, data in CONTENT.items():
        target = tmp_path / "out" / name
        assert target.read_bytes() == data
        assert (target.stat().st_mode & 0o777, target.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_same_content_gives_the_same_file(made, tmp_path):
    sources = {n: tmp_path / n.replace("/", "_") for n in CONTENT}
    again = tmp_path / "again.tar.gz"
    bundle.write(again, manifest(members={n: bundle.member_of(p) for n, p in sources.items()}), sources)
    assert again.read_bytes() == made.read_bytes()


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_bundle_that_is_cut_off_or_altered_is_refused(made, tmp_path, place):
    data = made.read_bytes()
    at = int(len(data) * place)
    for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]):
        made.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            bundle.read_verified(made)
        with pytest.raises(SnapshotError):
            bundle.extract(made, tmp_path / "out")


def test_what_is_no_bundle_is_refused(tmp_path):
    text = manifest(members={"db/state.db": Member("0", 1), "server/token": Member("0", 1)}).text().encode()
    (tmp_path / "no.tar.gz").write_text("hello")
    cases = [
        (tmp_path / "absent.tar.gz", "There is no snapshot"),
        (tmp_path / "no.tar.gz", "cannot be read"),
        (archive(tmp_path / "other.tar.gz", ("readme", b"x")), "does not begin with a manifest"),
        (archive(tmp_path / "empty.tar.gz"), "does not begin with a manifest"),
        (archive(tmp_path / "short.tar.gz", ("manifest.json", text)), "db/state.db is missing"),
        (
            archive(tmp_path / "wrong.tar.gz", ("manifest.json", text), ("db/state.db", b"y"), ("server/token", b"x")),
            "checksum of db/state.db",
        ),
        (archive(tmp_path / "link.tar.gz", ("manifest.json", text), link="/etc/shadow"), "no plain file"),
    ]
    for path, says in cases:
        with pytest.raises(SnapshotError, match=says):
            bundle.read_verified(path)


def test_nothing_is_written_outside_the_folder(tmp_path):
    members = {name: Member("0", 1) for name in ("db/state.db", "server/token", "../evil")}
    path = archive(tmp_path / "evil.tar.gz", ("manifest.json", manifest(members=members).text().encode()), ("../evil", b"x"))
    with pytest.raises(SnapshotError, match=r"\.\./evil"):
        bundle.extract(path, tmp_path / "out")
    good = manifest(members={"db/state.db": Member("0", 1), "server/token": Member("0", 1)}).text().encode()
    path = archive(tmp_path / "evil2.tar.gz", ("manifest.json", good), ("../evil", b"x"))
    with pytest.raises(SnapshotError):
        bundle.extract(path, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        bundle.write(tmp_path / "kept" / "x.tar.gz", manifest(), {"db/state.db": tmp_path / "absent"})
    assert list((tmp_path / "kept").iterdir()) == []


# -- manifests ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"k3s_version": "x"}, {"members": {}}, {"datastore": "mysql"}, {"name": "../x"}, {"surprise": 1}, {"members": 3}],
)
def test_a_manifest_of_another_kind_is_refused(change):
    good = json.loads(manifest(members={"db/state.db": Member("0", 1), "server/token": Member("0", 1)}).text())
    assert manifest_of(json.dumps(good), "x").name == "pi-1-20261121T083604Z"
    with pytest.raises(SnapshotError, match=r"^x "):
        manifest_of(json.dumps(good | change), "x")


def test_only_material_belongs_into_a_bundle():
    inside = ["server/token", "server/tls/server-ca.crt", "server/tls/etcd/peer-ca.key", "server/tls/service.key", "server/cred/passwd"]
    outside = [
        "server/tls/client-admin.key",
        "server/cred/admin.kubeconfig",
        "server/db/state.db",
        "agent/client-kubelet.key",
        "server/tls/../x-ca.key",
    ]
    assert all(is_material(p) for p in inside)
    assert not any(is_material(p) for p in outside)


def test_a_summary_names_no_checksum_of_a_secret():
    shown = manifest(members={"server/token": Member("secrethash", 5)}).summary()
    assert "secrethash" not in json.dumps(shown)
    assert (shown["size"], shown["ca_sha256"]) == (5, "")
    assert manifest(members={"server/tls/server-ca.crt": Member("public", 5)}).summary()["ca_sha256"] == "public"


# -- choosing ----------------------------------------------------------------------------------------------------------------
def bundles(*times: str, fleet: str = "lab") -> list[Bundle]:
    return [Bundle(f"/x/{t}.tar.gz", manifest(name=f"n-{t}", created=t, fleet=fleet)) for t in times]


def test_latest_is_the_newest_of_the_fleet():
    kept = [*bundles("2026-01-02", "2026-01-03", "2026-01-01"), *bundles("2027-01-01", fleet="other")]
    assert select(kept, "latest", "lab").manifest.name == "n-2026-01-03"
    assert select(kept, "n-2026-01-01", "lab").path == "/x/2026-01-01.tar.gz"
    assert select(kept, "n-2026-01-01.tar.gz", "lab").path == "/x/2026-01-01.tar.gz"
    assert select(kept, "nothing", "lab") is None
    assert select([], "latest", "lab") is None


@given(st.permutations(["1", "2", "3", "4", "5"]), st.integers(-1, 7))
def test_the_oldest_go_first_and_the_newest_never(times, keep):
    gone = [b.manifest.created for b in retired(bundles(*times), keep)]
    assert gone == ([] if keep <= 0 else ["1", "2", "3", "4", "5"][: max(0, 5 - keep)])


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "../x", "x" * 201, "ä"])
def test_a_name_must_be_a_file_name(name):
    with pytest.raises(PifleetError, match="cannot be the name"):
        checked_name(name)


def test_a_default_name_is_a_name():
    assert checked_name(default_name("pi-cluster-1.local", "2026-11-21T08:36:04Z")) == "pi-cluster-1.local-20261121T083604Z"


# -- whether it fits ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fleet": "other"}, "of the fleet other"),
        ({"datastore": "etcd"}, "of etcd, and this fleet uses sqlite"),
        ({"k3s_version": "v1.34.5+k3s1"}, "newer than v1.34.4.*-e k3s_version=v1.34.5"),
    ],
)
def test_a_misfit_is_refused(change, says):
    refuse_misfit(manifest(), fleet="lab", datastore="sqlite", k3s_version="v1.34.4+k3s1")
    refuse_misfit(manifest(), fleet="lab", datastore="sqlite", k3s_version="v1.35.0+k3s1")
    with pytest.raises(SnapshotError, match=says):
        refuse_misfit(manifest(**change), fleet="lab", datastore="sqlite", k3s_version="v1.34.4+k3s1")


def test_the_restored_server_joins_nobody():
    before = '# Managed by pifleet.ops\nserver: "https://192.0.2.12:6443"\nnode-label:\n  - "a=b"\n'
    assert alone(before) == '# Managed by pifleet.ops\nnode-label:\n  - "a=b"\ncluster-init: true\n'
    assert alone(alone(before)) == alone(before)
    assert alone("") == "cluster-init: true\n"


def test_a_restore_is_only_claimed_when_the_cluster_shows_it():
    name = manifest().name
    mark = marker(name, "2026")
    refuse_unrestored(manifest(), mark)
    refuse_unrestored(manifest(marked=False), None)
    later = {**mark, "metadata": {"annotations": {"pifleet.ops/superseded": "now"}}}
    for found, says in ((None, "no snapshot"), (marker("other", "2026"), "state of other"), (later, "before the restore")):
        with pytest.raises(SnapshotError, match=says):
            refuse_unrestored(manifest(), found)
