"""The contract suites find what is wrong: each defect here fails at least one of their tests."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.guests.test_memory_guest import PAGE_COUNT
from tests.guests.test_memory_guest import TestContract as MemoryGuestContract
from tests.simulation.test_link import TestContract as LinkContract
from vmferry.errors import ChannelError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.simulation.link import SimulatedChannel
from vmferry.testing.channel import ChannelContract, EnoughError, patience
from vmferry.testing.guest import GuestContentContract
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.wire.messages import Failed, Message, Pages

SOURCE = Path(__file__).parents[2] / "src" / "vmferry"


def names_of_tests(contract: type) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


class ForgetsAPage(MemoryGuest):
    def collect_dirty(self, bitmap: Bitmap) -> None:
        super().collect_dirty(bitmap)
        for first, _ in bitmap.runs():
            bitmap.clear_range(first, 1)
            return


class ArmsWhenCollecting(MemoryGuest):
    def collect_dirty(self, bitmap: Bitmap) -> None:
        super().collect_dirty(bitmap)
        self._log.clear_all()


class NeverArms(MemoryGuest):
    def arm(self, pages: PageRuns) -> None:
        pass


class ArmsEverything(MemoryGuest):
    def arm(self, pages: PageRuns) -> None:
        self._log.clear_all()


class ArmsWholeRuns(MemoryGuest):
    def arm(self, pages: PageRuns) -> None:
        self._log.words[pages.indices() // 64] = 0


class AddsToTheBitmap(MemoryGuest):
    def collect_dirty(self, bitmap: Bitmap) -> None:
        bitmap |= self._log


class LogsOnlyOnce(MemoryGuest):
    stopped = False

    def start_dirty_log(self) -> None:
        self.logging = not self.stopped
        self._log.clear_all()

    def stop_dirty_log(self) -> None:
        super().stop_dirty_log()
        self.stopped = True

    def collect_dirty(self, bitmap: Bitmap) -> None:
        bitmap.copy_from(self._log)

    def arm(self, pages: PageRuns) -> None:
        self._log.clear_runs(pages)


class RunsWhenThrottled(MemoryGuest):
    def set_throttle(self, percent: int) -> None:
        super().set_throttle(percent)
        self.running = True


class StopsWhenThrottled(MemoryGuest):
    def set_throttle(self, percent: int) -> None:
        super().set_throttle(percent)
        self.running = self.running and percent < 99


class RunsWhenItsStateIsLoaded(MemoryGuest):
    def load_state(self, blob: bytes) -> None:
        super().load_state(blob)
        self.running = True


class TakesAnyState(MemoryGuest):
    def load_state(self, blob: bytes) -> None:
        self.state = blob


class TellsZeroPagesOutOfOrder(MemoryGuest):
    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        return super().zero_pages(pages)[::-1]


class ClearsTooMuch(MemoryGuest):
    def clear_pages(self, pages: PageRuns) -> None:
        if len(pages):
            self.ram[: pages.last_page + 1] = 0


class DigestsEverything(MemoryGuest):
    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        return super().memory_digest(None, while_reading)


class DigestsTheStart(MemoryGuest):
    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        return super().memory_digest(100, while_reading)


class DigestsWithoutEnd(MemoryGuest):
    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        return super().memory_digest(page_count)


class ForgetsThatAPageWasTouched(MemoryGuest):
    def find_touched(self, bitmap: Bitmap) -> None:
        super().find_touched(bitmap)
        bitmap.clear_range(int(bitmap.runs().first[0]) if bitmap.any() else 0, 1)


class NeverTouched(MemoryGuest):
    def find_touched(self, bitmap: Bitmap) -> None:
        bitmap.clear_all()


GUESTS = [
    ForgetsThatAPageWasTouched, NeverTouched,
    ForgetsAPage, ArmsWhenCollecting, NeverArms, ArmsEverything, ArmsWholeRuns, AddsToTheBitmap, LogsOnlyOnce,
    RunsWhenThrottled, StopsWhenThrottled, RunsWhenItsStateIsLoaded, TakesAnyState, TellsZeroPagesOutOfOrder,
    ClearsTooMuch, DigestsEverything, DigestsTheStart, DigestsWithoutEnd,
]  # fmt: skip


@pytest.mark.parametrize("kind", GUESTS)
def test_a_guest_with_a_defect_breaks_its_contract(kind: type[MemoryGuest]) -> None:
    class Contract(MemoryGuestContract):
        def make(self, *, empty: bool = False) -> MemoryGuest:
            return kind(PAGE_COUNT, running=False)

    assert any(fails(getattr(Contract(), name)) for name in names_of_tests(GuestContentContract))


def fails(test: Callable[[], None]) -> bool:
    try:
        test()
    except (Exception, pytest.fail.Exception):
        return True
    return False


class LosesAMessage(SimulatedChannel):
    sent = 0

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        self.sent += 1
        if self.sent != 4:
            super().send(message, while_blocked)


class SendsTwice(SimulatedChannel):
    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        super().send(message, while_blocked)
        super().send(message, while_blocked)


class ForgetsPages(SimulatedChannel):
    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        if isinstance(message, Pages):
            message = Pages(PageRuns.of(list(message.data)[:-1]), message.zero, message.final)
        super().send(message, while_blocked)


class CountsNothing(SimulatedChannel):
    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        super().send(message, while_blocked)
        self.sent_bytes = 0


class WaitsForEver(SimulatedChannel):
    def receive(self, while_blocked: Callable[[], None]) -> Message:
        try:
            return super().receive(patience(10_000))
        except EnoughError as error:
            raise ChannelError("only this test ends it") from error


class StaysOpen(SimulatedChannel):
    def close(self) -> None:
        self._destination.fail("the source closed the connection")


class DoesNotCloseBehindIt(SimulatedChannel):
    def close(self) -> None:
        self.is_open = False


class ClosesOnce(SimulatedChannel):
    def close(self) -> None:
        if not self.is_open:
            raise ChannelError("it is closed")
        super().close()


class SwallowsRefusals(SimulatedChannel):
    def receive(self, while_blocked: Callable[[], None]) -> Message:
        answer = super().receive(while_blocked)
        return super().receive(while_blocked) if isinstance(answer, Failed) else answer


CHANNELS = [
    LosesAMessage, SendsTwice, ForgetsPages, CountsNothing, WaitsForEver, StaysOpen, DoesNotCloseBehindIt, ClosesOnce,
    SwallowsRefusals,
]  # fmt: skip


@pytest.mark.parametrize("broken", CHANNELS)
def test_a_channel_with_a_defect_breaks_its_contract(broken: type[SimulatedChannel]) -> None:
    class Contract(LinkContract):
        kind = broken

    def run(name: str) -> None:
        contract = Contract()
        contract.setup_method()
        is_parametrized = bool(getattr(getattr(contract, name), "pytestmark", []))
        with contract.connected():
            getattr(contract, name)(*[True] * is_parametrized)

    assert any(fails(partial(run, name)) for name in names_of_tests(ChannelContract))


def test_the_rest_of_the_package_does_without_pytest() -> None:
    modules = [path.relative_to(SOURCE.parent).with_suffix("") for path in sorted(SOURCE.rglob("*.py"))]
    names = [".".join(module.parts).removesuffix(".__init__") for module in modules if "testing" not in module.parts]
    names.remove("vmferry.agent.migrations.env")  # alembic runs it, with a context
    script = "import sys\nsys.modules['pytest'] = None\nfrom importlib import import_module\n" + "".join(
        f"import_module({name!r})\n" for name in names if not name.endswith("__main__") and "libvirt" not in name
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
