# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads through ansible-playbook from a real HTTP server: check, apply, check, apply; and the faults of the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import release_files
from tests.support.controller import Controller
from tests.support.release_server import Site, serve

GET = """
- name: Get the release
  hosts: all
  gather_facts: false
  tasks:
    - name: Get and verify the release
      pifleet.ops.k3s_release_artifacts:
        version: "{{ version | default('v1.34.4+k3s1') }}"
        architectures: "{{ architectures | default(['arm64', 'arm']) }}"
        artifact_dir: "{{ artifact_dir | default(omit) }}"
        cache_dir: "{{ fleet_root }}/cache"
        release_url: "{{ release_url | default(omit) }}"
      run_once: true
      register: release

    - name: Show it
      ansible.builtin.debug:
        var: release
      run_once: true
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site(files={f"/{release_files.VERSION}/{n}": body for n, body in release_files.release().items()})) as running:
        yield running


def cached(controller: Controller) -> set[str]:
    folder = controller.folder / "cache" / release_files.VERSION
    return {p.name for p in folder.iterdir() if p.name != ".lock"} if folder.exists() else set()


def test_check_apply_check_apply(controller: Controller, site: Site) -> None:
    """``gone``, the first host, cannot be reached: nothing here connects to a host."""
    seen = []
    for check in ("--check", "", "--check", ""):
        played = controller.play(GET, *filter(None, [check]), "-e", f"release_url={site.url}")
        assert played.rc == 0, played.out
        seen.append((played.changed, len(site.seen), len(cached(controller))))
    assert seen == [(1, 0, 0), (1, 6, 6), (0, 6, 6), (0, 6, 6)]
    assert "k3s-armhf" in played.out
    assert "present: true" in played.out


def test_checksum_that_does_not_match_stops_the_run(controller: Controller, site: Site) -> None:
    site.files[f"/{release_files.VERSION}/k3s-armhf"] += b"x"
    played = controller.play(GET, "-e", f"release_url={site.url}")
    assert played.rc == 2
    assert "does not match its checksum" in " ".join(played.out.split())
    assert "Show it" not in played.out
    assert not any(n.startswith(("k3s-armhf", ".k3s-armhf")) for n in cached(controller))
    played.assert_clear()


def test_way_that_does_not_work_is_told(controller: Controller, site: Site) -> None:
    for variables, says in (
        ({"release_url": site.url, "version": "v1.99.9+k3s1"}, "does not exist (404)"),
        ({"artifact_dir": str(controller.folder)}, "has no sha256sum-arm.txt"),
        ({"artifact_dir": "/nonexistent"}, "no folder of the controller"),
        ({"version": "newest"}, "no version of k3s"),
        ({"architectures": "riscv64"}, "riscv64"),
    ):
        played = controller.play(GET, *[word for k, v in variables.items() for word in ("-e", f"{k}={v}")])
        assert played.rc == 2, played.out
        assert says in " ".join(played.out.split())
        played.assert_clear()


def test_folder_is_installed_from_without_network(controller: Controller, tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    for name, body in release_files.release().items():
        (tmp_path / "release" / name).write_bytes(body)
    variables = ["-e", f"artifact_dir={tmp_path}/release", "-e", "release_url=http://127.0.0.1:9"]
    for check in (["--check"], [], []):
        played = controller.play(GET, *variables, *check)
        assert played.rc == 0, played.out
        assert played.changed == 0
        assert (tmp_path / "cache").exists() == (not check)
