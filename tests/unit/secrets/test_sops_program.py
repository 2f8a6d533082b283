# SPDX-License-Identifier: GPL-3.0-or-later
"""sops as a program: what it is asked, where its copies are, and what is told of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common.argv import Completed
from ansible_collections.pifleet.ops.plugins.plugin_utils._secrets.sops import Sops, SopsError


class Program:
    """Notes what it is asked, and whether its copy is in the folder that it has to be in."""

    def __init__(self, ram: Path, rc: int = 0, err: str = "") -> None:
        self.ram, self.rc, self.err = ram, rc, err
        self.asked: list[tuple[list[str], str | None]] = []

    def __call__(self, argv: Any, *, stdin: str | None = None, timeout: float = 60.0, **_more: Any) -> Completed:
        del timeout
        self.asked.append((list(argv), stdin))
        copy = next(Path(word) for word in argv if word.endswith("app.sops.env"))
        assert copy.is_relative_to(self.ram)
        assert copy.read_text() == "ciphertext"
        return Completed(tuple(argv), self.rc, "out", self.err)


def test_copies_are_in_ram_and_gone_afterwards(tmp_path: Path) -> None:
    program = Program(tmp_path)
    sops = Sops("policy", program, str(tmp_path))
    assert sops.decrypt("stacks/web/app.sops.env", "ciphertext") == "out"
    assert sops.rotate("stacks/web/app.sops.env", "ciphertext") == "out"
    assert sops.update("stacks/web/app.sops.env", "ciphertext") == "ciphertext"
    assert [next(w for w in argv[1:] if w in ("decrypt", "rotate", "updatekeys")) for argv, _ in program.asked] == [
        "decrypt",
        "rotate",
        "updatekeys",
    ]
    policy = program.asked[2][0][program.asked[2][0].index("--config") + 1]
    assert policy.endswith("/.sops.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_value_goes_through_a_pipe_and_stands_in_no_argument(tmp_path: Path) -> None:
    program = Program(tmp_path)
    Sops("policy", program, str(tmp_path)).with_value("app.sops.env", "ciphertext", "hub_token", 'a "secret"')
    ((argv, stdin),) = program.asked
    assert stdin == '"a \\"secret\\""'
    assert not [word for word in argv if "secret" in word]


@pytest.mark.parametrize(
    ("rc", "err", "says"),
    [
        (127, "", "sops is not installed on the controller"),
        (1, "no key\npassword=hunter2hunter\n", r"app\.sops\.env: `sops decrypt` failed: no key password=\*+"),
    ],
)
def test_a_failure_is_told_without_a_secret(tmp_path: Path, rc: int, err: str, says: str) -> None:
    with pytest.raises(SopsError, match=says):
        Sops("policy", Program(tmp_path, rc, err), str(tmp_path)).decrypt("app.sops.env", "ciphertext")
    assert list(tmp_path.iterdir()) == []
