# SPDX-License-Identifier: GPL-3.0-or-later
"""All problems of an inventory at once, each told once, in an order that does not depend on the machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate.fleet import Fleet, Problem, Rule

_SHOWN_HOSTS = 6


def collect(fleet: Fleet, rules: Iterable[Rule]) -> tuple[Problem, ...]:
    """Return what the rules find, in their order; the same of several hosts becomes one problem of all of them.

    Two roles may describe a variable in other words: the first hint is taken.
    """
    hosts: dict[tuple[str, str], dict[str, None]] = {}
    hints: dict[tuple[str, str], str] = {}
    for rule in rules:
        for problem in rule(fleet):
            key = (problem.where, problem.what)
            hosts.setdefault(key, {}).update(dict.fromkeys(problem.hosts))
            hints.setdefault(key, problem.hint)
    return tuple(Problem(tuple(concerned), *key, hints[key]) for key, concerned in hosts.items())


def message(problems: Sequence[Problem], total_hosts: int) -> str:
    """Return the text for a person: what is wrong, where, on which host, what to do."""
    lines = [f"The inventory cannot work, for {len(problems)} reason{'s' if len(problems) > 1 else ''}. Nothing was touched."]
    for number, problem in enumerate(problems, start=1):
        lines.append(f"{number}. {_who(problem.hosts, total_hosts)}{problem.where}: {problem.what}. {problem.hint}")
    return "\n".join(lines)


def _who(hosts: tuple[str, ...], total_hosts: int) -> str:
    if not hosts:
        return ""
    if len(hosts) == total_hosts > 1:
        return f"[all {total_hosts} hosts] "
    shown = ", ".join(hosts[:_SHOWN_HOSTS])
    return f"[{shown}, and {len(hosts) - _SHOWN_HOSTS} more] " if len(hosts) > _SHOWN_HOSTS else f"[{shown}] "
