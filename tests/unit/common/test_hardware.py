# SPDX-License-Identifier: GPL-3.0-or-later
"""What only the facts of a node have of its hardware, and what an NVMe disk is asked; the figures' part is in tests/unit/observability."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import hardware


def disk(root: Path, name: str = "nvme0n1", controller: str = "nvme0") -> None:
    """A disk as sysfs shows it: a link leads to its controller."""
    (root / "sys/devices/pci/nvme" / controller).mkdir(parents=True)
    (root / "sys/block" / name).mkdir(parents=True)
    (root / "sys/block" / name / "device").symlink_to(root / "sys/devices/pci/nvme" / controller)


def test_a_machine_that_is_no_pi_tells_nothing(tmp_path: Path) -> None:
    assert hardware.read(str(tmp_path)) == hardware.Hardware()


def test_this_machine_can_be_asked() -> None:
    """Whatever it is: nothing of it is an error."""
    assert isinstance(hardware.read(), hardware.Hardware)


def test_the_revision_is_of_the_device_tree(tmp_path: Path) -> None:
    path = tmp_path / "proc/device-tree/system/linux,revision"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes.fromhex("00d04170"))
    assert hardware.read(str(tmp_path)).revision == "d04170"


def test_a_disk_that_does_not_tell_its_size_has_none(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/ext4/sda1").mkdir(parents=True)
    (tmp_path / "sys/fs/ext4/sda1/lifetime_write_kbytes").write_text("3\n")
    (tmp_path / "sys/devices/sda/sda1").mkdir(parents=True)
    (tmp_path / "sys/devices/sda/sda1/partition").write_text("1\n")
    (tmp_path / "sys/class/block").mkdir(parents=True)
    (tmp_path / "sys/class/block/sda1").symlink_to(tmp_path / "sys/devices/sda/sda1")
    found = hardware.read(str(tmp_path))
    assert (found.written, found.size) == ({"sda": 3072}, {})


def test_an_nvme_disk_tells_its_wear(tmp_path: Path) -> None:
    disk(tmp_path)
    asked = []

    def smart(device: str) -> bytes:
        asked.append(device)
        return bytes([0, 0x30, 0x01, 100, 10, 83]) + bytes(506)

    assert hardware.read(str(tmp_path), smart=smart).wear == {"nvme0n1": 0.83}
    assert asked == ["/dev/nvme0"]


def test_an_nvme_disk_that_does_not_tell_is_left_out(tmp_path: Path) -> None:
    disk(tmp_path)
    disk(tmp_path, "nvme1n1", "nvme-subsys1")

    def refused(device: str) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), device)

    assert hardware.read(str(tmp_path), smart=refused).wear == {}
    assert hardware.read(str(tmp_path), smart=lambda _device: b"").wear == {}


@pytest.mark.parametrize(("status", "wear"), [(0, {"nvme0n1": 0.07}), (0x2002, {})])
def test_the_controller_is_asked_for_its_health_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, wear: dict[str, float]
) -> None:
    """As linux/nvme_ioctl.h has it; the kernel writes the log to where the command says."""
    disk(tmp_path)
    device = tmp_path / "controller"
    device.touch()

    def kernel(fd: int, request: int, command: bytearray, change: bool) -> int:
        assert (os.readlink(f"/proc/self/fd/{fd}"), request, change) == (str(device), 0xC0484E41, True)
        assert len(command) == (request >> 16) & 0x3FFF, "the request's number has the size of the command"
        opcode, nsid = struct.unpack_from("=B3xI", command)
        address, length, cdw10 = struct.unpack_from("=Q4xII", command, 24)
        assert (opcode, nsid, length) == (2, 0xFFFFFFFF, 512)
        assert (cdw10 & 0xFF, (cdw10 >> 16) + 1) == (2, 128)
        ctypes.memmove(address, bytes([0, 0, 0, 0, 0, 7]), 6)
        return status

    monkeypatch.setattr(fcntl, "ioctl", kernel)
    assert hardware.read(str(tmp_path), smart=lambda _device: hardware._smart(str(device))).wear == wear
