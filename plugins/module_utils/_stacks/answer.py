# SPDX-License-Identifier: GPL-3.0-or-later
"""How the modules for stacks end: the report as their result, with its warnings and, where asked for, the diff."""

from __future__ import annotations

from typing import Any, Protocol

from ansible_collections.pifleet.ops.plugins.module_utils._stacks.model import Report


class Module(Protocol):
    """What is used of AnsibleModule."""

    _diff: bool

    def warn(self, warning: str) -> None: ...

    def fail_json(self, msg: str, **result: Any) -> None: ...

    def exit_json(self, **result: Any) -> None: ...


def leave(module: Module, report: Report, *, may_fail: bool = True, **more: Any) -> None:
    """End *module* with *report* and *more*. It fails where a stack did, unless it only tells of them (*may_fail* false)."""
    for warning in report.warnings:
        module.warn(warning)
    result = {**report.as_result(), **more}
    if module._diff:
        result["diff"] = {"prepared": report.diff()}
    if report.failed and may_fail:
        module.fail_json(msg=report.failure, **result)
    module.exit_json(**result)
