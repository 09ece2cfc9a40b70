"""Monitors of modelled QEMUs at unix sockets, in real time: for who looks after more VMs than a machine can run.

    python -m bench.modelled_monitors DIRECTORY [--vms 100]

Each is the modelled QEMU of `simulation/qemu/`, whose clock is let run up to now before each command. Beside the
commands that it knows it tells a name and a UUID. Any number of clients may speak with it, so that whoever measures
can begin a migration beside the one that looks on.
"""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Any

import click
import msgspec

from vmferry.errors import CommandError
from vmferry.experiment.scenario import parse_scenario
from vmferry.simulation.qemu.lab import ModelledLab
from vmferry.simulation.qemu.releases import find_release

_GUEST = b"""
name = "modelled"
[guest]
memory = "64M"
vcpus = 1
[[guest.loads]]
pattern = "sweep"
memory = "16M"
write-rate = "100MB/s"
[link]
rate = "10MiB/s"
"""
_RELEASE = "qemu-7.2"
_MAX_LINE_BYTES = 1 << 20


class ServedQemu:
    """One modelled QEMU."""

    def __init__(self, number: int) -> None:
        self.name = f"vm-{number:03}"
        self._uuid = str(uuid.UUID(int=number))
        self._lab = ModelledLab(parse_scenario(_GUEST, "modelled"), find_release(_RELEASE), seed=number)
        self._start_ns = time.monotonic_ns()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak QMP with one client until it hangs up."""
        version = self._lab.source.execute("query-version", {})
        _send(writer, {"QMP": {"version": version, "capabilities": []}})
        while line := await reader.readline():
            request = msgspec.json.decode(line)
            _send(writer, {**self._answer(request["execute"], request.get("arguments", {})), "id": request.get("id")})
            await writer.drain()
        writer.close()

    def _answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        clock = self._lab.clock
        clock.sleep_ns(time.monotonic_ns() - self._start_ns - clock.now_ns())
        own = {"qmp_capabilities": {}, "query-name": {"name": self.name}, "query-uuid": {"UUID": self._uuid}}
        if command in own:
            return {"return": own[command]}
        try:
            return {"return": self._lab.source.execute(command, arguments)}
        except CommandError as error:
            return {"error": {"class": error.error_class, "desc": str(error)}}


def _send(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(msgspec.json.encode(message) + b"\r\n")


async def serve_all(directory: Path, count: int) -> None:
    """Serve so many, for ever."""
    for number in range(count):
        qemu = ServedQemu(number)
        await asyncio.start_unix_server(qemu.serve, directory / f"{qemu.name}.qmp", limit=_MAX_LINE_BYTES)
    await asyncio.Event().wait()


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--vms", default=100, show_default=True, help="How many.")
def main(directory: Path, vms: int) -> None:
    """Serve the monitors of modelled QEMUs in DIRECTORY, until a signal ends it."""
    asyncio.run(serve_all(directory, vms))


if __name__ == "__main__":
    main()
