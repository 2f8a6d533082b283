# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Pi tells of its power, heat, storage and clock, and no exporter of Debian reads: a file for node-exporter, written by a timer.

``pifleet-metrics.pyz [FILE]``. What other hardware does not have is left out, never an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file, clock
from ansible_collections.pifleet.ops.plugins.module_utils._common.exposition import FOLDER, Gauge, write

FILE = f"{FOLDER}/pifleet-node.prom"
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
_UNDERVOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT, _UNDERVOLTAGE_OCCURRED = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 16


@dataclass(frozen=True, slots=True)
class Hardware:
    """*throttled*: the firmware's flags; *temperature*: of the processor in °C; *wear*: of a device, 0 new to 1 used up, as it says itself;
    *written*, *size*: bytes by device; *errors*: that ext4 found, by partition. None or empty where there is no such thing."""

    throttled: int | None = None
    temperature: float | None = None
    wear: dict[str, float] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


def read(root: str = "/", ask: Callable[[], str] | None = None) -> Hardware:
    """Return what the machine below *root* tells. *ask*: the firmware's own tool, where the kernel does not tell its flags."""
    root = root.rstrip("/")
    partitions = dict(_partitions(root))
    return Hardware(
        _throttled(root, ask or _vcgencmd),
        _temperature(root),
        dict(_wear(root)),
        _sums(root, partitions, "lifetime_write_kbytes", 1024),
        {disk: (_number(f"{root}/sys/class/block/{disk}/size") or 0) * 512 for disk in sorted(set(partitions.values()))},
        {name: count for name in partitions if (count := _number(f"{root}/sys/fs/ext4/{name}/errors_count")) is not None},
    )


def gauges(found: Hardware, synchronised: bool | None) -> list[Gauge]:
    """Return the figures of *found*. *synchronised*: the clock, None where the kernel does not say."""
    flags = (
        ("pifleet_undervoltage", "Whether the firmware reports too little voltage now.", _UNDERVOLTAGE),
        ("pifleet_undervoltage_occurred", "Whether it did since the node was booted.", _UNDERVOLTAGE_OCCURRED),
        ("pifleet_throttled", "Whether the processor is held down now.", _CAPPED | _THROTTLED | _SOFT_LIMIT),
    )
    made = [Gauge(name, told, _one(found.throttled and int(bool(found.throttled & bits)))) for name, told, bits in flags]
    made += [
        Gauge("pifleet_temperature_celsius", "Temperature of the processor.", _one(found.temperature)),
        Gauge(
            "pifleet_clock_synchronised",
            "Whether a time service disciplines the clock.",
            _one(synchronised),
        ),
        _by_device("pifleet_storage_wear_ratio", "Wear that the device tells, 1 is used up.", found.wear),
        _by_device("pifleet_storage_written_bytes", "Bytes written to its ext4 file systems since they were made.", found.written),
        _by_device("pifleet_storage_size_bytes", "Its size.", found.size),
        _by_device("pifleet_storage_errors", "Errors that ext4 found since the last check.", found.errors),
    ]
    return [gauge for gauge in made if gauge.samples]


def main(arguments: Sequence[str]) -> int:
    """Write the figures once. Returns the exit code."""
    path = arguments[0] if arguments else FILE
    try:
        write(path, gauges(read(), clock.synchronised()))
    except OSError as error:
        sys.stderr.write(f"{path} cannot be written: {error.strerror or error}.\n")
        return 1
    return 0


def _one(value: float | None) -> dict[tuple[tuple[str, str], ...], float]:
    return {} if value is None else {(): float(value)}


def _by_device(name: str, told: str, values: dict[str, float] | dict[str, int]) -> Gauge:
    return Gauge(name, told, {(("device", device),): value for device, value in values.items()})


def _throttled(root: str, ask: Callable[[], str]) -> int | None:
    """The kernel has it in hexadecimal digits (drivers/firmware/raspberrypi.c), vcgencmd prints ``throttled=0x50005``."""
    for path in (f"{folder}/{name}/get_throttled" for folder in _below(f"{root}/sys/devices/platform", "soc") for name in _names(folder)):
        if (text := _text(path)) is not None:
            return _hexadecimal(text)
    return _hexadecimal(ask().partition("=")[2])


def _vcgencmd() -> str:
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _temperature(root: str) -> float | None:
    for zone in _below(f"{root}/sys/class/thermal", "thermal_zone"):
        if (_text(f"{zone}/type") or "").replace("_", "-").startswith("cpu-thermal"):
            value = _number(f"{zone}/temp")
            return None if value is None else value / 1000
    return None


def _wear(root: str) -> Iterator[tuple[str, float]]:
    """eMMC tells two estimates in tenths, 0 is unknown, 0x0b is more than all (JESD84-B51, DEVICE_LIFE_TIME_EST)."""
    for folder in _below(f"{root}/sys/block", "mmcblk"):
        told = [_hexadecimal(word) or 0 for word in (_text(f"{folder}/device/life_time") or "").split()]
        if any(told):
            yield os.path.basename(folder), max(told) / 10


def _partitions(root: str) -> Iterator[tuple[str, str]]:
    """Yield (partition, its disk) of the mounted ext4 file systems of cards and disks."""
    for name in _names(f"{root}/sys/fs/ext4"):
        real = os.path.realpath(f"{root}/sys/class/block/{name}")
        if os.path.exists(f"{real}/partition"):
            yield name, os.path.basename(os.path.dirname(real))
        elif os.path.exists(f"{real}/size"):
            yield name, name


def _sums(root: str, partitions: dict[str, str], name: str, unit: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for partition, disk in partitions.items():
        value = _number(f"{root}/sys/fs/ext4/{partition}/{name}")
        if value is not None:
            found[disk] = found.get(disk, 0) + value * unit
    return found


def _below(folder: str, prefix: str) -> list[str]:
    return [f"{folder}/{name}" for name in _names(folder) if name.startswith(prefix)]


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _text(path: str) -> str | None:
    try:
        return atomic_file.read_text(path)
    except OSError:
        return None  # a device that is there and does not answer


def _number(path: str) -> int | None:
    try:
        return int((_text(path) or "").strip())
    except ValueError:
        return None


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text.strip(), 16)
    except ValueError:
        return None
