"""The monitors and the serial port of a QEMU command line, and the character devices between."""

from collections.abc import Mapping
from dataclasses import replace

from vmferry.cli.qemu_syntax import check_keys, parse_count, parse_keys, parse_switch
from vmferry.errors import UsageError
from vmferry.monitor.server import MonitorEndpoint

_ANY: tuple[str, ...] = ()
_SOCKET = {
    "path": _ANY,
    "host": _ANY,
    "port": _ANY,
    "fd": _ANY,
    "server": _ANY,
    "wait": _ANY,
    "delay": ("off",),
    "nodelay": ("on",),
    "telnet": ("off",),
    "reconnect": ("0",),
    "reconnect-ms": ("0",),
}
_BACKENDS: dict[str, dict[str, tuple[str, ...]]] = {
    "socket": _SOCKET,
    "stdio": {"signal": ("on",)},
    "file": {"path": _ANY, "append": ("off",)},
    "null": {},
}
_MAX_DESCRIPTOR = (1 << 20) - 1


class Lines:
    """Takes the values of the options that its methods are named after; `resolve` brings them together."""

    def __init__(self) -> None:
        self._chardevs: dict[str, dict[str, str]] = {}
        self._monitors: list[MonitorEndpoint | tuple[str, bool]] = []
        """Endpoints, or ids of chardevs, which may follow later, and whether the monitor there is pretty."""
        self._serials: list[str] = []
        """`null`, `stdio`, `file:PATH` or `chardev:ID`."""

    def chardev(self, value: str) -> None:
        """`-chardev`: something to connect a monitor or a serial port to."""
        keys = parse_keys(value, "backend")
        backend, identifier = keys.get("backend", ""), keys.get("id", "")
        if backend not in _BACKENDS:
            raise UsageError(f"-chardev '{backend}' is not to be had here; there are {', '.join(_BACKENDS)}")
        check_keys(f"-chardev {backend}", keys, {"backend": _ANY, "id": _ANY, "mux": ("off",)} | _BACKENDS[backend])
        if not identifier or identifier in self._chardevs:
            raise UsageError(f"-chardev {value}: give it an id of its own, id=NAME")
        self._chardevs[identifier] = keys

    def mon(self, value: str) -> None:
        """`-mon`: a monitor at a chardev."""
        keys = parse_keys(value, "chardev")
        check_keys("-mon", keys, {"chardev": _ANY, "id": _ANY, "mode": ("control",), "pretty": _ANY})
        if "chardev" not in keys or "mode" not in keys:
            raise UsageError(f"-mon {value}: write chardev=ID,mode=control, for QMP is all that is spoken here")
        pretty = parse_switch("-mon pretty", keys.get("pretty", "off"))
        self._monitors.append((keys["chardev"], pretty))

    def qmp(self, value: str, option: str = "-qmp") -> None:
        """`-qmp`: a monitor, and its chardev in the old spelling."""
        pretty = option == "-qmp-pretty"
        kind, _, rest = value.partition(":")
        if kind == "chardev":
            self._monitors.append((rest, pretty))
            return
        if kind not in ("unix", "tcp"):
            raise UsageError(f"{option} '{value}' is not to be had here; write unix:PATH, tcp:HOST:PORT or chardev:ID")
        keys = parse_keys(rest, "path")
        if kind == "tcp":
            keys["host"], _, keys["port"] = keys.pop("path", "").rpartition(":")
        check_keys(option, keys, _SOCKET)
        self._monitors.append(replace(_endpoint(option, keys), pretty=pretty))

    def qmp_pretty(self, value: str) -> None:
        """`-qmp-pretty`: the same, for people to read."""
        self.qmp(value, "-qmp-pretty")

    def serial(self, value: str) -> None:
        """`-serial`: the serial port."""
        kind, _, rest = value.partition(":")
        if value not in ("stdio", "null", "none") and not (kind in ("file", "chardev") and rest):
            raise UsageError(f"-serial '{value}' is not to be had here; write stdio, null, file:PATH or chardev:ID")
        self._serials.append("null" if value == "none" else value)

    def device(self, value: str) -> None:
        """`-device`: the serial port, once more."""
        keys = parse_keys(value, "driver")
        if keys.get("driver") != "isa-serial":
            raise UsageError(f"-device '{keys.get('driver', '')}': the VM has an isa-serial and no other device")
        check_keys("-device isa-serial", keys, {"driver": _ANY, "chardev": _ANY, "id": _ANY, "index": ("0",)})
        self._serials.append(f"chardev:{keys['chardev']}" if "chardev" in keys else "null")

    def resolve(self, default_serial: str) -> tuple[tuple[MonitorEndpoint, ...], str]:
        """Return the monitors and where serial output goes, if nothing was said to `default_serial`.

        Raises UsageError if they do not fit together.
        """
        monitors = tuple(self._monitor(monitor) for monitor in self._monitors)
        serials = [self._serial(serial) for serial in self._serials] or [default_serial]
        if any(serial != "null" for serial in serials[1:]):
            raise UsageError("the VM has one serial port; those after the first can only be null")
        for identifier in self._chardevs:
            raise UsageError(f"-chardev '{identifier}' is used by no monitor and no serial port")
        return monitors, serials[0]

    def _monitor(self, monitor: MonitorEndpoint | tuple[str, bool]) -> MonitorEndpoint:
        if isinstance(monitor, MonitorEndpoint):
            return monitor
        identifier, pretty = monitor
        keys = self._take(identifier)
        if keys["backend"] != "socket":
            raise UsageError(f"a monitor needs a chardev of the kind socket; '{identifier}' is {keys['backend']}")
        return replace(_endpoint("-chardev socket", keys), pretty=pretty)

    def _serial(self, serial: str) -> str:
        identifier = serial.removeprefix("chardev:")
        if identifier == serial:
            return serial
        keys = self._take(identifier)
        if keys["backend"] == "socket":
            raise UsageError(f"a serial port needs a chardev of the kind stdio, file or null; '{identifier}' is socket")
        return f"file:{keys.get('path', '')}" if keys["backend"] == "file" else keys["backend"]

    def _take(self, identifier: str) -> dict[str, str]:
        if identifier not in self._chardevs:
            raise UsageError(f"there is no -chardev with id={identifier}, or something else uses it")
        return self._chardevs.pop(identifier)


def _endpoint(what: str, keys: Mapping[str, str]) -> MonitorEndpoint:
    listens = parse_switch(f"{what} server", keys.get("server", "off"))
    if listens and parse_switch(f"{what} wait", keys.get("wait", "on")):
        raise UsageError(f"{what} with server=on: the VM does not wait for a client here; add wait=off")
    if "fd" in keys:
        return MonitorEndpoint(parse_count(f"{what} fd", keys["fd"], 0, _MAX_DESCRIPTOR), listens)
    if "path" in keys:
        return MonitorEndpoint(f"unix:{keys['path']}", listens)
    if "port" in keys:
        host = keys.get("host", "").removeprefix("[").removesuffix("]")
        return MonitorEndpoint(f"tcp:[{host}]:{keys['port']}" if ":" in host else f"tcp:{host}:{keys['port']}", listens)
    raise UsageError(f"{what} needs path=PATH, host=HOST and port=PORT, or fd=NUMBER")
