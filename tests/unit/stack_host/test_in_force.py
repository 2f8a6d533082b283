# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files count as desired state, and that nobody changes them while they are read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host import checkout, refresh, turn
from ansible_collections.pifleet.ops.plugins.module_utils._stack_host.places import RefreshPlaces
from ansible_collections.pifleet.ops.plugins.module_utils._stacks import files

from .conftest import Local, Repository


def test_what_containers_write_beside_a_compose_file_is_no_desired_state(repository: Repository, places: RefreshPlaces) -> None:
    commit = repository.commit(
        {
            "stacks/web/compose.yaml": "services: {}\n",
            "stacks/web/conf/site.conf": "a\n",
            "stacks/web/app.sops.env": "encrypted\n",
            "stacks/README": "shared\n",
        }
    )
    refresh.refresh(places, Local(repository, commit), time, 5.0)
    path = places.tree / "stacks"
    for name in ("web/data/db", "web/data/sub/compose.yaml", "web/conf/cache", "web/app.env", "left/over/compose.yaml"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("written by a container")
    (path / "web/data/link").symlink_to("/etc")
    tracked = checkout.tracked(places.active, places.tree, str(path))
    assert tracked == {"web/compose.yaml", "web/conf/site.conf", "web/app.sops.env", "web/app.env", "README"}

    (web,) = files.find(str(path), (), tracked)
    assert (web.name, web.error) == ("web", "")
    assert set(web.content) == {"compose.yaml", "conf/site.conf", "app.sops.env", "app.env"}
    before = web.inputs
    (path / "web/data/db").write_text("another thing")
    assert files.find(str(path), (), tracked)[0].inputs == before
    (path / "web/conf/site.conf").write_text("edited")
    assert files.find(str(path), (), tracked)[0].inputs != before


@pytest.mark.parametrize("path", ["/elsewhere/stacks", "", "{tree}", "{tree}/stacks/web", "{tree}/other"])
def test_of_another_folder_all_files_count(repository: Repository, places: RefreshPlaces, path: str) -> None:
    refresh.refresh(places, Local(repository, repository.commit({"stacks/web/compose.yaml": "services: {}\n"})), time, 5.0)
    assert checkout.tracked(places.active, places.tree, path.format(tree=places.tree)) is None
    assert checkout.tracked(places.state / "no such note", places.tree, str(places.tree / "stacks")) is None


def test_it_is_not_changed_while_it_is_read(tmp_path: Path) -> None:
    alone = turn.writing(tmp_path, time, 0.2)
    with turn.reading(tmp_path), turn.reading(tmp_path), pytest.raises(turn.BusyError, match="still being reconciled"):
        alone.__enter__()
    with turn.writing(tmp_path, time, 0.2):
        assert list(tmp_path.iterdir()) == [], "no lock is left behind"
    with turn.reading(tmp_path / "never refreshed"):
        pass
