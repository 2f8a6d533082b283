# SPDX-License-Identifier: GPL-3.0-or-later
"""What the quick start shows is what its commands say: the recording has each of them, and pictures are made from a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts import record_page
from tests.support.pages import ROOT

PAGE = ROOT / "docs/quick-start.md"
IMAGES = ROOT / "docs/images/quick-start"
SMALL = """\
# Page
```bash
printf 'one \\033[31mred <&>\\033[0m\\n'
```
![Picture](images/page/first.svg)
Look with `make site`.
```bash
echo '50%  Install'; sleep 2; printf 'at \\033[31m/hidden/%s\\033[0m\\n' $((2 + 3)); false   # fails: it has to
```
![Picture](images/page/second-live.svg)
![Picture](images/page/second.svg)
"""


def shown(svg: str) -> str:
    return "\n".join("".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")).replace(
        "\xa0", " "
    )


def test_the_recording_has_the_commands_of_the_page() -> None:
    head, *events = (json.loads(line) for line in (IMAGES / "recording.cast").read_text().splitlines())
    assert (head["version"], head["width"]) == (2, record_page.COLUMNS)
    assert [at for at, _kind, _text in events] == sorted(at for at, _kind, _text in events)
    typed = [text.removeprefix(record_page.PROMPT).strip() for _at, _kind, text in events if text.startswith(record_page.PROMPT)]
    assert typed == [scene.command for scene in record_page.scenes(PAGE.read_text())]


def test_pictures_are_those_of_the_page_and_load_nothing() -> None:
    wanted = {path for scene in record_page.scenes(PAGE.read_text()) for path in scene.pictures}
    assert wanted == {f"images/quick-start/{file.name}" for file in IMAGES.glob("*.svg")}
    for path in wanted:
        text = (PAGE.parent / path).read_text()
        ElementTree.fromstring(text)
        assert re.findall(r"url\((?!#)|https?://(?!www\.w3\.org|www\.textualize\.io)", text) == [], path


def test_a_page_becomes_a_recording_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    page = tmp_path / "page.md"
    page.write_text(SMALL)
    seen = list(record_page.recorded(page, tmp_path, {"/hidden": "~"}))
    recording, pictures = seen[-1][0], {**seen[0][1], **seen[1][1]}
    assert list(pictures) == [f"images/page/{name}.svg" for name in ("first", "second-live", "second")]
    first, live, last = (shown(svg) for svg in pictures.values())
    assert "one" in first and "red <&>" in first
    assert "50%" in live and "~/5" not in live
    assert "~/5" in last and "one" not in last
    text = recording.cast()
    assert "hidden" not in text and text.count(json.dumps(record_page.PROMPT)[1:-1]) == 2


@pytest.mark.parametrize("command", ["false", "true  # fails: it does not"])
def test_a_command_that_ends_otherwise_than_the_page_says_stops_it(tmp_path: Path, command: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{command}\n```\n")
    with pytest.raises(RuntimeError, match="exit code"):
        list(record_page.recorded(page, tmp_path))
