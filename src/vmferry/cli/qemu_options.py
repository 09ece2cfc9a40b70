"""QEMU's command line, as far as a VM of ours can do what it asks for.

One table says what is understood. Options that make no difference here are taken only with values that ask for
nothing more than there is; all else is refused by name. Meanings and defaults are those of QEMU's manual page.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from textwrap import fill
from uuid import uuid4

from vmferry import __version__
from vmferry.bounds import parse_uuid
from vmferry.cli.qemu_lines import Lines
from vmferry.cli.qemu_syntax import check_keys, parse_count, parse_keys, parse_mebibytes, parse_switch
from vmferry.cli.types import FILE_OR_NONE
from vmferry.cli.vm import trace_help, traced_events
from vmferry.errors import UsageError
from vmferry.guests.payload import STRESS_ELF
from vmferry.monitor.vm_commands import SPOKEN_QEMU_VERSION
from vmferry.vm.process import VmConfig

_MAX_VCPUS = 255
_HOME = "vmferry qemu"


@dataclass
class _Request:
    """What the words read so far have asked for."""

    memory_bytes: int = 128 << 20
    vcpu_count: int = 1
    kernel: Path = STRESS_ELF
    append: str = ""
    incoming: str | None = None
    parameters: dict[str, object] = field(default_factory=dict)
    name: str = ""
    uuid: str = ""
    start_paused: bool = False
    prealloc: bool = False
    traced: tuple[str, ...] = ()
    dumps_core: bool = True
    nographic: bool = False
    nodefaults: bool = False
    lines: Lines = field(default_factory=Lines)
    answer: str = ""
    """What to print instead of running a VM."""


@dataclass(frozen=True)
class _Option:
    take: Callable[[_Request, str], None]
    argument: str
    """What the value looks like; empty if there is none."""
    help: str


def parse_qemu_options(words: Sequence[str]) -> VmConfig | str:
    """Return the VM that a command line asks for, or what to print if it asks for information only.

    Raises UsageError that names the option and says what is understood.
    """
    request = _Request()
    remaining = iter(words)
    for word in remaining:
        option = _OPTIONS.get(word.removeprefix("-").removeprefix("-")) if word.startswith("-") else None
        if option is None:
            raise UsageError(f"'{word}' is not understood; `{_HOME} -help` lists what is")
        value = next(remaining, None) if option.argument else ""
        if value is None:
            raise UsageError(f"{word} needs a value: {option.argument}")
        option.take(request, value)
        if request.answer:
            return request.answer
    return _config(request)


def _config(request: _Request) -> VmConfig:
    monitors, serial = request.lines.resolve("stdio" if request.nographic and not request.nodefaults else "null")
    boots = request.incoming is None
    stress = request.kernel == STRESS_ELF
    return VmConfig(
        memory_bytes=request.memory_bytes,
        vcpu_count=request.vcpu_count,
        kernel=request.kernel if boots else None,
        command_line=f"{request.append} cpus={request.vcpu_count}" if stress else request.append,
        monitors=monitors,
        serial=serial,
        incoming=request.incoming,
        parameters=request.parameters,
        require_tls=False,
        journal=None,
        trace=request.traced,
        name=request.name,
        uuid=request.uuid or str(uuid4()),
        start_paused=request.start_paused,
        prealloc=request.prealloc,
        dumps_core=request.dumps_core,
    )


# Memory, CPUs, kernel


def _memory(request: _Request, value: str) -> None:
    keys = parse_keys(value, "size")
    check_keys("-m", keys, {"size": (), "slots": ("0",)})
    request.memory_bytes = parse_mebibytes("-m", keys.get("size", "128M"))


def _smp(request: _Request, value: str) -> None:
    keys = parse_keys(value, "cpus")
    parts = ("sockets", "dies", "clusters", "modules", "cores", "threads")
    check_keys("-smp", keys, dict.fromkeys(("cpus", "maxcpus", *parts), ()))
    numbers = {key: parse_count(f"-smp {key}", text, 1, _MAX_VCPUS) for key, text in keys.items()}
    topology = prod(numbers.get(part, 1) for part in parts)
    cpus = numbers.get("cpus", topology)
    if numbers.get("maxcpus", cpus) != cpus or (topology != cpus and not numbers.keys().isdisjoint(parts)):
        raise UsageError(f"-smp {value}: maxcpus and the product of the parts can only be the number of CPUs, {cpus}")
    request.vcpu_count = cpus


def _kernel(request: _Request, value: str) -> None:
    request.kernel = Path(value)


def _append(request: _Request, value: str) -> None:
    request.append = value


def _initrd(request: _Request, value: str) -> None:
    raise UsageError(
        f"-initrd '{value}': the guests that can be booted here take none; leave it out, or let "
        "contrib/guestperf/qemu-vmferry put the stress payload in its place"
    )


# Migration, identity


def _incoming(request: _Request, value: str) -> None:
    request.incoming = value


def _tls_creds(request: _Request, value: str) -> None:
    request.parameters["tls-creds"] = FILE_OR_NONE.convert(value, None, None)


def _tls(name: str) -> Callable[[_Request, str], None]:
    return lambda request, value: request.parameters.update({name: value})


def _name(request: _Request, value: str) -> None:
    keys = parse_keys(value, "guest")
    check_keys("-name", keys, {"guest": (), "debug-threads": ("on", "off")})
    request.name = keys.get("guest", "")


def _uuid(request: _Request, value: str) -> None:
    request.uuid = parse_uuid(value)


def _pause(request: _Request, value: str) -> None:
    request.start_paused = True


def _prealloc(request: _Request, value: str) -> None:
    request.prealloc = True


def _nographic(request: _Request, value: str) -> None:
    request.nographic = True


def _nodefaults(request: _Request, value: str) -> None:
    request.nodefaults = True


def _machine(request: _Request, value: str) -> None:
    keys = parse_keys(value, "type")
    if "type" in keys:  # no guest here can tell the machine of one release from that of another
        keys["type"] = _VERSIONED_MACHINE.sub(lambda match: _MACHINE_ALIASES[match[1]], keys["type"])
    check_keys("-machine", keys, _MACHINE_KEYS)
    if "dump-guest-core" in keys:
        request.dumps_core = parse_switch("-machine dump-guest-core", keys["dump-guest-core"])


def _lines(take: Callable[[Lines, str], None]) -> Callable[[_Request, str], None]:
    return lambda request, value: take(request.lines, value)


# Information


def _trace(request: _Request, value: str) -> None:
    keys = parse_keys(value, "enable")
    check_keys("-trace", keys, {"enable": ()})
    if keys.get("enable") in ("help", "?"):
        request.answer = trace_help()
    else:
        request.traced += traced_events([keys.get("enable", "")])


def _version(request: _Request, value: str) -> None:
    release = ".".join(map(str, SPOKEN_QEMU_VERSION))
    request.answer = f"QEMU emulator version {release} (vmferry {__version__}: no QEMU, but controlled like one)"


def _help(request: _Request, value: str) -> None:
    parts = [f"Usage: {_HOME} [OPTION]...\n\nTwo dashes do as well as one."]
    for name, option in _OPTIONS.items():
        parts.append(f"-{name} {option.argument}".strip())
        parts.append(fill(option.help, 80, initial_indent=" " * 8, subsequent_indent=" " * 8, break_on_hyphens=False))
    request.answer = "\n".join(parts)


def _harmless(what: str, implied_key: str, **allowed: tuple[str, ...]) -> _Option:
    """Return an option that changes nothing, with the values that may be given to it."""
    by_key = {key.replace("_", "-"): values for key, values in allowed.items()}

    def take(request: _Request, value: str) -> None:
        check_keys(what, parse_keys(value, implied_key), by_key)

    choices = [f"{key}={'|'.join(values)}" for key, values in by_key.items()]
    return _Option(take, "|".join(by_key[implied_key]), f"changes nothing; allowed are {', '.join(choices)}")


def _granted(request: _Request, value: str) -> None:
    pass


_VERSIONED_MACHINE = re.compile(r"pc-(q35|i440fx)-[0-9]+\.[0-9]+")
_MACHINE_ALIASES = {"q35": "q35", "i440fx": "pc"}
_MACHINE_KEYS: dict[str, tuple[str, ...]] = {
    "type": ("pc", "q35", "microvm"), "accel": ("kvm", "kvm:tcg"), "kernel-irqchip": ("on",), "usb": ("off",),
    "graphics": ("off",), "vmport": ("off",), "smm": ("off",), "hpet": ("off",), "dump-guest-core": (),
}  # fmt: skip
_MACHINE = _Option(
    _machine, "pc|q35|microvm",
    "also pc-q35-X.Y and pc-i440fx-X.Y; changes nothing but with dump-guest-core=off, when there are no core files",
)  # fmt: skip

_OPTIONS: dict[str, _Option] = {
    "m": _Option(_memory, "[size=]SIZE", "memory, such as 1G; MiB without a suffix; default 128M"),
    "smp": _Option(_smp, "[cpus=]N[,sockets=N...]", "vCPUs; default 1"),
    "kernel": _Option(_kernel, "FILE", "ELF image with a PVH entry (default: the stress payload)"),
    "append": _Option(_append, "LINE", "kernel command line"),
    "initrd": _Option(_initrd, "FILE", "always refused"),
    "incoming": _Option(_incoming, "URI|defer", "wait for a guest; -kernel and -append go unused"),
    "tls-creds": _Option(_tls_creds, "DIRECTORY", "migrate with TLS, with the certificates there; not in QEMU"),
    "tls-hostname": _Option(_tls("tls-hostname"), "NAME", "name that the destination must have; not in QEMU"),
    "tls-authz": _Option(_tls("tls-authz"), "NAME[,NAME...]", "sources that are let in by their names; not in QEMU"),
    "mem-prealloc": _Option(_prealloc, "", "take all guest memory from the host at once"),
    "S": _Option(_pause, "", "do not let the guest run before 'cont'"),
    "name": _Option(_name, "[guest=]NAME", "name of the VM"),
    "uuid": _Option(_uuid, "UUID", "UUID of the VM (default: random)"),
    "chardev": _Option(_lines(Lines.chardev), "BACKEND,id=ID[,...]", "socket, stdio, file or null"),
    "mon": _Option(_lines(Lines.mon), "[chardev=]ID,mode=control[,pretty=on]", "speak QMP at a chardev"),
    "qmp": _Option(
        _lines(Lines.qmp),
        "unix:PATH|tcp:HOST:PORT[,server=on,wait=off]",
        "speak QMP there; call if server=off",
    ),
    "qmp-pretty": _Option(
        _lines(Lines.qmp_pretty), "unix:PATH|tcp:HOST:PORT[,...]", "as -qmp, with a line for each member of an answer"
    ),
    "serial": _Option(
        _lines(Lines.serial), "stdio|null|file:PATH|chardev:ID", "where serial output goes; default null"
    ),
    "device": _Option(_lines(Lines.device), "isa-serial,chardev=ID", "the serial port, by its other name"),
    "nographic": _Option(_nographic, "", "-display none, and -serial stdio unless said otherwise"),
    "machine": _MACHINE,
    "M": _Option(_MACHINE.take, _MACHINE.argument, "as -machine"),
    "accel": _harmless("-accel", "accel", accel=("kvm",), kernel_irqchip=("on",), dirty_ring_size=("0",)),
    "enable-kvm": _Option(_granted, "", "changes nothing"),
    "cpu": _harmless("-cpu", "model", model=("host", "max")),
    "display": _harmless("-display", "type", type=("none",)),
    "vga": _harmless("-vga", "type", type=("none",)),
    "monitor": _harmless("-monitor", "chardev", chardev=("none", "null")),
    "parallel": _harmless("-parallel", "chardev", chardev=("none", "null")),
    "net": _harmless("-net", "type", type=("none",)),
    "nic": _harmless("-nic", "type", type=("none",)),
    "boot": _harmless("-boot", "order", order=("c",), strict=("on", "off"), menu=("off",)),
    "overcommit": _harmless("-overcommit", "mem-lock", mem_lock=("off",), cpu_pm=("off",)),
    "sandbox": _harmless("-sandbox", "enable", enable=("off",)),
    "msg": _harmless("-msg", "timestamp", timestamp=("on", "off")),
    "rtc": _harmless("-rtc", "base", base=("utc",), clock=("host",), driftfix=("none", "slew")),
    "nodefaults": _Option(_nodefaults, "", "changes nothing but -nographic"),
    "no-user-config": _Option(_granted, "", "changes nothing"),
    "no-reboot": _Option(_granted, "", "changes nothing"),
    "trace": _Option(_trace, "[enable=]PATTERN", "print these trace events to stderr; 'help' lists them"),
    "version": _Option(_version, "", "print which QEMU this is like"),
    "help": _Option(_help, "", "print this"),
    "h": _Option(_help, "", "print this"),
}
