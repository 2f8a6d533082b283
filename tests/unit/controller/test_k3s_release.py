# SPDX-License-Identifier: GPL-3.0-or-later
"""Release files: from a folder and from a real HTTP server with faults; never an unverified file."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release import archive, names, stamps, store
from ansible_collections.pifleet.ops.plugins.plugin_utils._k3s_release.download import Downloader, DownloadError

from tests.support import release_files
from tests.support.release_server import Site, serve

VERSION = release_files.VERSION
IMAGES = "k3s-airgap-images-amd64.tar.zst"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def no_network(url: str, part: Path) -> None:
    raise AssertionError(f"downloads {url}")


def write_release(folder: Path) -> dict[str, bytes]:
    files = release_files.release()
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return files


@pytest.fixture
def site():
    files = {f"/{VERSION}/{name}": body for name, body in release_files.release().items()}
    with serve(Site(files=files)) as running:
        yield running


@pytest.fixture
def request_(tmp_path: Path, site: Site) -> store.Request:
    return store.Request(VERSION, ("amd64",), True, None, tmp_path / "cache", site.url)


def downloader(**changes: object) -> Downloader:
    return replace(Downloader(sleep=lambda _seconds: None), **changes)  # type: ignore[arg-type]


def left_overs(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


# --- from a folder -------------------------------------------------------------------------------------------------------


def test_folder_gives_each_architecture_its_own_file_names(tmp_path: Path) -> None:
    files = write_release(tmp_path / "release")
    request = store.Request(VERSION, ("amd64", "arm", "arm64"), True, tmp_path / "release", tmp_path / "cache")
    found = store.obtain(request, no_network).artifacts
    assert {arch: Path(a.binary).name for arch, a in found.items()} == {"amd64": "k3s", "arm": "k3s-armhf", "arm64": "k3s-arm64"}
    assert {arch: Path(a.images or "").name for arch, a in found.items()} == {
        a: f"k3s-airgap-images-{a}.tar.zst" for a in ("amd64", "arm", "arm64")
    }
    assert found["arm"].binary_sha256 == sha(files["k3s-armhf"])
    assert all(a.present for a in found.values())


@pytest.mark.parametrize("ending", [".tar.gz", ".tar"])
def test_folder_may_hold_images_of_another_kind(tmp_path: Path, ending: str) -> None:
    write_release(tmp_path)
    for other in (".tar.zst", ".tar.gz", ".tar"):
        if other != ending:
            (tmp_path / f"k3s-airgap-images-amd64{other}").unlink()
    found = store.obtain(store.Request(VERSION, ("amd64",), True, tmp_path, tmp_path / "cache"), no_network)
    assert found.artifacts["amd64"].images == str(tmp_path / f"k3s-airgap-images-amd64{ending}")


def test_folder_behind_a_symlink_is_fine(tmp_path: Path) -> None:
    write_release(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    found = store.obtain(store.Request(VERSION, ("amd64",), True, tmp_path / "link", tmp_path / "cache"), no_network)
    assert found.artifacts["amd64"].binary == str(tmp_path / "link" / "k3s")


def test_images_are_left_out_when_not_wanted(tmp_path: Path) -> None:
    write_release(tmp_path)
    (tmp_path / IMAGES).write_bytes(b"broken")
    found = store.obtain(store.Request(VERSION, ("amd64",), False, tmp_path, tmp_path / "cache"), no_network)
    assert found.artifacts["amd64"].images is None


def _lose(name: str):
    return lambda folder: (folder / name).unlink()


def _put(name: str, body: bytes):
    return lambda folder: (folder / name).write_bytes(body)


def _lose_all_images(folder: Path) -> None:
    for path in folder.glob("k3s-airgap-images-amd64*"):
        path.unlink()


def _resum(**changes: bytes):
    """Change files and make the checksum file right again."""

    def change(folder: Path) -> None:
        contents = {name.replace("__", "-").replace("_", "."): body for name, body in changes.items()}
        for name, body in contents.items():
            (folder / name).write_bytes(body)
        (folder / "sha256sum-amd64.txt").write_bytes(
            release_files.sums({p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("sha")})
        )

    return change


GOOD_ZST = release_files.zst()
FAULTS = [
    (_lose("k3s"), ["has no k3s.", "Put the release's file there"]),
    (_lose("sha256sum-amd64.txt"), ["has no sha256sum-amd64.txt", "nothing is installed unverified"]),
    (_lose_all_images, [IMAGES, "k3s_airgap_images"]),
    (_put("k3s", b"#!/bin/sh\necho evil\n"), ["k3s does not match its checksum", "Nothing was installed"]),
    (_put(IMAGES, GOOD_ZST), [f"{IMAGES} does not match its checksum"]),
    (_put("sha256sum-amd64.txt", b"<html>sign in</html>"), ["sha256sum-amd64.txt, line 1"]),
    (_put("sha256sum-amd64.txt", b"\n\n"), ["holds no checksum"]),
    (_put("sha256sum-amd64.txt", f"{'a' * 64}  k3s-arm64\n{'b' * 64}  xk3s\n".encode()), ["no checksum for k3s."]),
    (_put("sha256sum-amd64.txt", f"{'a' * 64}  k3s\n{'b' * 64} *k3s\n".encode()), ["two checksums for k3s"]),
    (_resum(k3s=b"not a program at all"), ["is no program"]),
    (_resum(k3s=b""), ["is empty"]),
    (_resum(k3s=release_files.elf(183)), ["another processor"]),
    (_resum(k3s=release_files.elf(62)[:-10]), ["is cut off"]),
    (_resum(k3s=release_files.elf(62)[:70]), ["is cut off"]),
    (_resum(k3s__airgap__images__amd64_tar_zst=GOOD_ZST[:-1]), ["is cut off"]),
    (_resum(k3s__airgap__images__amd64_tar_zst=GOOD_ZST[:200]), ["is cut off"]),
    (_resum(k3s__airgap__images__amd64_tar_zst=GOOD_ZST + b"<html>garbage"), ["something after its end"]),
    (_resum(k3s__airgap__images__amd64_tar_zst=release_files.tar()), ["is no zstd archive"]),
    (_resum(k3s__airgap__images__amd64_tar_zst=b""), ["is empty"]),
]


@pytest.mark.parametrize(("break_it", "says"), FAULTS)
def test_folder_that_cannot_be_installed_from_is_refused(tmp_path: Path, break_it, says: list[str]) -> None:
    write_release(tmp_path / "release")
    break_it(tmp_path / "release")
    before = {p.name: p.read_bytes() for p in (tmp_path / "release").iterdir()}
    for check in (True, False):
        with pytest.raises(PifleetError) as error:
            store.obtain(store.Request(VERSION, ("amd64",), True, tmp_path / "release", tmp_path / "cache", check=check), no_network)
        assert all(s in str(error.value) for s in says), str(error.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "release").iterdir()} == before, "the user's folder is only read"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "1.34.4+k3s1"}, "no version of k3s"),
        ({"version": "v1.34.4"}, "no version of k3s"),
        ({"version": "v1.34.4+k3s1\n"}, "no version of k3s"),
        ({"version": "../v1.34.4+k3s1"}, "no version of k3s"),
        ({"architectures": ("riscv64",)}, "riscv64"),
        ({"release_url": "file:///etc"}, "http"),
        ({"artifact_dir": Path("/nonexistent")}, "no folder"),
    ],
)
def test_bad_request_is_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    request = replace(store.Request(VERSION, ("amd64",), True, None, tmp_path), **changes)  # type: ignore[arg-type]
    with pytest.raises(PifleetError, match=says):
        store.obtain(request, no_network)


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    store.obtain(store.Request(VERSION, ("amd64",), True, tmp_path / "release", tmp_path / "cache", check=True), no_network)
    assert not (tmp_path / "cache").exists()


def test_cache_that_cannot_be_written_is_said_and_not_fatal(tmp_path: Path) -> None:
    write_release(tmp_path / "release")
    (tmp_path / "cache").write_text("a file is in the way")
    found = store.obtain(store.Request(VERSION, ("amd64",), True, tmp_path / "release", tmp_path / "cache"), no_network)
    assert found.artifacts["amd64"].present
    assert "every run will read" in found.warnings[0]


# --- remembered files ----------------------------------------------------------------------------------------------------


def test_verified_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_release(tmp_path / "release")
    request = store.Request(VERSION, ("amd64",), True, tmp_path / "release", tmp_path / "cache")
    first = store.obtain(request, no_network)

    def read(path: object, *_rest: object) -> None:
        raise AssertionError(f"reads {path}")

    for module, function in ((stamps, "sha256_of"), (archive, "check_binary"), (archive, "check_images")):
        monkeypatch.setattr(module, function, read)
    assert store.obtain(request, no_network).artifacts == first.artifacts


@pytest.mark.parametrize("how", ["edited in place", "replaced, with the same size and time"])
def test_file_that_changed_since_is_read_again(tmp_path: Path, how: str) -> None:
    write_release(tmp_path / "release")
    request = store.Request(VERSION, ("amd64",), True, tmp_path / "release", tmp_path / "cache")
    store.obtain(request, no_network)
    binary = tmp_path / "release" / "k3s"
    seen = binary.stat()
    changed = bytearray(binary.read_bytes())
    changed[-1] ^= 1
    if how.startswith("replaced"):
        binary.unlink()
    binary.write_bytes(changed)
    os.utime(binary, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(store.ChecksumMismatchError):
        store.obtain(request, no_network)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99, "files": {}}', '{"format": 1, "files": {"x": 1}}'])
def test_damaged_memory_is_no_memory(tmp_path: Path, content: str) -> None:
    write_release(tmp_path / "release")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "verified.json").write_text(content)
    request = store.Request(VERSION, ("amd64",), True, tmp_path / "release", tmp_path / "cache")
    assert store.obtain(request, no_network).artifacts["amd64"].present


# --- archives ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.tar", release_files.tar()),
        ("a.tar.gz", release_files.tar(kind="gz")),
        ("a.tar.gz", release_files.tar(kind="gz") + release_files.tar(kind="gz")),
        ("a.tar.zst", release_files.zst(checksum=False)),
        ("a.tar.zst", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + release_files.zst() + release_files.zst((b"", b"x"))),
    ],
)
def test_whole_archive_is_accepted(tmp_path: Path, name: str, body: bytes) -> None:
    (tmp_path / name).write_bytes(body)
    archive.check_images(tmp_path / name)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst"])
def test_archive_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    body = {"a.tar": release_files.tar(b"x" * 3000), "a.tar.gz": release_files.tar(kind="gz"), "a.tar.zst": release_files.zst()}[name]
    end = 512 * 7 if name == "a.tar" else len(body)  # a tar's padding after its first zero block may go
    for length in range(0, end, 101):
        (tmp_path / name).write_bytes(body[:length])
        with pytest.raises(PifleetError):
            archive.check_images(tmp_path / name)


def test_script_in_place_of_the_program_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "k3s").write_text("#!/usr/bin/python3\n")
    archive.check_binary(tmp_path / "k3s", 62)


# --- checksum file -------------------------------------------------------------------------------------------------------


def test_checksum_file_of_another_system_is_understood() -> None:
    text = f"{'A' * 64} *k3s\r\n\r\n{'b' * 64}  k3s-images.txt\r\n"
    assert names.parse_sums(text, "x") == {"k3s": "a" * 64, "k3s-images.txt": "b" * 64}


def test_plus_of_the_version_is_escaped_in_the_address() -> None:
    assert names.url_of(names.RELEASES, VERSION, "k3s") == "https://github.com/k3s-io/k3s/releases/download/v1.34.4%2Bk3s1/k3s"


# --- downloads -----------------------------------------------------------------------------------------------------------


def test_download_then_cache(request_: store.Request, site: Site) -> None:
    first = store.obtain(request_, downloader())
    assert first.fetched == ("sha256sum-amd64.txt", "k3s", IMAGES)
    assert all("%2B" in path for path, _range in site.seen)
    assert Path(first.artifacts["amd64"].binary).read_bytes() == site.files[f"/{VERSION}/k3s"]
    second = store.obtain(request_, no_network)
    assert second.fetched == ()
    assert second.artifacts == first.artifacts
    assert not [n for n in left_overs(request_.cache_dir) if n.endswith(".part")]


def test_check_mode_downloads_nothing_and_predicts(request_: store.Request) -> None:
    predicted = store.obtain(replace(request_, check=True), no_network)
    assert not request_.cache_dir.exists()
    done = store.obtain(request_, downloader())
    assert predicted.fetched == done.fetched
    assert predicted.artifacts["amd64"].binary == done.artifacts["amd64"].binary
    assert predicted.artifacts["amd64"].binary_sha256 is None
    assert not predicted.artifacts["amd64"].present
    again = store.obtain(replace(request_, check=True), no_network)
    assert again.artifacts == done.artifacts


def test_check_mode_knows_the_checksum_once_its_file_is_there(request_: store.Request, site: Site) -> None:
    store.obtain(request_, downloader())
    (request_.cache_dir / VERSION / "k3s").unlink()
    found = store.obtain(replace(request_, check=True), no_network)
    assert found.fetched == ("k3s",)
    assert found.artifacts["amd64"].binary_sha256 == sha(site.files[f"/{VERSION}/k3s"])
    assert not found.artifacts["amd64"].present


def test_release_without_zst_gives_the_images_it_has(request_: store.Request, site: Site) -> None:
    mine = {
        n.rsplit("/", 1)[1]: b for n, b in site.files.items() if ("amd64" in n or n.endswith("/k3s")) and not n.endswith((".zst", ".txt"))
    }
    site.files[f"/{VERSION}/sha256sum-amd64.txt"] = release_files.sums(mine)
    assert store.obtain(request_, downloader()).artifacts["amd64"].images.endswith(".tar.gz")  # type: ignore[union-attr]


@pytest.mark.parametrize("faults", [["500"], ["503", "429", "500", "502"], ["stall:x", "cut:10"], ["cut:0"], ["garbage:", "500"]])
def test_failure_that_passes_is_survived(request_: store.Request, site: Site, faults: list[str]) -> None:
    site.faults[f"/{VERSION}/k3s"] = [f.removesuffix(":x") for f in faults if f != "garbage:"]
    assert store.obtain(request_, downloader()).artifacts["amd64"].present


def test_broken_connection_is_continued_where_it_stopped(request_: store.Request, site: Site) -> None:
    site.faults[f"/{VERSION}/k3s"] = ["cut:70000", "cut:20000"]
    store.obtain(request_, downloader())
    assert site.requests_of("k3s") == [None, "bytes=70000-", "bytes=90000-"]


@pytest.mark.parametrize("fault", ["norange", "wrongrange"])
def test_server_that_ignores_the_range_gives_a_right_file_too(request_: store.Request, site: Site, fault: str) -> None:
    site.faults[f"/{VERSION}/k3s"] = ["cut:70000", fault]
    assert store.obtain(request_, downloader()).artifacts["amd64"].present


def _part(request: store.Request, site: Site, body: bytes) -> None:
    folder = request.cache_dir / VERSION
    folder.mkdir(parents=True)
    (folder / f".k3s.{sha(site.files[f'/{VERSION}/k3s'])[:12]}.part").write_bytes(body)


def test_killed_run_is_continued(request_: store.Request, site: Site) -> None:
    _part(request_, site, site.files[f"/{VERSION}/k3s"][:1000])
    store.obtain(request_, downloader())
    assert site.requests_of("k3s") == ["bytes=1000-"]


def test_killed_between_download_and_rename(request_: store.Request, site: Site) -> None:
    _part(request_, site, site.files[f"/{VERSION}/k3s"])
    store.obtain(request_, downloader())
    assert site.requests_of("k3s") == []


def test_leftover_that_does_not_belong_is_replaced(request_: store.Request, site: Site) -> None:
    _part(request_, site, b"z" * 500)
    assert store.obtain(request_, downloader()).artifacts["amd64"].present
    assert site.requests_of("k3s") == ["bytes=500-", None]


def test_leftover_longer_than_the_file_is_replaced(request_: store.Request, site: Site) -> None:
    _part(request_, site, b"z" * 10**6)
    assert store.obtain(request_, downloader()).artifacts["amd64"].present


def test_wrong_checksum_stops_and_removes_the_file(request_: store.Request, site: Site) -> None:
    site.files[f"/{VERSION}/k3s"] = release_files.elf(62, body=b"evil" * 1000)
    with pytest.raises(store.ChecksumMismatchError, match="does not match its checksum"):
        store.obtain(request_, downloader())
    assert left_overs(request_.cache_dir) == []


def test_bad_file_in_the_cache_stops_and_is_removed(request_: store.Request) -> None:
    store.obtain(request_, downloader())
    binary = request_.cache_dir / VERSION / "k3s"
    binary.write_bytes(b"rotten")
    with pytest.raises(store.ChecksumMismatchError, match="does not match"):
        store.obtain(replace(request_, check=True), no_network)
    assert binary.exists(), "check mode touches nothing"
    with pytest.raises(store.ChecksumMismatchError, match="was removed"):
        store.obtain(request_, no_network)
    assert not binary.exists()
    assert store.obtain(request_, downloader()).artifacts["amd64"].present


@pytest.mark.parametrize("garbage", ["<html>Please sign in</html>", ""])
def test_captive_portal_is_not_taken_for_a_checksum_file(request_: store.Request, site: Site, garbage: str) -> None:
    site.faults[f"/{VERSION}/sha256sum-amd64.txt"] = [f"garbage:{garbage}"]
    with pytest.raises(PifleetError, match="sha256sum-amd64"):
        store.obtain(request_, downloader())
    assert left_overs(request_.cache_dir) == []
    assert store.obtain(request_, downloader()).artifacts["amd64"].present


def test_release_that_does_not_exist(request_: store.Request, site: Site) -> None:
    with pytest.raises(DownloadError, match=r"does not exist \(404\).*Correct k3s_version"):
        store.obtain(replace(request_, version="v1.99.0+k3s1"), downloader())
    assert len(site.seen) == 1, "it is not asked again"


def test_server_that_stays_broken_is_given_up(request_: store.Request, site: Site) -> None:
    site.faults[f"/{VERSION}/k3s"] = ["500"] * 50
    waits: list[float] = []
    with pytest.raises(DownloadError, match="5 times in a row: the server answered 500"):
        store.obtain(request_, downloader(sleep=waits.append))
    assert waits == [1, 2, 4, 8]


def test_nobody_listens(tmp_path: Path) -> None:
    request = store.Request(VERSION, ("amd64",), True, None, tmp_path / "cache", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"refused.*k3s_artifact_dir"):
        store.obtain(request, downloader())


def test_progress_is_shown_for_long_downloads_only(request_: store.Request) -> None:
    said: list[tuple[str, int, int | None]] = []
    store.obtain(request_, downloader(progress=lambda *a: said.append(a)))
    assert said == []
    store.obtain(replace(request_, architectures=("arm64",)), downloader(progress=lambda *a: said.append(a), every=0.0))
    assert {name for name, _done, _total in said} >= {"k3s-arm64"}
    assert said[-1][1] == said[-1][2]


def test_proxy_of_the_environment_is_used(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.delenv("no_proxy", raising=False)
    request = store.Request(VERSION, ("amd64",), True, None, tmp_path / "cache", "http://releases.invalid")
    assert store.obtain(request, downloader()).artifacts["amd64"].present


def test_two_runs_at_once_download_once(request_: store.Request, site: Site) -> None:
    store.obtain(replace(request_, images=False), downloader())
    (request_.cache_dir / VERSION / "k3s").unlink()
    site.seen.clear()
    threads = [threading.Thread(target=store.obtain, args=(replace(request_, images=False), downloader())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.requests_of("k3s") == [None]
