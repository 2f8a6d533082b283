# SPDX-License-Identifier: GPL-3.0-or-later
"""The rotation of files, with a function for sops: killed at every step it is gone on with, and what does not verify changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets import rotation
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.rotation import Files, Journal, RotationError, Step

from tests.unit.secrets.test_check import ALICE, BOB, CIPHER, dotenv

PATHS = ("stacks/a/x.sops.env", "stacks/b/y.sops.env")


class KilledError(BaseException):
    """What kill -9 is to a process."""


@dataclass
class FakeSops:
    """Encrypted files hold a name for their data key, and their plaintext reversed. *dies_at*: the call that never returns."""

    policy: str
    dies_at: int = 0
    spoils: str = ""
    calls: list[str] = field(default_factory=list)

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if len(self.calls) == self.dies_at:
            raise KilledError

    def decrypt(self, path: str, content: str) -> str:
        self._called(f"decrypt {path}")
        return re.sub(r"iv:[^,]+|sops_.*", "", content)

    def rotate(self, path: str, content: str) -> str:
        self._called(f"rotate {path}")
        if self.spoils == path:
            return content.replace("A=", "B=")
        number = int(re.search(r"iv:key(\d+)", content)[1])  # type: ignore[index]
        return content.replace(f"iv:key{number}", f"iv:key{number + 1}")

    def update(self, path: str, content: str) -> str:
        self._called(f"update {path}")
        wanted = re.search(r"age: (\S+)", self.policy)
        assert wanted
        return re.sub(r"(map_recipient=)\S+", rf"\g<1>{wanted[1]}", content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".sops.yaml").write_text(f"creation_rules: [{{path_regex: ^stacks/, age: {ALICE}}}]\n".replace("}]", " }]"))
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(dotenv("A=" + CIPHER.replace("iv:YmFy", "iv:key1")))
        (tmp_path / path).chmod(0o640)
    return tmp_path


def journal(what: rotation.What, replaced: tuple[tuple[str, str], ...] = ()) -> Journal:
    return Journal("r1", what, "2026-01-01T00:00:00Z", replaced, tuple(Step(path) for path in PATHS))


def contents(root: Path) -> list[str]:
    return [(root / path).read_text() for path in PATHS]


def files(root: Path, **more: object) -> tuple[Files, list[FakeSops]]:
    made: list[FakeSops] = []

    def sops(policy: str) -> FakeSops:
        made.append(FakeSops(policy, **more))  # type: ignore[arg-type]
        return made[-1]

    return Files(root, root / ".pifleet", sops), made


def test_each_file_gets_another_data_key_once(root: Path) -> None:
    mine, sops = files(root)
    done = mine.go_on(mine.begin(journal("data_keys")))
    assert [step.state for step in done.steps] == ["done", "done"]
    assert all("iv:key2" in text for text in contents(root))
    assert [call for call in sops[0].calls if "rotate" in call] == [f"rotate {path}" for path in PATHS]
    assert {(root / path).stat().st_mode & 0o777 for path in PATHS} == {0o640}
    mine.finish(done)
    assert (mine.unfinished(), mine.last()) == (None, done)


def calls_of(root: Path, what: rotation.What, replaced: tuple[tuple[str, str], ...]) -> int:
    mine, sops = files(root)
    mine.go_on(mine.begin(journal(what, replaced)))
    return len(sops[0].calls)


@pytest.mark.parametrize("what", ["data_keys", "recipients"])
def test_killed_at_any_step_the_next_run_completes_it(root: Path, what: rotation.What, tmp_path_factory: pytest.TempPathFactory) -> None:
    """And nothing is lost, nothing rotated that was done already."""
    replaced = ((ALICE, BOB),) if what == "recipients" else ()
    before = contents(root)
    policy = (root / ".sops.yaml").read_text()
    count = calls_of(root, what, replaced)
    wanted = [re.sub(r"iv:key\d+", "", text) for text in contents(root)]
    for at in range(1, count + 1):
        for path, text in zip(PATHS, before, strict=True):
            (root / path).write_text(text)
        (root / ".sops.yaml").write_text(policy)
        dying, _ = files(root, dies_at=at)
        with pytest.raises(KilledError):
            dying.go_on(dying.begin(journal(what, replaced)))
        mine, sops = files(root)
        begun = mine.unfinished()
        assert begun is not None
        done = mine.go_on(begun)
        assert done.left == ()
        assert [re.sub(r"iv:key\d+", "", text) for text in contents(root)] == wanted
        rotated_again = {call.split()[1] for call in sops[0].calls if "rotate" in call or "update" in call}
        assert rotated_again <= set(begun.left)
        assert [re.search(r"iv:key(\d)", text)[1] for text in contents(root)] == ["2", "2"], at  # type: ignore[index]
        if what == "recipients":
            assert (ALICE in (root / ".sops.yaml").read_text(), BOB in contents(root)[0]) == (False, True)


def test_what_does_not_verify_is_left_as_it_is_and_what_was_done_stays(root: Path) -> None:
    mine, _ = files(root, spoils=PATHS[1])
    before = contents(root)
    with pytest.raises(RotationError, match=r"y\.sops\.env would hold something else than before: it was left as it is"):
        mine.go_on(mine.begin(journal("data_keys")))
    after = contents(root)
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    begun = mine.unfinished()
    assert begun is not None
    assert begun.left == (PATHS[1],)


def test_the_way_back(root: Path) -> None:
    before, policy = contents(root), (root / ".sops.yaml").read_text()
    mine, _ = files(root)
    mine.finish(mine.go_on(mine.begin(journal("recipients", ((ALICE, BOB),)))))
    assert (root / ".sops.yaml").read_text() != policy
    last = mine.last()
    assert last is not None
    assert set(mine.take_back(last)) == {*PATHS, ".sops.yaml"}
    assert (contents(root), (root / ".sops.yaml").read_text()) == (before, policy)
    assert (mine.last(), mine.unfinished()) == (None, None)


def test_nothing_is_taken_back_over_a_change_of_somebody(root: Path) -> None:
    mine, _ = files(root)
    mine.finish(mine.go_on(mine.begin(journal("data_keys"))))
    (root / PATHS[1]).write_text("changed")
    last, now = mine.last(), contents(root)
    assert last is not None
    with pytest.raises(RotationError, match="was changed since it was rotated"):
        mine.take_back(last)
    assert contents(root) == now


def test_the_journal_holds_no_content_and_nobody_else_reads_it(root: Path) -> None:
    mine, _ = files(root, dies_at=4)
    with pytest.raises(KilledError):
        mine.go_on(mine.begin(journal("data_keys")))
    state = root / ".pifleet/secrets"
    assert "ENC[" not in (state / "rotation.json").read_text()
    assert {path.stat().st_mode & 0o077 for path in [state, *state.rglob("*")]} == {0}
    (state / "rotation.json").write_text("{")
    with pytest.raises(RotationError, match="is damaged"):
        mine.unfinished()


def test_a_file_that_is_gone_meanwhile_is_told(root: Path) -> None:
    mine, _ = files(root)
    begun = mine.begin(journal("data_keys"))
    (root / PATHS[0]).unlink()
    with pytest.raises(RotationError, match="is gone since the rotation began"):
        mine.go_on(begun)


@pytest.mark.parametrize(("replaced", "says"), [({BOB: ALICE}, "is no recipient"), ({ALICE: "age1-nobody"}, "is no key")])
def test_recipients_that_cannot_be_replaced_are_refused(root: Path, replaced: dict[str, str], says: str) -> None:
    with pytest.raises(RotationError, match=says):
        rotation.with_recipients((root / ".sops.yaml").read_text(), replaced)
