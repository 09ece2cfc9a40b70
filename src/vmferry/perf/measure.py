"""Measures one migration of a real, busy guest: the migration's own figures, and the guest's speed from outside.

What the guest does is read from the counters that its payload keeps in its memory, so it is not the migration's own
word. A run whose load was not what it should have been says so in `flags`.
"""

import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vmferry import __version__
from vmferry.bounds import Natural, Number
from vmferry.cancel import CancelToken
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.drive import drive, set_up
from vmferry.errors import UsageError, VmferryError
from vmferry.experiment.experiment import Experiment
from vmferry.migration.journal import read_journal, split_migrations
from vmferry.migration.outcome import Outcome
from vmferry.perf.lab import Lab, VmProcess
from vmferry.perf.labels import label
from vmferry.perf.real_guest import boot, policy_options, real_settings, stress_bytes
from vmferry.perf.stress_line import is_paced
from vmferry.units import MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES, format_duration

SAMPLE_INTERVAL_S = 0.5
_MEASURE_S = 2.0
"""How long the undisturbed guest is watched, before and after."""
_SLOWEST_VCPU_SHARE = 0.5
_WAITING_SHARE_MAX = 0.25
_REGAINED_SHARE_MIN = 0.7
_LABEL = re.compile(r"[\w.+-]{1,200}", re.ASCII)


class GuestSample(msgspec.Struct, frozen=True, array_like=True):
    """Pages that each vCPU has written up to a moment, in seconds since the migration began."""

    time_s: Number
    written_pages: list[Natural]


class Job(msgspec.Struct, frozen=True):
    """One repeat, counted from 0, of an experiment with one variant, in a comparison.

    Raises UsageError if it is none, or cannot name a file. It may be read from anywhere: no policy of it is run here.
    """

    comparison: str
    experiment: Experiment
    number: Natural

    def __post_init__(self) -> None:
        if len(self.experiment.variants) != 1:
            raise UsageError(f"a run is of one variant, not {len(self.experiment.variants)}")
        self.experiment.check_parts()
        stress_bytes(self.experiment)
        if not _LABEL.fullmatch(self.label):
            raise UsageError(f"{self.label[:60]!r} is no label of a run")

    @property
    def label(self) -> str:
        """All that tells this job from others, fit for a file name."""
        return f"{self.comparison}_{label(self.experiment)}_{self.number}"

    @property
    def variant(self) -> str:
        """What makes the guest converge."""
        return self.experiment.variants[0]


class PerfRun(Outcome, frozen=True, kw_only=True):
    """One measured migration; what it does not know is None.

    The figures of the migration are its journal's: the monitor forgets them when it is cancelled or fails. The work
    that was lost is how much less the guest did during the migration than it would have done at its speed before.
    """

    job: Job
    status: Annotated[str, msgspec.Meta(pattern="^(completed|cancelled|failed|error)$")]
    """`error` if it could not even be run."""
    flags: list[str] = msgspec.field(default_factory=list)
    """The things that were not as they should have been."""
    pages_per_s_before: Number = 0.0
    pages_per_s_after: Number = 0.0
    waiting_percent: Number = 0.0
    """For how much of the time before the migration its vCPUs had to wait for a processor of the host."""
    samples: list[GuestSample] = msgspec.field(default_factory=list)
    started_at_s: Number = 0.0
    host: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def began(self) -> bool:
        """False if there was no migration, so that its figures mean nothing."""
        return bool(self.total_time_ms)  # 0 in records of old

    @property
    def outcome(self) -> Outcome:
        """Its figures as they are told, with those that records of old lack. A measured share is never exactly 0."""
        if not self.began:
            return Outcome(status=self.status, error=self.error)
        guest = self.job.experiment.guest
        known = {name: getattr(self, name) for name in Outcome.__struct_fields__} | {
            "memory_bytes": guest.memory_bytes,
            "vcpu_count": guest.vcpu_count,
            "sent_per_memory": None if self.sent_bytes is None else self.sent_bytes / guest.memory_bytes,
        }
        return Outcome(**known).counted(self.work_lost_percent or None)


def measure(job: Job, journal: Path) -> PerfRun:
    """Run one migration and write its journal. Whatever goes wrong is told in the result, not raised."""
    measurement = _Measurement(job.experiment)
    started_at_s = time.time()
    journal.unlink(missing_ok=True)  # of a run that was interrupted
    try:
        measurement.run(journal)
    except VmferryError as error:
        measurement.figures |= {"status": "error", "error": str(error)}
    return PerfRun(
        job=job,
        flags=measurement.flags,
        samples=measurement.samples,
        started_at_s=started_at_s,
        host={"cpus": str(os.cpu_count()), "kernel": platform.release(), "vmferry": __version__},
        **(_recorded_figures(journal, measurement.work_lost_percent) | measurement.figures),
    )


class _Measurement:
    """One run and what was seen on the way."""

    def __init__(self, experiment: Experiment) -> None:
        self.flags: list[str] = []
        self.samples: list[GuestSample] = []
        self.figures: dict[str, Any] = {}
        """What is known of the guest and of how the migration ended."""
        self.work_lost_percent: float | None = None
        self._experiment = experiment
        rounds_ns = (load.every_ns for load in experiment.guest.loads)
        self._measure_s = max(_MEASURE_S, *(every_ns / NS_PER_S for every_ns in rounds_ns))
        self._start_s = 0.0
        self._limit_hit = ""

    def run(self, journal: Path) -> None:
        """Collect the figures. Raises VmferryError if no migration came about, or the guest is broken after it."""
        experiment, [name] = self._experiment, self._experiment.variants
        with Lab() as lab:
            options = policy_options(experiment, name, lab.directory)
            source, destination, uri = boot(lab, experiment, journal, options)
            ran_and_waited_ns = _ran_and_waited_ns(source)
            before = self._checked_speed(source)
            waiting_share = _waiting_share(ran_and_waited_ns, _ran_and_waited_ns(source))
            self.figures |= {"pages_per_s_before": before, "waiting_percent": 100 * waiting_share}
            set_up(
                source.monitor,
                real_settings(experiment, name),
                auto_converge=experiment.variant(name).auto_converge,
            )
            result = self._migrate(source, destination, uri)
            self.figures |= {"status": result.last.status, "error": self._limit_hit or result.last.error or ""}
            self.work_lost_percent = lost_percent(before, self.samples)
            owner = destination if result.completed else source
            owner.check_memory()
            after = self.figures["pages_per_s_after"] = owner.pages_per_s(self._measure_s)
        if waiting_share > _WAITING_SHARE_MAX:
            self.flags.append(f"the vCPUs waited {waiting_share:.0%} of their time for a processor of the host")
        if after < _REGAINED_SHARE_MIN * before:
            self.flags.append(f"after it the guest runs at {after / before:.0%} of its speed before")

    def _checked_speed(self, source: VmProcess) -> float:
        """Measure the undisturbed guest, and flag a load that is not the one that was asked for."""
        start, start_s = source.progress(), time.monotonic()
        time.sleep(self._measure_s)
        end, seconds = source.progress(), time.monotonic() - start_s
        speeds = [b.written_pages - a.written_pages for a, b in zip(start.vcpus, end.vcpus, strict=True)]
        asked_mib = stress_bytes(self._experiment) // MIB
        if end.page_count * PAGE_SIZE_BYTES != asked_mib * MIB:
            self.flags.append(f"the guest rewrites {end.page_count} pages, not {asked_mib} MiB")
        alike = len(self._experiment.guest.loads) == 1 and not is_paced(self._experiment.guest)
        if alike and min(speeds) < _SLOWEST_VCPU_SHARE * max(speeds):
            self.flags.append(f"a vCPU writes {min(speeds) / max(speeds):.0%} of what the fastest does")
        return sum(speeds) / seconds

    def _migrate(self, source: VmProcess, destination: VmProcess, uri: str) -> Result:
        """Migrate; return how it ended."""
        self._start_s = time.monotonic()
        self._sample(source)
        cancel = CancelToken()
        result = drive(
            source.monitor, uri, lambda progress: self._watch(source, progress, cancel), MonotonicClock(), cancel
        )
        self._sample(destination if result.completed else source)
        return result

    def _watch(self, source: VmProcess, progress: Progress, cancel: CancelToken) -> None:
        """Sample the guest now and then, and call the migration off at its limits."""
        if time.monotonic() - self._start_s - self.samples[-1].time_s >= SAMPLE_INTERVAL_S:
            self._sample(source)
        limits = self._experiment.limits
        if (progress.iteration_count or 0) > limits.max_iterations:
            self._limit_hit = f"more than {limits.max_iterations} iterations"
        elif (progress.elapsed_ms or 0) * NS_PER_MS > limits.max_time_ns:
            self._limit_hit = f"it took longer than {format_duration(limits.max_time_ns)}"
        if self._limit_hit:
            cancel.set(self._limit_hit)

    def _sample(self, vm: VmProcess) -> None:
        vcpus = vm.progress().vcpus
        time_s = round(time.monotonic() - self._start_s, 3)
        self.samples.append(GuestSample(time_s, [vcpu.written_pages for vcpu in vcpus]))


def _ran_and_waited_ns(vm: VmProcess) -> tuple[int, int]:
    """Return how long the vCPUs' threads have run, and how long they were ready but had to wait for a processor."""
    vcpus = vm.scheduled_vcpus()
    return sum(vcpu.ran_ns for vcpu in vcpus), sum(vcpu.waited_ns for vcpu in vcpus)


def _waiting_share(start: tuple[int, int], end: tuple[int, int]) -> float:
    ran, waited = end[0] - start[0], end[1] - start[1]
    return waited / (ran + waited) if ran + waited else 0.0


def lost_percent(pages_per_s_before: float, samples: Sequence[GuestSample]) -> float | None:
    """Return what of its work a guest lost between samples; None if it did none before, as between bursts."""
    first, last = samples[0], samples[-1]
    possible = pages_per_s_before * (last.time_s - first.time_s)
    return 100 * (1 - (sum(last.written_pages) - sum(first.written_pages)) / possible) if possible else None


def _recorded_figures(journal: Path, work_lost_percent: float | None) -> dict[str, Any]:
    """Return what a journal says of how its migration ended, or how far it came; nothing if none began."""
    try:
        migration = next(split_migrations(read_journal(journal)), None)
    except UsageError:  # there is none
        migration = None
    return msgspec.structs.asdict(Outcome.of(migration).counted(work_lost_percent)) if migration else {}
