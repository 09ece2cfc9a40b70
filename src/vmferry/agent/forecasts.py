"""Forecasts on demand: what a migration of a VM would come to, measured at its monitor and worked out beside the agent.

Each VM has one forecast at a time, and one is worked out at a time, in a process of its own that is ended when it takes
too long. A migration that begins meanwhile comes first.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from vmferry.agent.actions import NotDoneError
from vmferry.agent.attendants import Attendants, Attended
from vmferry.agent.roster import HostVm
from vmferry.agent.rules import Mode
from vmferry.bounds import one_line
from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor, open_monitor
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import ask
from vmferry.errors import CancelledError, HostError, UsageError, VmferryError
from vmferry.study.executors import local_pool
from vmferry.study.forecast_record import ForecastRecord
from vmferry.study.measured_survey import survey_vm
from vmferry.study.survey import Survey
from vmferry.study.told import Told, work_out
from vmferry.units import NS_PER_MS, NS_PER_S

MEASURE_S = 60.0
"""Within which the guest is to be measured."""
WORK_OUT_S = 300.0
_LOOK_S = 0.2
_MIGRATES_NS = 500 * NS_PER_MS
"""How often it is asked whether a migration has begun."""
_Survey = Callable[[Monitor, CancelToken], tuple[str, Survey]]
"""Measures a VM at its monitor, and returns its name and how its guest writes."""
_MAX_KEPT = 100
_NICE = 10


class ForecastState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a forecast is."""

    vm_name: str
    address: str
    state: str
    """`none` if none was asked for, or `waiting`, `measuring`, `working out`, `done`, `failed`."""
    asked_ms: int | None = None
    """When it was asked for: milliseconds since the Unix epoch."""
    error: str = ""
    """Why it has failed."""
    sentence: str = ""
    """Whether the guest converges, and how best."""
    forecast: ForecastRecord | None = None

    @property
    def is_over(self) -> bool:
        """True if nothing more will come."""
        return self.state in ("done", "failed")


class Forecasts:
    """The forecasts that people ask one agent for, the newest of each VM."""

    def __init__(self, attendants: Attendants) -> None:
        self._attendants = attendants
        self._lock = threading.Lock()
        self._states: dict[str, ForecastState] = {}
        """By the address of the monitor, the newest at the end."""
        self._working_out = threading.Lock()

    def of(self, vm: HostVm) -> ForecastState:
        """Return the newest forecast for a VM."""
        with self._lock:
            return self._states.get(vm.address) or ForecastState(vm_name=vm.name, address=vm.address, state="none")

    def begin(self, vm: HostVm, bandwidth: int | None, downtime_limit_ms: int | None) -> ForecastState:
        """Begin one, unless one for that VM goes on, which is returned then; None is what the VM's parameters say.

        Raises NotDoneError if that VM is to be left alone, or migrates.
        """
        if vm.mode is Mode.IGNORE:
            raise NotDoneError(f"{vm.rule} says to ignore this VM, so nothing is measured")
        if vm.live:
            raise NotDoneError("the VM migrates; its migration is shown")
        survey = partial(_measured_at, bandwidth=bandwidth, downtime_limit_ms=downtime_limit_ms)
        with self._lock:
            before = self._states.pop(vm.address, None)
            if before and not before.is_over:
                self._states[vm.address] = before
                return before
            now_ms = time.time_ns() // NS_PER_MS
            state = ForecastState(vm_name=vm.name, address=vm.address, state="waiting", asked_ms=now_ms)
            self._states[vm.address] = state
            self._forget()
        threading.Thread(target=self._run, args=(vm, survey), name=f"forecast for {vm.name}", daemon=True).start()
        return state

    def _forget(self) -> None:
        """Forget the oldest that are over, where there are too many."""
        over = [address for address, state in self._states.items() if state.is_over]
        for address in over[: max(0, len(self._states) - _MAX_KEPT)]:
            del self._states[address]

    def _run(self, vm: HostVm, survey_at: _Survey) -> None:
        try:
            self._note(vm, state="measuring")
            name, survey = self._measured(vm, survey_at)
            self._note(vm, state="waiting")
            with self._working_out:
                self._note(vm, state="working out")
                told = self._worked_out(name, survey)
            self._note(vm, state="done", sentence=told.sentence, forecast=told.record())
        except VmferryError as error:
            self._note(vm, state="failed", error=one_line(str(error)))
        except Exception as error:  # whoever looks is told, and the agent goes on
            self._attendants.log.warn(f"a forecast for {vm.name}: a defect of vmferry: {error!r}")
            self._note(vm, state="failed", error="a defect of vmferry, which the agent's log tells")

    def _note(self, vm: HostVm, **changes: object) -> None:
        with self._lock:
            self._states[vm.address] = msgspec.structs.replace(self._states[vm.address], **changes)

    def _measured(self, vm: HostVm, survey_at: _Survey) -> tuple[str, Survey]:
        """Return the VM's name and how its guest writes. Raises VmferryError."""
        attended = self._attendants.attended.get(vm.address.removeprefix("unix:"))
        if attended:
            return _measured_by(attended, survey_at)
        cancel = CancelToken()
        with open_monitor(vm.address, while_waiting=cancel.check) as monitor:
            return survey_at(monitor, cancel)

    def _worked_out(self, name: str, survey: Survey) -> Told:
        """Work it out in a process of its own. Raises HostError if it takes too long, CancelledError at the end."""
        end_s = time.monotonic() + WORK_OUT_S
        with local_pool(1) as pool:
            future = pool.submit(_work_out_politely, name, survey)
            while not _is_done(future):
                if self._attendants.stop.is_set():
                    raise CancelledError("the agent ends")
                if time.monotonic() > end_s:
                    raise HostError(f"it was not worked out within {WORK_OUT_S:g} s")
        return future.result()


def _work_out_politely(name: str, survey: Survey) -> Told:
    os.nice(_NICE)
    return work_out(name, survey)


def _is_done(future: Future[Told]) -> bool:
    try:
        future.exception(_LOOK_S)
    except TimeoutError:
        return False
    return True


def _measured_by(attended: Attended, survey_at: _Survey) -> tuple[str, Survey]:
    """Have it measured by whoever attends to the VM, as its monitor has room for one. Raises VmferryError."""
    future: Future[tuple[str, Survey]] = Future()

    def measure(monitor: Monitor) -> None:
        if future.set_running_or_notify_cancel():
            _settle(future, lambda: survey_at(monitor, CancelToken()))

    attended.asked.append(measure)
    try:
        return future.result(2 * MEASURE_S)
    except TimeoutError:
        future.cancel()
        raise HostError("the VM's monitor was busy all the time") from None


def _settle(future: Future[tuple[str, Survey]], measure: Callable[[], tuple[str, Survey]]) -> None:
    try:
        future.set_result(measure())
    except BaseException as error:
        future.set_exception(error)
        if not isinstance(error, UsageError | HostError | CancelledError):
            raise


def _measured_at(
    monitor: Monitor, cancel: CancelToken, bandwidth: int | None, downtime_limit_ms: int | None
) -> tuple[str, Survey]:
    return survey_vm(monitor, _WatchingClock(monitor, cancel), cancel, bandwidth, downtime_limit_ms)


class _WatchingClock(MonotonicClock):
    """Real time, in which whoever waits looks whether there is a reason to wait no longer."""

    def __init__(self, monitor: Monitor, cancel: CancelToken) -> None:
        self._monitor = monitor
        self._cancel = cancel
        self._asked_ns = self._start_ns = self.now_ns()

    def sleep_ns(self, duration_ns: int) -> None:
        """Let time pass; the token is set once a migration runs, or it takes too long."""
        super().sleep_ns(duration_ns)
        now_ns = self.now_ns()
        if now_ns - self._start_ns > MEASURE_S * NS_PER_S:
            self._cancel.set(f"the guest was not measured within {MEASURE_S:g} s")
        if now_ns - self._asked_ns > _MIGRATES_NS:
            self._asked_ns = now_ns
            if ask(self._monitor).running:
                self._cancel.set("a migration has begun, so it is too late for a forecast")
