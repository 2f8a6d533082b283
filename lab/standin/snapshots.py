# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of etcd: on demand, by schedule, and as files to restore from."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator

from . import log
from .config import Config
from .datastore import Etcd

RETENTION = 5
SCHEDULE = "0 */12 * * *"


def folder(config: Config) -> str:
    return config.text("etcd-snapshot-dir", f"{config.server_dir}/db/snapshots")


def save(config: Config, etcd: Etcd, base: str) -> str:
    """Save ``<base>-<node>-<unix time>``; returns the path."""
    os.makedirs(folder(config), mode=0o700, exist_ok=True)
    name = f"{base}-{config.node_name}-{int(time.time())}"
    path = f"{folder(config)}/{name}"
    log.info(f"Saving etcd snapshot to {path}")
    etcd.admin("snapshot", path, timeout=300)
    os.chmod(path, 0o600)
    if config.on("etcd-snapshot-compress"):
        with zipfile.ZipFile(f"{path}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, name)
        os.unlink(path)
        path = f"{path}.zip"
    log.info(f"Snapshot {os.path.basename(path)} saved.")
    return path


def prune(config: Config, base: str, keep: int) -> None:
    """Delete all but the *keep* newest of this node."""
    found = sorted(glob.glob(f"{folder(config)}/{base}-{config.node_name}-*"), key=os.path.getmtime)
    for path in found[: max(len(found) - keep, 0)]:
        os.unlink(path)
        log.info(f"Removed local snapshot {os.path.basename(path)}")


@contextlib.contextmanager
def opened(path: str) -> Iterator[str]:
    """The plain snapshot in *path*, which may be compressed."""
    if not path.endswith(".zip"):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(path) as archive:
        yield archive.extract(archive.namelist()[0], scratch)


class Schedule:
    """Saves by ``etcd-snapshot-schedule-cron``; asked a few times a minute, acts once in a minute that matches."""

    def __init__(self, config: Config, etcd: Etcd) -> None:
        self.config, self.etcd = config, etcd
        self.cron = config.text("etcd-snapshot-schedule-cron", SCHEDULE)
        self.last = ""

    def update(self) -> None:
        now = time.localtime()
        minute = time.strftime("%Y%m%d%H%M", now)
        if minute == self.last or not due(self.cron, now):
            return
        self.last = minute
        base = self.config.text("etcd-snapshot-name", "etcd-snapshot")
        save(self.config, self.etcd, base)
        prune(self.config, base, int(self.config.text("etcd-snapshot-retention", str(RETENTION))))


def due(cron: str, now: time.struct_time) -> bool:
    """Whether the minute of *now* matches the five fields of *cron*."""
    values = (now.tm_min, now.tm_hour, now.tm_mday, now.tm_mon, (now.tm_wday + 1) % 7)
    return all(_matches(field, value) for field, value in zip(cron.split(), values, strict=True))


def _matches(field: str, value: int) -> bool:
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        low = 0 if span == "*" else int(first)
        high = 59 if span == "*" or (step and not last) else int(last or first)
        if low <= value <= high and (value - low) % int(step or 1) == 0:
            return True
    return False
