# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of a release: given, else tag, else `git describe`, else commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.plugin_utils._releases.version import Checkout, Source, resolve

from tests.support.release_fleet import Repository

COMMIT = "c" * 40


@pytest.mark.parametrize(
    ("source", "version"),
    [
        (Source(COMMIT, ("1.0.0", "1.0.1"), "ignored"), "1.0.1"),
        (Source(COMMIT, (), "1.0.0-3-gcccccc"), "1.0.0-3-gcccccc"),
        (Source(COMMIT), COMMIT[:12]),
        (Source(COMMIT, ("team/1.0",)), "team-1.0"),
    ],
)
def test_found_by_itself(source: Source, version: str) -> None:
    assert resolve(source) == version


def test_given() -> None:
    assert resolve(Source(COMMIT, given={"1.4.2": COMMIT}), "1.4.2") == "1.4.2"
    with pytest.raises(PifleetError, match=r"There is no version 9.9"):
        resolve(Source(COMMIT, given={"9.9": ""}), "9.9")
    with pytest.raises(PifleetError, match=r"1.0 is the commit dddddddddddd, and cccccccccccc is checked out"):
        resolve(Source(COMMIT, given={"1.0": "d" * 40}), "1.0")
    for bad in ("-x", "a b", "x" * 129, "ä"):
        with pytest.raises(PifleetError, match="cannot be a version"):
            resolve(Source(COMMIT, given={bad: COMMIT}), bad)


def test_checkout(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "fleet")
    checkout = Checkout(repository.root)
    with pytest.raises(PifleetError, match="no commit"):
        checkout.source()
    repository.write("apps/web/x", "1")
    first = repository.commit()
    assert checkout.source("nothing") == Source(first, given={"nothing": ""})
    repository.git("tag", "1.0.0")
    assert checkout.source("1.0.0") == Source(first, ("1.0.0",), "", {"1.0.0": first})
    second = repository.commit()
    assert checkout.source().described.startswith("1.0.0-1-g") and checkout.source("1.0.0").given == {"1.0.0": first}
    assert checkout.tree(second, "apps/web") == checkout.tree(first, "apps/web") != ""
    assert checkout.tree(second, "apps/web/x") == checkout.tree(second, "nowhere") == ""
    assert checkout.tree(second, ".")
    assert checkout.dirty(("apps",)) == ()
    repository.write("apps/web/y", "1")
    repository.write("elsewhere", "1")
    assert checkout.dirty(("apps",)) == ("apps/web/y",)


def test_git_is_missing() -> None:
    with pytest.raises(PifleetError, match="git is missing"):
        Checkout(Path("/"), lambda argv, **_how: Completed(tuple(argv), 127, "", "")).source()
