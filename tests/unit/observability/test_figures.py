# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Pi tells, from files as its kernel has them; what other hardware does not tell is left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._common import exposition, hardware
from ansible_collections.pifleet.ops.plugins.module_utils._observability import figures
from ansible_collections.pifleet.ops.plugins.plugin_utils import _node_program
from prometheus_client.parser import text_string_to_metric_families


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def card(root: Path, disk: str = "mmcblk0", partition: str = "mmcblk0p2") -> None:
    """A card as sysfs shows it: the class has links into the devices."""
    device = f"sys/devices/platform/mmc/block/{disk}"
    put(root, f"{device}/{partition}/partition", "2\n")
    put(root, f"{device}/{partition}/size", "62000000\n")
    put(root, f"{device}/size", "62500000\n")
    (root / "sys/class/block").mkdir(parents=True)
    for name, target in ((disk, device), (partition, f"{device}/{partition}")):
        (root / "sys/class/block" / name).symlink_to(root / target)
    put(root, f"sys/fs/ext4/{partition}/lifetime_write_kbytes", "1000000\n")
    put(root, f"sys/fs/ext4/{partition}/errors_count", "3\n")
    (root / "sys/fs/ext4/features").mkdir()


def values(root: Path, ask: str = "", synchronised: bool | None = None) -> dict[str, float]:
    text = exposition.text(figures.gauges(hardware.read(str(root), lambda: ask), synchronised))
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def test_nothing_is_told_of_what_is_not_there(tmp_path: Path) -> None:
    assert values(tmp_path) == {}


@pytest.mark.parametrize(
    ("told", "now", "occurred", "throttled"),
    [("0", 0, 0, 0), ("50005", 1, 1, 1), ("50000", 0, 1, 0), ("1", 1, 0, 0), ("2", 0, 0, 1), ("4", 0, 0, 1), ("8", 0, 0, 1)],
)
def test_flags_of_the_firmware(tmp_path: Path, told: str, now: int, occurred: int, throttled: int) -> None:
    wanted = {"pifleet_undervoltage": now, "pifleet_undervoltage_occurred": occurred, "pifleet_throttled": throttled}
    assert values(tmp_path, f"throttled=0x{told}\n") == wanted
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", f"{told}\n")
    assert values(tmp_path, "throttled=0xf000f\n") == wanted, "the kernel's own word comes first"


def test_temperature_is_the_processors(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "rp1-adc\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "90000\n")
    assert values(tmp_path) == {}
    put(tmp_path, "sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "48312\n")
    assert values(tmp_path) == {"pifleet_temperature_celsius": 48.312}


@pytest.mark.parametrize(("told", "wear"), [("0x01 0x02", 0.2), ("0x0b 0x01", 1.1), ("0x00 0x00", None), ("", None), ("nonsense", None)])
def test_wear_is_what_the_device_tells(tmp_path: Path, told: str, wear: float | None) -> None:
    put(tmp_path, "sys/block/mmcblk0/device/life_time", f"{told}\n")
    assert values(tmp_path) == ({} if wear is None else {"pifleet_storage_wear_ratio mmcblk0": wear})


def test_storage(tmp_path: Path) -> None:
    card(tmp_path)
    assert values(tmp_path) == {
        "pifleet_storage_written_bytes mmcblk0": 1000000 * 1024,
        "pifleet_storage_size_bytes mmcblk0": 62500000 * 512,
        "pifleet_storage_errors mmcblk0p2": 3,
    }


def test_the_clock(tmp_path: Path) -> None:
    assert values(tmp_path, synchronised=True) == {"pifleet_clock_synchronised": 1}
    assert values(tmp_path, synchronised=False) == {"pifleet_clock_synchronised": 0}


def test_labels_are_escaped() -> None:
    said = exposition.text([exposition.Gauge("a", "A.", {(("b", 'c"\\\n'),): 1})])
    (family,) = text_string_to_metric_families(said)
    assert family.samples[0].labels == {"b": 'c"\\\n'}


def test_the_program_runs_with_pythons_own_library_alone(tmp_path: Path) -> None:
    program, target = tmp_path / "metrics.pyz", tmp_path / "folder/pifleet-node.prom"
    program.write_bytes(_node_program.metrics())
    done = subprocess.run([sys.executable, "-I", "-S", program, target], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.stat().st_mode & 0o777 == 0o644
    assert all(family.name.startswith("pifleet_") for family in text_string_to_metric_families(target.read_text()))
    done = subprocess.run([sys.executable, program, "/proc/none/x.prom"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "/proc/none/x.prom cannot be written" in done.stderr
