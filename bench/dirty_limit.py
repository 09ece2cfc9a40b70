"""What QEMU's dirty ring and `set-vcpu-dirty-limit` do to a guest: `python -m bench.dirty_limit --help`.

One vCPU writes for ever, the others read. What each gets done is told by the guest's own counters, and by how long its
thread wanted a processor, which other work on the machine does not change.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench.peers import Load, Peer, qemus
from bench.samples import Samples, recording
from vmferry.errors import CommandError
from vmferry.perf.lab import Lab, VmProcess
from vmferry.units import MIB, NS_PER_S

_PAGES_PER_MIB = 256
_WRITER = 0
_ENDLESS = {"max-bandwidth": 16 * MIB, "downtime-limit": 1}
"""Of a migration that runs beside what is measured."""
_BESIDE = ("nothing", "migration", "auto-converge", "dirty-limit")
"""The latter two are migrations with that capability."""
_BEGUN_S = 2.0
_COMMANDS: tuple[tuple[str, dict[str, object]], ...] = (
    ("query-vcpu-dirty-limit", {}),
    ("set-vcpu-dirty-limit", {"dirty-rate": 100}),
    ("set-vcpu-dirty-limit", {"dirty-rate": 1, "cpu-index": 0}),
    ("query-vcpu-dirty-limit", {}),
    ("set-vcpu-dirty-limit", {"dirty-rate": 0, "cpu-index": 0}),
    ("set-vcpu-dirty-limit", {"dirty-rate": 1, "cpu-index": 99}),
    ("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-ring"}),
    ("cancel-vcpu-dirty-limit", {"cpu-index": 1}),
    ("query-vcpu-dirty-limit", {}),
)


@dataclass(frozen=True)
class Done:
    """What each vCPU had done by a moment."""

    at_s: float
    pages: tuple[int, ...]
    """Written, or read."""
    wanted_ns: tuple[int, ...]
    """For how long it ran, or waited for a processor."""

    @classmethod
    def by(cls, vm: VmProcess) -> "Done":
        """Return what they have done by now."""
        pages = tuple(vcpu.written_pages for vcpu in vm.progress().vcpus)
        return cls(time.monotonic(), pages, tuple(vcpu.wanted_ns for vcpu in vm.scheduled_vcpus()))

    def since(self, earlier: "Done") -> Iterator[tuple[str, float, float]]:
        """Yield of each vCPU what it is, its MiB/s since then, and the percentage of that time that it was let run."""
        passed_s = self.at_s - earlier.at_s
        for number, pages in enumerate(self.pages):
            mib_per_s = (pages - earlier.pages[number]) / _PAGES_PER_MIB / passed_s
            ran_s = (self.wanted_ns[number] - earlier.wanted_ns[number]) / NS_PER_S
            yield "writer" if number == _WRITER else "reader", mib_per_s, 100 * ran_s / passed_s


@click.group()
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--memory", default=256, show_default=True, help="Guest memory in MiB.")
@click.option("--cpus", default=2, show_default=True, help="vCPUs of the guest; the first writes.")
@click.option("--stress", default=100, show_default=True, help="Memory rewritten for ever in MiB.")
@click.option("--ring", default=4096, show_default=True, help="Size of each vCPU's dirty ring in pages.")
@click.pass_context
def bench(context: click.Context, /, qemu10: str | None, memory: int, cpus: int, stress: int, ring: int) -> None:
    """Limit the dirty rate of single vCPUs."""
    readers = f"vcpus=1-{cpus - 1} ramsize=32 pattern=read"
    peers = [replace(peer, accel=f"kvm,dirty-ring-size={ring}") for peer in qemus(qemu10)]
    context.obj = peers, Load(memory, cpus, stress, readers)


@bench.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--limit", "limits", multiple=True, default=(400, 100, 25, 1), help="In MB/s; repeatable.")
@click.option("--beside", type=click.Choice(_BESIDE), default="nothing", show_default=True, help="What else goes on.")
@click.option("--seconds", default=6, show_default=True, help="How long each is held.")
@click.pass_obj
def hold(
    setting: tuple[list[Peer], Load], /, output: Path | None, limits: Sequence[int], beside: str, seconds: int
) -> None:
    """Limit the vCPU that writes: what it writes in each second, what QEMU says of it, and what the others keep.

    Before the first limit the guest's dirty rate is measured by its ring, which logs what it writes already.
    """
    peers, load = setting
    with recording(output) as samples:
        for peer in peers:
            with _busy(peer, load, beside) as vm:
                what: dict[str, object] = {"peer": peer.name, "accel": peer.accel, "beside": beside}
                _follow(samples, vm, 2, what | {"limit": "none"})
                vm.monitor.execute("calc-dirty-rate", {"calc-time": 1, "mode": "dirty-ring"})
                _follow(samples, vm, 2, what | {"limit": "none, measured"})
                for limit in limits:
                    arguments = {"dirty-rate": limit, "cpu-index": _WRITER}
                    vm.monitor.execute("set-vcpu-dirty-limit", arguments)
                    _follow(samples, vm, seconds, what | {"limit": limit})
                    _time(samples, vm, "stop", what | {"limit": limit})
                    vm.monitor.execute("cont")
                _time(samples, vm, "cancel-vcpu-dirty-limit", what)


def _follow(samples: Samples, vm: VmProcess, count: int, what: dict[str, object]) -> None:
    """Record what each second brings."""
    before = Done.by(vm)
    for second in range(1, count + 1):
        time.sleep(1)
        now, at = Done.by(vm), what | {"second": second}
        for who, mib_per_s, kept in now.since(before):
            samples.add("pages", mib_per_s, "MiB/s", who=who, **at)
            samples.add("kept", kept, "% of a CPU", who=who, **at)
        for told in vm.monitor.execute("query-vcpu-dirty-limit"):
            samples.add("told_by_qemu", told["current-rate"], "MB/s", vcpu=told["cpu-index"], **at)
        before = now


def _time(samples: Samples, vm: VmProcess, command: str, what: dict[str, object]) -> None:
    start_s = time.monotonic()
    vm.monitor.execute(command)
    samples.add(command, 1000 * (time.monotonic() - start_s), "ms", **what)


@contextmanager
def _busy(peer: Peer, load: Load, beside: str) -> Iterator[VmProcess]:
    """A warm guest, and what goes on beside it. Raises CommandError if QEMU refuses that."""
    with Lab() as lab:
        source, _, uri = peer.start_pair(lab, load)
        if beside in _BESIDE[2:]:
            wanted = {"capability": beside, "state": True}
            source.monitor.execute("migrate-set-capabilities", {"capabilities": [wanted]})
        if beside in _BESIDE[1:]:
            source.monitor.execute("migrate-set-parameters", _ENDLESS)
            source.monitor.execute("migrate", {"uri": uri})
            time.sleep(_BEGUN_S)
        yield source


@bench.command()
@click.pass_obj
def answers(setting: tuple[list[Peer], Load], /) -> None:
    """Print what QEMU answers to each command, and how soon, as a Markdown table."""
    peers, load = setting
    click.echo("| QEMU | beside | command | answer | took |\n|---|---|---|---|---|")
    for peer in peers:
        _print_answers(replace(peer, accel="kvm"), load, "nothing", "nothing, no ring")
        for beside in _BESIDE:
            _print_answers(peer, load, beside, beside)


def _print_answers(peer: Peer, load: Load, beside: str, label: str) -> None:
    try:
        with _busy(peer, load, beside) as vm:
            for command, arguments in _COMMANDS:
                start_s = time.monotonic()
                answer = _answer(vm, command, arguments)
                took_ms = round(1000 * (time.monotonic() - start_s))
                words = " ".join([command, *(f"{name}={value}" for name, value in arguments.items())])
                click.echo(f"| {peer.name} | {label} | {words} | {answer} | {took_ms} ms |")
    except CommandError as error:
        click.echo(f"| {peer.name} | {label} | | {error} | |")


def _answer(vm: VmProcess, command: str, arguments: dict[str, object]) -> str:
    try:
        return str(vm.monitor.execute(command, arguments))
    except CommandError as error:
        return str(error)


if __name__ == "__main__":
    bench()
