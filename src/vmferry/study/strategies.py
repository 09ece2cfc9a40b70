"""The ways to move a guest that a forecast compares, each carried out in virtual time on a model of the guest.

A VM of ours is moved by our engine, a QEMU by itself or by our driver. The model is not larger than need be: memory,
link and working set of a guest of 100 GiB are all divided by the same number, and times stay as they are.
"""

from functools import partial

import msgspec

from vmferry.convergence.variants import NO_AUTO_CONVERGE, PLANNED
from vmferry.convergence.written import SLICE_NS
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import GuestSpec, LinkSpec, RunLimits
from vmferry.migration.outcome import Outcome
from vmferry.simulation.run import IsLost, Simulation, never_lost
from vmferry.study.draws import Draw
from vmferry.study.headway import Headway
from vmferry.study.modelled_load import loads_of
from vmferry.study.survey import Survey
from vmferry.units import NS_PER_S, PAGE_SIZE_BYTES

NO_THROTTLE, OWN, POSTCOPY = NO_AUTO_CONVERGE.name, "original", "post-copy"
"""`original` leaves a QEMU to its own auto-converge, whatever that does in its version."""
SERIES = (OWN, "background-sync", "background-sync+responsive-throttle")
"""The variants of the patch series."""
_MODEL_BYTES = 256 << 20
"""At most so much memory in use is modelled; more is divided."""
_LEAST_BATCH_BYTES = 256 << 10
_LOOKS_IN_DOWNTIME, _LOOKS_IN_PASS = 3, 128
_PASSES, _PASSES_FROM_OUTSIDE = 25, 12
"""A migration is given up after so many times what a pass over the memory takes: QEMU's ladder has 9 rungs of 2."""
_MIN_TIME_S, _MAX_TIME_S = 60, 3600
_PASSES_WITHOUT_THROTTLE, _PASSES_IN_BURSTS = 15, 60
"""Nothing changes from pass to pass, so more of them show nothing; unless a calm may come."""
_SCAN_BYTES_PER_S = 4 << 30
"""How fast a QEMU reads memory that was never touched. On several hosts 1, 2, 4 and 15 GiB/s were measured."""


def strategies_of(qemu: str) -> tuple[str, ...]:
    """Return the names of the strategies there are for a VM of ours, or for a QEMU."""
    moving = (NO_THROTTLE, *SERIES, PLANNED.name)
    return (*moving, POSTCOPY) if qemu else moving


def longest_s(survey: Survey, strategy: str) -> int:
    """Return after how many seconds a migration is given up: many times what one pass over the memory takes."""
    passes = _PASSES if strategy in (NO_THROTTLE, OWN) or not survey.qemu else _PASSES_FROM_OUTSIDE
    return round(min(max(passes * survey.used_bytes / survey.memory_bytes_per_s, _MIN_TIME_S), _MAX_TIME_S))


def outcome_of(survey: Survey, strategy: str, draw: Draw) -> Outcome:
    """Move the guest by a strategy, which is not post-copy."""
    model = _model(survey, draw, _limits(survey, strategy))
    if strategy in (NO_THROTTLE, OWN):
        model = msgspec.structs.replace(model, parameters={**survey.own_parameters, **model.parameters})
    is_lost = _may_not_rest(survey) if strategy == NO_THROTTLE else never_lost
    outcome = (_in_qemu if survey.qemu else _in_ours)(model, survey, strategy, draw, is_lost)
    sent_bytes = round((outcome.sent_bytes or 0) * _divisor(survey) / survey.times_smaller)
    return msgspec.structs.replace(outcome, sent_bytes=sent_bytes)


def outcome_throttled(survey: Survey, percent: int, draw: Draw) -> Outcome:
    """Move the guest slowed by so much from the beginning to the end, by our engine."""
    limits = RunLimits(max_iterations=_PASSES_WITHOUT_THROTTLE, max_time_ns=_MAX_TIME_S * NS_PER_S)
    simulation = Simulation(_model(survey, draw, limits), NO_THROTTLE, draw.number, is_lost=_may_not_rest(survey))
    simulation.clock.schedule(1, partial(simulation.source_guest.set_throttle, percent))
    return simulation.run()


def _in_ours(model: Experiment, survey: Survey, strategy: str, draw: Draw, is_lost: IsLost) -> Outcome:
    return Simulation(model, strategy, draw.number, is_lost=is_lost).run()


def _in_qemu(model: Experiment, survey: Survey, strategy: str, draw: Draw, is_lost: IsLost) -> Outcome:
    from vmferry.study.driven import simulate_driven  # which is much to load where nothing is driven
    from vmferry.study.undriven import simulate_undriven

    model = model.driven_by(survey.qemu)
    if strategy in (NO_THROTTLE, OWN):
        return simulate_undriven(model, draw.number, auto_converge=strategy == OWN, is_lost=is_lost)
    return simulate_driven(model, strategy, draw.number)


def _limits(survey: Survey, strategy: str) -> RunLimits:
    passes = _PASSES_IN_BURSTS if survey.bursts else _PASSES_WITHOUT_THROTTLE
    return RunLimits(
        max_iterations=passes if strategy == NO_THROTTLE else 10_000,
        max_time_ns=longest_s(survey, strategy) * NS_PER_S,
    )


def _may_not_rest(survey: Survey) -> IsLost:
    """Return what gives a guest up whose passes leave no less; one in bursts may still come to rest."""
    return never_lost if survey.bursts else Headway().is_lost


def _divisor(survey: Survey) -> int:
    return -(-max(survey.used_bytes, PAGE_SIZE_BYTES) // _MODEL_BYTES)


def _model(survey: Survey, draw: Draw, limits: RunLimits) -> Experiment:
    divisor = _divisor(survey)
    used_pages = survey.used_bytes // divisor // PAGE_SIZE_BYTES
    zero_pages, scan_bytes_per_s = _zero_pages(survey, draw.scan)
    rate_bytes_per_s = max(1, round(survey.memory_bytes_per_s * draw.link / divisor))
    return Experiment(
        name="forecast",
        guest=GuestSpec(
            memory_bytes=(used_pages + zero_pages) * PAGE_SIZE_BYTES,
            vcpu_count=survey.vcpu_count,
            loads=loads_of(survey, draw, divisor, used_pages),
            throttle_slice_ns=SLICE_NS,
            zero_scan_bytes_per_s=scan_bytes_per_s,
        ),
        link=LinkSpec(
            rate_bytes_per_s=rate_bytes_per_s,
            jitter=0.05,
            jitter_interval_ns=NS_PER_S // 10,
            batch_bytes=_batch_bytes(survey, divisor),
        ),
        parameters={"downtime-limit": survey.downtime_limit_ms, "max-bandwidth": rate_bytes_per_s},
        limits=limits,
    )


def _batch_bytes(survey: Survey, divisor: int) -> int:
    """Return how much is sent between two looks at what remains: a part of what fits the downtime, or of a pass.

    As the link is the rate limit too, it is no more than is sent in a bandwidth window.
    """
    threshold_bytes = survey.memory_bytes_per_s * survey.downtime_limit_ms // 1000
    part_bytes = max(threshold_bytes // _LOOKS_IN_DOWNTIME, survey.used_bytes // _LOOKS_IN_PASS) // divisor
    return max(_LEAST_BATCH_BYTES, part_bytes) // PAGE_SIZE_BYTES * PAGE_SIZE_BYTES


def _zero_pages(survey: Survey, scan: float) -> tuple[int, int]:
    """Return how many zero pages are modelled, and how fast they are read: in all as slowly as the real ones.

    A VM of ours skips what nobody has ever touched.
    """
    zero_bytes = survey.memory_bytes - survey.used_bytes
    if not survey.qemu or zero_bytes < PAGE_SIZE_BYTES:
        return 0, 0
    pages = zero_bytes // PAGE_SIZE_BYTES
    scan_s = zero_bytes / (_SCAN_BYTES_PER_S * scan)
    return pages, max(1, round(pages * PAGE_SIZE_BYTES / scan_s))
