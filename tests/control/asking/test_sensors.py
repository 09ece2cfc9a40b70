"""Which measurement is asked for, and what is made of the answer. That QEMU understands it is in tests/end_to_end."""

from pathlib import Path
from typing import Any

import pytest

from vmferry.control.asking import sensors as module
from vmferry.control.asking.driven_vm import DrivenVm, Schema
from vmferry.control.asking.sensors import DirtyRateSensor
from vmferry.errors import CommandError, HostError

MIB = 1 << 20
MODES = ["page-sampling", "dirty-bitmap", "dirty-ring"]


def driven(*arguments: str, modes: list[str] = MODES, kvm: bool = True) -> DrivenVm:
    """A VM whose calc-dirty-rate has these arguments beside calc-time; none at all without any."""
    members = [{"name": "calc-time", "type": "int"}, *({"name": name, "type": name} for name in arguments)]
    entries: list[dict[str, Any]] = [
        {"name": "calc-dirty-rate", "meta-type": "command", "arg-type": "1"},
        {"name": "1", "meta-type": "object", "members": members},
        {"name": "mode", "meta-type": "enum", "values": modes},
    ]
    return DrivenVm("QEMU 7.2.0", Schema(entries if arguments else []), {}, {}, kvm)


class Monitor:
    """Refuses some modes, and answers query-dirty-rate with these in turn. Its process is not seen without `pid`."""

    pid: int | None = None
    memory_gib = 2.0

    def __init__(self, *answers: dict[str, Any], refuses: tuple[str, ...] = ()) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)
        self._refuses = refuses

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        if command == "query-dirty-rate":
            return self._answers.pop(0)
        if command == "query-memory-size-summary":
            return {"base-memory": round(self.memory_gib * 1024) * MIB, "plugged-memory": 0}
        assert command == "calc-dirty-rate"
        assert arguments
        if arguments.get("mode") in self._refuses:
            raise CommandError("not enabled", "GenericError")
        self.asked.append(arguments)
        return {}

    @property
    def peer_pid(self) -> int:
        if self.pid is None:
            raise HostError("it may be on another host")
        return self.pid


def sensor(monitor: Monitor, vm: DrivenVm, window_ms: int = 1000) -> DirtyRateSensor:
    return DirtyRateSensor(monitor, vm, window_ms)  # type: ignore[arg-type]


def measured(mib_per_s: int) -> dict[str, Any]:
    return {"status": "measured", "dirty-rate": mib_per_s}


@pytest.mark.parametrize(("gib", "per_gib"), [(0.25, 16_384), (1, 16_384), (4, 4096), (32, 512), (512, 512)])
def test_of_a_small_guest_more_pages_are_sampled_as_far_as_qemu_does_so(gib: float, per_gib: int) -> None:
    monitor = Monitor()
    monitor.memory_gib = gib
    sensor(monitor, driven("mode", "sample-pages", kvm=False)).start()
    assert monitor.asked[-1]["sample-pages"] == per_gib


@pytest.mark.parametrize(
    ("vm", "refuses", "asked"),
    [
        (driven("mode"), (), {"calc-time": 1, "mode": "dirty-ring"}),
        (driven("mode"), ("dirty-ring",), {"calc-time": 1, "mode": "dirty-bitmap"}),
        (driven("mode"), ("dirty-ring", "dirty-bitmap"), {"calc-time": 1, "mode": "page-sampling"}),
        (driven("mode", kvm=False), (), {"calc-time": 1, "mode": "page-sampling"}),
        (driven("mode", modes=MODES[:2]), (), {"calc-time": 1, "mode": "dirty-bitmap"}),
        (driven("sample-pages"), (), {"calc-time": 1, "sample-pages": 8192}),
        (
            driven("mode", "sample-pages", kvm=False),
            (),
            {"calc-time": 1, "mode": "page-sampling", "sample-pages": 8192},
        ),
        (driven("mode", "sample-pages"), (), {"calc-time": 1, "mode": "dirty-ring"}),
        (
            driven("mode", "calc-time-unit"),
            ("dirty-ring",),
            {"calc-time": 700, "calc-time-unit": "millisecond", "mode": "dirty-bitmap"},
        ),
    ],
)
def test_the_best_mode_that_is_allowed_is_used(vm: DrivenVm, refuses: tuple[str, ...], asked: dict[str, Any]) -> None:
    monitor = Monitor(*[{"status": "unstarted"}] * 2, refuses=refuses)
    assert sensor(monitor, vm, 700).start()
    assert monitor.asked == [asked]


@pytest.mark.parametrize(
    ("arguments", "asked_s", "window_s"),
    [
        (("mode",), 0.2, 1),
        (("mode",), 2.4, 2),
        (("mode", "calc-time-unit"), 2.4, 2.4),
        (("mode", "calc-time-unit"), 0.001, 0.05),
        (("mode", "calc-time-unit"), 90, 60),
    ],
)
def test_who_asks_says_how_long_and_is_told_how_long_it_was(
    arguments: tuple[str, ...], asked_s: float, window_s: float
) -> None:
    measuring = sensor(Monitor({"status": "measured"}), driven(*arguments))
    measuring.start(round(asked_s * 1e9))
    rate = measuring.fetch()
    assert rate
    assert rate.window_ns == window_s * 1e9


def test_a_refusal_of_every_mode_is_an_error() -> None:
    monitor = Monitor(*[{"status": "unstarted"}] * 3, refuses=tuple(MODES))
    with pytest.raises(CommandError, match="not enabled"):
        sensor(monitor, driven("mode")).start()


def test_others_that_measure_are_waited_for() -> None:
    monitor = Monitor({"status": "measuring"}, refuses=("dirty-ring",))
    waiting = sensor(monitor, driven("mode"))
    assert not waiting.start()
    assert not waiting.measuring
    assert waiting.mode == "dirty-ring"


@pytest.mark.parametrize("status", ["unstarted", "measuring"])
def test_a_measurement_takes_its_time(status: str) -> None:
    """The thread of QEMU's that measures may not run yet when it is asked."""
    monitor = Monitor({"status": status}, measured(300))
    measuring = sensor(monitor, driven("mode"))
    measuring.start()
    assert measuring.fetch() is None
    rate = measuring.fetch()
    assert rate
    assert rate.dirty_bytes_per_s == 300 * MIB
    assert not measuring.measuring


@pytest.mark.parametrize(
    ("found_by_qemu", "expected"), [(250 * MIB, 250), (50 * MIB, 100), (5000 * MIB, 800), (0, 100)]
)
def test_samples_are_corrected_by_what_the_migration_finds(found_by_qemu: int, expected: int) -> None:
    """Upwards only, and not beyond reason."""
    monitor = Monitor(measured(100), measured(100))
    sampling = sensor(monitor, driven("mode", kvm=False))
    sampling.start()
    sampling.fetch()
    sampling.calibrate(found_by_qemu)
    sampling.start()
    rate = sampling.fetch()
    assert rate
    assert rate.dirty_bytes_per_s == expected * MIB


def test_a_log_needs_no_correction() -> None:
    monitor = Monitor(measured(100), measured(100))
    logging = sensor(monitor, driven("mode"))
    logging.start()
    logging.fetch()
    logging.calibrate(500 * MIB)
    logging.start()
    rate = logging.fetch()
    assert rate
    assert rate.dirty_bytes_per_s == 100 * MIB


def test_a_qemu_that_cannot_measure_is_refused() -> None:
    with pytest.raises(HostError, match=r"QEMU 7\.2\.0 cannot measure its dirty rate"):
        sensor(Monitor(), driven())


@pytest.mark.parametrize(
    ("pid", "emulates", "mode"), [(7, True, "dirty-bitmap"), (7, False, "dirty-ring"), (None, True, "dirty-ring")]
)
def test_a_ring_that_would_stop_the_guest_for_good_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, emulates: bool, mode: str
) -> None:
    monkeypatch.setattr(module, "_EMULATING_KVM", tmp_path if emulates else tmp_path / "none")
    monitor = Monitor()
    monitor.pid = pid
    assert sensor(monitor, driven("mode")).mode == mode
