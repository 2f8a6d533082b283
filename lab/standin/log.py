# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines in k3s's form (logrus text), to standard error, which systemd keeps in the journal."""

from __future__ import annotations

import json
import sys
import time


def log(level: str, message: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps(message, ensure_ascii=False)
    sys.stderr.write(f'time="{stamp}" level={level} msg={text}\n')
    sys.stderr.flush()


def info(message: str) -> None:
    log("info", message)


def warning(message: str) -> None:
    log("warning", message)


def error(message: str) -> None:
    log("error", message)


class FatalError(Exception):
    """Ends k3s as logrus' FatalError does: one line of level ``fatal``, exit code 1."""
