# SPDX-License-Identifier: GPL-3.0-or-later
"""Which folders are stacks, what counts as their content, and what is refused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import files


def write(root: Path, path: str, text: str = "services: {}\n") -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def one(root: Path, name: str, roles: tuple[str, ...] = ()) -> files.Folder:
    return next(f for f in files.find(str(root), roles) if f.name == name)


@pytest.mark.parametrize("name", files.COMPOSE_FILES)
def test_any_name_that_compose_looks_for(tmp_path, name):
    write(tmp_path, f"web/{name}")
    assert [os.path.basename(f) for f in one(tmp_path, "web").files] == [name]


def test_files_in_the_order_of_compose_with_override_and_role(tmp_path):
    for name in ("docker-compose.yaml", "compose.yml", "compose.override.yaml", "compose.workers.yaml", "compose.servers.yml"):
        write(tmp_path, f"web/{name}")
    names = lambda *roles: [os.path.basename(f) for f in one(tmp_path, "web", roles).files]  # noqa: E731
    assert names() == ["compose.yml", "compose.override.yaml"]
    assert names("workers", "servers", "none") == ["compose.yml", "compose.override.yaml", "compose.workers.yaml", "compose.servers.yml"]


def test_folders_and_names(tmp_path):
    for path in ("web/compose.yaml", "group/a/compose.yaml", "web/sub/compose.yaml", ".git/x/compose.yaml", "README.md", "empty/x.txt"):
        write(tmp_path, path)
    assert [(f.name, f.project, f.error) for f in files.find(str(tmp_path))] == [("group/a", "group-a", ""), ("web", "web", "")]
    assert set(one(tmp_path, "web").content) == {"compose.yaml", "sub/compose.yaml"}


@pytest.mark.parametrize(("name", "says"), [("Web", "web"), ("a.b", "ab"), ("_x", "x"), ("é", "none of the letters"), ("a b", "ab")])
def test_names_that_compose_refuses(tmp_path, name, says):
    write(tmp_path, f"{name}/compose.yaml")
    [found] = files.find(str(tmp_path))
    assert "Compose refuses" in found.error and says in found.error


def test_two_folders_of_one_project_are_both_refused_and_no_other(tmp_path):
    for path in ("a/b", "a-b", "c"):
        write(tmp_path, f"{path}/compose.yaml")
    errors = {f.name: f.error for f in files.find(str(tmp_path))}
    assert not errors["c"] and all("a-b and a/b are one Compose project" in errors[n] for n in ("a-b", "a/b"))


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_content(tmp_path):
    write(tmp_path, "web/compose.yaml")
    write(tmp_path, "web/real.conf")
    (tmp_path / "web/inside").symlink_to("real.conf")
    assert not one(tmp_path, "web").error
    before = one(tmp_path, "web").inputs
    (tmp_path / "web/inside").unlink()
    (tmp_path / "web/inside").symlink_to("compose.yaml")
    assert one(tmp_path, "web").inputs != before
    for target in ("/etc/passwd", "../other", "../web2/x"):
        (tmp_path / "web/out").symlink_to(target)
        assert "leads out" in one(tmp_path, "web").error
        (tmp_path / "web/out").unlink()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    write(outside, "compose.yaml")
    (tmp_path / "linked").symlink_to(outside)
    assert "leads out of the desired state" in one(tmp_path, "linked").error


def test_content_counts_and_time_does_not(tmp_path):
    file = write(tmp_path, "web/compose.yaml")
    conf = write(tmp_path, "web/conf/x", "1")
    before = one(tmp_path, "web").inputs
    os.utime(conf, (1, 1))
    os.utime(file, (1, 1))
    assert one(tmp_path, "web").inputs == before
    stamp = conf.stat()
    conf.write_text("2")
    os.utime(conf, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    changed = one(tmp_path, "web").inputs
    assert changed != before, "same size, same time, other content"
    conf.chmod(0o755)
    assert one(tmp_path, "web").inputs != changed, "whether it may be executed counts"


def test_what_a_compose_file_takes_from_elsewhere_counts(tmp_path):
    root = tmp_path / "repo/stacks"
    shared = write(tmp_path, "repo/shared.env", "A=1")
    common = write(root, "common/base.yaml", "1")
    absolute = write(tmp_path, "etc/app.env", "B=1")
    write(root, "up/compose.yaml", "services: {a: {env_file: ../../shared.env}}")
    write(root, "side/compose.yaml", 'services: {a: {extends: {file: "../common/base.yaml"}}}')
    write(root, "abs/compose.yaml", f"services:\n  a:\n    env_file:\n      - {absolute}\n")
    write(root, "none/compose.yaml")
    before = {f.name: f.inputs for f in files.find(str(root))}

    def changed() -> set[str]:
        now = {f.name: f.inputs for f in files.find(str(root))}
        found = {name for name in now if now[name] != before[name]}
        before.update(now)
        return found

    assert changed() == set()
    shared.write_text("A=2")
    assert changed() == {"up"}
    common.write_text("2")
    assert changed() >= {"side"} and "none" not in before.keys() - set(before)
    absolute.write_text("B=2")
    assert changed() == {"abs"}
    write(root, "none/x", "")
    assert "abs" not in changed()


def test_a_folder_that_is_not_there_or_cannot_be_read(tmp_path):
    with pytest.raises(PifleetError, match="not there"):
        files.find(str(tmp_path / "nope"))
    write(tmp_path, "file", "")
    with pytest.raises(PifleetError, match="not there"):
        files.find(str(tmp_path / "file"))


def test_special_files_are_no_content(tmp_path):
    write(tmp_path, "web/compose.yaml")
    os.mkfifo(tmp_path / "web/pipe")
    assert set(one(tmp_path, "web").content) == {"compose.yaml"}


def test_odd_names_of_files_are_content(tmp_path):
    write(tmp_path, "web/compose.yaml")
    odd = os.fsencode(str(tmp_path)) + b"/web/caf\xe9\n"
    with open(odd, "wb") as stream:
        stream.write(b"1")
    before = one(tmp_path, "web").inputs
    with open(odd, "wb") as stream:
        stream.write(b"2")
    assert one(tmp_path, "web").inputs != before
    json.dumps(dict(one(tmp_path, "web").content))


def test_a_compose_file_of_ten_megabytes(tmp_path):
    line = b"# a/b ../c http://x:1/y 'z' [1, 2] {a: b} 0123456789012345678901234567890123456789\n"
    write(tmp_path, "web/compose.yaml").write_bytes(line * (10_000_000 // len(line)))
    began = time.process_time()
    assert one(tmp_path, "web").inputs
    assert time.process_time() - began < 5
