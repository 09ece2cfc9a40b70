"""The policy `planned` beside the other variants: `python -m bench.planned --help`.

`seed` and `modelled` are in virtual time. `live` moves real guests, ours and QEMU's, all in one run in an order that
changes from round to round; the machine should do nothing else.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click

from bench.peers import Load, Peer, cool_down, qemus
from bench.qemu import measure
from bench.samples import Samples, recording
from vmferry.experiment.scenario import load_scenario, parse_scenario
from vmferry.migration.outcome import Outcome
from vmferry.study.simulate import simulate
from vmferry.units import MIB

RESPONSIVE = "background-sync+responsive-throttle"
SEED_GUESTS = ("seed-3000", "seed-5000")
SEED_VARIANTS = ("original", RESPONSIVE, "planned")
OURS = Peer("vmferry")
"""A VM of ours, moved by whatever variant it is told."""


@dataclass(frozen=True)
class Case:
    """A guest in virtual time: what it does, and its link."""

    name: str
    load: str
    rate_mib_per_s: int
    downtime_ms: int
    vcpu_count: int = 1
    bodies: tuple[str, ...] = ("", "qemu-7.2", "qemu-10")
    """By what it is moved: our own engine, or a modelled QEMU that is driven, with a `max-bandwidth` as in `live`."""

    def scenario(self, body: str) -> str:
        """Return it as a scenario's file."""
        driven = f'driven = "{body}"' if body else ""
        limit = f"max-bandwidth = {self.rate_mib_per_s * MIB}" if body else ""
        return f"""
            name = "{self.name}"
            {driven}
            [guest]
            memory = "1G"
            vcpus = {self.vcpu_count}
            throttle-slice = "10ms"
            [[guest.loads]]
            {self.load}
            [link]
            rate = "{self.rate_mib_per_s}MiB/s"
            [parameters]
            {limit}
            downtime-limit = {self.downtime_ms}
            [limits]
            max-time = "120s"
        """


_SWEEP = 'pattern = "sweep"\nmemory = "800M"\nwrite-rate = "{}"'
_PACED = """pattern = "hot-spot"
            memory = "300M"
            working-set = "20M"
            hot-share = 0.75
            write-rate = "14GB/s"
            pace = "82MB/s"
"""
CASES = (
    Case("rewrites 800 MiB, 200 MiB/s", _SWEEP.format("2GB/s"), 200, 500, 2, bodies=("",)),
    Case("rewrites 800 MiB, 60 MiB/s", _SWEEP.format("2GB/s"), 60, 500, 2, bodies=("",)),
    Case("rewrites 800 MiB, 200 MiB/s", _SWEEP.format("1300MB/s"), 200, 300, bodies=("qemu-7.2", "qemu-10")),
    Case("paced, three of four to 20 MiB", _PACED, 40, 300),
    Case("random over 200 MiB", 'pattern = "uniform"\nmemory = "200M"\nwrite-rate = "14GB/s"', 40, 300),
)


@dataclass(frozen=True)
class LiveGuest:
    """A real guest of 1 GiB: what it does, and its link."""

    load: Load
    rate_mib_per_s: int
    downtime_ms: int

    @property
    def parameters(self) -> dict[str, object]:
        """The migration parameters."""
        return {"max-bandwidth": self.rate_mib_per_s * MIB, "downtime-limit": self.downtime_ms}


GUESTS = {
    "seed": LiveGuest(Load(1024, 1, 800), 200, 300),
    "seed-2-vcpus": LiveGuest(Load(1024, 2, 800), 200, 500),
    "seed-2-vcpus-slow": LiveGuest(Load(1024, 2, 800), 60, 500),
    "paced": LiveGuest(Load(1024, 1, 300, "pattern=hot-spot working-set=20 hot-share=75 pace=20000"), 40, 300),
    "random": LiveGuest(Load(1024, 1, 200, "pattern=uniform"), 40, 300),
    "reader": LiveGuest(Load(1024, 2, 400, "vcpus=1 ramsize=300 pattern=read"), 100, 300),
}
"""By what `live` calls them; the modelled ones are like them."""


@click.group()
def bench() -> None:
    """The policy `planned` beside the other variants."""


@bench.command()
def seed() -> None:
    """The patch series' guests: each with its unused memory untouched, and with the scan of all of it."""
    click.echo("| guest | variant | total time | / original | work lost, vCPU-s | downtime |")
    click.echo("|---|---|---|---|---|---|")
    for name in SEED_GUESTS:
        for scan in (False, True):
            settings = {} if scan else {"guest.zero-scan-rate": "0"}
            scenario = load_scenario(name).with_settings(settings)
            label = f"{name}, scan of all memory" if scan else name
            _print(label, {variant: simulate(scenario, variant) for variant in SEED_VARIANTS})


@bench.command()
def modelled() -> None:
    """Busy, paced and hopeless guests, moved by our own engine and by modelled QEMUs that are driven."""
    click.echo("| guest | variant | total time | / original | work lost, vCPU-s | downtime |")
    click.echo("|---|---|---|---|---|---|")
    for case in CASES:
        for body in case.bodies:
            scenario = parse_scenario(case.scenario(body).encode(), case.name)
            label = f"{case.name}, {body or 'ours'}"
            _print(label, {variant: simulate(scenario, variant) for variant in SEED_VARIANTS})


def _print(label: str, results: dict[str, Outcome]) -> None:
    original_ms = results["original"].total_time_ms or 1
    for variant, result in results.items():
        total_ms = result.total_time_ms or 0
        ended = result.status == "completed"
        time = f"{total_ms / 1000:.1f} s | {total_ms / original_ms:.2f}" if ended else f"{result.status} | "
        downtime = f"{result.downtime_ms} ms" if ended else ""
        click.echo(f"| {label} | `{variant}` | {time} | {result.work_lost_vcpu_s:.1f} | {downtime} |")


@bench.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--runs", default=3, show_default=True, help="Runs of each kind.")
@click.option("--guest", "guests", type=click.Choice(list(GUESTS)), multiple=True, default=("seed",), show_default=True,
              help="What it does, and over which link it goes; repeatable.")  # fmt: skip
@click.option("--max-time", default=600, show_default=True, help="Give up after so many seconds, and count those.")
@click.option("--variant", "variants", multiple=True, default=("original", "planned"), show_default=True,
              help="By what they are moved; repeatable. A QEMU moves its guest by `original` itself.")  # fmt: skip
@click.option("--peer", "names", multiple=True, help="Only these; repeatable: vmferry, qemu-installed, qemu-10.")
def live(
    output: Path | None,
    qemu10: str | None,
    runs: int,
    guests: tuple[str, ...],
    max_time: int,
    variants: tuple[str, ...],
    names: tuple[str, ...],
) -> None:
    """Total time, what it took with the measurement before, and guest work lost, of real guests."""
    order = random.Random(1)
    peers = [peer for peer in [OURS, *qemus(qemu10)] if not names or peer.name in names]
    kinds = [(guest, peer, variant) for guest in guests for peer in peers for variant in variants]
    with recording(output) as samples:
        for _ in range(runs):
            for name, peer, variant in order.sample(kinds, len(kinds)):
                what: dict[str, object] = {"guest": name, "peer": peer.name, "by": variant}
                measure(samples, peer, GUESTS[name].load, variant, GUESTS[name].parameters, max_time, what)
                cool_down()
    _compare(samples, guests, peers, variants)


def _compare(samples: Samples, guests: Iterable[str], peers: Sequence[Peer], variants: Sequence[str]) -> None:
    """Print how the medians of each variant compare with the first one's."""
    for guest, peer, variant in product(guests, peers, variants[1:]):
        for name in ("total_time", "elapsed", "work_lost"):
            value, first = (samples.median(name, guest=guest, peer=peer.name, by=by) for by in (variant, variants[0]))
            ratio = value / first if first > 0 else float("nan")
            click.echo(f"{guest}, {peer.name}: {name} {variant} / {variants[0]} = {ratio:.3f}", err=True)


if __name__ == "__main__":
    bench()
