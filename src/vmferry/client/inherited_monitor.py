"""A monitor's connection that another process has opened, and left in the middle of whatever it did.

QEMU serves one client at a time, so who has to speak after the driver is dead must have its connection. A byte that is
in no JSON text makes QEMU forget half a command (`docs/interop/qmp-spec`). What still comes for the driver is passed
over.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from vmferry.client.qmp_client import MAX_MESSAGE_BYTES, result_of
from vmferry.errors import MonitorError

_FORGET = b"\xff\n"
_READ_BYTES = 65536


class InheritedMonitor:
    """Carries out commands over an inherited connection."""

    def __init__(self, descriptor: int) -> None:
        self._connection = socket.socket(fileno=descriptor)
        self._command_count = 0
        self.gone = False
        """True once somebody has hung up."""

    def execute(self, command: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Carry out a command. Raises CommandError if it is refused, and MonitorError if no answer comes in time."""
        self._command_count += 1
        mark = f"vmferry-guard-{os.getpid()}-{self._command_count}"
        request = json.dumps({"execute": command, "arguments": dict(arguments), "id": mark}).encode()
        end_s = time.monotonic() + timeout_s
        try:
            self._connection.settimeout(timeout_s)
            self._connection.sendall(_FORGET + request + b"\n")
            text = self._read_until(f'"{mark}"'.encode(), end_s)
            return result_of(command, json.loads(text))
        except TimeoutError as error:
            raise MonitorError(f"no answer to {command} in {timeout_s:g} s") from error
        except OSError as error:
            self.gone = True
            raise MonitorError(f"the connection is gone: {error}") from error
        except (ValueError, RecursionError) as error:
            raise MonitorError(f"what answers is no QMP monitor: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self.gone = True
        self._connection.close()

    def _read_until(self, mark: bytes, end_s: float) -> bytes:
        """Return the message that has the mark in it; all before it is passed over."""
        received = bytearray(b"\n")
        while (message := _message_with(mark, received)) is None:
            if len(received) > 2 * MAX_MESSAGE_BYTES:
                raise ValueError("it never ends")
            self._connection.settimeout(max(0.001, end_s - time.monotonic()))
            data = self._connection.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError("closed")
            received += data
        return message


def _message_with(mark: bytes, received: bytearray) -> bytes | None:
    """Return the message with the mark once it is complete: a line, or with `pretty=on` several from `{` to `}`."""
    at = received.find(mark)
    start = received.rfind(b"\n{", 0, at) + 1 if at >= 0 else 0
    if not start:
        return None
    if b"\n" in received[start:at]:
        end = received.find(b"\n}", at)
        end = received.find(b"\n", end + 1) if end >= 0 else -1
    else:
        end = received.find(b"\n", at)
    return bytes(received[start:end]) if end >= 0 else None
