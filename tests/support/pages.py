# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that stand on a page of the documentation: whether they can be right at all, and a story that executes them as they stand.

A command is a line of a block ```` ```bash ````, or a piece of code in a sentence that begins with one of ``PROGRAMS``. What cannot be
executed here has `<!-- not run: REASON -->` before its block, or at the end of its line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import yaml
from ansible.cli import CLI
from ansible.cli.adhoc import AdHocCLI
from ansible.cli.playbook import PlaybookCLI
from ansible_collections.pifleet.ops.hub import cli as hub_cli

from lab import cli as lab_cli

ROOT = Path(__file__).resolve().parents[2]
_HUB = "ansible_collections.pifleet.ops.hub"
PROGRAMS = ("ansible-playbook", "ansible", "make", "scripts/collect-diff.sh", "python -m lab", f"python -m {_HUB}")
#: what a page says without meaning a command of its own: any playbook
_ANY = ("playbooks/NAME.yml", "pifleet.ops.NAME")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")
_FENCE = re.compile(r"^```(\w*)\s*$")
#: what a reader fills in: words in capitals, which stand in no shell variable
PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_${])[A-Z][A-Z_]+(?![A-Za-z0-9_=}])")


@dataclass(frozen=True, slots=True)
class Command:
    """*text*: without comment; *line*: where it stands; *not_run*: why it cannot be executed here, empty where it can."""

    text: str
    line: int
    not_run: str = ""


def commands(page: str) -> list[Command]:
    """Return the commands of *page*, its text, in order."""
    return list(_commands(page.splitlines()))


def _commands(lines: list[str]) -> Iterator[Command]:
    language: str | None = None
    reason = begun = ""
    for number, line in enumerate(lines, 1):
        if fence := _FENCE.match(line):
            if language is None:
                language, reason = fence[1], _reason(lines[number - 2]) if number > 1 else ""
            else:
                language = None
        elif language == "bash":
            begun += " " + line.strip().removesuffix("\\") if begun else line.strip().removesuffix("\\")
            if line.rstrip().endswith("\\"):
                continue
            text, begun = " ".join(_without_comment(begun).split()), ""
            if text:
                yield Command(text, number, reason)
        elif language is None:
            for code in re.findall(r"`([^`]+)`", line):
                if code.startswith(tuple(f"{program} " for program in PROGRAMS)) and not any(word in code for word in _ANY):
                    yield Command(code, number, _reason(line))


def _reason(line: str) -> str:
    found = _NOT_RUN.search(line)
    return found[1] if found else ""


def _without_comment(line: str) -> str:
    """Return *line* up to a ``#`` that begins a comment in a shell."""
    quote = ""
    for place, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


# --- can it be right? ----------------------------------------------------------------------------------------------------


def problems(command: str) -> list[str]:
    """Return what is wrong with *command* as far as it can be told without executing it."""
    for part in re.split(r"\s*(?:\||&&|;)\s+", command):
        words = shlex.split(part)
        while words and re.match(r"^[A-Z_]+=", words[0]):
            del words[0]
        if words and (found := _problems(words)):
            return found
    return []


def _problems(words: list[str]) -> list[str]:
    program = words[0].rpartition("/")[2]
    if program == "ansible-playbook":
        return _playbook(words[1:])
    if program == "ansible":
        return _parsed(_parser(AdHocCLI), words[1:])
    if program == "make":
        targets = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)}
        settings = {*re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(), re.M)}
        names = [word.partition("=") for word in words[1:]]
        return [f"make knows no {name}" for name, equals, _value in names if name not in (settings if equals else targets)]
    if program.startswith("python") and words[1:2] == ["-m"]:
        parsers = {"lab": lab_cli.parser, _HUB: hub_cli.command_line}
        return _parsed(parsers[words[2]](), words[3:]) if words[2] in parsers else [f"no program {words[2]}"]
    if words[0].startswith("scripts/"):
        return [] if (ROOT / words[0]).is_file() else [f"there is no {words[0]}"]
    return []


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(words)
    except SystemExit:
        return [said.getvalue().strip().rpartition("error: ")[2] or "cannot be parsed"]
    return []


@cache
def _parser(kind: type[CLI]) -> argparse.ArgumentParser:
    cli = kind(["ansible", "all"])
    cli.init_parser()
    parser: argparse.ArgumentParser = cli.parser
    return parser


def _playbook(words: list[str]) -> list[str]:
    parser = _parser(PlaybookCLI)
    if found := _parsed(parser, words):
        return found
    options = parser.parse_args(words)
    missing = [f"there is no {book}" for book in options.args if not _file_of(book).is_file()]
    if missing:
        return missing
    known = set().union(*(_variables(_file_of(book)) for book in options.args)) | _role_options()
    return [f"{', '.join(options.args)} knows no variable {name}" for name in _given(options.extra_vars) if name not in known]


def _file_of(playbook: str) -> Path:
    installed = re.fullmatch(r"pifleet\.ops\.([a-z_]+)", playbook)
    return ROOT / (f"playbooks/{installed[1]}.yml" if installed else playbook)


def _given(extra: list[str]) -> Iterator[str]:
    for text in extra:
        if text.startswith("{"):
            yield from yaml.safe_load(text)
        elif not text.startswith("@"):
            # words that give no variable are all put into one, which few playbooks read
            yield from (name if equals else "_raw_params" for name, equals, _value in (word.partition("=") for word in shlex.split(text)))


@cache
def _variables(playbook: Path) -> frozenset[str]:
    """The words of a playbook, of what it imports, and of the tasks of its roles: a variable that it reads is among them."""
    text = playbook.read_text()
    found = {*re.findall(r"\b[a-z][a-z0-9_]*\b", re.sub(r"(?m)^\s*#.*$", "", text))}
    for imported in re.findall(r"import_playbook: (.+)", text):
        # one that is chosen in the run may be any of them
        parts = [playbook.parent / imported] if "{{" not in imported else sorted((ROOT / "playbooks/parts").glob("*.yml"))
        found |= set().union(*(_variables(part) for part in parts))
    for role in {*re.findall(r"pifleet\.ops\.(\w+)", text)} & {path.name for path in (ROOT / "roles").iterdir()}:
        for tasks in (path for kind in ("tasks", "vars") for path in (ROOT / "roles" / role / kind).glob("*.yml")):
            found |= {*re.findall(r"\b_?[a-z][a-z0-9_]*\b", re.sub(r"(?m)^\s*#.*$", "", tasks.read_text()))}
    return frozenset(found)


@cache
def _role_options() -> frozenset[str]:
    """The variables of all roles and actions, which an inventory or `-e` may set for any playbook."""
    specs = [yaml.safe_load(path.read_text())["argument_specs"] for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")]
    documented = "".join(path.read_text() for path in (ROOT / "plugins/modules").glob("*.py"))
    read = re.findall(r"(?:variable|key) C\((\w+)\)", " ".join(documented.split()))
    return frozenset([*read, *(name for spec in specs for entry in spec.values() for name in entry.get("options", {}))])


# --- a story -------------------------------------------------------------------------------------------------------------


class Story:
    """A page whose commands are executed, in the order that the reader of the story chooses.

    When its block ends, each command was executed, or says on the page why it cannot be.
    *shell*: executes a line and returns its exit code and output. *words*: what a reader of the page fills in.
    """

    def __init__(self, page: str, shell: Callable[[str], tuple[int, str]], **words: str) -> None:
        self._left = [command.text for command in commands(page) if not command.not_run]
        self._page = page
        self._shell, self._words = shell, words

    def __enter__(self) -> Story:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            assert self._left == [], "commands of the page that this story does not execute"

    def take(self, part: str, **words: str) -> str:
        """Return the command left that is *part*, else the first that contains it, filled in, for a story that executes it itself.

        The same command elsewhere on the page counts as executed too.
        """
        found = [text for text in self._left if part in text]
        assert found, f"no command with {part!r} is left on the page. Left: {self._left}"
        command = part if part in found else found[0]
        self._left = [text for text in self._left if text != command]
        return filled(command, {**self._words, **words})

    def run(self, part: str, *, rc: int = 0, **words: str) -> str:
        """Execute such a command as it stands on the page, and return what it says."""
        line = self.take(part, **words)
        code, output = self._shell(line)
        assert code == rc, f"{line}\nexit code {code}, not {rc}:\n{output[-6000:]}"
        return output

    def block(self, part: str) -> str:
        """Return the block of YAML on the page that contains *part*."""
        (found,) = [text for text in re.findall(r"(?ms)^```yaml\n(.*?)^```$", self._page) if part in text]
        return str(found)


def filled(command: str, words: Mapping[str, str]) -> str:
    """Return *command* with each of *words*, such as ``NODE`` or ``inventory/my-fleet``, replaced.

    A word in capitals that is left has no value: that is an error.
    """
    line = command
    for word, value in words.items():
        line = re.sub(rf"(?<![\w$]){re.escape(word)}(?![\w=])", value.replace("\\", r"\\"), line)
    left = [word for word in PLACEHOLDER.findall(command) if word not in words]
    assert left == [], f"{command}: nothing is given for {', '.join(left)}"
    return line
