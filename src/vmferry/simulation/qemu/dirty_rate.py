"""`calc-dirty-rate` and `query-dirty-rate` of a modelled QEMU, with their blind spots (`migration/dirtyrate.c`).

A page counts once in a measurement; but where a migration syncs meanwhile, once more for each sync. Samples of pages
tell nothing of guests below 128 MiB, and the less the fewer pages are written.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.process import Steps, start
from vmferry.simulation.qemu.dirty_log import ModelledDirtyLog
from vmferry.simulation.qemu.releases import Release
from vmferry.simulation.qemu.settings import check_argument, refuse
from vmferry.units import MIB, MS_PER_S, NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES

PAGE_SAMPLING, DIRTY_RING, DIRTY_BITMAP = MODES = ("page-sampling", "dirty-ring", "dirty-bitmap")
SECOND, MILLISECOND = UNITS = ("second", "millisecond")
_DEFAULT_SAMPLES, _SAMPLES = 512, range(128, 16_385)
_LEAST_SAMPLED_BYTES = 128 << 20
_WINDOW_MS = range(50, 60_001)
_WINDOW_S = range(1, 61)
_THREAD_START_NS = NS_PER_MS
_GIB_PAGES = 1 << 18


class ModelledDirtyRate:
    """Measures one guest, in one measurement at a time."""

    def __init__(
        self,
        clock: VirtualClock,
        release: Release,
        guest: SimulatedGuest,
        log: ModelledDirtyLog,
        random: np.random.Generator,
    ) -> None:
        self._clock = clock
        self._release = release
        self._guest = guest
        self._log = log
        self._random = random
        self._answer: dict[str, Any] = self._described(PAGE_SAMPLING, 0, 0)

    def calculate(self, arguments: Mapping[str, Any]) -> None:
        """Begin a measurement. Raises CommandError for what QEMU refuses."""
        window_ms = self._window_ms(arguments)
        mode = arguments.get("mode", PAGE_SAMPLING)
        samples = self._samples(arguments, mode)
        if mode not in MODES:
            raise refuse(f"Parameter 'mode' does not accept value '{mode}'")
        if self._answer["status"] == "measuring":
            raise refuse("the dirty rate is already being measured.")
        if mode == DIRTY_RING:
            raise refuse("mode dirty-ring is not enabled, use other method instead.")
        self._answer = self._described(mode, samples, window_ms)
        steps = self._by_log(window_ms) if mode == DIRTY_BITMAP else self._by_samples(window_ms, samples)
        start(self._clock, steps)

    def answer(self) -> dict[str, Any]:
        """Return what `query-dirty-rate` tells."""
        return dict(self._answer)

    def _window_ms(self, arguments: Mapping[str, Any]) -> int:
        calc_time = check_argument(arguments, "calc-time", "int")
        if not self._release.measures_milliseconds:
            if "calc-time-unit" in arguments:
                raise refuse("Parameter 'calc-time-unit' is unexpected")
            if calc_time not in _WINDOW_S:
                raise refuse("calc-time is out of range[1, 60].")
            return int(calc_time) * MS_PER_S
        unit = arguments.get("calc-time-unit", SECOND)
        if unit not in UNITS:
            raise refuse(f"Parameter 'calc-time-unit' does not accept value '{unit}'")
        window_ms = int(calc_time) * (1 if unit == MILLISECOND else MS_PER_S)
        if window_ms not in _WINDOW_MS:
            raise refuse("Calculation time is out of range [50ms, 60000ms].")
        return window_ms

    def _samples(self, arguments: Mapping[str, Any], mode: str) -> int:
        if "sample-pages" not in arguments:
            return _DEFAULT_SAMPLES
        if mode != PAGE_SAMPLING and self._release.measures_milliseconds:
            raise refuse("sample-pages is used only in page-sampling mode")
        samples = check_argument(arguments, "sample-pages", "int")
        if samples not in _SAMPLES:
            raise refuse("sample-pages is out of range[128, 16384].")
        return int(samples)

    def _described(self, mode: str, samples: int, window_ms: int) -> dict[str, Any]:
        """Return what is told of a measurement as it begins. Times are in seconds, as nobody asks for others."""
        described = {
            "status": "unstarted",
            "sample-pages": samples,
            "mode": mode,
            "start-time": self._clock.now_ns() // NS_PER_S,
            "calc-time": window_ms // MS_PER_S,
        }
        return described | ({"calc-time-unit": SECOND} if self._release.measures_milliseconds else {})

    def _by_log(self, window_ms: int) -> Steps:
        """Count the bits that syncs find; the first sync is left out, and all is armed after it."""
        yield from self._begin()
        self._log.start()
        self._log.sync()
        self._log.arm_all()
        before = self._log.found_pages
        yield window_ms * NS_PER_MS
        self._log.sync()
        self._log.stop()
        self._answer["sample-pages"] = 0
        self._measured((self._log.found_pages - before) * PAGE_SIZE_BYTES, window_ms)

    def _by_samples(self, window_ms: int, samples_per_gib: int) -> Steps:
        """Look which of some pages have changed, and conclude from them to all."""
        yield from self._begin()
        page_count = self._guest.layout.page_count
        pages = self._random.integers(page_count, size=max(1, samples_per_gib * page_count // _GIB_PAGES))
        changed = self._log.witness()
        yield window_ms * NS_PER_MS
        self._log.dismiss(changed)
        share = np.count_nonzero(changed.test_pages(pages)) / len(pages)
        size_bytes = self._guest.layout.size_bytes
        self._measured(int(share * size_bytes) if size_bytes >= _LEAST_SAMPLED_BYTES else 0, window_ms)

    def _begin(self) -> Steps:
        """QEMU answers before the thread that measures has begun."""
        yield _THREAD_START_NS
        self._answer["status"] = "measuring"

    def _measured(self, dirty_bytes: int, window_ms: int) -> None:
        self._answer["dirty-rate"] = dirty_bytes // MIB * MS_PER_S // window_ms
        self._answer["status"] = "measured"
