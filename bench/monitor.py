"""The monitor while a migration is busy: how long it takes to answer, and what being asked costs the migration.

python -m bench.monitor [--questions 1000] [--runs 10]
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from bench.peers import Load, cool_down, ours, warm_memory
from bench.samples import Samples, recording
from vmferry.control.drive import set_up
from vmferry.control.qmp_client import QmpClient
from vmferry.perf.lab import Lab, VmProcess

POLLS_PER_S = 20
_PAUSE_S = 0.01
"""Between two questions, so that they do not make up the load themselves."""
_EVENT_TIMEOUT_S = 300.0
_BYTES_PER_S = 512 << 20


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--runs", default=10, show_default=True, help="Pairs of migrations with and without a poller.")
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
    pid = vm.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e6


def _ask(monitor: QmpClient) -> float:
    """Return the milliseconds that one query-migrate took."""
    time.sleep(_PAUSE_S)
    start_ns = time.perf_counter_ns()
    status = monitor.execute("query-migrate")["status"]
    time_ms = (time.perf_counter_ns() - start_ns) / 1e6
    assert status == "active", f"the migration is over: {status}"
    return time_ms


def poller_cost(samples: Samples, runs: int, memory: int) -> None:
    """Migrate a paused guest with and without somebody who polls, in pairs whose order alternates."""
    costs = []
    for number in range(runs):
        order = (False, True) if number % 2 else (True, False)
        gb_per_s = {polled: _throughput(memory, polled=polled) for polled in order}
        for polled, value in gb_per_s.items():
            samples.add("throughput", value, "GB/s", polled=polled, memory_mib=memory)
        costs.append(1 - gb_per_s[True] / gb_per_s[False])
    click.echo(f"cost of {POLLS_PER_S} polls a second: median {100 * statistics.median(costs):.1f} %", err=True)


def _throughput(memory: int, *, polled: bool) -> float:
    """Return the GB/s of one unlimited migration of a paused guest, which ends without being asked."""
    cool_down()
    with Lab() as lab:
        source, _, uri = ours("original").start_pair(lab, Load(memory + 64, 2, memory))
        source.monitor.execute("stop")
        warm_memory(memory + 64)
        set_up(source.monitor, {"max-bandwidth": 0}, auto_converge=False)
        events_on = [{"capability": "events", "state": True}]
        source.monitor.execute("migrate-set-capabilities", {"capabilities": events_on})
        with _poller(lab, source) if polled else nullcontext():
            source.monitor.execute("migrate", {"uri": uri})
            while (status := _next_status(source)) != "completed":
                assert status in ("setup", "active", "device"), status
        answer = source.monitor.execute("query-migrate")
    return float(answer["ram"]["transferred"] / (answer["total-time"] - answer["setup-time"]) / 1e6)


def _next_status(vm: VmProcess) -> str:
    return str(vm.monitor.wait_event("MIGRATION", _EVENT_TIMEOUT_S).data["status"])


@contextmanager
def _poller(lab: Lab, vm: VmProcess) -> Iterator[None]:
    """Ask query-migrate POLLS_PER_S times a second, on a connection of its own."""
    ended = threading.Event()

    def poll() -> None:
        with QmpClient.connect(f"unix:{lab.directory / vm.name}.qmp") as monitor:
            while not ended.wait(1 / POLLS_PER_S):
                monitor.execute("query-migrate")

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
