# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on the pages: each one can be right, a wrong one is found, and each page of the runbooks has a story that executes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import ROOT, Story, commands, filled, problems

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/runbooks").glob("*.md"))]
COMMANDS = [
    pytest.param(command.text, id=f"{page.relative_to(ROOT)}:{command.line}") for page in PAGES for command in commands(page.read_text())
]
#: pages whose commands are executed by tests/integration/runbooks
#: first words of the commands that are not executed, each with its reason on the page
NOT_RUN = ["ansible-galaxy", "ansible-playbook", "helm", "kubectl", "ssh"]
#: pages that speak of commands and give no examples; those of observability.md are of tests/integration/observability
NO_EXAMPLES = {"docs/README.md", "docs/benchmarks.md", "docs/fidelity.md", "docs/observability.md"}
TOLD = [page for page in PAGES if str(page.relative_to(ROOT)) not in NO_EXAMPLES]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_right(command: str) -> None:
    assert problems(command) == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if str(c.values[0]).startswith("ansible-playbook")])
def test_a_wrong_word_is_found(command: str) -> None:
    """Each word of each command, changed by a letter: the playbook, an option, the name of a variable."""
    words = command.split()
    wrong = []
    for place, word in enumerate(words[1:], 1):
        if word.endswith(".yml") or word.startswith("--"):
            wrong.append([*words[:place], word[:-5] + word[-4:] if word.endswith(".yml") else f"{word}s", *words[place + 1 :]])
        elif words[place - 1] == "-e" and "=" in word:
            name, _equals, value = word.partition("=")
            wrong.append([*words[:place], f"{name}q={value}", *words[place + 1 :]])
    assert wrong, command
    assert [" ".join(changed) for changed in wrong if not problems(" ".join(changed))] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "runbooks"], ids=lambda page: page.name)
def test_parts_of_commands_can_be_right(page: Path) -> None:
    """What stands in a sentence or a table: `playbooks/stacks.yml --limit NODE`, or `-e check=true` alone."""
    books = set(re.findall(r"playbooks/[a-z_]+\.yml", page.read_text())) | {"site.yml"}
    for code in re.findall(r"`([^`]+)`", re.sub(r"(?ms)^```.*?^```$", "", page.read_text())):
        if code.startswith("playbooks/"):
            assert problems(f"ansible-playbook {code}") == []
        elif code.startswith("-e "):
            assert [] in [problems(f"ansible-playbook {book} {code}") for book in sorted(books)], code


@pytest.mark.parametrize("page", TOLD, ids=lambda page: page.name)
def test_a_page_has_a_story(page: Path) -> None:
    stories = "".join(file.read_text() for file in (ROOT / "tests/integration/runbooks").glob("test_*.py"))
    executed = [command for command in commands(page.read_text()) if not command.not_run]
    assert not executed or f'tell("{page.relative_to(ROOT)}"' in stories


def test_what_is_not_executed_is_little() -> None:
    found = [command.text.split()[0] for page in TOLD for command in commands(page.read_text()) if command.not_run]
    assert sorted(found) == NOT_RUN


def test_the_quick_start_says_what_the_runbooks_say() -> None:
    readme = (ROOT / "README.md").read_text()
    begin = [command.text for command in commands(readme.split("## Your own fleet")[1].split("\n## ")[0])]
    runbook = [command.text for command in commands((ROOT / "docs/runbooks/bootstrap.md").read_text())]
    assert begin
    assert [command for command in begin if command not in runbook] == []


# --- the mechanism itself ------------------------------------------------------------------------------------------------

PAGE = """\
Look with `ansible-playbook site.yml --check`, or `playbooks/stacks.yml`.
```bash
# a comment alone is no command
echo one   # what it does
echo "two # three" \\
  NODE
```
<!-- not run: there is no screen -->
```bash
ssh NODE
```
```yaml
echo: no
```
| `make site` | <!-- not run: takes long -->
"""


def told(line: str) -> tuple[int, str]:
    return (1, "no") if "two" in line else (0, line)


def test_commands_of_a_page() -> None:
    assert [(command.text, command.line, command.not_run) for command in commands(PAGE)] == [
        ("ansible-playbook site.yml --check", 1, ""),
        ("echo one", 4, ""),
        ('echo "two # three" NODE', 6, ""),
        ("ssh NODE", 10, "there is no screen"),
        ("make site", 15, "takes long"),
    ]


def test_a_story_executes_what_stands_there() -> None:
    with Story(PAGE, told, NODE="pi-1") as story:
        assert story.run("site.yml") == "ansible-playbook site.yml --check"
        assert story.run("one") == "echo one"
        assert story.run("two", rc=1) == "no"


def tell(parts: list[str]) -> None:
    with Story(PAGE, told, NODE="pi-1") as story:
        for part in parts:
            story.run(part)


@pytest.mark.parametrize(
    ("done", "says"),
    [
        (["site.yml", "one"], "does not execute"),
        (["site.yml", "one", "two"], "exit code 1, not 0"),
        (["four"], "no command with 'four'"),
        (["one", "one"], "no command with 'one'"),
    ],
)
def test_a_story_that_does_not_fit_the_page_fails(done: list[str], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        tell(done)


def test_what_nobody_fills_in_is_an_error() -> None:
    assert filled('make site ARGS="--limit NODE" "$HOME"', {"NODE": "pi-1"}) == 'make site ARGS="--limit pi-1" "$HOME"'
    with pytest.raises(AssertionError, match="nothing is given for DIGEST"):
        filled("playbook -e plan_digest=DIGEST", {"NODE": "pi-1"})


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("make sight", "make knows no sight"),
        ("make site ARG=--check", "make knows no ARG"),
        ("python -m lab exce pi-cluster-1.local -- true", "invalid choice"),
        ("python -m ansible_collections.pifleet.ops.hub token ad x", "invalid choice"),
        ("scripts/collect-dif.sh -i INVENTORY", "there is no scripts/collect-dif.sh"),
        ("ansible all -m", "expected one argument"),
        ("echo x | ansible-playbook playbooks/nothing.yml", "there is no playbooks/nothing.yml"),
        ('ansible-playbook playbooks/sync.yml -e \'{"moed": "status"}\'', "knows no variable moed"),
    ],
)
def test_what_is_wrong_is_named(command: str, says: str) -> None:
    (found,) = problems(command)
    assert says in found
