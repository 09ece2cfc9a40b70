"""The monitor while a migration is busy: how long it takes to answer, and what being asked costs the migration.

python -m bench.monitor [--questions 1000] [--runs 100]
"""

import math
import socket
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import click

from bench.peers import Load, ours
from bench.samples import Samples, recording
from vmferry.client.processes import Scheduled
from vmferry.client.qmp_client import QmpClient
from vmferry.control.drive import set_up
from vmferry.perf.lab import Lab, VmProcess
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Accepted, Challenge

POLLS_PER_S = 20
_PAUSE_S = 0.01
"""Between two questions, so that they do not make up the load themselves."""
_SILENCE_S = 0.3
_BUFFER_BYTES = 4 << 20
_BYTES_PER_S = 512 << 20


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--runs", default=100, show_default=True, help="Pairs of migrations with and without a poller.")
@click.option("--questions", default=1000, show_default=True, help="Number of query-migrate to time.")
@click.option("--memory", default=2048, show_default=True, help="Non-zero guest memory in MiB.")
def main(output: Path | None, runs: int, questions: int, memory: int) -> None:
    """Measure round trips of query-migrate in a busy migration, and what a poller costs a migration."""
    with recording(output) as samples:
        round_trips(samples, questions, memory)
        poller_cost(samples, runs, memory)


def round_trips(samples: Samples, questions: int, memory: int) -> None:
    """Time questions during a migration of a guest that rewrites half its memory for ever.

    Without a rate limit it may take all the processor's time, and end in a moment in which the guest has none.
    """
    with Lab() as lab:
        source, _, uri = ours("original").start_pair(lab, Load(memory + 64, 2, memory // 2))
        set_up(source.monitor, {"max-bandwidth": _BYTES_PER_S, "downtime-limit": 0}, auto_converge=False)
        source.monitor.execute("migrate", {"uri": uri})
        while source.monitor.execute("query-migrate")["status"] != "active":
            time.sleep(_PAUSE_S)
        start_ms = _monitor_cpu_ms(source)
        times_ms = [_ask(source.monitor) for _ in range(questions)]
        cpu_ms = (_monitor_cpu_ms(source) - start_ms) / questions
        source.monitor.execute("migrate_cancel")
    for time_ms in times_ms:
        samples.add("query_migrate", time_ms, "ms", memory_mib=memory)
    samples.add("query_migrate_cpu", cpu_ms, "ms", memory_mib=memory)
    p99_ms = sorted(times_ms)[questions * 99 // 100]
    median_ms = statistics.median(times_ms)
    click.echo(f"query-migrate: median {median_ms:.2f} ms, p99 {p99_ms:.2f} ms, CPU {cpu_ms:.2f} ms", err=True)


def _monitor_cpu_ms(vm: VmProcess) -> float:
    """Return the CPU time of the VM's first thread, which is that of the monitors."""
    return Scheduled.of(vm.process.pid).ran_ns / 1e6


def _ask(monitor: QmpClient) -> float:
    """Return the milliseconds that one query-migrate took."""
    time.sleep(_PAUSE_S)
    start_ns = time.perf_counter_ns()
    status = monitor.execute("query-migrate")["status"]
    time_ms = (time.perf_counter_ns() - start_ns) / 1e6
    assert status == "active", f"the migration is over: {status}"
    return time_ms


def poller_cost(samples: Samples, pairs: int, memory: int) -> None:
    """Migrate a paused guest with and without somebody who polls, in pairs whose order alternates.

    The pages go to somebody who throws them away: taking them in is slower and varies more, and would hide the sender.
    """
    costs = []
    with Lab() as lab:
        source = lab.start(
            [*ours("original").command(Load(memory + 64, 2, memory)), "--append", f"ramsize={memory}"], "source"
        )
        source.wait_for_passes(1)
        source.monitor.execute("stop")
        set_up(source.monitor, {"max-bandwidth": 0}, auto_converge=False)
        for number in range(pairs):
            order = (False, True) if number % 2 else (True, False)
            gb_per_s = {polled: _throughput(lab, source, polled=polled) for polled in order}
            for polled, value in gb_per_s.items():
                samples.add("throughput", value, "GB/s", polled=polled, memory_mib=memory)
            costs.append(1 - gb_per_s[True] / gb_per_s[False])
    low, high = _confidence(costs)
    click.echo(
        f"cost of {POLLS_PER_S} polls a second: {100 * statistics.median(costs):.2f} % in the median of {pairs} pairs "
        f"(95 % confidence: {100 * low:.2f} to {100 * high:.2f})",
        err=True,
    )


def _throughput(lab: Lab, source: VmProcess, *, polled: bool) -> float:
    """Return the GB/s of a migration that is cancelled when all pages are sent."""
    path = lab.directory / "sink"
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        listener.listen()
        gb_per_s = pool.submit(_throw_away, listener)
        source.monitor.execute("migrate", {"uri": f"unix:{path}"})
        while not gb_per_s.done():
            if polled:
                source.monitor.execute("query-migrate")
            time.sleep(1 / POLLS_PER_S)
    path.unlink()
    source.monitor.execute("migrate_cancel")
    while source.monitor.execute("query-migrate")["status"] not in ("cancelled", "failed"):
        time.sleep(_PAUSE_S)
    return gb_per_s.result()


def _throw_away(listener: socket.socket) -> float:
    """Accept a guest; return the GB/s at which its pages came, when none has come for a while."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_SILENCE_S)
        buffer = bytearray(_BUFFER_BYTES)
        connection.recv_into(buffer)
        encoder = Encoder()
        for answer in (Challenge(bytes(NONCE_BYTES)), Accepted()):
            connection.sendall(encoder.encode(answer))
        size = 0
        start_ns = last_ns = time.monotonic_ns()
        with suppress(TimeoutError):
            while received := connection.recv_into(buffer):
                size += received
                last_ns = time.monotonic_ns()
    return size / (last_ns - start_ns)


def _confidence(values: Sequence[float]) -> tuple[float, float]:
    """Return the bounds of the median by the sign test, at 95 %."""
    skipped = max(0, int(len(values) / 2 - 0.98 * math.sqrt(len(values))))
    ordered = sorted(values)
    return ordered[skipped], ordered[-1 - skipped]


if __name__ == "__main__":
    main()
