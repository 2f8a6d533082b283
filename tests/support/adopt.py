# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a test file run the tests of another one with fixtures of its own folder."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def adopt(module: ModuleType, into: dict[str, Any]) -> None:
    """Put tests and fixtures of *module* into the namespace *into*, but those that need the ledger's file, by their argument `path`."""
    for name, value in vars(module).items():
        code = getattr(value, "__code__", None)
        is_test = name.startswith("test_") and code is not None and "path" not in code.co_varnames[: code.co_argcount]
        if is_test or type(value).__name__ == "FixtureFunctionDefinition":
            into[name] = value
