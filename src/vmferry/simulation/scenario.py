"""Scenario files: a guest, a link, parameters and limits, in TOML.

Sizes, rates and times are written as people write them. A file may come from anyone: unknown keys, wrong types and
values that cannot be are refused with the name of the file and the key.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from vmferry.convergence.policy import VARIANTS, find_variant
from vmferry.errors import UsageError
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.migration.journal import read_migration
from vmferry.migration.parameters import MigrationParameters
from vmferry.simulation.costs import GuestCosts
from vmferry.simulation.link import LinkModel
from vmferry.simulation.patterns import HotCold, Pattern, Phase, Phases, Sweep, Together, Uniform
from vmferry.simulation.trace import DirtyTrace, Trace, read_trace
from vmferry.units import format_size, parse_duration_ns, parse_rate, parse_size

MAX_FILE_BYTES = 1 << 20
MAX_MEMORY_BYTES = 16 << 40


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    pass


class LoadScenario(_Model, frozen=True):
    """What the vCPUs write: together `memory` in size, at `write-rate` when not throttled, or what a journal tells."""

    pattern: Literal["sweep", "uniform", "hot-cold", "idle", "trace"]
    memory: str = "0"
    write_rate: str = "0"
    zipf_exponent: float = 1.0
    duration: str = "1s"
    """How long it lasts, in CPU time, where there are several loads in turn."""
    journal: str = ""
    """For `trace`: the journal of a real migration, looked for beside the scenario's file."""
    trace: DirtyTrace | None = None
    """What that journal tells; a scenario's file leaves it out."""

    def make(self, first_page: int, vcpu_count: int, random: np.random.Generator) -> Pattern:
        """Return the pattern of all vCPUs, each of which writes its share."""
        if self.trace:
            return Trace(self.trace)
        page_count = parse_size(self.memory) // PAGE_SIZE_BYTES // vcpu_count
        pages_per_s = parse_rate(self.write_rate) / PAGE_SIZE_BYTES / vcpu_count
        makers: dict[str, Callable[[int], Pattern]] = {
            "idle": lambda first: Sweep(first, 0, 0),
            "sweep": lambda first: Sweep(first, page_count, pages_per_s),
            "uniform": lambda first: Uniform(first, page_count, pages_per_s, random),
            "hot-cold": lambda first: HotCold(first, page_count, pages_per_s, self.zipf_exponent, random),
        }
        make = makers[self.pattern]
        return Together([make(first_page + number * page_count) for number in range(vcpu_count)])

    def with_trace(self, directory: Path) -> "LoadScenario":
        """Return the load with what its journal tells. Raises UsageError."""
        if self.trace or (self.pattern == "trace") != bool(self.journal):
            raise UsageError("pattern = 'trace' needs journal = 'FILE', and only that")
        if not self.journal:
            return self
        path = directory / self.journal
        return msgspec.structs.replace(self, trace=read_trace(read_migration(path).entries, str(path)))

    def used_bytes(self) -> int:
        """Return how much memory it takes."""
        return self.trace.used_pages * PAGE_SIZE_BYTES if self.trace else parse_size(self.memory)


class GuestScenario(_Model, frozen=True):
    """The guest. With several loads, they take turns."""

    memory: str
    vcpus: int
    loads: tuple[LoadScenario, ...]
    zero_scan_rate: str = "0"
    """How fast a page is found to be zero; 0 for at once."""
    sync_ns_per_page: float = 0.0
    throttle_slice: str = "0ms"
    """How long a throttled guest runs at a time; QEMU and vmferry have 10 ms. 0: it runs evenly slower."""


class LinkScenario(_Model, frozen=True):
    """The link. `rate-changes` are pairs of a time and a rate."""

    rate: str
    share: float = 1.0
    """What of the rate is there for the migration."""
    latency: str = "0ms"
    jitter: float = 0.0
    jitter_interval: str = "1s"
    rate_changes: tuple[tuple[str, str], ...] = ()
    lost_at: str | None = None


class Limits(_Model, frozen=True):
    """When to give up, as guestperf does."""

    max_iterations: int = 200
    max_time: str = "1200s"


class Scenario(_Model, frozen=True):
    """A migration to simulate."""

    name: str
    guest: GuestScenario
    link: LinkScenario
    parameters: dict[str, int | bool | str] = {}
    limits: Limits = Limits()
    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 1
    """Simulate with seeds 0, 1, ... up to this many."""

    def pattern(self, random: np.random.Generator) -> Pattern:
        """Return how the guest writes; the loads use the memory from its beginning on."""
        patterns = [load.make(0, self.guest.vcpus, random) for load in self.guest.loads]
        if len(patterns) == 1:
            return patterns[0]
        durations = (parse_duration_ns(load.duration) for load in self.guest.loads)
        return Phases([Phase(*phase) for phase in zip(durations, patterns, strict=True)])

    def page_count(self) -> int:
        """Return the size of the guest."""
        return parse_size(self.guest.memory) // PAGE_SIZE_BYTES

    def costs(self) -> GuestCosts:
        """Return what looking at the guest's memory costs."""
        scan_bytes_per_s = parse_rate(self.guest.zero_scan_rate)
        scan_ns = PAGE_SIZE_BYTES * 1e9 / scan_bytes_per_s if scan_bytes_per_s else 0.0
        return GuestCosts(scan_ns, self.guest.sync_ns_per_page)

    def link_model(self) -> LinkModel:
        """Return the link."""
        link = self.link
        return LinkModel(
            bytes_per_s=int(parse_rate(link.rate) * link.share),
            latency_ns=parse_duration_ns(link.latency),
            jitter=link.jitter,
            jitter_interval_ns=parse_duration_ns(link.jitter_interval),
            rate_changes=tuple(
                (parse_duration_ns(time), int(parse_rate(rate) * link.share)) for time, rate in link.rate_changes
            ),
            loss_time_ns=parse_duration_ns(link.lost_at) if link.lost_at else None,
        )

    def migration_parameters(self, variant: str) -> MigrationParameters:
        """Return the parameters of a variant, with those of the scenario, which go before. Raises UsageError."""
        return MigrationParameters().changed({"max-bandwidth": 0, **find_variant(variant).settings, **self.parameters})

    def with_settings(self, settings: Mapping[str, str]) -> "Scenario":
        """Return a copy with keys such as `link.share` or `load.write-rate` (of every load) set to these values.

        Raises UsageError for an unknown key, and for a value that cannot be.
        """
        data: dict[str, Any] = msgspec.to_builtins(self)
        for key, value in settings.items():
            for target, name in _targets(data, key):
                target[name] = _plain_value(value) if key.startswith("parameters.") else value
        try:
            changed = msgspec.convert(data, Scenario, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"{', '.join(settings)}: {error}") from error
        changed.check()
        return changed

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        if not 1 <= self.guest.vcpus <= 4096:
            raise UsageError(f"guest.vcpus is {self.guest.vcpus}, 1 to 4096 are allowed")
        if not 0 <= parse_size(self.guest.memory) <= MAX_MEMORY_BYTES:
            raise UsageError(f"guest.memory is {self.guest.memory}, at most 16T are allowed")
        if not self.guest.loads:
            raise UsageError("guest.loads is empty; give at least one load, such as pattern = 'idle'")
        for number, load in enumerate(self.guest.loads):
            if load.used_bytes() > parse_size(self.guest.memory):
                memory = format_size(load.used_bytes()) if load.trace else load.memory
                raise UsageError(f"guest.loads[{number}].memory is {memory}, the guest has {self.guest.memory}")
            if load.trace and load != LoadScenario(
                pattern="trace", duration=load.duration, journal=load.journal, trace=load.trace
            ):
                raise UsageError(
                    f"guest.loads[{number}]: a trace writes as its journal tells; only duration can be set"
                )
            parse_rate(load.write_rate)
            if parse_duration_ns(load.duration) <= 0:
                raise UsageError(f"guest.loads[{number}].duration is {load.duration}, it must be longer than 0")
        if not 0 <= self.link.jitter < 1:
            raise UsageError(f"link.jitter is {self.link.jitter}, 0 up to but not 1 is allowed")
        if not 0 < self.link.share <= 1 or parse_duration_ns(self.link.jitter_interval) <= 0:
            raise UsageError("link.share must be above 0 and at most 1, link.jitter-interval longer than 0")
        if not 1 <= self.seeds <= 10_000:
            raise UsageError(f"seeds is {self.seeds}, 1 to 10000 are allowed")
        parse_duration_ns(self.limits.max_time)
        parse_duration_ns(self.guest.throttle_slice)
        self.costs()
        self.link_model()
        for variant in self.variants:
            self.migration_parameters(variant)


def _targets(data: dict[str, Any], key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the sections that a key means, and the name in them."""
    section, _, name = key.partition(".")
    if section not in ("guest", "load", "link", "parameters", "limits") or not name:
        raise UsageError(f"'{key}' is no key of a scenario; write for example link.rate or load.write-rate")
    for target in data["guest"]["loads"] if section == "load" else [data[section]]:
        yield target, name


def _plain_value(text: str) -> int | bool | str:
    """Return what a parameter's value is when it is written without quotes."""
    try:
        return msgspec.json.decode(text, type=int | bool)
    except msgspec.DecodeError:
        return text


def load_scenario(path: Path) -> Scenario:
    """Return the scenario in a TOML file. Raises UsageError that names the file and what is wrong with it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the scenario {path}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: not a scenario, it is larger than {MAX_FILE_BYTES} bytes")
    return parse_scenario(text, str(path), path.parent)


def parse_scenario(text: bytes, where: str, directory: Path = Path()) -> Scenario:
    """Return the scenario in a TOML text, whose journals are in a directory.

    Raises UsageError that begins with `where`.
    """
    try:
        scenario = msgspec.convert(tomllib.loads(text.decode()), Scenario)
        loads = tuple(load.with_trace(directory) for load in scenario.guest.loads)
        scenario = msgspec.structs.replace(scenario, guest=msgspec.structs.replace(scenario.guest, loads=loads))
        scenario.check()
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{where}: {error}") from error
    return scenario


def seed_scenarios() -> Iterator[Scenario]:
    """Yield the scenarios of the patch series' experiment, which come along."""
    directory = files("vmferry.simulation") / "scenarios"
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            yield parse_scenario(entry.read_bytes(), entry.name)
