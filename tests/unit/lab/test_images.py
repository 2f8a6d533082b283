# SPDX-License-Identifier: GPL-3.0-or-later
"""Images written without an engine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from lab.images import Image, write_archive


def test_the_archive_is_docker_save_s_layout_and_always_the_same(tmp_path: Path) -> None:
    program = tmp_path / "web"
    program.write_bytes(b"\x7fELF program")
    wanted = [Image("docker.io/a/pause:1", program, ()), Image("docker.io/a/web:1", program, ("serve",))]
    for name in ("one.tar", "two.tar"):
        write_archive(tmp_path / name, wanted, "amd64")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(content["manifest.json"])
    assert [entry["RepoTags"] for entry in manifest] == [["docker.io/a/pause:1"], ["docker.io/a/web:1"]]
    assert manifest[0]["Layers"] == manifest[1]["Layers"]
    config = json.loads(content[manifest[1]["Config"]])
    assert config["config"]["Entrypoint"] == ["/app", "serve"]
    layer = content[manifest[1]["Layers"][0]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as inside:
        assert inside.getmember("app").mode == 0o755


def test_a_container_may_replace_the_command_and_a_file_makes_another_image(tmp_path: Path) -> None:
    program = tmp_path / "app"
    program.write_bytes(b"\x7fELF program")
    wanted = [Image(f"a/app:{tag}", program, command=("serve",), files={"version": tag.encode()}) for tag in ("1", "2")]
    write_archive(tmp_path / "app.tar", wanted, "amd64")
    with tarfile.open(tmp_path / "app.tar") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    first, second = json.loads(content["manifest.json"])
    settings = json.loads(content[first["Config"]])["config"]
    assert (settings["Entrypoint"], settings["Cmd"]) == (["/app"], ["serve"])
    assert first["Config"] != second["Config"]
    with tarfile.open(fileobj=io.BytesIO(content[second["Layers"][0]])) as inside:
        assert inside.extractfile("version").read() == b"2"  # type: ignore[union-attr]
