# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Pi tells of its board, power, heat and storage. One place for the facts of a node and for its figures.

Starts no process, but the firmware's own tool on a Pi whose kernel does not tell the firmware's flags.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ansible_collections.pifleet.ops.plugins.module_utils._common import atomic_file

# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
UNDERVOLTAGE, CAPPED, THROTTLED, SOFT_LIMIT = 1 << 0, 1 << 1, 1 << 2, 1 << 3


@dataclass(frozen=True, slots=True)
class Hardware:
    """None or empty where there is no such thing.

    *revision*: of the board, in hexadecimal digits; *throttled*: the firmware's flags; *temperature*: of the processor in °C; *wear*: of a
    device, 0 new to 1 used up, as it says itself; *written*, *size*: bytes by device; *errors*: that ext4 found, by partition.
    """

    revision: str | None = None
    throttled: int | None = None
    temperature: float | None = None
    wear: dict[str, float] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


def read(root: str = "/", ask: Callable[[], str] | None = None, smart: Callable[[str], bytes] | None = None) -> Hardware:
    """Return what the machine below *root* tells.

    *ask*: the firmware's own tool, where the kernel does not tell its flags; *smart*: the health log of an NVMe controller, by its device.
    Below another root than the machine's own neither is asked, unless it is given.
    """
    own, root = root == "/", root.rstrip("/")
    partitions = dict(_partitions(root))
    return Hardware(
        _revision(root),
        _throttled(root, ask or (_vcgencmd if own else str)),
        _temperature(root),
        {**dict(_wear(root)), **dict(_nvme_wear(root, smart or (_smart if own else _nothing)))},
        _sums(root, partitions, "lifetime_write_kbytes", 1024),
        {disk: n * 512 for disk in sorted(set(partitions.values())) if (n := _number(f"{root}/sys/class/block/{disk}/size")) is not None},
        {name: count for name in partitions if (count := _number(f"{root}/sys/fs/ext4/{name}/errors_count")) is not None},
    )


def since_boot(flag: int) -> int:
    """Return the flag that says of *flag* whether it was set since the boot."""
    return flag << 16


def _revision(root: str) -> str | None:
    """Four bytes of the device tree, as /proc/cpuinfo of a Pi's own kernel shows them."""
    try:
        with open(f"{root}/proc/device-tree/system/linux,revision", "rb") as stream:
            return f"{int.from_bytes(stream.read(4), 'big'):04x}"
    except OSError:
        return None


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


def _nvme_wear(root: str, smart: Callable[[str], bytes]) -> Iterator[tuple[str, float]]:
    """The health log tells what was used in percent, 255 is all that is more (NVM Express Base Specification, figure SMART / Health)."""
    for folder in _below(f"{root}/sys/block", "nvme"):
        controller = os.path.basename(os.path.realpath(f"{folder}/device"))
        if re.fullmatch("nvme[0-9]+", controller):
            try:
                told = smart(f"/dev/{controller}")
            except OSError:
                continue  # a controller that does not answer, or may not be asked
            if len(told) > 5:
                yield os.path.basename(folder), told[5] / 100


def _smart(device: str) -> bytes:
    """Return the health log of the controller, as ``nvme smart-log`` asks for it; empty where it has none. Raises OSError."""
    import ctypes  # here, because only this needs them
    import fcntl
    import struct

    log = ctypes.create_string_buffer(512)
    # struct nvme_passthru_cmd of linux/nvme_ioctl.h: get log page 2, all of its 128 words, of the controller as a whole
    words = (2, 0, 0, 0xFFFFFFFF, 0, 0, 0, ctypes.addressof(log), 0, len(log), 2 | (len(log) // 4 - 1) << 16, 0, 0, 0, 0, 0, 5000, 0)
    command = bytearray(struct.pack("=BBHIIIQQIIIIIIIIII", *words))
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(fd, 0xC0484E41, command, True)  # NVME_IOCTL_ADMIN_CMD
    finally:
        os.close(fd)
    return b"" if status else log.raw


def _nothing(_device: str) -> bytes:
    return b""


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
