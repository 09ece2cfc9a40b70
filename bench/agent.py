"""What the agent costs, and what it leaves behind when it is killed: `python -m bench.agent --help`.

`idle` looks after the monitors of modelled QEMUs (bench/modelled_monitors.py), as this machine cannot run so many VMs,
and `many` after modelled or real ones; `kills` and `virsh` steer migrations of real ones. Processor time is that of the
agent and all its children.
"""

import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from tests.support.agent import Agent, agent
from tests.support.wait import wait_until

from bench.driven import OtherProcesses
from bench.fleet import LONG_S, Fleet, modelled, modelled_fleet, name_of, real_fleet, start_pair
from bench.peers import Load, qemus
from bench.plain_virsh import virsh
from bench.qemu import away
from bench.samples import recording
from vmferry.agent.database import reading
from vmferry.agent.store import journal_of
from vmferry.client.processes import PROC, status_field
from vmferry.client.qmp_client import QmpClient
from vmferry.control.asking.progress import ask
from vmferry.perf.lab import Lab
from vmferry.simulation.qemu.lab import URI
from vmferry.units import MIB

VARIANT = 'variant = "background-sync+responsive-throttle"\n'
STEER = f'[[rule]]\nmode = "steer"\n{VARIANT}'
_SETTLE_S = 3.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@click.group()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.pass_context
def bench(context: click.Context, /, output: Path | None) -> None:
    """Measure `vmferry agent`."""
    context.obj = output


@bench.command()
@click.option("--vms", default=100, show_default=True, help="How many VMs it looks after.")
@click.option("--seconds", default=60.0, show_default=True, help="How long to measure while nothing migrates.")
@click.option("--begin", default=10, show_default=True, help="How many migrations to begin, to see them noticed.")
@click.pass_obj
def idle(output: Path | None, /, vms: int, seconds: float, begin: int) -> None:
    """While nothing migrates: processor time and memory. Then how soon a migration is noticed."""
    with recording(output) as samples, _workplace() as (one, sockets), modelled(sockets, vms) as server:
        one.write(f'sockets = ["{sockets}"]\n')
        one.start()
        one.wait_for("attended to at", vms, LONG_S)
        time.sleep(_SETTLE_S)
        others = OtherProcesses([one.process.pid, server])
        start_s, start_cpu_s = time.monotonic(), cpu_s(one.process.pid)
        time.sleep(seconds)
        used = (cpu_s(one.process.pid) - start_cpu_s) / (time.monotonic() - start_s)
        what = {"vms": vms, "others": round(others.processors(), 2)}
        samples.add("idle_cpu", 100 * used, "% of a core", **what)
        resident_kib = int(status_field(PROC / str(one.process.pid), "VmRSS").split()[0])
        samples.add("idle_memory", resident_kib / 1024, "MiB", **what)
        for number in range(begin):
            samples.add("noticed", _noticed_s(one, sockets, number), "s", **what)
        assert one.stop() == 0


def _noticed_s(one: Agent, sockets: Path, number: int) -> float:
    """Begin the migration of a modelled VM, and return how long it takes until the agent says that it runs."""
    name = name_of(number)
    with QmpClient.connect(f"unix:{sockets}/{name}.qmp") as other:
        other.execute("migrate-set-parameters", {"max-bandwidth": MIB})
        begun_s = time.monotonic()
        other.execute("migrate", {"uri": URI})
        wait_until(lambda: any(line["vm"] == name for line in one.lines("a migration runs")), 30)
        return time.monotonic() - begun_s


@bench.command()
@click.option("--vms", default=20, show_default=True, help="How many VMs migrate at once.")
@click.option("--shadowed", default=0, show_default=True, help="How many of them are only shadowed, by their rules.")
@click.option("--real", is_flag=True, help="Let QEMUs run, of small guests, and slow them by quotas on their threads.")
@click.option("--held", default=4, show_default=True, help="What each real guest may use of a processor at most, in %, "
              "by the quota of a group around its thread.")  # fmt: skip
@click.option("--seconds", default=30.0, show_default=True, help="How long to measure once all are followed.")
@click.pass_obj
def many(output: Path | None, /, vms: int, shadowed: int, real: bool, held: int, seconds: float) -> None:
    """Many migrations at once: is each followed as its rule says, what does it cost, and is the history whole?

    Unless they are real, the QEMUs are modelled, and slowed by their own auto-converge.
    """
    what: dict[str, object] = {"vms": vms, "shadowed": shadowed, "real": real, **({"held": held} if real else {})}
    names = {name_of(number) for number in range(vms)}
    rules = "".join(f'[[rule]]\nname = "{name_of(number)}"\nmode = "shadow"\n{VARIANT}' for number in range(shadowed))
    with (
        recording(output) as samples,
        _workplace() as (one, sockets),
        real_fleet(sockets, vms, held) if real else modelled_fleet(sockets, vms) as fleet,
    ):
        one.write(f'sockets = ["{sockets}"]\n{rules}{STEER}')
        one.start()
        one.wait_for("attended to at", vms, LONG_S)
        start_s, start_cpu_s = time.monotonic(), cpu_s(one.process.pid)
        for vm in fleet:
            vm.monitor.execute("migrate", {"uri": vm.uri})
        wait_until(lambda: _vms_of(one, " 0 -> ") | _vms_of(one, "would do") == names, LONG_S)
        samples.add("all_followed", time.monotonic() - start_s, "s", **what)
        busiest = _share_of_busiest(fleet, seconds)
        used = (cpu_s(one.process.pid) - start_cpu_s) / (time.monotonic() - start_s)
        samples.add("driver_cpu", 100 * used / vms, "% of a core", **what)
        if real:
            samples.add("busiest_guest", 100 * busiest, "% of a core", **what)
        for vm in fleet:
            vm.monitor.execute("migrate-set-parameters", {"downtime-limit": 2000, "max-bandwidth": 1 << 30})
        wait_until(lambda: len(_vms_of(one, "ended: completed")) == vms, LONG_S)
        assert one.stop() == 0
        as_ruled = {name_of(number): "shadow" if number < shadowed else "steer" for number in range(vms)}
        whole = [row for row in one.remembered() if row.memory_bytes and _is_whole(one, row.id)]
        right = [row for row in whole if row.status == "completed" and row.mode == as_ruled.get(row.vm_name)]
        samples.add("remembered", len({row.vm_name for row in right}), "migrations", **what)


def _share_of_busiest(fleet: Fleet, seconds: float) -> float:
    """Return which share of a processor the busiest guest gets meanwhile."""
    start_s, ran_ns = time.monotonic(), [vm.ran_ns for vm in fleet]
    time.sleep(seconds)
    return max(vm.ran_ns - ns for vm, ns in zip(fleet, ran_ns, strict=True)) / 1e9 / (time.monotonic() - start_s)


def _vms_of(one: Agent, words: str) -> set[str]:
    """Return of which VMs the agent has said something."""
    return {line["vm"] for line in one.lines(words)}


@bench.command()
@click.option("--kills", default=100, show_default=True, help="How often to kill the agent.")
@click.option("--seconds", default=2.0, show_default=True, help="Longest time to let it work once it has throttled.")
@click.pass_obj
def kills(output: Path | None, /, kills: int, seconds: float) -> None:
    """Kill the agent while it slows a guest: until when is the guest slowed, and does a new one go on?

    It takes the migration up at once, and slows it again when its policy has seen enough to decide.
    """
    peer, load, moments = qemus(None)[0], Load(192, 1, 96), random.Random(1)
    with recording(output) as samples, Lab() as lab, _workplace() as (one, sockets):
        source, uri = start_pair(lab, peer, load, sockets, 0)
        source.wait_for_passes(1, LONG_S)
        threads = [vcpu["thread-id"] for vcpu in source.monitor.execute("query-cpus-fast")]
        one.write(f'sockets = ["{sockets}"]\n{STEER}')
        source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 8 * MIB, "downtime-limit": 1})
        source.monitor.execute("migrate", {"uri": uri})
        for number in range(kills):
            begun_s = time.monotonic()
            one.start()
            one.wait_for("a migration runs", number + 1, LONG_S)
            samples.add("taken_up", time.monotonic() - begun_s, "s")
            one.wait_for(" 0 -> ", number + 1, LONG_S)
            samples.add("resumed", time.monotonic() - begun_s, "s")
            time.sleep(moments.uniform(0, seconds))
            was_slowed = away(threads)
            one.process.kill()
            samples.add("time_to_undo", 1000 * _undone_s(threads), "ms", throttled=was_slowed)
            one.kill()
            assert ask(source.monitor).status == "active"
            (row,) = one.remembered()
            samples.add("consistent", float(_is_whole(one, row.id)), "history")
        one.start()
        one.wait_for(" 0 -> ", kills + 1, LONG_S)
        source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 30, "downtime-limit": 2000})
        one.wait_for("ended: completed", timeout_s=LONG_S)
        assert one.stop() == 0
        (row,) = one.remembered()
        samples.add("remembered", float(row.status == "completed" and _is_whole(one, row.id)), "migrations")


def _undone_s(threads: list[int]) -> float:
    """Return how long it takes until the threads are where they were."""
    start_s = time.monotonic()
    while away(threads):
        if time.monotonic() - start_s > 60:
            raise SystemExit("the threads are still slowed after 60 s")
        time.sleep(0.001)
    return time.monotonic() - start_s


def _is_whole(one: Agent, number: int) -> bool:
    """Tell whether all of a journal can be read, and begins with a beginning."""
    with reading(one.database) as connection:
        entries = journal_of(connection, number)
    return bool(entries) and type(entries[0].event).__name__ == "Started"


@contextmanager
def _workplace() -> Iterator[tuple[Agent, Path]]:
    """Yield an agent that is not started yet, and the directory in which it is to find monitors."""
    with tempfile.TemporaryDirectory(prefix="vmferry-") as name:
        (sockets := Path(name) / "qmp").mkdir()
        with agent(Path(name)) as one:
            yield one, sockets


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its descendants have used, those that have ended too."""
    parents = {int(stat.parent.name): _stat(stat) for stat in PROC.glob("[0-9]*/stat")}
    family = {pid}
    while grown := {child for child, fields in parents.items() if fields and int(fields[1]) in family} - family:
        family |= grown
    return sum(sum(map(int, fields[11:15])) for one in family if (fields := parents.get(one))) / _TICKS_PER_S


def _stat(path: Path) -> list[str]:
    """Return the fields behind the name; none if the process has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


bench.add_command(virsh)

if __name__ == "__main__":
    bench()
