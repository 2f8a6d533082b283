# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a program of ours whose clock is wrong: `python -m tests.support.shifted HOURS MODULE ARGS…`."""

from __future__ import annotations

import runpy
import sys
from datetime import datetime, timedelta, tzinfo

from ansible_collections.pifleet.ops.plugins.plugin_utils._ledger import events


def shift(hours: float) -> None:
    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Shifted:  # type: ignore[override]
            return cls.fromtimestamp((datetime.now(tz) + timedelta(hours=hours)).timestamp(), tz)

    events.datetime = Shifted  # type: ignore[attr-defined]


if __name__ == "__main__":
    _hours, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    shift(float(_hours))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
