# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for nodes of each operating system: what is changed, what is left out, what is refused, when a restart is needed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from ansible_collections.pifleet.ops.plugins.module_utils._base_os import snapshot as at
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.hosts_file import HostEntry
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.plan import Plan, make_plan
from ansible_collections.pifleet.ops.plugins.module_utils._base_os.snapshot import Desired, take
from ansible_collections.pifleet.ops.plugins.module_utils._common.errors import PifleetError
from ansible_collections.pifleet.ops.plugins.module_utils._common.plan import digest

from .fake_host import FakeHost

ROUTE_HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ROUTE = ROUTE_HEAD + "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
CMDLINE = "console=tty1 root=PARTUUID=4d8097e2-02 rootfstype=ext4 rootwait\n"
ASKING = "console=tty1 root=PARTUUID=4d8097e2-02 rootfstype=ext4 rootwait cgroup_memory=1 cgroup_enable=memory\n"
FIRMWARE = "coherent_pool=1M cgroup_disable=memory "
TIMESYNCD = "/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service"
FSTAB = "PARTUUID=4d8097e2-02  /  ext4  defaults,noatime  0  1\n"
NODE_TIME = 1_760_000_000.0


def os_release(id_: str, version: str) -> str:
    return f'PRETTY_NAME="{id_.title()} {version}"\nID={id_}\nVERSION_ID="{version}"\n'


def node(removed: tuple[str, ...] = (), **changes: str) -> FakeHost:
    """A Raspberry Pi OS bookworm as delivered: the memory controller is off, because the firmware says so."""
    files = {
        "/etc/os-release": os_release("debian", "12"),
        "/etc/rpi-issue": "",
        "/run/systemd/system/.keep": "",
        "/proc/net/route": ROUTE,
        "/proc/sys/kernel/hostname": "raspberrypi\n",
        "/proc/sys/kernel/random/boot_id": "boot-1\n",
        "/proc/cmdline": FIRMWARE + CMDLINE,
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
        "/sys/fs/cgroup/system.slice/systemd-timesyncd.service/cgroup.procs": "",
        "/boot/firmware/cmdline.txt": CMDLINE,
        "/etc/hostname": "raspberrypi\n",
        "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 raspberrypi\n",
        "/etc/fstab": FSTAB,
        "/proc/self/mounts": "/dev/root / ext4 rw,noatime 0 0\n",
        "/lib/systemd/system/systemd-timesyncd.service": "",
        "/lib/systemd/system/systemd-journald.service": "",
        TIMESYNCD: "",
        "/var/lib/dpkg/status": "Package: kmod\nStatus: install ok installed\n",
        "/proc/sys/net/ipv4/ip_forward": "0\n",
        "/proc/sys/fs/inotify/max_user_instances": "128\n",
    }
    host = FakeHost(files={**files, **changes}, time=NODE_TIME)
    for path in removed:
        del host.files[path]
    return host


def effective(host: FakeHost) -> FakeHost:
    """The same node after the restart: the memory controller is there."""
    host.files["/sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io memory pids\n"
    host.files["/proc/cmdline"] = FIRMWARE + ASKING
    host.files["/boot/firmware/cmdline.txt"] = ASKING
    return host


def container(**changes: str) -> FakeHost:
    host = effective(node(**{"/run/systemd/container": "docker\n", "/etc/os-release": os_release("debian", "13"), **changes}))
    del host.files["/boot/firmware/cmdline.txt"]
    return host


def plan(host: FakeHost, **desired: Any) -> Plan:
    wanted = Desired(**desired)
    return make_plan(take(host, wanted), wanted)


def made(found: Plan) -> list[tuple[str, str, str]]:
    return [(c.kind, c.target, c.reason) for c in found.changes]


def content(found: Plan, path: str) -> str | None:
    return next(step.content for step in found.all_steps if step.change.target == path)


def refusal(host: FakeHost, **desired: Any) -> PifleetError:
    with pytest.raises(PifleetError) as refused:
        plan(host, **desired)
    assert refused.value.hint, "a refusal says what to do"
    return refused.value


# --------------------------------------------------------------------------------------------------- a node as delivered
def test_a_fresh_pi_in_the_order_of_the_steps() -> None:
    found = plan(
        node(),
        hostname="pi-cluster-1",
        hosts=(HostEntry("192.168.0.11", ("pi-cluster-1", "pi-cluster-1.local")),),
        packages=("kmod", "ca-certificates"),
        ntp_servers=("10.0.0.1", "10.0.0.2"),
        sysctls={"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"},
        kernel_modules=("br_netfilter",),
        journal_max_use="200M",
        sd_card_wear=True,
    )
    assert made(found) == [
        ("file", at.TIMESYNCD, "missing"),
        ("unit", "systemd-timesyncd.service", "config_changed"),
        ("package", "ca-certificates", "missing"),
        ("file", "/etc/hostname", "differs"),
        ("hostname", "pi-cluster-1", "differs"),
        ("file", "/etc/hosts", "differs"),
        ("file", at.MODULES, "missing"),
        ("module", "br_netfilter", "not_loaded"),
        ("file", at.SYSCTLS, "missing"),
        ("sysctl", "net.bridge.bridge-nf-call-iptables", "differs"),
        ("sysctl", "net.ipv4.ip_forward", "differs"),
        ("file", at.JOURNALD, "missing"),
        ("unit", "systemd-journald.service", "config_changed"),
        ("file", "/boot/firmware/cmdline.txt", "differs"),
    ]
    assert found.reboot_reasons == ("memory_cgroup",)
    assert found.skipped == ()
    assert content(found, "/boot/firmware/cmdline.txt") == ASKING
    assert content(found, at.SYSCTLS) == (
        "# Managed by pifleet.ops (role base_os): a change made here is overwritten.\n"
        "net.bridge.bridge-nf-call-iptables = 1\nnet.ipv4.ip_forward = 1\n"
    )
    assert str(content(found, at.TIMESYNCD)).endswith("[Time]\nNTP=10.0.0.1 10.0.0.2\n")
    assert str(content(found, at.JOURNALD)).endswith("[Journal]\nSystemMaxUse=200M\nStorage=volatile\nRuntimeMaxUse=64M\n")


def test_nothing_asked_nothing_changed() -> None:
    found = plan(effective(node()))
    assert made(found) == []
    assert found.reboot_reasons == ()
    assert found.wait_for_clock is False


def test_what_is_not_asked_for_stays_and_what_is_asked_to_be_empty_goes() -> None:
    ours = dict.fromkeys((at.TIMESYNCD, at.SYSCTLS, at.MODULES, at.JOURNALD), "ours\n")
    host = effective(node(**ours))
    assert made(plan(host)) == []
    gone = plan(host, ntp_servers=(), sysctls={}, kernel_modules=(), journal_max_use="", sd_card_wear=False)
    assert {(target, reason) for kind, target, reason in made(gone) if kind == "file"} == {(path, "unwanted") for path in ours}


def test_the_same_input_gives_the_same_digest_in_any_order() -> None:
    one = plan(node(), sysctls={"net.ipv4.ip_forward": "1", "fs.inotify.max_user_instances": "1024"})
    two = plan(node(), sysctls={"fs.inotify.max_user_instances": "1024", "net.ipv4.ip_forward": "1"})
    assert digest(one.changes) == digest(two.changes)


@pytest.mark.parametrize(
    ("release", "files", "path"),
    [
        (
            ("debian", "12"),
            {"/boot/firmware/cmdline.txt": CMDLINE, "/boot/cmdline.txt": "DO NOT EDIT THIS FILE\n"},
            "/boot/firmware/cmdline.txt",
        ),
        (("debian", "13"), {"/boot/firmware/cmdline.txt": CMDLINE}, "/boot/firmware/cmdline.txt"),
        (("raspbian", "12"), {"/boot/firmware/cmdline.txt": CMDLINE}, "/boot/firmware/cmdline.txt"),
        (("ubuntu", "22.04"), {"/boot/firmware/cmdline.txt": CMDLINE}, "/boot/firmware/cmdline.txt"),
        (
            ("ubuntu", "24.04"),
            {"/boot/firmware/cmdline.txt": "", "/boot/firmware/current/cmdline.txt": CMDLINE},
            "/boot/firmware/current/cmdline.txt",
        ),
        (("debian", "12"), {"/boot/cmdline.txt": CMDLINE}, "/boot/cmdline.txt"),
    ],
)
def test_the_cmdline_file_of_each_layout(release: tuple[str, str], files: dict[str, str], path: str) -> None:
    host = node(removed=("/boot/firmware/cmdline.txt",))
    host.files.update(files)
    host.files["/etc/os-release"] = os_release(*release)
    found = plan(host)
    assert made(found) == [("file", path, "differs")]
    assert content(found, path) == ASKING
    assert found.reboot_reasons == ("memory_cgroup",)


# --------------------------------------------------------------------------------------- memory controller and restarts
def test_a_controller_that_works_is_left_alone_whatever_the_file_says() -> None:
    host = node(**{"/sys/fs/cgroup/cgroup.controllers": "memory\n", "/boot/firmware/cmdline.txt": "a\nb\n"})
    assert made(plan(host)) == []
    assert plan(host).reboot_reasons == ()


def test_a_run_killed_between_edit_and_restart_is_continued() -> None:
    host = node(**{"/boot/firmware/cmdline.txt": ASKING, at.STATE: json.dumps({"cmdline_boot": "boot-1"})})
    found = plan(host)
    assert made(found) == []
    assert found.reboot_reasons == ("memory_cgroup",)


def test_a_file_edited_by_hand_needs_the_restart_too() -> None:
    assert plan(node(**{"/boot/firmware/cmdline.txt": ASKING})).reboot_reasons == ("memory_cgroup",)


def test_a_restart_that_did_not_help_is_not_repeated_for_ever() -> None:
    wrong_file = node(**{"/boot/firmware/cmdline.txt": ASKING, at.STATE: json.dumps({"cmdline_boot": "boot-0"})})
    assert "/proc/cmdline does not have it" in refusal(wrong_file).what
    wrong_kernel = node(**{"/boot/firmware/cmdline.txt": ASKING, "/proc/cmdline": FIRMWARE + ASKING})
    assert "has no memory controller all the same" in refusal(wrong_kernel).what


def test_no_cmdline_file_at_all() -> None:
    assert "boot loader" in refusal(node(removed=("/boot/firmware/cmdline.txt",))).hint


def test_the_boot_partition_is_not_mounted() -> None:
    host = node(removed=("/boot/firmware/cmdline.txt",), **{"/boot/cmdline.txt": "DO NOT EDIT THIS FILE\n\nIt has moved\n"})
    assert "Mount the boot partition" in refusal(host).hint


# ---------------------------------------------------------------------------------------------------------- refused nodes
@pytest.mark.parametrize(
    ("release", "named"),
    [
        (os_release("debian", "11"), "Debian 11"),
        (os_release("fedora", "42"), "Fedora 42"),
        (os_release("ubuntu", "20.04"), "Ubuntu 20.04"),
        ("ID=debian\n", "debian"),
        ("", "an unknown operating system"),
    ],
)
def test_an_unsupported_system_is_named_with_what_is_supported(release: str, named: str) -> None:
    refused = refusal(node(**{"/etc/os-release": release}))
    assert named in refused.what
    assert "Raspberry Pi OS bookworm and trixie" in refused.hint


@pytest.mark.parametrize("machine", ["armv6l", "riscv64", "i686"])
def test_an_unsupported_machine_is_named(machine: str) -> None:
    host = node()
    host.machine_name = machine
    assert machine in refusal(host).what


def test_other_refusals() -> None:
    assert "default route" in refusal(node(**{"/proc/net/route": ROUTE_HEAD})).what
    assert "default route" in refusal(container(**{"/proc/net/route": ROUTE_HEAD})).what
    assert "systemd" in refusal(node(removed=("/run/systemd/system/.keep",))).what
    assert "'Pi 1'" in refusal(node(), hostname="Pi 1").what
    assert "192.168.0.300.example" in refusal(node(), hosts=(HostEntry("192.168.0.300.example", ("a",)),)).what
    assert "'../../etc'" in refusal(node(), sysctls={"../../etc": "1"}).what
    assert "net.ipv4.no_such" in refusal(node(), sysctls={"net.ipv4.no_such": "1"}).what


@pytest.mark.parametrize(("skew", "word"), [(86400, "86400 s ahead"), (-86400, "86400 s behind")])
def test_a_clock_wrong_by_a_day_is_refused(skew: int, word: str) -> None:
    assert word in refusal(node(), clock_reference=NODE_TIME - skew).what
    assert word in refusal(container(), clock_reference=NODE_TIME - skew).what


def test_a_clock_that_may_still_be_corrected_is_waited_for() -> None:
    host = effective(node())
    host.clock_synchronised = False
    found = plan(host, clock_reference=NODE_TIME + 86400)
    assert found.wait_for_clock is True
    assert made(plan(effective(node()), clock_reference=NODE_TIME + 59)) == []
    assert made(plan(effective(node()), clock_reference=0.0, max_clock_skew=0)) == []


# ------------------------------------------------------------------------------------------------- disks that are in the way
def test_a_read_only_boot_partition_is_refused_before_anything() -> None:
    host = node()
    host.read_only = ("/boot/firmware",)
    assert "/boot/firmware/cmdline.txt" in refusal(host, packages=("x",)).what
    assert made(plan(effective(host))) == []


def test_a_full_disk_is_refused_only_where_something_has_to_be_written() -> None:
    host = node()
    host.free_mb = 0
    assert "0 MB free for /boot/firmware/cmdline.txt" in refusal(host).what
    assert made(plan(effective(host))) == []
    host.free_mb = 63
    assert "64 MB needed" in refusal(host, packages=("x",)).what
    assert made(plan(host, packages=("kmod",))) == []


# -------------------------------------------------------------------------------------------------------------- containers
def test_a_container_leaves_out_only_what_it_cannot_do() -> None:
    found = plan(
        container(),
        hostname="pi-cluster-1",
        packages=("ca-certificates",),
        ntp_servers=("10.0.0.1",),
        swap_policy="disable",
        sysctls={"net.ipv4.ip_forward": "1", "fs.inotify.max_user_instances": "1024", "net.bridge.bridge-nf-call-iptables": "1"},
        kernel_modules=("br_netfilter", "overlay"),
        journal_max_use="200M",
        sd_card_wear=True,
    )
    assert made(found) == [
        ("package", "ca-certificates", "missing"),
        ("file", "/etc/hostname", "differs"),
        ("hostname", "pi-cluster-1", "differs"),
        ("file", at.SYSCTLS, "missing"),
        ("sysctl", "net.ipv4.ip_forward", "differs"),
        ("file", at.JOURNALD, "missing"),
        ("unit", "systemd-journald.service", "config_changed"),
    ]
    assert [item.item for item in found.skipped] == [
        "time synchronisation",
        "kernel command line and reboot",
        "swap",
        "kernel modules",
        "kernel parameters fs.inotify.max_user_instances, net.bridge.bridge-nf-call-iptables",
        "mount option noatime",
    ]
    assert all("docker container" in item.reason for item in found.skipped)
    assert found.reboot_reasons == ()
    assert found.wait_for_clock is False


def test_what_a_locked_container_may_not_write_is_left_out() -> None:
    host = container()
    host.read_only = ("/proc/sys",)
    found = plan(host, hostname="pi-cluster-1", sysctls={"net.ipv4.ip_forward": "1"})
    assert made(found) == [("file", "/etc/hostname", "differs")]
    assert {"kernel parameters net.ipv4.ip_forward", "host name"} <= {item.item for item in found.skipped}


def test_a_container_without_memory_controller_is_refused() -> None:
    host = container()
    host.files["/sys/fs/cgroup/cgroup.controllers"] = "cpu\n"
    assert "container's host" in refusal(host).hint


# -------------------------------------------------------------------------------------------------------------------- time
def test_no_time_service_at_all_gets_one_first() -> None:
    host = effective(node(removed=("/lib/systemd/system/systemd-timesyncd.service", TIMESYNCD)))
    host.clock_synchronised = False
    found = plan(host, packages=("ca-certificates",))
    assert [step.change.target for step in found.clock_steps] == ["systemd-timesyncd"]
    assert [step.change.target for step in found.steps] == ["ca-certificates"]
    assert found.wait_for_clock


def test_the_time_service_that_is_there_is_kept() -> None:
    host = effective(node(removed=(TIMESYNCD,), **{"/lib/systemd/system/chrony.service": ""}))
    found = plan(host, ntp_servers=("10.0.0.1", "10.0.0.2"))
    assert made(found) == [("file", at.CHRONY, "missing"), ("unit", "chrony.service", "not_enabled")]
    assert str(content(found, at.CHRONY)).endswith("server 10.0.0.1 iburst\nserver 10.0.0.2 iburst\n")
    host.files["/etc/systemd/system/multi-user.target.wants/chrony.service"] = ""
    assert made(plan(host)) == [("unit", "chrony.service", "not_running")]
    host.files["/sys/fs/cgroup/system.slice/chrony.service/cgroup.procs"] = ""
    assert made(plan(host)) == []


def test_another_time_service_keeps_its_servers_and_says_so() -> None:
    host = effective(
        node(removed=(TIMESYNCD, "/lib/systemd/system/systemd-timesyncd.service"), **{"/lib/systemd/system/ntpsec.service": ""})
    )
    host.files["/etc/systemd/system/multi-user.target.wants/ntpsec.service"] = ""
    host.files["/sys/fs/cgroup/system.slice/ntpsec.service/cgroup.procs"] = ""
    found = plan(host, ntp_servers=("10.0.0.1",))
    assert made(found) == []
    assert [item.item for item in found.skipped] == ["ntp servers"]


def test_servers_that_are_no_longer_wanted_go() -> None:
    host = effective(node(**{at.TIMESYNCD: "[Time]\nNTP=10.0.0.1\n"}))
    assert made(plan(host, ntp_servers=())) == [
        ("file", at.TIMESYNCD, "unwanted"),
        ("unit", "systemd-timesyncd.service", "config_changed"),
    ]


# ------------------------------------------------------------------------------------------------------- packages and dpkg
def test_a_killed_dpkg_is_repaired_before_packages_are_installed() -> None:
    host = effective(node(**{"/var/lib/dpkg/updates/0001": ""}))
    assert made(plan(host, packages=("curl",))) == [("dpkg", "dpkg", "interrupted"), ("package", "curl", "missing")]
    assert made(plan(host, packages=("kmod",))) == [], "not ours to repair while nothing is to be installed"


# -------------------------------------------------------------------------------------------------------------------- swap
SWAPS = "Filename Type Size Used Priority\n"
DPHYS = {
    "/proc/swaps": SWAPS + "/var/swap file 524284 0 -2\n",
    "/etc/systemd/system/multi-user.target.wants/dphys-swapfile.service": "",
    "/etc/fstab": FSTAB + "/swapfile none swap sw 0 0\n",
}
RPI = {
    at.RPI_SWAP_MAIN: "[Main]\n#Mechanism=auto\n",
    "/proc/swaps": SWAPS + "/dev/zram0 partition 2097136 0 100\n",
    "/sys/block/zram0/backing_dev": "/dev/loop0\n",
}


def test_keep_leaves_swap_alone() -> None:
    assert made(plan(effective(node(**DPHYS)))) == []


def test_disable_on_bookworm() -> None:
    found = plan(effective(node(**DPHYS)), swap_policy="disable")
    assert made(found) == [
        ("unit", "dphys-swapfile.service", "unwanted"),
        ("swap", "/var/swap", "unwanted"),
        ("file", "/etc/fstab", "differs"),
    ]
    assert content(found, "/etc/fstab") == FSTAB + "# swapped off by pifleet.ops: /swapfile none swap sw 0 0\n"


def test_disable_on_trixie_with_the_generator_below_rpi_swap() -> None:
    status = "Package: systemd-zram-generator\nStatus: install ok installed\n"
    found = plan(effective(node(**RPI, **{"/var/lib/dpkg/status": status})), swap_policy="disable")
    assert made(found) == [
        ("file", at.RPI_SWAP, "missing"),
        ("file", at.ZRAM_GENERATOR, "missing"),
        ("swap", "/dev/zram0", "unwanted"),
    ]
    assert "Mechanism=none" in str(content(found, at.RPI_SWAP))
    assert found.reboot_reasons == ()


def test_zram_on_bookworm_comes_from_the_generator() -> None:
    found = plan(effective(node(**DPHYS)), swap_policy="zram")
    assert made(found) == [
        ("package", "systemd-zram-generator", "missing"),
        ("unit", "dphys-swapfile.service", "unwanted"),
        ("file", at.ZRAM_GENERATOR, "missing"),
        ("swap", "/var/swap", "unwanted"),
        ("unit", "dev-zram0.swap", "not_running"),
        ("file", "/etc/fstab", "differs"),
    ]


def test_zram_on_trixie_needs_a_restart_while_it_writes_to_the_card() -> None:
    found = plan(effective(node(**RPI)), swap_policy="zram")
    assert made(found) == [("file", at.RPI_SWAP, "missing")]
    assert found.reboot_reasons == ("swap",)
    mechanism = str(content(found, at.RPI_SWAP))
    after = effective(node(**{**RPI, "/sys/block/zram0/backing_dev": "none\n", at.RPI_SWAP: mechanism}))
    assert made(plan(after, swap_policy="zram")) == []
    assert plan(after, swap_policy="zram").reboot_reasons == ()


# ------------------------------------------------------------------------------------------------------------------ others
def test_a_renamed_node_is_announced_anew() -> None:
    host = effective(node(**{"/etc/systemd/system/multi-user.target.wants/avahi-daemon.service": ""}))
    assert made(plan(host, hostname="pi-cluster-1"))[-1] == ("unit", "avahi-daemon.service", "config_changed")


def test_cloud_init_writes_hosts_from_its_template_so_the_block_goes_there_too() -> None:
    host = effective(node(**{at.HOSTS_TEMPLATE: "## template:jinja\n127.0.1.1 {{fqdn}}\n"}))
    found = plan(host, hosts=(HostEntry("192.168.0.11", ("pi-cluster-1",)),))
    assert made(found) == [("file", "/etc/hosts", "differs"), ("file", at.HOSTS_TEMPLATE, "differs")]


def test_a_service_that_was_not_restarted_before_a_kill_is_restarted() -> None:
    host = effective(node(**{at.STATE: json.dumps({"pending": ["systemd-journald.service"]})}))
    assert made(plan(host)) == [("unit", "systemd-journald.service", "interrupted")]
    again = plan(host, journal_max_use="1M")
    assert made(again) == [("file", at.JOURNALD, "missing"), ("unit", "systemd-journald.service", "config_changed")]


def test_a_service_that_is_gone_needs_no_restart() -> None:
    assert made(plan(effective(node(**{at.STATE: json.dumps({"pending": ["chrony.service"]})})))) == []


@pytest.mark.parametrize("note", ["", "{", "[]", '"x"', '{"pending": 3}'])
def test_a_broken_note_of_an_earlier_run_is_no_note(note: str) -> None:
    assert at.read_memo(note) == at.Memo()


def test_noatime_without_an_entry_in_fstab_is_left_out() -> None:
    host = effective(node(**{"/etc/fstab": "# UNCONFIGURED\n", "/proc/self/mounts": "/dev/root / ext4 rw,relatime 0 0\n"}))
    found = plan(host, sd_card_wear=True)
    assert ("mount", "/", "atime") not in made(found)
    assert [item.item for item in found.skipped] == ["mount option noatime"]


def test_noatime_now_and_at_every_boot() -> None:
    host = effective(node(**{"/etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n", "/proc/self/mounts": "/dev/root / ext4 rw,relatime 0 0\n"}))
    assert made(plan(host, sd_card_wear=True))[-2:] == [("file", "/etc/fstab", "differs"), ("mount", "/", "atime")]


def test_a_module_that_is_built_in_needs_no_loading() -> None:
    host = effective(
        node(**{"/proc/sys/kernel/osrelease": "6.12\n", "/lib/modules/6.12/modules.builtin": "kernel/fs/overlayfs/overlay.ko\n"})
    )
    host.files[at.MODULES] = "# Managed by pifleet.ops (role base_os): a change made here is overwritten.\noverlay\n"
    assert made(plan(host, kernel_modules=("overlay",))) == []


def test_no_secret_of_fstab_is_in_the_diff() -> None:
    host = effective(node(**{"/etc/fstab": FSTAB + "//nas/x /mnt cifs username=u,password=hunter22 0 0\n/swapfile none swap sw 0 0\n"}))
    found = plan(host, swap_policy="disable")
    assert "hunter22" not in json.dumps([dataclasses.asdict(c) for c in found.changes])
    assert "hunter22" in str(content(found, "/etc/fstab"))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"),
    ],
)
def test_the_file_of_a_kernel_parameter(key: str, path: str) -> None:
    assert at.sysctl_path(key) == path
