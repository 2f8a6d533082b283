# SPDX-License-Identifier: GPL-3.0-or-later
"""Executes the commands of a page on a terminal and keeps what is seen: `python -m scripts.record_page docs/quick-start.md`.

Its pictures and its recording are written anew: each picture below `docs/images/<page>/` that the page shows is the screen after the
command above it, one whose name ends with `-live` a screen from the middle of it, and `recording.cast` is all of it, for `asciinema play`.
A command that has to fail says `# fails:` on the page. The commands run in a fresh clone of the checkout, on its lab.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fcntl import ioctl
from itertools import groupby
from pathlib import Path

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / ".collections")]

from tests.support.pages import commands  # noqa: E402

COLUMNS, LINES = 120, 36
#: seconds between two pieces of a recording
STEP = 0.25
PROMPT = "\x1b[1;32m$\x1b[0m "
#: Rich's own, without the font that it has a browser download
SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)
_PICTURE = re.compile(r"!\[[^]]*\]\(([^)]+\.svg)\)")


@dataclass(frozen=True, slots=True)
class Scene:
    """A command of a page. *fails*: whether it has to; *pictures*: files, as the page links them, that show it."""

    command: str
    fails: bool
    pictures: tuple[str, ...]


def scenes(page: str) -> list[Scene]:
    """Return the commands of *page*, its text, that are executed, in order."""
    lines, found = page.splitlines(), [command for command in commands(page) if "`" not in page.splitlines()[command.line - 1]]
    ends = [command.line for command in found[1:]] + [len(lines)]
    return [
        Scene(command.text, "# fails:" in lines[command.line - 1], tuple(_PICTURE.findall("\n".join(lines[command.line : end]))))
        for command, end in zip(found, ends, strict=True)
        if not command.not_run
    ]


@dataclass
class Recording:
    """What is seen on one terminal, from command to command. *words*: what must not be seen, and what is shown in its place."""

    words: dict[str, str]
    events: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.Stream(self.screen)
        self._began = time.monotonic()

    def show(self, text: str) -> None:
        for word, other in self.words.items():
            # a whole word, which may stand behind a colour as well
            text = re.sub(rf"(?:(?<!\w)|(?<=[\[;]\dm)|(?<=[\[;]\d\dm)){re.escape(word)}(?!\w)", other, text)
        self.events.append((time.monotonic() - self._began, text))
        self._stream.feed(text)

    def run(self, command: str, folder: Path, env: dict[str, str]) -> Iterator[None]:
        """Execute *command* on the terminal, and pause after each piece of what it says. Its exit code is ``rc`` then."""
        self._stream.feed("\x1b[2J\x1b[H")  # a picture shows this command alone
        self.show(f"{PROMPT}{command}\r\n")
        pid, master = pty.fork()
        if pid == 0:
            ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            os.chdir(folder)
            os.execvpe("bash", ["bash", "-c", command], env)
        decoder, said, shown, ended = codecs.getincrementaldecoder("utf-8")("replace"), "", time.monotonic(), 0
        while True:
            ready = select.select([master], [], [], STEP)[0]
            if not ready and ended:
                break  # a connection that ssh keeps for the next run may hold the terminal open
            try:
                said += decoder.decode(os.read(master, 65536)) if ready else ""
            except OSError:
                break  # the terminal's end
            if not ended:
                ended, status = os.waitpid(pid, os.WNOHANG)
            if said and time.monotonic() - shown >= STEP:
                self.show(said)
                said, shown = "", time.monotonic()
                yield
        self.show(said)
        os.close(master)
        self.rc = os.waitstatus_to_exitcode(status if ended else os.waitpid(pid, 0)[1])

    def cast(self) -> str:
        """Return it in asciinema's format, version 2."""
        head = {"version": 2, "width": COLUMNS, "height": LINES, "idle_time_limit": 1.0, "title": "pifleet.ops"}
        return "".join(
            json.dumps(part, ensure_ascii=False) + "\n" for part in [head, *([round(at, 2), "o", text] for at, text in self.events)]
        )


def picture(screen: pyte.Screen, name: str) -> str:
    """Return an SVG of what *screen* shows."""
    rows = [[screen.buffer[y][x] for x in range(screen.columns)] for y in range(screen.lines)]
    while rows and all(char.data == " " for char in rows[-1]):
        rows.pop()
    console = Console(
        record=True, width=screen.columns, file=io.StringIO(), color_system="truecolor", force_terminal=True, legacy_windows=False
    )
    for row in rows:
        line = Text()
        for style, chars in groupby(row, key=_style):
            line.append("".join(char.data for char in chars), style)
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    return console.export_svg(title="", code_format=SVG, unique_id=name)


def _style(char: pyte.screens.Char) -> Style:
    return Style(color=_colour(char.fg), bgcolor=_colour(char.bg), bold=char.bold, underline=char.underscore, reverse=char.reverse)


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    # the terminal's third colour is what others call yellow
    return re.sub(r"^bright", "bright_", name).replace("brown", "yellow")


def recorded(page: Path, folder: Path, hidden: Mapping[str, str] | None = None) -> Iterator[tuple[Recording, dict[str, str]]]:
    """Execute the commands of *page* in *folder*. After each yield what was seen so far, and its pictures by the path that the page has.

    *hidden*: words that must not be seen, and what is shown in their place.

    :raises RuntimeError: a command ended otherwise than the page says.
    """
    recording = Recording({str(folder): "~/pifleet", **(hidden or {})})
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "pi"), ("EMAIL", "pi@localhost"))}
    inherited = {
        name: value for name, value in os.environ.items() if not re.match(r"(ANSIBLE|PIFLEET|MAKE)|CI$|NO_COLOR$|VIRTUAL_ENV$", name)
    }
    env = {**inherited, **who, "TERM": "xterm-256color", "PATH": f"{folder / '.venv/bin'}:{os.environ['PATH']}"}
    for scene in scenes(page.read_text()):
        print(f"$ {scene.command}", flush=True)
        frames = [picture(recording.screen, "live") for _piece in recording.run(scene.command, folder, env) if _is_live(recording.screen)]
        if (recording.rc != 0) != scene.fails:
            raise RuntimeError(f"{scene.command}: exit code {recording.rc}\n" + "\n".join(recording.screen.display))
        pictures = {}
        for path in scene.pictures:
            name = Path(path).stem
            pictures[path] = frames[(len(frames) - 1) // 2] if name.endswith("-live") else picture(recording.screen, name)
        yield recording, pictures


def _is_live(screen: pyte.Screen) -> bool:
    """Whether the view of pifleet.ops.live is drawn, with a host at work."""
    return any(re.search(r"\d+% +[A-Z]", line) for line in screen.display)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path, help="a clone to work in (default: a new one)")
    parser.add_argument("--hide", action="append", default=[], metavar="WORD=OTHER", help="show OTHER wherever WORD would be seen")
    args = parser.parse_args()
    hidden = {str(Path.home()): "~", socket.gethostname(): "controller", **dict(pair.split("=", 1) for pair in args.hide)}
    page = args.page.resolve()
    with tempfile.TemporaryDirectory(prefix="pifleet-") as name:
        folder = args.folder or Path(name, "pifleet")
        if not args.folder:
            subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        images = page.parent / "images" / page.stem
        images.mkdir(parents=True, exist_ok=True)
        # what was seen is kept, whatever comes after it
        for recording, pictures in recorded(page, folder.resolve(), hidden):
            for path, svg in pictures.items():
                (page.parent / path).write_text(svg)
            (images / "recording.cast").write_text(recording.cast())
    return 0


if __name__ == "__main__":
    sys.exit(main())
