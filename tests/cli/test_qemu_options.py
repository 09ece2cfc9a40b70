"""QEMU's options: what they ask for, and that nothing else is let through."""

import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from vmferry.cli.qemu_options import parse_qemu_options
from vmferry.errors import UsageError
from vmferry.guests.payload import STRESS_ELF
from vmferry.monitor.server import MonitorEndpoint
from vmferry.perf.lab import MONITOR_SOCKET, Lab
from vmferry.vm.process import VmConfig

WRAPPER = Path(__file__).parents[2] / "contrib" / "guestperf" / "qemu-vmferry"

GUESTPERF = [
    *("-display", "none", "-vga", "none"),
    *("-chardev", "socket,id=mon,path=/var/tmp/qemu-src-7-monitor.sock", "-mon", "chardev=mon,mode=control"),
    *("-cpu", "host", "-kernel", "/boot/vmlinuz", "-initrd", "initrd-stress.img"),
    "-append",
    "noapic edd=off printk.time=1 noreplace-smp cgroup_disable=memory pci=noearly console=ttyS0 quiet ramsize=1",
    *("-m", "1536", "-smp", "2", "-accel", "kvm", "-chardev", "stdio,id=cdev0"),
    *("-device", "isa-serial,chardev=cdev0"),
]
"""What guestperf of QEMU 10.0 was seen to pass for `--mem 1 --cpus 2`."""


def config_of(*words: str) -> VmConfig:
    config = parse_qemu_options(words)
    assert isinstance(config, VmConfig)
    return config


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("-mem-prealloc", "prealloc", True),
        ("", "memory_bytes", 128 << 20),
        ("-m 1G", "memory_bytes", 1 << 30),
        ("--m size=64M,slots=0", "memory_bytes", 64 << 20),
        ("", "vcpu_count", 1),
        ("-smp 4", "vcpu_count", 4),
        ("-smp cpus=4,maxcpus=4,sockets=2,cores=2,threads=1", "vcpu_count", 4),
        ("-smp sockets=2,cores=3", "vcpu_count", 6),
        ("", "kernel", STRESS_ELF),
        ("-kernel /k", "kernel", Path("/k")),
        ("-kernel /k -append console", "command_line", "console"),
        ("-append ramsize=8 -smp 2", "command_line", "ramsize=8 cpus=2"),
        ("-incoming tcp:0:4444 -kernel /k", "kernel", None),
        ("-incoming tcp:0:4444", "incoming", "tcp:0:4444"),
        ("-incoming defer", "incoming", "defer"),
        ("-S", "start_paused", True),
        ("-tls-creds /etc/tls", "parameters", {"tls-creds": "/etc/tls"}),
        ("-tls-creds tls", "parameters", {"tls-creds": str(Path.cwd() / "tls")}),
        (
            "--tls-creds /t --tls-hostname b.lab --tls-authz a.lab,c.lab",
            "parameters",
            {"tls-creds": "/t", "tls-hostname": "b.lab", "tls-authz": "a.lab,c.lab"},
        ),
        ("-name web,debug-threads=on", "name", "web"),
        ("-name guest=a,,b", "name", "a,b"),
        ("-uuid 550e8400e29b41d4a716446655440000", "uuid", "550e8400-e29b-41d4-a716-446655440000"),
        ("-serial stdio", "serial", "stdio"),
        ("-serial none", "serial", "null"),
        ("-serial file:/tmp/log -serial null", "serial", "file:/tmp/log"),
        ("-serial chardev:c -chardev file,id=c,path=/tmp/a,,b", "serial", "file:/tmp/a,b"),
        ("-chardev stdio,id=c -device isa-serial,chardev=c", "serial", "stdio"),
        ("-qmp unix:/a,server=on,wait=off", "monitors", (MonitorEndpoint("unix:/a"),)),
        ("-qmp unix:/a,server,nowait", "monitors", (MonitorEndpoint("unix:/a"),)),
        ("-qmp tcp:localhost:44,server=on,wait=off", "monitors", (MonitorEndpoint("tcp:localhost:44"),)),
        ("-qmp tcp:[::1]:44", "monitors", (MonitorEndpoint("tcp:[::1]:44", listens=False),)),
        ("-qmp chardev:m -chardev socket,id=m,path=/a", "monitors", (MonitorEndpoint("unix:/a", listens=False),)),
        ("-mon m,mode=control -chardev socket,id=m,fd=7", "monitors", (MonitorEndpoint(7, listens=False),)),
        (
            "-chardev socket,id=m,host=::1,port=9001 -mon chardev=m,mode=control",
            "monitors",
            (MonitorEndpoint("tcp:[::1]:9001", listens=False),),
        ),
        ("-machine q35,accel=kvm,usb=off -M pc -accel kvm -cpu host -enable-kvm -nodefaults", "serial", "null"),
        ("-machine pc-q35-7.2,dump-guest-core=off", "dumps_core", False),
        ("-M pc-i440fx-10.1,dump-guest-core=on", "dumps_core", True),
        ("-rtc base=utc,driftfix=slew", "dumps_core", True),
        ("-nographic", "serial", "stdio"),
        ("-nographic -serial null", "serial", "null"),
        ("-nographic -nodefaults", "serial", "null"),
        ("-trace migrate_st* -trace enable=migrate_end", "trace", ("migrate_start", "migrate_end")),
        (
            "-mon m,mode=control,pretty=on -chardev socket,id=m,path=/a",
            "monitors",
            (MonitorEndpoint("unix:/a", listens=False, pretty=True),),
        ),
        (
            "-mon m,mode=control,pretty=off -chardev socket,id=m,path=/a",
            "monitors",
            (MonitorEndpoint("unix:/a", listens=False),),
        ),
        (
            "-qmp-pretty unix:/a,server=on,wait=off -qmp-pretty chardev:m -chardev socket,id=m,path=/b",
            "monitors",
            (MonitorEndpoint("unix:/a", pretty=True), MonitorEndpoint("unix:/b", listens=False, pretty=True)),
        ),
        ("-no-user-config -no-reboot -msg timestamp=on -monitor none -net none -boot strict=on", "serial", "null"),
    ],
)
def test_what_options_ask_for(words: str, field: str, value: object) -> None:
    assert getattr(config_of(*words.split()), field) == value


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("-netdev user", "'-netdev' is not understood; `vmferry qemu -help` lists what is"),
        ("disk.img", "'disk.img' is not understood"),
        ("---m 1G", "'---m' is not understood"),
        ("-m", "-m needs a value"),
        ("-m 1G,slots=2", "-m can only have slots=0 here, not '2'"),
        ("-smp 2,maxcpus=4", "maxcpus and the product of the parts can only be the number of CPUs, 2"),
        ("-smp 2,sockets=3", "can only be the number of CPUs, 2"),
        ("-smp 256", "-smp cpus is a number from 1 to 255, not '256'"),
        ("-accel tcg", "-accel can only have accel=kvm here, not 'tcg'"),
        ("-accel kvm,dirty-ring-size=4096", "dirty-ring-size=0 here, not '4096'"),
        ("-machine pc-q35-new", "type=pc or q35 or microvm here, not 'pc-q35-new'"),
        ("-machine q35,dump-guest-core=maybe", "-machine dump-guest-core is on or off, not 'maybe'"),
        ("-qmp-pretty stdio", "-qmp-pretty 'stdio' is not to be had here"),
        ("-mon c,mode=control,pretty=very", "-mon pretty is on or off, not 'very'"),
        ("-rtc base=localtime", "-rtc can only have base=utc here, not 'localtime'"),
        ("-trace nosuch*", "no trace event is called 'nosuch*'"),
        ("-trace migrate_end,file=/x", "-trace does not know 'file' here"),
        ("-global a.b=c", "'-global' is not understood"),
        ("-machine virt", "type=pc or q35 or microvm here, not 'virt'"),
        ("-cpu qemu64", "model=host or max here, not 'qemu64'"),
        ("-display gtk", "-display can only have type=none here, not 'gtk'"),
        ("-device virtio-net-pci", "-device 'virtio-net-pci': the VM has an isa-serial and no other device"),
        ("-initrd x", "-initrd 'x': the guests that can be booted here take none"),
        ("-uuid x", "'x' is not a UUID"),
        ("-serial mon:stdio", "-serial 'mon:stdio' is not to be had here"),
        ("-serial null -serial stdio", "the VM has one serial port"),
        ("-serial chardev:c", "there is no -chardev with id=c"),
        ("-serial chardev:c -chardev socket,id=c,path=/a", "a serial port needs a chardev of the kind stdio"),
        ("-chardev pty,id=c", "-chardev 'pty' is not to be had here; there are socket, stdio, file, null"),
        ("-chardev null", "give it an id of its own"),
        ("-chardev null,id=c -chardev null,id=c", "give it an id of its own"),
        ("-chardev null,id=c", "-chardev 'c' is used by no monitor and no serial port"),
        ("-chardev socket,id=c,path=/a,tls-creds=t", "-chardev socket does not know 'tls-creds' here"),
        ("-chardev socket,id=c -mon c,mode=control", "needs path=PATH, host=HOST and port=PORT, or fd=NUMBER"),
        ("-chardev socket,id=c,fd=x -mon c,mode=control", "fd is a number from 0 to"),
        ("-chardev null,id=c -mon c,mode=control", "a monitor needs a chardev of the kind socket; 'c' is null"),
        ("-chardev null,id=c -mon c", "QMP is all that is spoken here"),
        ("-qmp stdio", "-qmp 'stdio' is not to be had here"),
        ("-qmp unix:/a,server=on", "the VM does not wait for a client here; add wait=off"),
        ("-qmp unix:/a,server=perhaps", "-qmp server is on or off, not 'perhaps'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(words: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_qemu_options(words.split())
    assert complaint in str(caught.value)


@pytest.mark.parametrize("word", ["-version", "--version"])
def test_the_version_is_where_scripts_look_for_it(word: str) -> None:
    answer = parse_qemu_options(["-m", "1G", word, "-frob"])
    assert isinstance(answer, str)
    assert answer.startswith("QEMU emulator version 10.1.0 (vmferry ")


def test_trace_events_are_listed() -> None:
    answer = parse_qemu_options(["-trace", "help"])
    assert isinstance(answer, str)
    assert "\nmigrate_end " in answer


@pytest.mark.kvm
def test_without_guest_cores_there_are_none_at_all() -> None:
    words = ["qemu", "-m", "64", "-M", "q35,dump-guest-core=off", "-qmp", f"unix:{MONITOR_SOCKET},server=on,wait=off"]
    with Lab() as lab:
        vm = lab.start([sys.executable, "-m", "vmferry", *words], "vm")
        limits = Path(f"/proc/{vm.process.pid}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)


def test_help_fits_a_terminal_and_names_every_option() -> None:
    answer = parse_qemu_options(["--help"])
    assert isinstance(answer, str)
    assert all(len(line) <= 80 for line in answer.splitlines())
    assert all(f"\n{word} " in answer for word in GUESTPERF if word[0] == "-")


# The wrapper


@pytest.fixture(scope="module")
def wrapper() -> ModuleType:
    loader = SourceFileLoader("qemu_vmferry", str(WRAPPER))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_guestperfs_options_become_a_vm_with_the_stress_payload(wrapper: ModuleType) -> None:
    config = config_of(*wrapper.with_stress_payload(GUESTPERF, "xor", 1_700_000_000_000))
    assert config.kernel == STRESS_ELF
    assert config.command_line == "ramsize=1024 mode=xor epoch=1700000000000 cpus=2"
    assert config.memory_bytes == 1536 << 20
    assert config.monitors == (MonitorEndpoint("unix:/var/tmp/qemu-src-7-monitor.sock", listens=False),)
    assert config.serial == "stdio"


def test_another_initrd_is_not_replaced(wrapper: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no ramsize=GIB in -append"):
        wrapper.with_stress_payload(["-kernel", "k", "-initrd", "i", "-append", "root=/dev/vda bigramsize=1"], "xor", 0)
