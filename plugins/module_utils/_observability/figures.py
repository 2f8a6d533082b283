# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Pi tells of its power, heat, storage and clock, and no exporter of Debian reads: a file for node-exporter, written by a timer.

``pifleet-metrics.pyz [FILE]``. What other hardware does not have is left out, never an error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ansible_collections.pifleet.ops.plugins.module_utils._common import clock, hardware
from ansible_collections.pifleet.ops.plugins.module_utils._common.exposition import FOLDER, Gauge, write

FILE = f"{FOLDER}/pifleet-node.prom"


def gauges(found: hardware.Hardware, synchronised: bool | None) -> list[Gauge]:
    """Return the figures of *found*. *synchronised*: the clock, None where the kernel does not say."""
    flags = (
        ("pifleet_undervoltage", "Whether the firmware reports too little voltage now.", hardware.UNDERVOLTAGE),
        ("pifleet_undervoltage_occurred", "Whether it did since the node was booted.", hardware.since_boot(hardware.UNDERVOLTAGE)),
        ("pifleet_throttled", "Whether the processor is held down now.", hardware.CAPPED | hardware.THROTTLED | hardware.SOFT_LIMIT),
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
        write(path, gauges(hardware.read(), clock.synchronised()))
    except OSError as error:
        sys.stderr.write(f"{path} cannot be written: {error.strerror or error}.\n")
        return 1
    return 0


def _one(value: float | None) -> dict[tuple[tuple[str, str], ...], float]:
    return {} if value is None else {(): float(value)}


def _by_device(name: str, told: str, values: dict[str, float] | dict[str, int]) -> Gauge:
    return Gauge(name, told, {(("device", device),): value for device, value in values.items()})
