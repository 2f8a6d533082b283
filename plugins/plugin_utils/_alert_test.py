# SPDX-License-Identifier: GPL-3.0-or-later
"""The test of alerts on the controller: what its routes ask to wait, and how it is told. Pure but for the template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError

if TYPE_CHECKING:
    from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger.alert_tests import Due

TEMPLATE = Path(__file__).resolve().parents[2] / "docs" / "governance" / "alert-test-template.md"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
#: Alertmanager's own: https://prometheus.io/docs/alerting/latest/configuration/#route
_DEFAULTS = {"group_wait": "30s", "group_interval": "5m"}


def ways_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the receivers of a configuration of Alertmanager by name: by what each is told, and how long its routes let it wait.

    Raises PifleetError for times that are none.
    """
    found: dict[str, dict[str, Any]] = {}
    for receiver in config.get("receivers") or ():
        kinds = {key.removesuffix("_configs"): value for key, value in receiver.items() if key.endswith("_configs") and value}
        # mail and chat are not told of the end by default: https://prometheus.io/docs/alerting/latest/configuration/#receiver-integration-settings
        resolved = any(one.get("send_resolved", kind not in ("email", "slack", "wechat")) for kind, every in kinds.items() for one in every)
        found[receiver["name"]] = {"integrations": sorted(kinds), "resolved": resolved, "wait": 0.0, "interval": 0.0}
    for name, wait, interval in _routes(config.get("route") or {}, _DEFAULTS):
        if name in found:
            found[name]["wait"] = max(found[name]["wait"], seconds(wait))
            found[name]["interval"] = max(found[name]["interval"], seconds(interval))
    return found


def seconds(text: str) -> float:
    """Return a duration of Prometheus in seconds. Raises PifleetError."""
    if not re.fullmatch(r"(\d+(ms|[smhdwy]))+|0", str(text)):
        raise PifleetError(f"alertmanager-config.yaml has {text!r}, which is no time.", "Write such as 30s or 5m.")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", str(text)))


def told(found: Mapping[str, Any]) -> list[str]:
    """Return how a test went, for people."""
    if found["error"]:
        return [f"The test {found['test_id']} of {found['severity']} alerts failed: {found['error']}"]
    delivered = f"delivered to {', '.join(found['receivers'])} after {found['seconds']:g} s"
    return [
        f"Fired {found['fired_at']}, {delivered}, resolved {found['resolved_at']}.",
        f"Runbook: {found['runbook']}",
    ]


def line(due: Due) -> str:
    """Return when a severity was tested last."""
    if due.last is None:
        return f"Alerts of severity {due.severity} were never tested: ansible-playbook playbooks/alert_test.yml"
    late = ", which is too long ago: ansible-playbook playbooks/alert_test.yml" if due.overdue else ""
    return f"Alerts of severity {due.severity} were tested last at {due.last}{late}"


def to_markdown(found: Mapping[str, Any], host: str) -> str:
    """Return the filled-in template. Raises PifleetError where it is missing or broken."""
    try:
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(test=found, host=host)
    except (OSError, jinja2.TemplateError) as error:
        raise PifleetError(
            f"The template of the alert test cannot be used: {error}.", f"Restore {TEMPLATE.name} of the collection."
        ) from error


def _routes(route: Mapping[str, Any], above: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    own = {**above, **{key: value for key, value in route.items() if key != "routes"}}
    yield str(own.get("receiver", "")), own["group_wait"], own["group_interval"]
    for child in route.get("routes") or ():
        yield from _routes(child, own)
