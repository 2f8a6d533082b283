# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that timers of a node start: node-side code as one zip file that Python runs. The same sources give the same bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

_MODULE_UTILS = Path(__file__).resolve().parent.parent / "module_utils"
_PACKAGE = PurePosixPath("ansible_collections/pifleet/ops/plugins/module_utils")
_SHEBANG = b"#!/usr/bin/python3\n"
_MAIN = """# SPDX-License-Identifier: GPL-3.0-or-later
import sys

from {package}.{entry} import main

sys.exit(main(sys.argv[1:]))
"""


@cache
def stacks(module_utils: Path = _MODULE_UTILS) -> bytes:
    """Return the program of the unattended runs."""
    return _build(module_utils, ("_common/*.py", "_stack_host/*.py", "_stacks/*.py"), "_stack_host.unattended")


@cache
def metrics(module_utils: Path = _MODULE_UTILS) -> bytes:
    """Return the program that writes the node's figures."""
    wanted = ("__init__", "atomic_file", "clock", "exposition", "hardware")
    sources = (*(f"_common/{name}.py" for name in wanted), "_observability/__init__.py", "_observability/figures.py")
    return _build(module_utils, sources, "_observability.figures")


def _build(module_utils: Path, patterns: Iterable[str], entry: str) -> bytes:
    """Stored, not compressed: compression differs between versions of zlib, and each other byte is a changed file."""
    sources = {"__main__.py": _MAIN.format(package=".".join(_PACKAGE.parts), entry=entry).encode()}
    sources |= {str(PurePosixPath(*_PACKAGE.parts[:depth], "__init__.py")): b"" for depth in range(1, len(_PACKAGE.parts) + 1)}
    for path in (path for pattern in patterns for path in module_utils.glob(pattern)):
        sources[str(_PACKAGE / path.parent.name / path.name)] = path.read_bytes()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name), sources[name])
    return _SHEBANG + written.getvalue()
