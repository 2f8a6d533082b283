# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of the unattended runs: the node-side cores as one zip file that Python runs. The same sources give the same bytes."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path, PurePosixPath

_MODULE_UTILS = Path(__file__).resolve().parent.parent / "module_utils"
_PACKAGE = PurePosixPath("ansible_collections/pifleet/ops/plugins/module_utils")
_CORES = ("_common", "_stack_host", "_stacks")
_SHEBANG = b"#!/usr/bin/python3\n"
_MAIN = f"""# SPDX-License-Identifier: GPL-3.0-or-later
import sys

from {".".join(_PACKAGE.parts)}._stack_host.unattended import main

sys.exit(main(sys.argv[1:]))
"""


@cache
def build(module_utils: Path = _MODULE_UTILS) -> bytes:
    """Return the program. Stored, not compressed: compression differs between versions of zlib, and each other byte is a changed file."""
    sources = {"__main__.py": _MAIN.encode()}
    sources |= {str(PurePosixPath(*_PACKAGE.parts[:depth], "__init__.py")): b"" for depth in range(1, len(_PACKAGE.parts) + 1)}
    for core in _CORES:
        for path in (module_utils / core).glob("*.py"):
            sources[str(_PACKAGE / core / path.name)] = path.read_bytes()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            archive.writestr(zipfile.ZipInfo(name), sources[name])
    return _SHEBANG + written.getvalue()
