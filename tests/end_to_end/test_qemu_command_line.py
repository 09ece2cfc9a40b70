"""What guestperf's engine does with a QEMU, done with ours: its options, its monitors, its log, its migration."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from qemu.qmp import QMPClient

from tests.cli.test_qemu_options import WRAPPER

pytestmark = pytest.mark.kvm

OPTIONS = [
    *(
        "-display",
        "none",
        "-vga",
        "none",
        "-chardev",
        "socket,id=mon,path={monitor}",
        "-mon",
        "chardev=mon,mode=control",
    ),
    *("-cpu", "host", "-append", "ramsize=32 epoch={now_ms}", "-m", "64", "-smp", "2", "-accel", "kvm"),
    *("-chardev", "stdio,id=cdev0", "-device", "isa-serial,chardev=cdev0"),
]
"""Guestperf's, with less memory and without what it boots."""

TIMING = re.compile(r"[^\s]+\s\((\d+)\):\sINFO:\s(\d+)ms\scopied\s\d+\sGB\sin\s(\d+)ms")
"""Guestperf's pattern of a line with the thread, the time, and the ms that writing 1 GiB took."""


@dataclass
class Machine:
    process: subprocess.Popen[bytes]
    qmp: QMPClient
    log: Path

    def timings(self) -> list[tuple[int, int, int]]:
        matches = map(TIMING.match, self.log.read_text().splitlines())
        return [(int(match[1]), int(match[2]), int(match[3])) for match in matches if match]

    async def command(self, name: str, **arguments: object) -> object:
        return await self.qmp.execute(name, {key.replace("_", "-"): value for key, value in arguments.items()})


@asynccontextmanager
async def launched(directory: Path, name: str, *more: str) -> AsyncIterator[Machine]:
    """A VM that calls us up, as QEMU's Python module has it."""
    monitor, log = directory / f"{name}.monitor", directory / f"{name}.log"
    words = [word.format(monitor=monitor, now_ms=time.time_ns() // 10**6) for word in OPTIONS]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    qmp = QMPClient(name)
    await qmp.start_server(str(monitor))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [WRAPPER, *words, *more],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": path},
        )
    try:
        await asyncio.wait_for(qmp.accept(), 30)
        yield Machine(process, qmp, log)
        await qmp.execute("quit")
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.wait()
        with suppress(EOFError):  # it has hung up before us
            await qmp.disconnect()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.05)


async def run_as_guestperf(directory: Path) -> None:
    uri = f"unix:{directory / 'migrate'}"
    before_ms = time.time_ns() // 10**6
    async with launched(directory, "src") as source, launched(directory, "dst", "-incoming", uri) as destination:
        cpus = await source.command("query-cpus-fast")
        assert isinstance(cpus, list)
        assert all(Path(f"/proc/{source.process.pid}/task/{cpu['thread-id']}").exists() for cpu in cpus)

        async def has_timing(machine: Machine) -> bool:
            return bool(machine.timings())

        await until(lambda: has_timing(source))
        await source.command("migrate-set-capabilities", capabilities=[{"capability": "auto-converge", "state": True}])
        await source.command("migrate-set-parameters", cpu_throttle_increment=10)
        await source.command("migrate-set-parameters", max_bandwidth=125_000 << 20)
        await source.command("migrate-set-parameters", downtime_limit=500)
        await source.command("migrate", uri=uri)
        info = {}

        async def has_ended() -> bool:
            answer = await source.command("query-migrate")
            assert isinstance(answer, dict)
            info.update(answer)
            return info["status"] in ("completed", "failed", "cancelled")

        await until(has_ended)
        assert info["status"] == "completed", info
        assert info["ram"]["total"] == 64 << 20
        await until(lambda: has_timing(destination))
        last = source.timings()[-1], destination.timings()[0]
    assert all(thread in (1, 2) for thread, _, _ in last)
    assert before_ms < last[0][1] < time.time_ns() // 10**6, "times are of the wall clock"


def test_guestperfs_engine_could_not_tell_the_difference(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(run_as_guestperf(tmp_path), 100))
