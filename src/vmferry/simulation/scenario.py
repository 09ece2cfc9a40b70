"""Scenario files: a guest, a link, parameters and limits, in TOML.

Sizes, rates and times are written as people write them. A file may come from anyone: unknown keys, wrong types and
values that cannot be are refused with the name of the file and the key.
"""

import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from vmferry.convergence.variants import VARIANTS, find_variant
from vmferry.errors import UsageError
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.migration.journal import read_migration
from vmferry.settings.parameters import MigrationParameters
from vmferry.simulation.costs import GuestCosts
from vmferry.simulation.keys import allowed_parameter, keys_of, refusal
from vmferry.simulation.link import LinkModel
from vmferry.simulation.patterns import HotCold, Pattern, Phase, Phases, Sweep, Together, Uniform
from vmferry.simulation.trace import DirtyTrace, Trace, read_trace
from vmferry.simulation.values import NS_PER_HOUR, check_duration, check_rate, checked_size, require
from vmferry.units import format_size, parse_duration_ns, parse_rate, parse_size

MAX_FILE_BYTES = 1 << 20
MAX_MEMORY_BYTES = 16 << 40
_MAX_VCPUS = 4096
_MAX_SEEDS = 10_000
MAX_BATCH_BYTES = 1 << 30
_MAX_ITERATIONS = 10**9
_MAX_ZIPF_EXPONENT = 10.0
_NS_PER_MS = 1_000_000
_MAX_PAUSE_NS = NS_PER_HOUR
"""Of what is waited for at once: a message, a dirty sync."""


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
        page_count = parse_size(self.memory) // PAGE_SIZE_BYTES
        pages_per_s = parse_rate(self.write_rate) / PAGE_SIZE_BYTES
        makers: dict[str, Callable[[int, int, float], Pattern]] = {
            "idle": lambda first, count, rate: Sweep(first, count, 0.0),
            "sweep": lambda first, count, rate: Sweep(first, count, rate),
            "uniform": lambda first, count, rate: Uniform(first, count, rate, random),
            "hot-cold": lambda first, count, rate: HotCold(first, count, rate, self.zipf_exponent, random),
        }
        make = makers[self.pattern]
        bounds = [page_count * number // vcpu_count for number in range(vcpu_count + 1)]
        return Together(
            [
                make(first_page + start, end - start, pages_per_s * (end - start) / page_count)
                for start, end in pairwise(bounds)
                if end > start
            ]
        )

    def with_trace(self, directory: Path) -> "LoadScenario":
        """Return the load with what its journal tells. Raises UsageError."""
        if self.trace or (self.pattern == "trace") != bool(self.journal):
            raise UsageError("pattern = 'trace' needs journal = 'FILE', and only that")
        if not self.journal:
            return self
        if not self.journal.isprintable():
            raise UsageError("the name of a load's journal has characters that cannot be printed")
        path = directory / self.journal
        _require_file(path, "journal")
        return msgspec.structs.replace(self, trace=read_trace(read_migration(path).entries, str(path)))

    def used_bytes(self) -> int:
        """Return how much memory it takes."""
        return self.trace.used_pages * PAGE_SIZE_BYTES if self.trace else parse_size(self.memory)


class GuestScenario(_Model, frozen=True):
    """The guest. With several loads, they take turns."""

    memory: str
    vcpus: int
    loads: tuple[LoadScenario, ...]
    used_memory: str = "0"
    """How much of it, from the beginning on, is not zero, also where no load writes; memory of loads always is."""
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
    batch: str = "4M"
    """How much is sent before it is looked whether the rest fits the downtime."""
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

    def used_page_count(self) -> int:
        """Return how many pages, from the first on, are not zero even where no load writes."""
        return parse_size(self.guest.used_memory) // PAGE_SIZE_BYTES

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
            batch_pages=parse_size(link.batch) // PAGE_SIZE_BYTES,
            loss_time_ns=parse_duration_ns(link.lost_at) if link.lost_at is not None else None,
        )

    def migration_parameters(self, variant: str) -> MigrationParameters:
        """Return the parameters of a variant, with those of the scenario, which go before. Raises UsageError."""
        free = {"max-bandwidth": 0, "auto-verify": False}  # there is no content to verify
        return MigrationParameters().changed({**free, **find_variant(variant).settings, **self.parameters})

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
            raise UsageError(f"{', '.join(settings)}: {refusal(error, Scenario)}") from error
        changed.check()
        return changed

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        self._check_guest()
        for number, load in enumerate(self.guest.loads):
            self._check_load(load, f"guest.loads[{number}]")
        self._check_link()
        require("limits.max-iterations", self.limits.max_iterations, 1, _MAX_ITERATIONS)
        check_duration("limits.max-time", self.limits.max_time, _NS_PER_MS)
        require("seeds", self.seeds, 1, _MAX_SEEDS)
        for name, value in self.parameters.items():
            allowed_parameter(name, value)
        if not self.variants:
            raise UsageError(f"variants is empty; there are: {', '.join(VARIANTS)}")
        for variant in self.variants:
            self.migration_parameters(variant)

    def _check_guest(self) -> None:
        guest = self.guest
        require("guest.vcpus", guest.vcpus, 1, _MAX_VCPUS)
        memory_bytes = checked_size("guest.memory", guest.memory)
        if memory_bytes > MAX_MEMORY_BYTES:
            raise UsageError(f"guest.memory is {guest.memory}, at most {format_size(MAX_MEMORY_BYTES)} are allowed")
        if checked_size("guest.used-memory", guest.used_memory) > memory_bytes:
            raise UsageError(f"guest.used-memory is {guest.used_memory}, the guest has {guest.memory}")
        check_rate("guest.zero-scan-rate", guest.zero_scan_rate)
        if parse_duration_ns(guest.throttle_slice):
            check_duration("guest.throttle-slice", guest.throttle_slice, _NS_PER_MS)
        most_ns = _MAX_PAUSE_NS / max(1, self.page_count())
        require("guest.sync-ns-per-page", guest.sync_ns_per_page, 0.0, most_ns)
        if not guest.loads:
            raise UsageError("guest.loads is empty; give at least one load, such as pattern = 'idle'")

    def _check_load(self, load: LoadScenario, where: str) -> None:
        if (load.pattern == "trace") != bool(load.trace):
            raise UsageError(f"{where}.pattern: a trace is what a journal tells; give both in a scenario's file")
        if load.trace and load != LoadScenario(
            pattern="trace", duration=load.duration, journal=load.journal, trace=load.trace
        ):
            raise UsageError(f"{where}: a trace writes as its journal tells; only duration can be set")
        checked_size(f"{where}.memory", load.memory)
        if load.used_bytes() > parse_size(self.guest.memory):
            memory = format_size(load.used_bytes()) if load.trace else load.memory
            raise UsageError(f"{where}.memory is {memory}, the guest has {self.guest.memory}")
        check_rate(f"{where}.write-rate", load.write_rate)
        check_duration(f"{where}.duration", load.duration, _NS_PER_MS)
        require(f"{where}.zipf-exponent", load.zipf_exponent, 0.0, _MAX_ZIPF_EXPONENT)

    def _check_link(self) -> None:
        link = self.link
        check_rate("link.rate", link.rate, 1)
        if not 0 < link.share <= 1:
            raise UsageError(f"link.share is {link.share}, above 0 up to 1 is allowed")
        if not 0 <= link.jitter < 1:
            raise UsageError(f"link.jitter is {link.jitter}, 0 up to but not 1 is allowed")
        check_duration("link.latency", link.latency, most_ns=_MAX_PAUSE_NS)
        check_duration("link.jitter-interval", link.jitter_interval, _NS_PER_MS)
        for time, rate in link.rate_changes:
            check_duration("a time of link.rate-changes", time)
            check_rate("a rate of link.rate-changes", rate)
        require("link.batch", checked_size("link.batch", link.batch), PAGE_SIZE_BYTES, MAX_BATCH_BYTES)
        if link.lost_at is not None:
            check_duration("link.lost-at", link.lost_at)
        if self.link_model().bytes_per_s < 1:
            raise UsageError(f"link.share is {link.share}, that of {link.rate} is less than 1 byte per second")


_SECTIONS: dict[str, tuple[str, ...]] = {
    "guest": keys_of(GuestScenario),
    "load": keys_of(LoadScenario),
    "link": keys_of(LinkScenario),
    "parameters": (),
    "limits": keys_of(Limits),
}
"""The keys of each section of a scenario; those of `parameters` are the migration parameters'."""


def _targets(data: dict[str, Any], key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the sections that a key means, and the name in them."""
    section, _, name = key.partition(".")
    names = _SECTIONS.get(section)
    if names is None or not name:
        raise UsageError(
            f"'{key}' is no key of a scenario; write SECTION.KEY, such as link.rate; sections: {', '.join(_SECTIONS)}"
        )
    if names and name not in names:
        raise UsageError(f"'{key}' is no key of a scenario; of '{section}' there are: {', '.join(names)}")
    for target in data["guest"]["loads"] if section == "load" else [data[section]]:
        yield target, name


def _plain_value(text: str) -> int | bool | str:
    """Return what a parameter's value is when it is written without quotes."""
    try:
        return msgspec.json.decode(text, type=int | bool)
    except msgspec.DecodeError:
        return text


def load_scenario(path: Path | str) -> Scenario:
    """Return the scenario in a TOML file, or where there is none, the one of that name that comes along.

    Raises UsageError that names the file and what is wrong with it.
    """
    if str(path) in (seeds := _seed_files()) and not Path(path).exists():
        return parse_scenario(seeds[str(path)].read_bytes(), str(path))
    path = Path(path)
    _require_file(path, "scenario")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the scenario {path}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: not a scenario, it is larger than {MAX_FILE_BYTES} bytes")
    return parse_scenario(text, str(path), path.parent)


def load_scenarios(paths: Iterable[Path | str]) -> list[Scenario]:
    """Return the scenarios in TOML files, as `load_scenario` does.

    Raises UsageError also where two that differ have one name: their results could not be told apart.
    """
    scenarios: dict[str, Scenario] = {}
    for path in paths:
        scenario = load_scenario(path)
        if scenarios.setdefault(scenario.name, scenario) != scenario:
            raise UsageError(f"{path}: another scenario has the same name; give each a name of its own")
    return list(scenarios.values())


def parse_scenario(text: bytes, where: str, directory: Path = Path()) -> Scenario:
    """Return the scenario in a TOML text, whose journals are in a directory.

    Raises UsageError that begins with `where`.
    """
    try:
        scenario = _convert(tomllib.loads(text.decode()))
        loads = tuple(load.with_trace(directory) for load in scenario.guest.loads)
        scenario = msgspec.structs.replace(scenario, guest=msgspec.structs.replace(scenario.guest, loads=loads))
        scenario.check()
    except RecursionError as error:
        raise UsageError(f"{where}: not a scenario, it is nested too deeply") from error
    except (ValueError, UsageError) as error:  # numbers too long to be read, too
        reason = "".join(c if c.isprintable() else "?" for c in str(error))  # it may quote the file
        raise UsageError(f"{where}: {reason}") from error
    return scenario


def _convert(data: dict[str, Any]) -> Scenario:
    try:
        return msgspec.convert(data, Scenario)
    except msgspec.ValidationError as error:
        raise UsageError(refusal(error, Scenario)) from error


def _require_file(path: Path, what: str) -> None:
    """Raise UsageError for what is not there, and for a device or a pipe, which may never end."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
    if not regular:
        raise UsageError(f"cannot read the {what} {path}: not a regular file")


def seed_scenarios() -> Iterator[Scenario]:
    """Yield the scenarios of the patch series' experiment, which come along."""
    for name, file in _seed_files().items():
        yield parse_scenario(file.read_bytes(), name)


def _seed_files() -> dict[str, Traversable]:
    """Return the scenarios that come along by their files' names without suffix, in order."""
    entries = (files("vmferry.simulation") / "scenarios").iterdir()
    return {
        entry.name.removesuffix(".toml"): entry
        for entry in sorted(entries, key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }
