"""What is made of an order, in situations that a real QEMU cannot be brought into at will."""

import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fake_qemu import FakeQemu, answer
from tests.support.hostile import tampered
from tests.support.policies import BROKEN, write_policy
from vmferry.cancel import CancelToken
from vmferry.client.qmp_client import Event
from vmferry.control.asking.progress import POLL_INTERVAL_NS, Progress
from vmferry.control.asking.result import Result
from vmferry.control.ending import DESTINATION_KNOWS
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.control.slowing import actuators
from vmferry.control.slowing.slowed import SlowedGuest
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.convergence.policies.registry import load_policy
from vmferry.convergence.variants import Variant, find_variant
from vmferry.errors import (
    CommandError,
    InterruptionError,
    MigrationError,
    MonitorError,
    PolicyError,
    UsageError,
    VmferryError,
)
from vmferry.migration.events import Acted, Ended, Started
from vmferry.migration.journal import MemoryJournal
from vmferry.report.journal_runs import run_series
from vmferry.simulation.clock import VirtualClock

S = 1_000_000_000
MIB_PAGES = 256
RESPONSIVE = find_variant("background-sync+responsive-throttle")
DONE = answer("completed", 9)


def carried_out(
    qemu: FakeQemu, order: Order, told: list[str] | None = None, cancel: CancelToken | None = None
) -> Result:
    """Carry out an order in virtual time, which goes on by two seconds with every poll."""
    clock, lines = VirtualClock(), told if told is not None else []

    def watch(progress: Progress) -> None:
        clock.sleep_ns(2 * S - POLL_INTERVAL_NS)

    return carry_out(Ports(qemu, clock, cancel or CancelToken(), lines.append, lines.append), order, watch)


def steered(
    qemu: FakeQemu, told: list[str] | None = None, cancel: CancelToken | None = None, **others: object
) -> Result:
    """Carry out an order by what QEMU has itself, as nothing else can be had of a fake."""
    wanted = Order(**{"uri": "unix:/x", "variant": RESPONSIVE, "throttle_by": "auto-converge"} | others)  # type: ignore[arg-type]
    return carried_out(qemu, wanted, told, cancel)


def test_every_iteration_that_tells_qemu_a_new_dirty_rate_is_a_sample() -> None:
    """Nothing else can be measured, and QEMU's own rate is far over the bandwidth again and again."""
    course = [
        answer(
            dirty_sync_count=count,
            transferred=count * 100 << 20,
            dirty_pages_rate=(300 + count) * MIB_PAGES,
        )
        for count in range(2, 8)
    ]
    qemu = FakeQemu([*course, DONE])
    told: list[str] = []
    steered(qemu, told)
    steps = [values["max-cpu-throttle"] for _, values in qemu.told if "max-cpu-throttle" in values]
    assert steps == [1, 50, 90, 99, 99]
    assert sum("end of iteration" in line for line in told) >= 3


COURSE = [
    answer(dirty_sync_count=n, transferred=n * 100 << 20, dirty_pages_rate=(300 + n) * MIB_PAGES) for n in range(2, 6)
]
"""The guest is slowed when two of these were seen."""
LIMITED = "set-vcpu-dirty-limit"
RELEASED = "cancel-vcpu-dirty-limit"


def names(qemu: FakeQemu) -> list[str]:
    """What QEMU was told since it had been told to migrate."""
    told = [name for name, _ in qemu.told]
    return told[told.index("migrate") + 1 :] if "migrate" in told else told


def refuse(command: str) -> None:
    """Accept no parameters."""
    if command == "migrate-set-parameters":
        raise CommandError("no", "GenericError")


def at(qemu: FakeQemu, number: int, command: str, act: Callable[[], None]) -> None:
    """Let something happen during a command that comes for the n-th time after the beginning."""
    seen: list[str] = []

    def during(name: str) -> None:
        if name == "migrate" or seen:
            seen.append(name)
        if name == command and seen.count(command) == number:
            act()

    qemu.during = during


def interrupt_at(qemu: FakeQemu, number: int, command: str, *, answers: bool = False) -> CancelToken:
    """Interrupt a command, which is answered before anybody notices or else is given up."""
    cancel = CancelToken()
    if not answers:
        qemu.while_waiting = cancel.check
    at(qemu, number, command, lambda: cancel.set("interrupted", signal.SIGINT))
    return cancel


@pytest.mark.parametrize(("command", "number"), [("migrate", 1), ("query-migrate", 1), ("query-migrate", 3)])
@pytest.mark.parametrize("answers", [False, True])
def test_an_interruption_cancels_from_the_very_beginning(command: str, number: int, answers: bool) -> None:
    qemu = FakeQemu(COURSE)
    before = dict(qemu.parameters)
    cancel = interrupt_at(qemu, number, command, answers=answers)
    result = steered(qemu, cancel=cancel, parameters={"downtime-limit": 1})
    assert (result.last.status, result.last.error, result.interrupted_by) == ("cancelled", None, signal.SIGINT)
    assert "migrate_cancel" in names(qemu) or command == "migrate"
    assert (qemu.parameters, qemu.capabilities["auto-converge"]) == (before, False)


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def of(policy: str, settings: str = "") -> Variant:
    return Variant(policy, {"convergence-policy": policy, "policy-settings": settings})


def test_a_policy_of_ones_own_steers_qemu(tmp_path: Path) -> None:
    qemu, journal = FakeQemu([*COURSE, DONE]), MemoryJournal()
    policy = write_policy(tmp_path)
    steered(qemu, variant=of(policy, "step=41"), journal=journal)
    steps = [values["max-cpu-throttle"] for _, values in qemu.told if "max-cpu-throttle" in values]
    assert steps[:3] == [1, 41, 82]
    [started] = (entry.event for entry in journal.entries if isinstance(entry.event, Started))
    kind = load_policy(policy)
    assert (started.policy_digest, started.parameters["policy-settings"]) == (kind.digest, "step=41")
    assert run_series(journal.entries, "").variant == f"{kind.reference} (step=41)"


def test_a_broken_policy_calls_off_what_it_was_to_steer(tmp_path: Path) -> None:
    qemu, journal = FakeQemu([*COURSE, answer()]), MemoryJournal()
    before = dict(qemu.parameters)
    result = steered(qemu, variant=of(write_policy(tmp_path, BROKEN)), journal=journal)
    assert result.last.status == "cancelled"
    assert result.last.error
    assert result.last.error.startswith("the policy 'ladder.py:Ladder' is broken: it failed with ZeroDivisionError")
    assert 30 in [values.get("max-cpu-throttle") for _, values in qemu.told], "it did slow the guest before"
    assert (qemu.parameters, qemu.capabilities["auto-converge"]) == (before, False)
    ended = journal.entries[-1].event
    assert isinstance(ended, Ended)
    assert ended.error == result.last.error
    assert ended.policy_broken


def test_a_broken_policy_lets_go_of_a_migration_that_somebody_else_has_begun(tmp_path: Path) -> None:
    qemu = FakeQemu([*COURSE, answer()])
    qemu.capabilities["auto-converge"] = True
    before = dict(qemu.parameters)
    qemu.begin()
    with pytest.raises(PolicyError, match=r"the policy 'ladder\.py:Ladder' is broken"):
        steered(qemu, uri=None, variant=of(write_policy(tmp_path, BROKEN)))
    assert "migrate_cancel" not in names(qemu)
    assert qemu.parameters == before


def test_a_policy_that_is_not_there_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    for variant, why in (
        (of("fast"), "no convergence policy 'fast'; there are: "),
        (of(f"{tmp_path}/none.py:Ladder"), "cannot read the policy"),
        (of(policy, "stride=1"), "policy 'ladder.py:Ladder' has no setting 'stride'; there are: step, share"),
        (of(policy, "step=100"), "policy 'ladder.py:Ladder': Expected `int` <= 99"),
    ):
        qemu = FakeQemu(COURSE)
        before = dict(qemu.parameters)
        with pytest.raises(UsageError, match=why):
            steered(qemu, variant=variant)
        assert "migrate" not in [name for name, _ in qemu.told]
        assert qemu.parameters == before


@pytest.mark.parametrize("error", [BrokenPipeError(), SystemExit(1), ZeroDivisionError()])
def test_what_nobody_looks_after_any_more_is_cancelled(error: BaseException) -> None:
    qemu = FakeQemu(COURSE)
    before = dict(qemu.parameters)
    at(qemu, 3, "query-migrate", raising(error))
    with pytest.raises(type(error)):
        steered(qemu)
    assert "migrate_cancel" in names(qemu)
    assert (qemu.parameters, qemu.capabilities["auto-converge"]) == (before, False)


@pytest.mark.parametrize("limited", [False, True])
def test_a_cancelled_migration_that_does_not_end_is_left(limited: bool) -> None:
    """Whoever has cancelled it, a person or a deadline."""
    qemu = FakeQemu([*COURSE, *[answer("cancelling")] * 3])
    qemu.obeys_cancel = False
    cancel = None if limited else interrupt_at(qemu, 3, "query-migrate")
    result = steered(qemu, cancel=cancel, limits=Limits(deadline_ns=3 * S) if limited else Limits())
    assert result.last.status == "cancelling"
    assert "has not ended" in (result.last.error or "")
    assert result.interrupted_by == (None if limited else signal.SIGINT)


def test_a_monitor_that_hangs_keeps_no_guest_slowed() -> None:
    """The throttle goes first; of one that does not answer nothing more is asked than to break its link."""
    qemu = FakeQemu([*COURSE, MonitorError("no answer")])
    cancel = interrupt_at(qemu, len(COURSE) + 1, "query-migrate")
    with pytest.raises(MonitorError, match="no answer"):
        steered(qemu, cancel=cancel, throttle_by="dirty-limit", parameters={"downtime-limit": 1})
    told = names(qemu)
    assert told[told.index(RELEASED, told.index(LIMITED)) - 1 :] == ["hurry", RELEASED, "hurry", "yank"]


SENDING = answer(dirty_sync_count=2, transferred=100 << 20, remaining=1)


def test_a_qemu_that_waits_for_its_link_with_its_lock_held_is_freed() -> None:
    qemu = FakeQemu([SENDING, MonitorError("the monitor does not answer")])
    before = dict(qemu.parameters)
    qemu.yanked = [answer("failed")]
    result = steered(qemu, parameters={"downtime-limit": 1})
    assert result.last.status == "failed"
    assert "its connection was broken" in (result.last.error or "")
    assert ("yank", {"instances": [{"type": "migration"}]}) in qemu.told
    assert qemu.parameters == before


@pytest.mark.parametrize("last", [answer(remaining=0), answer("device", remaining=0), answer("postcopy-active")])
def test_the_connection_of_a_guest_that_may_have_left_is_not_broken(last: dict[str, object]) -> None:
    qemu = FakeQemu([SENDING, last, MonitorError("the monitor does not answer")])
    qemu.yanked = [answer("failed")]
    with pytest.raises(MonitorError):
        steered(qemu)
    assert "yank" not in names(qemu)


class EndingQemu(FakeQemu):
    """Its process ends once its monitor answers no more."""

    process: subprocess.Popen[bytes]

    @property
    def peer_pid(self) -> int:
        return self.process.pid

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        try:
            return super().execute(command, arguments)
        except MonitorError:
            self.process.kill()
            self.process.wait()
            raise


def test_of_a_vm_that_ends_while_it_migrates_nothing_is_left_to_put_back() -> None:
    """As when its guest powers off."""
    told: list[str] = []
    with subprocess.Popen(["sleep", "60"]) as process:
        qemu = EndingQemu([SENDING, MonitorError("the monitor is gone")])
        qemu.process = process
        with pytest.raises(MonitorError, match="the VM's process has ended, and its guest with it unless"):
            steered(qemu, told, parameters={"downtime-limit": 1})
    assert not any("put back" in line for line in told)


def test_a_qemu_that_does_not_even_answer_out_of_band_is_left() -> None:
    qemu = FakeQemu([SENDING, MonitorError("the monitor does not answer")])
    with pytest.raises(MonitorError, match="does not answer"):
        steered(qemu)


def test_a_migration_that_is_left_to_qemu_says_how_it_would_be_steered() -> None:
    told: list[str] = []
    carried_out(FakeQemu([SENDING, DONE]), Order(uri="unix:/x", variant=find_variant("original")), told)
    assert [line for line in told if "--variant planned steers it" in line]


def test_a_plain_migration_of_qemu_is_planned() -> None:
    told: list[str] = []
    journal = MemoryJournal()
    carried_out(FakeQemu([*COURSE, DONE]), Order(uri="unix:/x", journal=journal), told)
    assert run_series(journal.entries, "").variant == "planned"
    assert any("nothing is known of how the guest writes before it migrates" in line for line in told), told


def test_where_the_guest_cannot_be_slowed_a_plain_migration_is_left_to_qemu_and_says_so() -> None:
    told: list[str] = []
    qemu = FakeQemu([*COURSE, DONE])
    qemu.instead["query-qmp-schema"] = []
    assert carried_out(qemu, Order(uri="unix:/x"), told).completed
    assert any(line.startswith("it cannot be steered: ") for line in told), told
    set_on = {"capability": "auto-converge", "state": True}
    assert any(set_on in arguments.get("capabilities", ()) for _, arguments in qemu.told)  # type: ignore[operator]


def test_of_qemus_own_auto_converge_it_is_not_said_that_it_spares_the_guest_for_its_link() -> None:
    told: list[str] = []
    still = answer(dirty_sync_count=2, transferred=1 << 20, remaining=1 << 20)
    carried_out(FakeQemu([still] * 5 + [DONE]), Order(uri="unix:/x", variant=find_variant("original")), told)
    assert [line for line in told if line.startswith("next to nothing was sent")] == [
        "next to nothing was sent for 2.0 s"
    ]


def test_post_copy_is_in_the_result_and_in_the_record() -> None:
    journal = MemoryJournal()
    course = [*COURSE[:3], answer("postcopy-active"), DONE]
    assert carried_out(FakeQemu(course), Order(uri="unix:/x", journal=journal)).used_postcopy
    notes = [entry.event.reason for entry in journal.entries if isinstance(entry.event, Acted)]
    assert any(note.startswith("post-copy has begun") for note in notes)
    assert not carried_out(FakeQemu([*COURSE, DONE]), Order(uri="unix:/x")).used_postcopy


def test_a_migration_that_somebody_else_cancels_is_said_to_be() -> None:
    result = carried_out(FakeQemu([SENDING, answer("cancelled")]), Order(uri="unix:/x"))
    assert (result.last.status, result.last.error) == ("cancelled", "by somebody else")


@pytest.mark.parametrize(
    ("state", "said"), [("inmigrate", "the VM waits for a guest itself"), ("postmigrate", "the guest has left this VM")]
)
def test_a_vm_without_a_guest_is_not_migrated(state: str, said: str) -> None:
    qemu = FakeQemu([])
    qemu.run_state = state
    with pytest.raises(UsageError, match=said):
        carried_out(qemu, Order(uri="unix:/x"))


def test_a_deadline_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="to finish by 0 s"):
        carried_out(FakeQemu([]), Order(uri="unix:/x", limits=Limits(deadline_ns=0)))


def test_in_post_copy_nothing_is_slowed_nor_counted_and_an_interruption_lets_go() -> None:
    told: list[str] = []
    course = [*COURSE[:3], *[answer("postcopy-active")] * 100]
    qemu = FakeQemu(course)
    cancel = interrupt_at(qemu, len(course) + 1, "query-migrate")
    limits = Limits(max_guest_loss_ns=20 * S)
    with pytest.raises(InterruptionError, match="post-copy"):
        steered(qemu, told, cancel, throttle_by="dirty-limit", limits=limits)
    assert names(qemu)[-3:] == [LIMITED, RELEASED, "hurry"]
    assert not any("max guest loss" in line for line in told)


@pytest.mark.parametrize("status", ["postcopy-active", "postcopy-recover", "postcopy-device"])
def test_a_limit_never_cancels_post_copy(status: str) -> None:
    told: list[str] = []
    qemu = FakeQemu([*COURSE[:2], *[answer(status)] * 5, DONE])
    assert steered(qemu, told, limits=Limits(deadline_ns=5 * S)).completed
    assert "migrate_cancel" not in names(qemu)
    assert any("post-copy" in line for line in told)


def test_post_copy_that_is_paused_is_told_with_what_recovers_it() -> None:
    qemu = FakeQemu([*COURSE[:3], answer("postcopy-active"), answer("postcopy-paused")])
    with pytest.raises(MigrationError, match=r"migrate-recover .* resume=true"):
        steered(qemu, throttle_by="dirty-limit")
    assert names(qemu)[-1] == RELEASED
    assert "migrate_cancel" not in names(qemu)


def test_who_recovers_post_copy_is_waited_for_and_named_once() -> None:
    told: list[str] = []
    qemu = FakeQemu([*COURSE[:2], *[answer("postcopy-recover-setup")] * 2, answer("postcopy-recover"), DONE])
    assert steered(qemu, told).completed
    assert len([line for line in told if "being recovered" in line]) == 1


def test_that_somebody_is_waited_for_is_said_once() -> None:
    told: list[str] = []
    steered(FakeQemu([*COURSE, *[answer("pre-switchover")] * 30, DONE]), told)
    assert len([line for line in told if "migrate-continue" in line]) == 1


def test_downtime_that_was_allowed_to_move_the_guest_is_taken_back() -> None:
    qemu = FakeQemu([*COURSE, DONE])
    limits = Limits(deadline_ns=2 * S, on_limit=OnLimit.SWITCHOVER)
    steered(qemu, limits=limits)
    assert ("migrate-set-parameters", {"downtime-limit": 2_000_000}) in qemu.told
    assert qemu.parameters["downtime-limit"] == 300


def test_a_deadline_that_passed_since_the_last_look_was_not_kept() -> None:
    qemu = FakeQemu([*COURSE[:2], answer("completed", at_s=12)])
    [verdict] = carried_out(qemu, Order(uri="unix:/x", limits=Limits(deadline_ns=10 * S))).verdicts
    assert (verdict.kept, verdict.text) == (False, "12 s of 10 s")


def attached(*course: dict[str, object]) -> FakeQemu:
    """A migration with auto-converge that somebody else began."""
    qemu = FakeQemu([answer(), *course, DONE])
    qemu.capabilities["auto-converge"] = True
    qemu.begin()
    return qemu


def test_the_auto_converge_of_a_migration_that_runs_is_held_down() -> None:
    qemu = attached(*COURSE)
    before = dict(qemu.parameters)
    held: list[object] = []
    qemu.during = lambda command: held.append(qemu.parameters["max-cpu-throttle"]) if command == LIMITED else None
    told: list[str] = []
    steered(qemu, told, uri=None, throttle_by="dirty-limit")
    assert held[-1] == 1
    assert qemu.parameters == before
    assert any("is held at 1 %, as it cannot" in line for line in told)


def test_the_deadline_of_a_migration_that_runs_counts_from_its_beginning() -> None:
    qemu = FakeQemu([answer(at_s=100)] * 3 + [DONE])
    qemu.begin()
    told: list[str] = []
    steered(qemu, told, uri=None, limits=Limits(deadline_ns=60 * S, on_limit=OnLimit.CONTINUE))
    assert any(line.startswith("finish-by: 1 min 42 s of 60 s") for line in told), told


@pytest.mark.parametrize(("course", "used"), [([answer("setup")], False), (COURSE, True)])
def test_a_destination_that_never_had_the_migration_serves_the_next(
    course: list[dict[str, object]], used: bool
) -> None:
    told: list[str] = []
    steered(FakeQemu([*course, answer("failed")]), told)
    assert any("start it anew" in line for line in told) is used


def test_a_destination_that_failed_between_two_polls_had_the_migration() -> None:
    qemu = FakeQemu([answer("setup"), {"status": "failed"}])
    qemu.events = [Event("MIGRATION", {"status": status}, 0) for status in ("setup", "active", "failed")]
    told: list[str] = []
    result = carried_out(qemu, Order(uri="unix:/x"), told)
    assert any("start it anew" in line for line in told)
    assert result.last.error == DESTINATION_KNOWS


def test_the_means_and_the_reasons_are_part_of_the_result() -> None:
    result = steered(FakeQemu([*COURSE, DONE]), throttle_by=None)
    assert result.throttle_by == "dirty-limit"
    assert [reason.partition(":")[0] for reason in result.throttle_reasons] == ["not by cgroup"]


@pytest.mark.parametrize(
    ("wanted", "version", "recorded"),
    [
        ("original", (9, 1, 0), "original"),
        ("original", (10, 0, 8), "periodic-sync"),
        ("background-sync", (10, 0, 8), "background-sync"),
    ],
)
def test_a_journal_names_the_variant_that_was_at_work(
    wanted: str, version: tuple[int, int, int], recorded: str
) -> None:
    qemu, journal = FakeQemu([*COURSE, DONE]), MemoryJournal()
    qemu.version = version
    steered(qemu, variant=find_variant(wanted), throttle_by=None, journal=journal)
    assert run_series(journal.entries, "").variant == recorded


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        ({"window_ms": 49}, "a measurement lasts 50 ms to 60 s, not 49 ms"),
        ({"window_ms": 60_001}, "a measurement lasts 50 ms to 60 s"),
        ({"window_ms": 1000, "throttle_by": None, "variant": find_variant("original")}, "steered from outside"),
        ({"parameters": {"multifd-channels": 0}}, "the VM refuses a parameter: no"),
    ],
)
def test_what_cannot_be_is_refused_before_it_migrates(others: dict[str, Any], complaint: str) -> None:
    qemu = FakeQemu(COURSE)
    if "parameters" in others:
        qemu.during = refuse
    before = dict(qemu.parameters)
    with pytest.raises(UsageError, match=complaint):
        steered(qemu, **others)
    assert "migrate" not in [name for name, _ in qemu.told]
    assert qemu.parameters == before


def test_a_policy_that_slows_no_guest_is_not_told_how() -> None:
    qemu = FakeQemu(COURSE)
    before = dict(qemu.parameters)
    with pytest.raises(UsageError, match="policy 'nova' slows no guest; leave out"):
        steered(qemu, variant=of("nova"))
    assert qemu.parameters == before


def test_a_policy_that_slows_no_guest_switches_auto_converge_off_and_needs_no_means() -> None:
    qemu = FakeQemu([*COURSE, DONE])
    qemu.capabilities["auto-converge"] = True
    during: list[bool] = []
    qemu.during = lambda command: during.append(qemu.capabilities["auto-converge"]) if command == "migrate" else None
    result = steered(qemu, variant=of("nova"), throttle_by=None)
    assert (result.completed, result.throttle_by, during) == (True, None, [False])
    assert qemu.capabilities["auto-converge"]


def test_our_own_vms_know_two_kinds_of_addresses() -> None:
    ours = FakeQemu(COURSE, cpu_responsive_throttle=True)
    with pytest.raises(UsageError, match="'rdma:x:1' is not an address"):
        steered(ours, throttle_by=None, uri="rdma:x:1")
    assert ours.told == []


class Quota:
    """A throttle that does nothing."""

    delays_stop, in_force_percent = True, 90
    released = 0

    @property
    def throttle(self) -> "Quota":
        return self

    def hold(self) -> None:
        pass

    def release(self) -> None:
        self.released += 1


def test_the_guest_is_let_go_as_soon_as_qemu_wants_to_stop_it() -> None:
    """It is asked several times between two polls, and what it was asked first is not the end."""
    qemu, quota, clock = FakeQemu([]), Quota(), VirtualClock()
    asked: list[str] = []

    def during(command: str) -> None:
        asked.append(command)
        qemu.run_state = "finish-migrate" if len(asked) == 3 else "running"

    qemu.during = during
    slowed = SlowedGuest(qemu, clock, quota)  # type: ignore[arg-type]
    assert slowed.in_force_percent == 90
    slowed.pause(clock.sleep_ns)
    assert (asked, quota.released) == (["query-status"] * 3, 1)
    assert slowed.in_force_percent == 0


def test_a_source_that_says_something_is_looked_at_once() -> None:
    """Who waits for it returns at once until somebody has read what it says."""
    waits: list[int] = []
    slowed = SlowedGuest(FakeQemu([]), VirtualClock(), Quota())  # type: ignore[arg-type]
    slowed.release()
    slowed.pause(waits.append)
    assert len(waits) == 1


QUESTIONS = {
    "query-migrate": answer(dirty_sync_count=2, transferred=1, remaining=1, total=1, mbps=1.0, dirty_pages_rate=1)
    | {"cpu-throttle-percentage": 20, "downtime": 5, "downtime-parts": {"ram": 1.0}, "error-desc": "x"},
    "query-dirty-rate": {"status": "measured", "dirty-rate": 1, "vcpu-dirty-rate": [{"id": 0, "dirty-rate": 1}]},
    "query-kvm": {"enabled": True, "present": True},
} | {
    question: FakeQemu([]).execute(question)
    for question in (
        *("query-qmp-schema", "query-version", "query-migrate-parameters", "query-migrate-capabilities"),
        *("query-cpus-fast", "query-status", "query-memory-size-summary"),
    )
}
MEANS = st.sampled_from([*actuators.MEANS, None])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tampered(QUESTIONS), MEANS)
def test_any_monitor_is_understood_or_refused(answers: dict[str, object], means: str | None) -> None:
    qemu = FakeQemu([*COURSE, answers.pop("query-migrate", None), *COURSE, DONE])
    qemu.instead = answers
    limits = Limits(max_guest_loss_percent=90, max_throttle_percent=90, max_downtime_ms=100)
    with suppress(VmferryError):
        steered(qemu, throttle_by=means, limits=limits, journal=MemoryJournal())
