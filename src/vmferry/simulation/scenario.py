"""Scenario files: a guest, a link, parameters and limits, in TOML.

Sizes, rates and times are written as people write them. A file may come from anyone: unknown keys, wrong types and
values that cannot be are refused with the name of the file and the key.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.variants import (
    ALL_VARIANTS,
    POLICY,
    POLICY_SETTINGS,
    VARIANTS,
    Variant,
    find_variant,
    label_of,
)
from vmferry.errors import UsageError
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.settings.parameters import MigrationParameters
from vmferry.settings.policy_parameters import plain_value
from vmferry.simulation.costs import GuestCosts
from vmferry.simulation.keys import allowed_parameter, keys_of, refusal
from vmferry.simulation.link import LinkModel
from vmferry.simulation.own_variants import OwnVariant
from vmferry.simulation.patterns import Pattern, Phase, Phases
from vmferry.simulation.qemu.releases import find_release
from vmferry.simulation.scenario_parts import GuestScenario, Limits, LinkScenario, LoadScenario, require_file
from vmferry.simulation.values import require, telling
from vmferry.units import parse_duration_ns, parse_rate, parse_size

MAX_FILE_BYTES = 1 << 20
_MAX_SEEDS = 10_000
ALL = "all"
"""Every variant that there is, where variants are chosen."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A migration to simulate."""

    name: str
    guest: GuestScenario
    link: LinkScenario
    parameters: dict[str, int | bool | str] = {}
    limits: Limits = Limits()
    driven: str = ""
    """The modelled QEMU that is driven from outside, such as `qemu-7.2`; empty for our own engine."""
    own_variants: tuple[OwnVariant, ...] = msgspec.field(default=(), name="variant")
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Those to simulate; where a file leaves them out, its own are among them."""
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
        return self.link.model()

    def migration_parameters(self, variant: str) -> MigrationParameters:
        """Return the parameters of a variant and of the scenario. Raises UsageError.

        The scenario's go before those of a variant that comes along, and a variant of its own goes before them.
        """
        values: dict[str, object] = {"max-bandwidth": 0, "auto-verify": False}  # there is no content to verify
        own = next((own for own in self.own_variants if own.name == variant), None)
        if own:
            return MigrationParameters().changed({**values, **self.parameters, **own.parameters()})
        if variant not in ALL_VARIANTS:
            raise UsageError(f"no variant '{variant}'; there are: {', '.join(self._variant_names())}")
        return MigrationParameters().changed({**values, **ALL_VARIANTS[variant].settings, **self.parameters})

    def variant(self, name: str) -> Variant:
        """Return a variant that comes along or is the scenario's own. Raises UsageError."""
        own = next((own for own in self.own_variants if own.name == name), None)
        return Variant(name, own.parameters()) if own else find_variant(name)

    def driven_by(self, release: str) -> "Scenario":
        """Return a copy whose guest runs in this modelled QEMU, and says so in its name. Raises UsageError."""
        find_release(release)
        return msgspec.structs.replace(self, name=f"{self.name}, {release}", driven=release)

    def label(self, variant: str) -> str:
        """Return the name of a variant, or what tells the policy that the parameters put in the place of its own."""
        own = any(own.name == variant for own in self.own_variants)
        if own or self.parameters.keys().isdisjoint({POLICY, POLICY_SETTINGS}):
            return variant
        parameters = self.migration_parameters(variant)
        return label_of(parameters.as_qmp(), find_policy(parameters.convergence_policy).digest)

    def choosing(self, variants: Sequence[str], own: Sequence[OwnVariant] = ()) -> "Scenario":
        """Return a copy that asks for these variants only, ALL of which may be one, or else for its own choice.

        Those in `own` are added to the scenario's. Raises UsageError for a variant that it does not have.
        """
        if not variants and not own:
            return self
        if ALL in variants:
            variants = self._variant_names()
        others = [variant for variant in self.own_variants if variant.name not in {new.name for new in own}]
        added = [variant for variant in own if variant.name not in ALL_VARIANTS]
        names = dict.fromkeys([*variants, *(variant.name for variant in own)])
        chosen = msgspec.structs.replace(self, own_variants=(*others, *added), variants=tuple(names))
        chosen.check()
        return chosen

    def with_settings(self, settings: Mapping[str, str]) -> "Scenario":
        """Return a copy with keys such as `link.share` or `load.write-rate` (of every load) set to these values.

        Raises UsageError for an unknown key, and for a value that cannot be.
        """
        data: dict[str, Any] = msgspec.to_builtins(self)
        for key, value in settings.items():
            for target, name in _targets(data, key):
                target[name] = plain_value(value) if key.startswith("parameters.") else value
        try:
            changed = msgspec.convert(data, Scenario, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"{', '.join(settings)}: {refusal(error, Scenario)}") from error
        changed.check()
        return changed

    def check(self) -> None:
        """Raise UsageError that names what cannot be."""
        self.guest.check()
        self.link.check()
        self.limits.check()
        if self.driven:
            find_release(self.driven)
        require("seeds", self.seeds, 1, _MAX_SEEDS)
        for name, value in self.parameters.items():
            allowed_parameter(name, value)
        if not self.variants:
            raise UsageError(f"variants is empty; there are: {', '.join(ALL_VARIANTS)}")
        self._check_own_variants()
        for variant in self.variants:
            self.migration_parameters(variant)

    def _variant_names(self) -> list[str]:
        return [*ALL_VARIANTS, *(own.name for own in self.own_variants)]

    def _check_own_variants(self) -> None:
        names = [ALL, *ALL_VARIANTS]
        for number, variant in enumerate(self.own_variants):
            if variant.name in names:
                raise UsageError(f"variant[{number}].name: there is a variant '{variant.name}' already; name it anew")
            names.append(variant.name)
            with telling(f"variant[{number}]"):
                self.migration_parameters(variant.name)


_SECTIONS: dict[str, tuple[str, ...]] = {
    "guest": keys_of(GuestScenario),
    "load": keys_of(LoadScenario),
    "link": keys_of(LinkScenario),
    "parameters": (),
    "limits": keys_of(Limits),
    "policy": (),
}
"""The keys of each section of a scenario; those of `parameters` and `policy` are for the migration to know."""


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
    match section:
        case "load":
            targets = data["guest"]["loads"]
        case "policy":
            targets = [variant["settings"] for variant in data["variant"] if variant["name"] in data["variants"]]
        case _:
            targets = [data[section]]
    if not targets:
        raise UsageError(f"'{key}': none of these variants is a policy with settings; name one by --policy")
    for target in targets:
        yield target, name


def load_scenario(path: Path | str) -> Scenario:
    """Return the scenario in a TOML file, or where there is none, the one of that name that comes along.

    Raises UsageError that names the file and what is wrong with it.
    """
    if str(path) in (seeds := _seed_files()) and not Path(path).exists():
        return parse_scenario(seeds[str(path)].read_bytes(), str(path))
    path = Path(path)
    require_file(path, "scenario")
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
        guest = msgspec.structs.replace(scenario.guest, loads=loads)
        scenario = msgspec.structs.replace(scenario, guest=guest, own_variants=_loaded(scenario, directory))
        scenario.check()
    except RecursionError as error:
        raise UsageError(f"{where}: not a scenario, it is nested too deeply") from error
    except (ValueError, UsageError) as error:  # numbers too long to be read, too
        reason = "".join(c if c.isprintable() else "?" for c in str(error))  # it may quote the file
        raise UsageError(f"{where}: {reason}") from error
    return scenario


def _convert(data: dict[str, Any]) -> Scenario:
    try:
        scenario = msgspec.convert(data, Scenario)
    except msgspec.ValidationError as error:
        raise UsageError(refusal(error, Scenario)) from error
    if "variants" in data:
        return scenario
    names = (variant.name for variant in scenario.own_variants)
    return msgspec.structs.replace(scenario, variants=(*scenario.variants, *names))


def _loaded(scenario: Scenario, directory: Path) -> tuple[OwnVariant, ...]:
    variants = []
    for number, variant in enumerate(scenario.own_variants):
        with telling(f"variant[{number}]"):
            variants.append(variant.loaded(directory))
    return tuple(variants)


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
