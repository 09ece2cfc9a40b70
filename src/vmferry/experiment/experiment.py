"""One experiment: which guest, which link, what is tried on them, and when to give up.

A scenario's file (`experiment/scenario.py`) is decoded into one, once; the bodies that run it are the engine in virtual
time (`simulation/run.py`), a modelled QEMU (`study/driven.py`), and real guests (`perf/`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.variants import (
    ALL_VARIANTS,
    NO_AUTO_CONVERGE,
    POLICY,
    POLICY_SETTINGS,
    VARIANTS,
    Variant,
    find_variant,
    full_name,
    label_of,
)
from vmferry.errors import UsageError
from vmferry.experiment.keys import allowed_parameter, keys_of, refusal
from vmferry.experiment.own_variants import OwnVariant
from vmferry.experiment.parts import MODELLED_QEMUS, GuestSpec, LinkSpec, LoadSpec, RunLimits
from vmferry.experiment.quantities import numbers_of, require, telling
from vmferry.settings.parameters import MigrationParameters
from vmferry.settings.policy_parameters import plain_value

_MAX_SEEDS = 10_000
_MAX_TIME_SCALE = 1000
ALL = "all"
"""Every variant that there is, where variants are chosen."""


def scaled_times(scale: int) -> dict[str, object]:
    """Return the constants of time divided by `scale`, by their QMP names; by 1, nothing has to be set."""
    if scale == 1:
        return {}
    defaults = MigrationParameters()
    return {
        "x-evaluation-period": defaults.x_evaluation_period // scale,
        "x-watch-interval": defaults.x_watch_interval // scale,
        "x-background-sync-interval": defaults.x_background_sync_interval // scale,
    }


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """A migration to try, by each of its variants."""

    name: str
    guest: GuestSpec
    link: LinkSpec
    parameters: dict[str, int | bool | str] = {}
    limits: RunLimits = RunLimits()
    time_scale: int = 1
    """Divides the algorithm's constants of time, for a guest that is smaller than the patch series'."""
    driven: str = ""
    """The modelled QEMU that is driven from outside, such as `qemu-7.2`; empty for our own engine."""
    own_variants: tuple[OwnVariant, ...] = msgspec.field(default=(), name="variant")
    variants: tuple[str, ...] = tuple(VARIANTS)
    """The variants to simulate. If a file leaves them out, its own are among them."""
    seeds: int = 1
    """Simulate with seeds 0, 1, ... up to this many."""

    @property
    def common_settings(self) -> dict[str, object]:
        """The migration parameters of all variants, by their QMP names."""
        return {**scaled_times(self.time_scale), **self.parameters}

    def settings(self, variant: str) -> dict[str, object]:
        """Return the migration parameters that are given for a variant, by their QMP names. Raises UsageError.

        The common ones go before those of a variant that comes along, and a variant of its own goes before them.
        """
        own = self.own_variant(variant)
        if own:
            return {**self.common_settings, **own.parameters()}
        return {**self.variant(variant).settings, **self.common_settings}

    def migration_parameters(self, variant: str) -> MigrationParameters:
        """Return all parameters of a variant, for a modelled guest. Raises UsageError."""
        modelled = {"max-bandwidth": 0, "auto-verify": False}  # the link is the limit, and there is no content
        return MigrationParameters().changed({**modelled, **self.settings(variant)})

    def own_variant(self, name: str) -> OwnVariant | None:
        """Return the variant of the scenario's own that has this name, if there is one."""
        return next((own for own in self.own_variants if own.name == name), None)

    def variant(self, name: str) -> Variant:
        """Return a variant that comes along or is the scenario's own. Raises UsageError."""
        own = self.own_variant(name)
        if own:
            return Variant(name, own.parameters())
        if name not in (names := self._variant_names()):
            raise UsageError(f"no variant '{name}'; there are: {', '.join(names)}")
        return find_variant(name)

    def driven_by(self, release: str) -> "Experiment":
        """Return a copy whose guest runs in this modelled QEMU, and says so in its name. Raises UsageError."""
        _require_modelled(release)
        return msgspec.structs.replace(self, name=f"{self.name}, {release}", driven=release)

    def label(self, variant: str) -> str:
        """Return the name of a variant, or what tells the policy that the parameters put in the place of its own."""
        if self.own_variant(variant) or self.parameters.keys().isdisjoint({POLICY, POLICY_SETTINGS}):
            return variant
        parameters = self.migration_parameters(variant)
        return label_of(parameters.as_qmp(), find_policy(parameters.convergence_policy).digest)

    def choosing(self, variants: Sequence[str], own: Sequence[OwnVariant] = ()) -> "Experiment":
        """Return a copy that asks for these variants only, ALL of which may be one, or else for its own choice.

        Those in `own` are added to the scenario's. Raises UsageError for a variant that it does not have.
        """
        if not variants and not own:
            return self
        variants = [full_name(name) for name in variants]
        if ALL in variants:
            variants = [name for name in self._variant_names() if name != NO_AUTO_CONVERGE.name]
        others = [variant for variant in self.own_variants if variant.name not in {new.name for new in own}]
        added = [variant for variant in own if variant.name not in ALL_VARIANTS]
        names = dict.fromkeys([*variants, *(variant.name for variant in own)])
        chosen = msgspec.structs.replace(self, own_variants=(*others, *added), variants=tuple(names))
        chosen.check()
        return chosen

    def only(self, variant: str) -> "Experiment":
        """Return a copy with one variant, and with its first seed."""
        own = tuple(own for own in self.own_variants if own.name == variant)
        return msgspec.structs.replace(self, own_variants=own, variants=(variant,), seeds=1)

    def with_settings(self, settings: Mapping[str, str]) -> "Experiment":
        """Return a copy with keys such as `link.share` or `load.write-rate` (of every load) set to these values.

        Raises UsageError for an unknown key, and for a value that cannot be.
        """
        data: dict[str, Any] = msgspec.to_builtins(self)
        for key, text in settings.items():
            for target, name, kind in _targets(data, key):
                target[name] = numbers_of(text, kind, key) if kind else plain_value(text)
        try:
            changed = msgspec.convert(data, Experiment, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(f"{', '.join(settings)}: {refusal(error, Experiment)}") from error
        changed.check()
        return changed

    def named(self, name: str) -> "Experiment":
        """Return a copy of that name."""
        return msgspec.structs.replace(self, name=name)

    def check(self) -> None:
        """Raise UsageError that names what cannot be. Those of its policies that are in files are run for that."""
        self.check_parts()
        if not self.variants:
            raise UsageError(f"variants is empty; there are: {', '.join(ALL_VARIANTS)}")
        self._check_own_variants()
        for variant in self.variants:
            self.migration_parameters(variant)

    def check_parts(self) -> None:
        """Raise UsageError that names what cannot be, its variants apart."""
        self.guest.check()
        self.link.check()
        self.limits.check()
        if self.driven:
            _require_modelled(self.driven)
        require("time-scale", self.time_scale, 1, _MAX_TIME_SCALE)
        require("seeds", self.seeds, 1, _MAX_SEEDS)
        for name, value in self.parameters.items():
            allowed_parameter(name, value)

    def _variant_names(self) -> list[str]:
        return [*ALL_VARIANTS, NO_AUTO_CONVERGE.name, *(own.name for own in self.own_variants)]

    def _check_own_variants(self) -> None:
        names = [ALL, NO_AUTO_CONVERGE.name, *ALL_VARIANTS]
        for number, variant in enumerate(self.own_variants):
            if variant.name in names:
                raise UsageError(f"variant[{number}].name: there is a variant '{variant.name}' already; name it anew")
            names.append(variant.name)
            with telling(f"variant[{number}]"):
                self.migration_parameters(variant.name)


def _require_modelled(release: str) -> None:
    if release not in MODELLED_QEMUS:
        raise UsageError(f"no QEMU '{release}' is modelled; there are: {', '.join(MODELLED_QEMUS)}")


def experiment_of(document: Mapping[str, Any]) -> Experiment:
    """Return the experiment in a scenario's document, not checked yet. Raises UsageError for what is none."""
    try:
        return msgspec.convert(numbers_of(document, inspect.type_info(Experiment), ""), Experiment)
    except msgspec.ValidationError as error:
        raise UsageError(refusal(error, Experiment)) from error


_SECTIONS: dict[str, type[msgspec.Struct] | None] = {
    "guest": GuestSpec,
    "load": LoadSpec,
    "link": LinkSpec,
    "parameters": None,
    "limits": RunLimits,
    "policy": None,
}
"""What has the keys of each section; those of `parameters` and `policy` are for the migration to know."""


def _targets(data: dict[str, Any], key: str) -> Iterator[tuple[dict[str, Any], str, inspect.Type | None]]:
    """Yield the sections that a key means, the name in them, and its type, where it has one of its own."""
    section, _, name = key.partition(".")
    if section not in _SECTIONS or not name:
        raise UsageError(
            f"'{key}' is no key of a scenario; write SECTION.KEY, such as link.rate; sections: {', '.join(_SECTIONS)}"
        )
    part = _SECTIONS[section]
    if part and name not in keys_of(part):
        raise UsageError(f"'{key}' is no key of a scenario; of '{section}' there are: {', '.join(keys_of(part))}")
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
        yield target, name, _type_of(part, name) if part else None


def _type_of(part: type[msgspec.Struct], key: str) -> inspect.Type:
    kind = inspect.type_info(part)
    assert isinstance(kind, inspect.StructType)
    return next(field.type for field in kind.fields if field.encode_name == key)
