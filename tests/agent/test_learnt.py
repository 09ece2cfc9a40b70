"""Who takes a migration up again goes on with what its journal tells of the guest, in virtual time."""

from contextlib import suppress

from tests.simulation.qemu.scenes import scenario
from vmferry.agent.learnt import learnt_from
from vmferry.cancel import CancelToken
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.variants import PLANNED
from vmferry.convergence.written import Written
from vmferry.errors import CancelledError
from vmferry.migration.events import Decided
from vmferry.migration.journal import Entry, MemoryJournal
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.releases import find_release
from vmferry.study.modelled_place import ModelledPlace

MIB = 1 << 20
S = 10**9


def ignore(what: object) -> None:
    """Neither look nor listen."""


def steered(lab: ModelledLab, learnt: tuple[Written, ...]) -> list[Entry]:
    """What is recorded of the migration that runs by who takes it over and leaves it 10 s later."""
    cancel, journal = CancelToken(), MemoryJournal()
    lab.clock.schedule(lab.clock.now_ns() + 10 * S, lambda: cancel.set("the agent ends"))
    order = Order(uri=None, variant=PLANNED, journal=journal, learnt=learnt)
    monitor, place = lab.connect(while_waiting=cancel.check), ModelledPlace(lab).driver_place
    with suppress(CancelledError):
        carry_out(Ports(monitor, lab.clock, cancel, ignore, ignore), order, ignore, place)
    return journal.entries


def time_to_throttle_ns(entries: list[Entry]) -> int:
    slowed = (entry for entry in entries if isinstance(entry.event, Decided) and entry.event.throttle_percent)
    return next(slowed).time_ns - entries[0].time_ns


def test_a_guest_that_was_slowed_before_is_slowed_again_at_once() -> None:
    lab = ModelledLab(scenario(), find_release("qemu-7.2"), seed=0)
    other = lab.connect()
    other.execute("migrate-set-parameters", {"max-bandwidth": 16 * MIB, "downtime-limit": 1})
    other.execute("migrate", {"uri": URI})
    before = steered(lab, ())
    learnt = learnt_from(before)
    assert any(written.slowed for written in learnt)
    assert not all(written.slowed for written in learnt)
    assert time_to_throttle_ns(before) > 1 * S
    assert time_to_throttle_ns(steered(lab, learnt)) < 0.1 * S


def test_nothing_is_learnt_of_a_migration_that_is_new() -> None:
    assert learnt_from([]) == ()
