# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables against the roles' meta/argument_specs.yml: types, choices, missing and unknown ones."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.scrub import MASK
from ansible_collections.pifleet.ops.plugins.plugin_utils._fleet_validate.fleet import Fleet, Host, Problem

ROLES = Path(__file__).resolve().parents[3] / "roles"
#: roles that run on one group only; the others run on every node
_GROUP_OF = {"k3s_server": "control_plane", "k3s_agent": "workers"}
#: variables with a prefix of ours are ours: an unknown one is a mistake
PREFIXES = ("k3s_", "base_os_", "observability_", "post_bootstrap_", "rebuild_", "stacks_")
#: C(code), V(value) and their like: https://docs.ansible.com/ansible/latest/dev_guide/ansible_markup.html
_MARKUP = re.compile(r"\b[A-Z]\(([^()]*)\)")
#: what playbooks and roles set themselves during a run
RUNTIME = frozenset({"k3s_artifacts_release", "k3s_rebuild", "k3s_topology"})


@dataclass(frozen=True)
class Specs:
    """*options*: the spec of each variable, by role."""

    options: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def known(self) -> frozenset[str]:
        return frozenset(name for options in self.options.values() for name in options)

    @property
    def secrets(self) -> frozenset[str]:
        return frozenset(name for options in self.options.values() for name, spec in options.items() if spec.get("no_log"))

    def of(self, host: Host, fleet: Fleet) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield (variable, spec) of the roles that run on *host*; a variable of several roles once for each."""
        groups = {"control_plane": fleet.control_plane, "workers": fleet.workers}
        for role, options in self.options.items():
            if role not in _GROUP_OF or host.name in groups[_GROUP_OF[role]]:
                yield from options.items()


def load(roles: Path = ROLES) -> Specs:
    """Return the specs of the collection's roles. Raises PifleetError for one that cannot be read: the collection is damaged then."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    options: dict[str, Any] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        try:
            document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - a safe loader, the fast one
            options[path.parent.parent.name] = {
                # what another entry point needs is not needed by every run
                name: spec if entry == "main" else {**spec, "required": False}
                for entry, described in document["argument_specs"].items()
                for name, spec in (described.get("options") or {}).items()
            }
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise PifleetError(f"{path} is no argument spec: {error}.", "Install the collection again.") from error
    if not options:
        raise PifleetError(f"There is no role in {roles}.", "Install the collection again.")
    return Specs(options)


def check(specs: Specs, fleet: Fleet) -> Iterator[Problem]:
    """Yield every variable that its role's spec refuses."""
    known, secrets = specs.known, specs.secrets
    verdicts: dict[tuple[str, int, str], tuple[str, ...]] = {}
    for host in fleet.hosts:
        yield from _unknown(host, known)
        for variable, text in host.unresolved.items():
            yield Problem((host.name,), host.place(variable), f"cannot be resolved: {text}", "Correct the template, or set what it needs.")
        for variable, spec in specs.of(host, fleet):
            if variable in host.unresolved or variable in host.later:
                continue
            value = host.vars.get(variable)
            if spec.get("required") and value in (None, ""):
                yield Problem((host.name,), host.place(variable), "is not set, and has no default", _described(spec))
                continue
            if value is None:
                continue
            key = (variable, id(spec), json.dumps(value, sort_keys=True, default=str))
            if key not in verdicts:
                verdicts[key] = tuple(_refusals(variable, spec, value))
            for text in verdicts[key]:
                shown = f"is refused by its role ({MASK})" if variable in secrets else text
                yield Problem((host.name,), host.place(variable), shown, _described(spec))


def _unknown(host: Host, known: frozenset[str]) -> Iterator[Problem]:
    for variable in [*host.vars, *host.unresolved, *host.later]:
        if variable.startswith(PREFIXES) and variable not in known | RUNTIME:
            near = difflib.get_close_matches(variable, sorted(known), n=1, cutoff=0.75)
            hint = f"Did you mean {near[0]}?" if near else "Remove it, or rename it: names of that prefix belong to the collection."
            yield Problem((host.name,), host.place(variable), "is no variable of this collection", hint)


def _refusals(variable: str, spec: Mapping[str, Any], value: Any) -> Iterable[str]:
    """Return what Ansible's own validator says about one value. Defaults are the roles' business."""
    lone = {key: part for key, part in spec.items() if key not in ("default", "required")}
    try:
        refused = ArgumentSpecValidator({variable: lone}).validate({variable: value}).error_messages
    except (ArithmeticError, TypeError, ValueError) as error:  # ansible-core's own conversions let some through, such as of huge numbers
        refused = [str(error)]
    for text in refused:
        yield f"is refused: {text}".rstrip(".")


def _described(spec: Mapping[str, Any]) -> str:
    described = spec.get("description") or ""
    text = _MARKUP.sub(r"\1", " ".join(described) if isinstance(described, list) else str(described))
    return f"It is: {text.rstrip('.')} (type {spec.get('type', 'str')})."
