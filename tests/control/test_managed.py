"""What is told of migrations that a manager such as libvirt makes, in situations that a real one is seldom in."""

from collections.abc import Iterable

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.cancel import CancelToken
from vmferry.client.manager import MIGRATION, Completion
from vmferry.control.asking.result import Result
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.limits import Limits
from vmferry.errors import CancelledError, MigrationError, MonitorError, UsageError, VmLeftError
from vmferry.simulation.clock import VirtualClock

RUNNING = answer(transferred=1 << 20)
DONE = answer("completed", 9) | {"downtime": 27}


class Libvirt:
    """Says of its jobs what a test has written down, and repeats the last."""

    name = "libvirt"
    restores = frozenset({"max-bandwidth", "cpu-throttle-initial"})

    def __init__(self, jobs: Iterable[str | None] = (MIGRATION,), completion: Completion | None = None) -> None:
        self.migrates = False
        self._jobs = list(jobs)
        self._completion = completion or Completion()

    def job(self) -> str | None:
        job = self._jobs.pop(0) if len(self._jobs) > 1 else self._jobs[0]
        self.migrates = self.migrates or job == MIGRATION
        return job

    def completion(self) -> Completion:
        return self._completion


def managed(libvirt: Libvirt, *course: object) -> FakeQemu:
    """A migration that libvirt has begun."""
    qemu = FakeQemu([RUNNING, *course])
    qemu.manager = libvirt
    qemu.begin()
    return qemu


def attach(
    qemu: FakeQemu, told: list[str] | None = None, cancel: CancelToken | None = None, **others: object
) -> Result:
    wanted = Order(**{"uri": None} | others)  # type: ignore[arg-type]
    tell = (told if told is not None else []).append
    ports = Ports(qemu, VirtualClock(), cancel or CancelToken(), tell, tell)
    return carry_out(ports, wanted, lambda progress: None)


@pytest.mark.parametrize("end", [DONE, VmLeftError("the domain has migrated")])
@pytest.mark.parametrize(
    ("said", "kept", "text"),
    [(2257, False, "2.26 s of 500 ms"), (27, True, "27 ms of 500 ms"), (None, None, "not told, 500 ms allowed")],
)
def test_the_downtime_is_what_the_manager_says(end: object, said: int | None, kept: bool | None, text: str) -> None:
    """QEMU does not count how long the guest had been suspended before, and is gone when it would say."""
    qemu = managed(Libvirt(completion=Completion(arrived=True, downtime_ms=said)), RUNNING, RUNNING, end)
    result = attach(qemu, limits=Limits(max_downtime_ms=500))
    assert result.completed
    assert result.last.downtime_ms == said
    assert [(verdict.kept, verdict.text) for verdict in result.verdicts] == [(kept, text)]


def test_a_domain_that_runs_on_after_qemus_part_has_not_migrated() -> None:
    result = attach(managed(Libvirt(completion=Completion(arrived=False)), RUNNING, RUNNING, DONE))
    assert (result.completed, result.last.error) == (False, "libvirt lets the VM run on at the source")


@pytest.mark.parametrize("job", ["save", "dump", "snapshot"])
def test_other_jobs_are_no_migrations(job: str) -> None:
    qemu = managed(Libvirt([job]), RUNNING)
    with pytest.raises(UsageError, match=f"no migration is running .the manager's job is '{job}'."):
        attach(qemu)
    assert qemu.told == []


def test_waiting_passes_over_other_jobs() -> None:
    libvirt = Libvirt(["save", "save", None, MIGRATION])
    assert attach(managed(libvirt, *[RUNNING] * 5, DONE), wait=True).completed


def test_a_migration_that_the_manager_prepares_is_waited_for() -> None:
    qemu = FakeQemu([*[answer("none")] * 5, *[RUNNING] * 5, DONE])
    qemu.manager = Libvirt()
    qemu.begin()
    assert attach(qemu).completed


def test_without_a_manager_a_migration_is_waited_for_as_well() -> None:
    qemu = FakeQemu([*[RUNNING] * 5, DONE])
    asked: list[str] = []

    def during(command: str) -> None:
        asked.append(command)
        if asked.count("query-migrate") == 5:
            qemu.begin()

    qemu.during = during
    assert attach(qemu, wait=True).completed


def test_who_ends_waiting_has_changed_nothing() -> None:
    qemu, cancel = FakeQemu([]), CancelToken()
    asked: list[str] = []

    def during(command: str) -> None:
        asked.append(command)
        if asked.count("query-migrate") == 3:
            cancel.set("interrupted")

    qemu.during = during
    with pytest.raises(CancelledError, match="interrupted"):
        attach(qemu, cancel=cancel, wait=True)
    assert qemu.told == []


@pytest.mark.parametrize(("manager", "told_so"), [(Libvirt(), False), (None, True)])
def test_destinations_that_are_started_anew_by_libvirt_are_nobody_elses_concern(
    manager: Libvirt | None, told_so: bool
) -> None:
    qemu, told = managed(Libvirt(), RUNNING, RUNNING, answer("failed")), list[str]()
    qemu.manager = manager
    attach(qemu, told)
    assert any("start it anew" in line for line in told) is told_so


def test_a_migration_of_our_own_is_not_begun_during_a_job() -> None:
    qemu = FakeQemu([])
    qemu.manager = Libvirt(["backup"])
    with pytest.raises(UsageError, match="job of the VM is 'backup'"):
        attach(qemu, uri="unix:/x")


def test_that_post_copy_has_begun_is_told_once() -> None:
    told: list[str] = []
    attach(managed(Libvirt(), RUNNING, *[answer("postcopy-active")] * 3, DONE), told)
    assert sum("post-copy has begun" in line for line in told) == 1


def test_a_downtime_limit_that_others_raise_is_told_at_once_and_in_the_verdict() -> None:
    """As OpenStack's nova does, in steps."""
    told: list[str] = []
    qemu = managed(Libvirt(completion=Completion(downtime_ms=180)), *[RUNNING] * 20, DONE)
    steps = iter([200, 200, 400, 400, 1500, 1500, 1500])

    def during(command: str) -> None:
        if command == "query-migrate" and qemu.told:
            qemu.parameters["downtime-limit"] = next(steps, 300)

    qemu.during = during
    result = attach(qemu, told, limits=Limits(max_downtime_ms=200))
    raised = [line for line in told if "above the 200 ms of --max-downtime" in line]
    assert [line.split(",")[0].rpartition(" to ")[2] for line in raised] == ["400 ms", "1.5 s", "300 ms"]
    assert [verdict.text for verdict in result.verdicts] == ["180 ms of 200 ms; somebody had raised its limit to 1.5 s"]


def given_up(libvirt: Libvirt | None, end: object) -> dict[str, object]:
    """Return the parameters that are left of a migration that we set some of."""
    qemu = managed(Libvirt(), RUNNING, RUNNING, end)
    qemu.manager = libvirt
    qemu.parameters |= {"max-bandwidth": 200, "max-cpu-throttle": 99}
    attach(qemu, parameters={"max-bandwidth": 100, "max-cpu-throttle": 80})
    return {name: qemu.parameters[name] for name in ("max-bandwidth", "max-cpu-throttle")}


def test_what_libvirt_puts_back_after_its_migration_is_left_to_it() -> None:
    """What was there when we came was libvirt's for this migration only."""
    assert given_up(Libvirt(), answer("cancelled")) == {"max-bandwidth": 100, "max-cpu-throttle": 99}
    assert given_up(None, answer("cancelled")) == {"max-bandwidth": 200, "max-cpu-throttle": 99}


def test_nothing_is_changed_once_libvirt_may_have_put_its_own_back() -> None:
    """The migration may end while we begin to steer it."""
    qemu = managed(Libvirt(), answer("cancelled"))
    with pytest.raises(MigrationError, match="has ended meanwhile, as 'cancelled'"):
        attach(qemu, parameters={"max-bandwidth": 100})
    assert qemu.told == []


def test_nothing_is_left_to_put_back_on_a_vm_that_has_left() -> None:
    told: list[str] = []
    gone = [VmLeftError("gone"), VmLeftError("gone")]
    qemu = managed(Libvirt(completion=Completion(arrived=True)), RUNNING, RUNNING, *gone)
    assert attach(qemu, told, parameters={"max-bandwidth": 100}).completed
    assert not any("put back" in line for line in told)


def test_of_a_manager_that_is_gone_it_is_told_what_goes_on() -> None:
    qemu = managed(Libvirt(), RUNNING, MonitorError("libvirt is gone"))
    with pytest.raises(MonitorError, match=r"^libvirt is gone; nothing slows .* and its migration may go on"):
        attach(qemu)
