"""A 16550 serial port, as far as a guest needs it that only writes."""

from collections.abc import Callable

from vmferry.bounds import one_line

BASE_PORT = 0x3F8
SERIAL_REGISTERS = 8
PORTS = range(BASE_PORT, BASE_PORT + SERIAL_REGISTERS)

(
    _DATA,
    _INTERRUPT_ENABLE,
    _INTERRUPT_ID,
    _LINE_CONTROL,
    _MODEM_CONTROL,
    _LINE_STATUS,
    _MODEM_STATUS,
    _SCRATCH,
) = range(SERIAL_REGISTERS)
_MAX_LINE_BYTES = 256
_DIVISOR_LATCH = 0x80
_NO_INTERRUPT = 0x01
_TRANSMITTER_EMPTY = 0x60
_CARRIER_AND_CLEAR_TO_SEND = 0xB0


class Serial:
    """Gives every byte that the guest sends to `output`; nothing is ever received."""

    def __init__(self, output: Callable[[bytes], object]) -> None:
        self._output = output
        self._line = bytearray()
        self._last_line = b""
        self._registers = bytearray(SERIAL_REGISTERS)

    @property
    def registers(self) -> bytes:
        """What the guest has set: all of the port's state, SERIAL_REGISTERS bytes."""
        return bytes(self._registers)

    @registers.setter
    def registers(self, registers: bytes) -> None:
        assert len(registers) == SERIAL_REGISTERS
        self._registers[:] = registers

    @property
    def last_line(self) -> str:
        """The newest whole line that the guest has sent, as far as it is text and short; empty if there is none."""
        return one_line(self._last_line.decode("ascii", "replace"))

    def _note(self, data: bytes) -> None:
        self._line += data[: _MAX_LINE_BYTES - len(self._line)]
        if b"\n" in data:
            self._last_line, self._line = bytes(self._line.partition(b"\n")[0]), bytearray()

    def write(self, port: int, data: bytes) -> None:
        """The guest writes bytes to one of the ports."""
        register = port - BASE_PORT
        if register == _DATA and not self._registers[_LINE_CONTROL] & _DIVISOR_LATCH:
            self._note(data)
            self._output(data)
        elif register in (_INTERRUPT_ENABLE, _LINE_CONTROL, _MODEM_CONTROL, _SCRATCH):
            self._registers[register] = data[-1]

    def read(self, port: int) -> int:
        """The guest reads a byte from one of the ports."""
        register = port - BASE_PORT
        fixed = {
            _DATA: 0,
            _INTERRUPT_ID: _NO_INTERRUPT,
            _LINE_STATUS: _TRANSMITTER_EMPTY,
            _MODEM_STATUS: _CARRIER_AND_CLEAR_TO_SEND,
        }
        return fixed.get(register, self._registers[register])
