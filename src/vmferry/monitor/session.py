"""One client's conversation in QMP: bytes in, answers out (QEMU `docs/interop/qmp-spec`).

It begins with a greeting; until the client has sent `qmp_capabilities`, other commands are refused
and no events are sent. Every command gets one answer, in order, with the client's `id` in it.

A client whose first bytes are not JSON does not speak QMP: a web page, for example, may make a browser post commands to
a TCP monitor. Nothing of what it sends after that is looked at.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from vmferry.errors import UsageError, VmferryError
from vmferry.monitor.commands import CommandNotFoundError, find_command, takes_long
from vmferry.monitor.defects import tell_defect
from vmferry.monitor.framing import BadInput, Frame, Framer
from vmferry.monitor.json_text import format_json, parse_json
from vmferry.monitor.vm_commands import query_version
from vmferry.monitor.vm_port import MonitoredVm, VmEvent
from vmferry.units import NS_PER_S

_NEGOTIATION = "qmp_capabilities"


Answer = bytes | Callable[[], bytes]
"""What the client gets, or a function that takes its time to return that and may be called in any thread."""


class Session:
    """The conversation with one client about `vm`; `pretty` says that people read it, a line for each member."""

    def __init__(self, vm: MonitoredVm, *, pretty: bool = False) -> None:
        self.negotiated = False
        """True once the client has ended the negotiation; only then it gets events."""
        self.broken = False
        """True after input that nothing can be made of; the connection should be closed."""
        self._vm = vm
        self._pretty = pretty
        self._framer = Framer()

    def greeting(self) -> bytes:
        """Return what the client hears first."""
        return self._encode({"QMP": {"version": query_version(self._vm), "capabilities": []}})

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Take what the client sent, carry it out and yield the answers, until the conversation is broken."""
        for frame in self._framer.feed(data):
            request = _parse(frame)
            if isinstance(request, BadInput):
                self.broken = request.fatal or not self.negotiated
                yield self._encode(_error("GenericError", request.reason))
            elif takes_long(request):
                yield partial(self._answer, request)
            else:
                yield self._answer(request)
            if self.broken:
                break

    def event(self, event: VmEvent) -> bytes:
        """Return what tells the client of an event."""
        seconds, rest_ns = divmod(event.time_ns, NS_PER_S)
        message: dict[str, object] = {
            "timestamp": {"seconds": seconds, "microseconds": rest_ns // 1000},
            "event": event.name,
        }
        return self._encode(message | {"data": event.data} if event.data else message)

    def _answer(self, request: object) -> bytes:
        """Carry a request out and return the answer, whatever happens."""
        identity = {"id": request["id"]} if isinstance(request, dict) and "id" in request else {}
        try:
            return self._encode(self._return(request) | identity)
        except CommandNotFoundError as error:
            answer = _error("CommandNotFound", str(error))
        except VmferryError as error:
            answer = _error("GenericError", str(error))
        except Exception as error:
            tell_defect(error)
            answer = _error("GenericError", f"vmferry has a defect here: {error!a}")
        return self._encode(answer | identity)

    def _return(self, request: object) -> dict[str, object]:
        name, arguments = _check_request(request)
        if name == _NEGOTIATION and self.negotiated:
            raise CommandNotFoundError("Capabilities negotiation is already complete, command ignored")
        if name != _NEGOTIATION and not self.negotiated:
            raise CommandNotFoundError(f"Expecting capabilities negotiation with '{_NEGOTIATION}'")
        result = find_command(name)(self._vm, arguments)
        self.negotiated = True
        return {"return": {} if result is None else result}

    def _encode(self, message: dict[str, object]) -> bytes:
        return format_json(message, pretty=self._pretty).replace(b"\n", b"\r\n") + b"\r\n"


def _parse(frame: Frame) -> object:
    """Return the JSON value, or what is wrong with it."""
    if isinstance(frame, BadInput):
        return frame
    try:
        return parse_json(frame)
    except UsageError as error:
        return BadInput(str(error))


def _check_request(request: object) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of a command. Raises UsageError with QEMU's text."""
    if not isinstance(request, dict):
        raise UsageError("QMP input must be a JSON object")
    name, arguments = request.get("execute"), request.get("arguments", {})
    if "execute" in request and not isinstance(name, str):
        raise UsageError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise UsageError("QMP input member 'arguments' must be an object")
    for member in request:
        if member not in ("execute", "arguments", "id"):
            raise UsageError(f"QMP input member '{member}' is unexpected")
    if not isinstance(name, str):
        raise UsageError("QMP input lacks member 'execute'")
    return name, arguments


def _error(error_class: str, text: str) -> dict[str, object]:
    return {"error": {"class": error_class, "desc": text}}
