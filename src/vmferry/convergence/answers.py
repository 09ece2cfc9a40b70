"""What a policy may answer. It may be anybody's, and its answers go to guests, journals and people."""

import math
from collections.abc import Mapping

from vmferry.convergence.actions import NEEDS, SetDowntimeLimit, Throttle
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.sensing import Body
from vmferry.units import NS_PER_MS

MAX_PERCENT = 99
_MAX_LIMIT_NS = MAX_DOWNTIME_MS * NS_PER_MS
MAX_REASON_CHARACTERS = 1000
MAX_FIGURES = 50
_MAX_NAME_CHARACTERS = 100
_MAX_SHOWN_CHARACTERS = 200


def fault_of(answer: object, body: Body, vcpu_count: int) -> str | None:
    """Return what is wrong with one answer of a policy, given what the body can do; None if it is a valid action."""
    needs = NEEDS.get(type(answer))
    if needs is None:
        return f"it answered {shown(answer)}, which is no action"
    if needs & ~body:
        return f"it answered {type(answer).__name__}, which cannot be done here"
    if not _is_text(getattr(answer, "reason", None), MAX_REASON_CHARACTERS):
        return f"the reason of its {type(answer).__name__} is no text of at most {MAX_REASON_CHARACTERS} characters"
    match answer:
        case Throttle(percent=percent) if not _is_integer(percent, MAX_PERCENT):
            return f"it answered a throttle of {shown(percent)} %, 0 to {MAX_PERCENT} are possible"
        case Throttle(vcpu_percents=percents) if percents is not None and body.PER_VCPU not in body:
            return "it answered a throttle of single vCPUs, which cannot be done here"
        case Throttle(percent=percent, vcpu_percents=percents) if not _are_percents(percents, percent, vcpu_count):
            wanted = f"{vcpu_count} integers from 0 to {MAX_PERCENT}, the greatest of which is its percent, {percent}"
            return f"it answered throttles of vCPUs that are {shown(percents)}, not {wanted}"
        case Throttle(figures=figures) if not _are_figures(figures):
            return f"the figures of its Throttle are {shown(figures)}, not up to {MAX_FIGURES} numbers by their names"
        case SetDowntimeLimit(limit_ns=limit_ns) if not _is_integer(limit_ns, _MAX_LIMIT_NS):
            return f"it answered a downtime limit of {shown(limit_ns)} ns, 0 to {_MAX_LIMIT_NS} are possible"
    return None


def shown(value: object) -> str:
    """Return how anybody's value looks, cut where it is long."""
    try:
        return repr(value)[:_MAX_SHOWN_CHARACTERS]
    except Exception:
        return f"a {type(value).__name__}"


def _is_integer(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _are_percents(value: object, greatest: int, vcpu_count: int) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, tuple)
        and len(value) == vcpu_count
        and all(_is_integer(percent, MAX_PERCENT) for percent in value)
        and max(value) == greatest
    )


def _are_figures(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) <= MAX_FIGURES
        and all(_is_text(name, _MAX_NAME_CHARACTERS) and _is_number(number) for name, number in value.items())
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_text(value: object, most_characters: int) -> bool:
    """Return whether this can be written into a journal, which a lone surrogate, for one, cannot."""
    return isinstance(value, str) and len(value) <= most_characters and value.isprintable()
