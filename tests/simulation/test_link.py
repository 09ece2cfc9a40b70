"""The modelled link keeps the contract of channels."""

import numpy as np
import pytest

from vmferry.migration.destination import MigrationDestination
from vmferry.migration.ports import MAX_WAIT_NS, Channel, Clock
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.link import LinkModel, SimulatedChannel
from vmferry.testing.channel import ChannelContract, EnoughError
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.wire.messages import Message, Pages, State

MODEL = LinkModel(bytes_per_s=100 << 20, latency_ns=1_000_000)


class TestContract(ChannelContract):
    kind = SimulatedChannel

    def setup_method(self) -> None:
        self._clock = VirtualClock()

    def clock(self) -> Clock:
        return self._clock

    def connect(self, here: MemoryGuest, there: MemoryGuest, destination: MigrationDestination) -> Channel:
        def copy(message: Message) -> None:
            if isinstance(message, Pages):
                pages = message.data.indices()
                there.ram[pages] = here.ram[pages]

        self._simulated = self.kind(self._clock, MODEL, destination, np.random.default_rng(0), copy)
        return self._simulated

    def break_link(self, channel: Channel) -> None:
        self._simulated.lose()

    def test_a_message_takes_its_time(self) -> None:
        self.greet()
        start_ns = self._clock.now_ns()
        self.send(State(bytes(1 << 20)))
        assert self._clock.now_ns() - start_ns == pytest.approx(10**9 / 100, rel=0.01)

    def test_a_wait_calls_back_as_often_as_the_port_says(self) -> None:
        self.greet()
        times_ns = [self._clock.now_ns()]

        def while_blocked() -> None:
            times_ns.append(self._clock.now_ns())
            if len(times_ns) == 50:
                raise EnoughError

        with pytest.raises(EnoughError):
            self.channel.receive(while_blocked)
        assert max(np.diff(times_ns)) <= MAX_WAIT_NS
