# SPDX-License-Identifier: GPL-3.0-or-later
"""The editors of /etc/hosts and /etc/fstab, and the reader of dpkg's database."""

from __future__ import annotations

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import fstab
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.hosts_file import BEGIN, END, HostEntry, with_block
from ansible_collections.pifleet.ops.plugins.module_utils._common.dpkg import package_state
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from hypothesis import given
from hypothesis import strategies as st

HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n"
ONE = HostEntry("192.168.0.11", ("pi-cluster-1", "pi-cluster-1.local"))
TWO = HostEntry("192.168.0.12", ("pi-cluster-2", "pi-cluster-2.local"))
BLOCK = f"{BEGIN}\n192.168.0.11 pi-cluster-1 pi-cluster-1.local\n192.168.0.12 pi-cluster-2 pi-cluster-2.local\n{END}\n"


def test_the_block_comes_after_the_lines_of_the_user() -> None:
    assert with_block(HOSTS, [ONE, TWO], "/etc/hosts") == HOSTS + BLOCK
    assert with_block(HOSTS.rstrip("\n"), [ONE, TWO], "/etc/hosts") == HOSTS + BLOCK
    assert with_block("", [ONE, TWO], "/etc/hosts") == BLOCK


def test_the_block_is_replaced_where_it_is() -> None:
    old = HOSTS + BLOCK + "10.0.0.9 printer\n"
    new = with_block(old, [HostEntry("192.168.0.99", ("pi-cluster-1",))], "/etc/hosts")
    assert new == HOSTS + f"{BEGIN}\n192.168.0.99 pi-cluster-1\n{END}\n10.0.0.9 printer\n"


def test_a_node_whose_address_is_not_known_keeps_its_line() -> None:
    unknown = HostEntry("", TWO.names)
    assert with_block(HOSTS + BLOCK, [ONE, unknown], "/etc/hosts") == HOSTS + BLOCK
    assert "pi-cluster-2" not in with_block(HOSTS, [ONE, unknown], "/etc/hosts")


def test_no_entries_no_block() -> None:
    assert with_block(HOSTS + BLOCK, [], "/etc/hosts") == HOSTS
    assert with_block(HOSTS, [], "/etc/hosts") == HOSTS


def test_a_second_block_goes() -> None:
    assert with_block(BLOCK + HOSTS + BLOCK, [ONE, TWO], "/etc/hosts") == BLOCK + HOSTS


def test_a_block_without_an_end_is_refused() -> None:
    with pytest.raises(PifleetError, match="/etc/hosts has the line"):
        with_block(HOSTS + BEGIN + "\n192.168.0.11 pi-cluster-1\n", [ONE], "/etc/hosts")


_USER = st.lists(st.text(alphabet="abc #.0127:\t", max_size=12).filter(lambda line: line.strip() not in (BEGIN, END)), max_size=6)
_ENTRY = st.builds(
    HostEntry, st.sampled_from(["", "10.0.0.1", "fd00::1"]), st.lists(st.sampled_from("xyz"), min_size=1, max_size=2).map(tuple)
)
_ENTRIES = st.lists(_ENTRY, max_size=4, unique_by=lambda entry: entry.names[0])


@given(_USER, _USER, _ENTRIES, _ENTRIES)
def test_the_lines_of_the_user_stay_and_a_second_time_changes_nothing(
    before: list[str], after: list[str], old: list[HostEntry], new: list[HostEntry]
) -> None:
    user = [*before, *after]
    text = with_block("".join(f"{line}\n" for line in before), old, "/etc/hosts") + "".join(f"{line}\n" for line in after)
    edited = with_block(text, new, "/etc/hosts")
    assert with_block(edited, new, "/etc/hosts") == edited
    lines = edited.splitlines()
    if BEGIN in lines:
        lines = lines[: lines.index(BEGIN)] + lines[lines.index(END) + 1 :]
    assert lines == user


FSTAB = """proc            /proc           proc    defaults          0       0
PARTUUID=4d8097e2-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=4d8097e2-02  /               ext4    defaults,relatime  0       1
# /old none swap sw 0 0
/swapfile none  swap sw 0 0
UUID=1 none swap sw
//nas/x /mnt/x cifs username=u,password=p 0 0
"""


def test_swap_entries_are_commented_out_and_nothing_else() -> None:
    edited = fstab.without_swap(FSTAB)
    kept, commented = [], []
    for old, new in zip(FSTAB.splitlines(), edited.splitlines(), strict=True):
        (kept if old == new else commented).append((old, new))
    assert [old for old, _ in commented] == ["/swapfile none  swap sw 0 0", "UUID=1 none swap sw"]
    assert all(new == "# swapped off by pifleet.ops: " + old for old, new in commented)
    assert fstab.has_swap(FSTAB)
    assert not fstab.has_swap(edited)
    assert fstab.without_swap(edited) == edited


def test_noatime_replaces_its_rivals_at_the_root_only() -> None:
    edited = fstab.with_noatime(FSTAB)
    assert edited == FSTAB.replace("defaults,relatime", "defaults,noatime")
    assert fstab.with_noatime(edited) == edited


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("LABEL=writable / ext4 discard,errors=remount-ro 0 1\n", "LABEL=writable / ext4 discard,errors=remount-ro,noatime 0 1\n"),
        ("/dev/sda1 / ext4\n", "/dev/sda1 / ext4 defaults,noatime\n"),
        ("/dev/sda1 / ext4", "/dev/sda1 / ext4 defaults,noatime"),
        ("/dev/sda1 /srv ext4 defaults 0 0\n", None),
        ("# UNCONFIGURED FSTAB\n", None),
        ("", None),
    ],
)
def test_noatime(line: str, expected: str | None) -> None:
    assert fstab.with_noatime(line) == expected


@given(st.text(alphabet="a /#\tswap,noatime\n0", max_size=80))
def test_edits_of_any_fstab_are_idempotent_and_keep_its_lines(text: str) -> None:
    without = fstab.without_swap(text)
    assert not fstab.has_swap(without)
    assert fstab.without_swap(without) == without
    edited = fstab.with_noatime(text)
    assert edited is None or fstab.with_noatime(edited) == edited
    assert edited is None or len(edited.splitlines()) == len(text.splitlines())


STATUS = """Package: kmod
Status: install ok installed
Architecture: arm64
Version: 34

Package: kmod-dev
Status: deinstall ok config-files
Architecture: arm64

Package: curl
Status: hold ok installed
Architecture: armhf
Description: mentions
 Package: ca-certificates
"""


def test_packages_that_are_missing_in_the_order_wanted() -> None:
    state = package_state(
        STATUS, [], ["nfs-common", "kmod", "ca-certificates", "curl", "kmod-dev", "nfs-common", "curl:armhf", "curl:arm64"]
    )
    assert state.missing == ("nfs-common", "ca-certificates", "kmod-dev", "curl:arm64")
    assert state.interrupted is False


@pytest.mark.parametrize(
    "words", ["install ok half-configured", "install ok unpacked", "install reinstreq half-installed", "install ok triggers-awaited"]
)
def test_a_killed_dpkg_is_seen(words: str) -> None:
    state = package_state(STATUS + f"\nPackage: x\nStatus: {words}\n", [], ["x"])
    assert state == type(state)(("x",), True)


def test_a_killed_dpkg_is_seen_by_its_journal() -> None:
    assert package_state(STATUS, ["0003"], []).interrupted is True
    assert package_state(STATUS, ["tmp.i"], []).interrupted is False


def test_an_empty_database_has_nothing() -> None:
    assert package_state("", [], ["kmod"]).missing == ("kmod",)
