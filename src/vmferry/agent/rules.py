"""What the agent does with the migrations of which VM: rules, of which the first that matches holds.

Where none does, a migration is shadowed: it is worked out what would have been done, and nothing is touched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import Annotated

import msgspec

from vmferry.bounds import parse_uuid
from vmferry.control.deciding import DEFAULTS, loaded
from vmferry.control.migration_order import plans, with_goals
from vmferry.control.slowing.actuators import MEANS
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.convergence.policies.planned_settings import Pace
from vmferry.convergence.variants import PLANNED, POLICY, POLICY_SETTINGS, Variant, find_variant
from vmferry.errors import UsageError
from vmferry.experiment.quantities import Nanoseconds, telling
from vmferry.settings.policy_parameters import settings_text
from vmferry.units import NS_PER_MS, exact_duration, parse_guest_loss

DEFAULT_VARIANT = PLANNED
"""What decides where a rule names nothing (docs/decisions/0010-what-steers-by-default.md)."""
Setting = str | int | float | bool
_KNOWN_VMS = 10_000
"""Of so many VMs it is remembered which rule holds."""


class Mode(StrEnum):
    """How much the agent does with a migration."""

    IGNORE = "ignore"
    """Nothing, and nothing is remembered."""
    WATCH = "watch"
    """Look on and remember."""
    SHADOW = "shadow"
    """Look on, and work out what would have been decided."""
    STEER = "steer"
    """Make it converge."""


@dataclass(frozen=True)
class Vm:
    """What rules tell VMs apart by."""

    name: str
    uuid: str
    tags: frozenset[str] = frozenset()


class Rule(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What to do with the migrations of VMs that have all that is named here."""

    name: str | None = None
    """A pattern of names, with `*`, `?` and `[...]`."""
    uuid: str | None = None
    tag: str | None = None
    mode: Mode = Mode.SHADOW
    variant: str | None = None
    policy: str | None = None
    """As with `vmferry migrate`; without a variant and a policy it is `DEFAULT_VARIANT`."""
    set: dict[str, Setting] = {}
    """Settings of the policy."""
    pace: Pace | None = None
    """How a policy that plans weighs time and the guest's work."""
    finish_by: Nanoseconds | None = None
    max_downtime: Nanoseconds | None = None
    max_guest_loss: str | None = None
    max_throttle: Annotated[int, msgspec.Meta(ge=1, le=99)] | None = None
    on_limit: OnLimit = OnLimit.CANCEL
    throttle_by: str | None = None

    def check(self, where: str) -> None:
        """Raise UsageError, which begins with the path of the fault below `where`, for what cannot be."""
        if self.uuid is not None:
            with telling(f"{where}.uuid"):
                parse_uuid(self.uuid)
        with telling(f"{where}.max-guest-loss"):
            limits = self.limits
        with telling(f"{where}.finish-by"):
            limits.check()
        with telling(f"{where}.throttle-by"):
            if self.throttle_by not in (None, *MEANS):
                raise UsageError(f"'{self.throttle_by}' is no way to slow a guest; there are: {', '.join(MEANS)}")
        with telling(f"{where}.{'policy' if self.policy else 'variant'}"):
            if self.policy and self.variant:
                raise UsageError("a variant stands here as well; both say how to converge, so leave out one of them")
            self.chosen.named(loaded)
        with telling(f"{where}.pace"):
            if self.pace and not plans(self.chosen):
                raise UsageError(f"'{self.pace}' is for a policy that plans, such as the variant '{PLANNED.name}'")
        with telling(f"{where}.set"):
            if self.set and not self.policy:
                raise UsageError("these are settings of the policy that `policy` names, and it names none")
            DEFAULTS.changed(self.chosen.named(loaded))

    def matches(self, vm: Vm) -> bool:
        """Tell whether all that is named here fits a VM."""
        return (
            (self.name is None or fnmatchcase(vm.name, self.name))
            and (self.uuid is None or parse_uuid(self.uuid) == vm.uuid)
            and (self.tag is None or self.tag in vm.tags)
        )

    @property
    def chosen(self) -> Variant:
        """What is to make the guest converge. Raises UsageError."""
        if self.policy:
            return Variant(self.policy, {POLICY: self.policy, POLICY_SETTINGS: settings_text(self.set)})
        return find_variant(self.variant) if self.variant else DEFAULT_VARIANT

    @property
    def chosen_with_goals(self) -> Variant:
        """The same, told its goals if it plans for them. Raises UsageError."""
        return with_goals(self.chosen, self.limits, self.pace)

    @property
    def limits(self) -> Limits:
        """What a migration may cost. Raises UsageError."""
        loss = parse_guest_loss(self.max_guest_loss) if self.max_guest_loss is not None else None
        return Limits(
            deadline_ns=self.finish_by,
            max_guest_loss_percent=loss.percent if loss else None,
            max_guest_loss_ns=loss.vcpu_ns if loss else None,
            max_throttle_percent=self.max_throttle,
            max_downtime_ms=None if self.max_downtime is None else self.max_downtime // NS_PER_MS,
            on_limit=self.on_limit,
        )

    def criteria(self) -> Iterator[str]:
        """Yield what a VM must have, for people."""
        for key, value in (("name", self.name), ("uuid", self.uuid), ("tag", self.tag)):
            if value is not None:
                yield f"{key} '{value}'"

    def orders(self) -> Iterator[str]:
        """Yield what is to be done, for people, in the words of the file."""
        yield str(self.mode)
        if self.mode in (Mode.SHADOW, Mode.STEER):
            yield self.chosen.name
            if self.pace:
                yield f"pace {self.pace}"
            for name, text in self._limits_told().items():
                yield f"{name} {text}"

    def _limits_told(self) -> Mapping[str, str]:
        limits = {
            "finish-by": self.finish_by and exact_duration(self.finish_by),
            "max-downtime": self.max_downtime and exact_duration(self.max_downtime),
            "max-guest-loss": self.max_guest_loss,
            "max-throttle": self.max_throttle and f"{self.max_throttle} %",
        }
        told = {name: text for name, text in limits.items() if text}
        return {**told, "on-limit": str(self.on_limit)} if told else {}


@dataclass(frozen=True)
class Holding:
    """The rule that holds for a VM."""

    rule: Rule
    number: int | None
    """Its place in the file, counted from 1; None if none matches."""

    def __str__(self) -> str:
        if self.number is None:
            return "no rule matches"
        return f"rule {self.number}: {', '.join(self.rule.criteria()) or 'all VMs'}"


_DEFAULT = Rule()


def holding(rules: Sequence[Rule], vm: Vm) -> Holding:
    """Return the first rule that matches a VM, or the one that holds where none does."""
    for number, rule in enumerate(rules, 1):
        if rule.matches(vm):
            return Holding(rule, number)
    return Holding(_DEFAULT, None)


class Rulebook:
    """The rules of a file, which remember what holds for the VMs that they were asked for lately."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.holding: Callable[[Vm], Holding] = lru_cache(_KNOWN_VMS)(partial(holding, rules))
        """Returns what `holding` does."""
