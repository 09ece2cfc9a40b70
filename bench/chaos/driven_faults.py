"""What goes wrong for a driver beside the bytes of its migration, and how it is drawn: the same for a seed for ever."""

import random
from typing import Any

import msgspec

from vmferry.convergence.limits import OnLimit
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.simulation.qemu.monitor import Mishap
from vmferry.simulation.qemu.releases import RELEASES

_RESPONSIVE = "background-sync+responsive-throttle"
_VARIANTS = (_RESPONSIVE, _RESPONSIVE, _RESPONSIVE, *ALL_VARIANTS)
_COMMANDS = (
    *("query-qmp-schema", "query-migrate-parameters", "query-migrate-capabilities", "migrate-set-parameters"),
    *("migrate-set-capabilities", "migrate", "query-migrate", "query-status", "calc-dirty-rate", "query-dirty-rate"),
    *("migrate_cancel", "query-cpus-fast"),
)
_MEDDLING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("migrate_cancel", {}),
    ("migrate-set-parameters", {"downtime-limit": 1}),
    ("migrate-set-parameters", {"max-bandwidth": 5 << 20}),
    ("migrate-set-parameters", {"cpu-throttle-initial": 30, "max-cpu-throttle": 80}),
    ("migrate-set-parameters", {"cpu-throttle-increment": 5}),
    ("calc-dirty-rate", {"calc-time": 2}),
    ("stop", {}),
    ("cont", {}),
)


class AMishap(msgspec.Struct, frozen=True, tag="mishap"):
    """Something befalls the driver's n-th command, or its n-th of a name; a silence lasts so long."""

    mishap: Mishap
    number: int
    command: str | None
    duration_ms: int = 0


class FarMishap(msgspec.Struct, frozen=True, tag="far mishap"):
    """The same of a command that is sent to the destination, if it is held."""

    mishap: Mishap
    number: int
    duration_ms: int


class Meddling(msgspec.Struct, frozen=True, tag="another client"):
    """Another client sends a command."""

    at_ms: int
    command: str
    arguments: dict[str, Any]


class LinkLost(msgspec.Struct, frozen=True, tag="link lost"):
    """The connection of the migration breaks."""

    at_ms: int


class LinkStill(msgspec.Struct, frozen=True, tag="link still"):
    """It carries nothing from then on, for a while or for ever."""

    at_ms: int
    duration_ms: int


class BadDestination(msgspec.Struct, frozen=True, tag="destination"):
    """The destination takes long to load the guest, or cannot."""

    load_ms: int
    refusal: str


class QuotaLost(msgspec.Struct, frozen=True, tag="quota lost"):
    """Somebody takes the right to set quotas away, before the n-th."""

    number: int


class Interrupted(msgspec.Struct, frozen=True, tag="interrupted"):
    """Somebody presses Ctrl-C."""

    at_ms: int


AnyFault = AMishap | FarMishap | Meddling | LinkLost | LinkStill | BadDestination | QuotaLost | Interrupted


class DrivenSettings(msgspec.Struct, frozen=True):
    """What a run is like."""

    release: str
    variant: str
    load_mib: int
    holds_destination: bool
    deadline_ms: int | None
    max_downtime_ms: int | None
    on_limit: OnLimit
    faults: tuple[AnyFault, ...]


def draw_settings(draw: random.Random) -> DrivenSettings:
    """Draw what a run is to be like: one fault, or two."""
    return DrivenSettings(
        release=draw.choice(list(RELEASES)),
        variant=draw.choice(_VARIANTS),
        load_mib=draw.choice((0, 8, 24)),
        holds_destination=draw.random() < 0.3,
        deadline_ms=draw.choice((None, None, 1000, 6000)),
        max_downtime_ms=draw.choice((None, None, 50, 1000)),
        on_limit=draw.choice(list(OnLimit)),
        faults=tuple(_draw_fault(draw) for _ in range(draw.choice((1, 1, 2)))),
    )


def _draw_fault(draw: random.Random) -> AnyFault:
    at_ms = round(draw.triangular(0, 20_000, 1000))
    kinds: list[AnyFault] = [
        _draw_mishap(draw),
        _draw_mishap(draw),
        FarMishap(draw.choice(list(Mishap)), draw.choice((1, 2, 3, 5)), draw.choice((100, 3000, 45_000))),
        Meddling(at_ms, *draw.choice(_MEDDLING)),
        LinkLost(at_ms),
        LinkStill(at_ms, draw.choice((500, 5000, 10_000_000))),
        BadDestination(draw.choice((3, 3000, 30_000)), draw.choice(("", "it has another CPU"))),
        QuotaLost(draw.choice((1, 2))),
        Interrupted(at_ms),
    ]
    return draw.choice(kinds)


def _draw_mishap(draw: random.Random) -> AMishap:
    named = draw.random() < 0.7
    return AMishap(
        mishap=draw.choice(list(Mishap)),
        number=draw.choice((1, 1, 2, 3, 5, 20)) if named else round(draw.triangular(1, 600, 10)),
        command=draw.choice(_COMMANDS) if named else None,
        duration_ms=draw.choice((100, 3000, 45_000)),
    )
