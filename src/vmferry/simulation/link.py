"""A modelled link between the engine's source and a real destination, in virtual time.

Messages are not turned into bytes; only how many bytes they would be is worked out, with the encoder's own sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmferry.errors import ChannelError, UsageError
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.ports import MAX_WAIT_NS
from vmferry.settings.choices import MultiFdCompression
from vmferry.simulation.clock import VirtualClock
from vmferry.units import NS_PER_S, PAGE_SIZE_BYTES
from vmferry.wire.encoder import Encoder, pages_frame_bytes
from vmferry.wire.messages import Failed, Message, Pages


@dataclass(frozen=True)
class LinkModel:
    """What a link does. Its rate is drawn anew for each interval, from a normal distribution that is cut off at 5 %.

    `jitter` is that distribution's standard deviation, as a share of the rate.
    """

    bytes_per_s: int
    latency_ns: int = 0
    jitter: float = 0.0
    jitter_interval_ns: int = NS_PER_S
    rate_changes: tuple[tuple[int, int], ...] = ()
    """Pairs of a time in ns and the rate from then on in bytes per second; a rate of 0 is an outage."""
    batch_pages: int = 1024
    """How many pages one message has at most."""
    loss_time_ns: int | None = None
    loss_message: int | None = None
    """The connection is lost at this time, or with the message of this number, counted from 0 in both directions."""


class Pace:
    """How fast a modelled link is from moment to moment."""

    def __init__(self, clock: VirtualClock, model: LinkModel, random: np.random.Generator) -> None:
        self._clock = clock
        self._model = model
        self._random = random
        self._nominal_bytes_per_s = model.bytes_per_s
        self._factor = 1.0
        self._factor_until_ns = clock.now_ns()
        for time_ns, bytes_per_s in model.rate_changes:
            clock.schedule(time_ns, lambda rate=bytes_per_s: self.set_rate(rate))  # type: ignore[misc]

    def step(self, size_bytes: float) -> tuple[int, float]:
        """Return how long the rate stays as it is, in ns, and how many of the bytes it carries until then.

        It is no longer than these bytes take, nor than MAX_WAIT_NS.
        """
        bytes_per_s = self._bytes_per_s()
        step_ns = min(MAX_WAIT_NS, self._factor_until_ns - self._clock.now_ns())
        if bytes_per_s:
            step_ns = min(step_ns, int(size_bytes * NS_PER_S / bytes_per_s) + 1)
        step_ns = self._clock.until_next_event_ns(step_ns)  # which may change the rate
        return step_ns, min(size_bytes, bytes_per_s * step_ns / NS_PER_S)

    def _bytes_per_s(self) -> float:
        while self._clock.now_ns() >= self._factor_until_ns:
            self._factor = max(0.05, self._random.normal(1.0, self._model.jitter))
            self._factor_until_ns += self._model.jitter_interval_ns
        return self._nominal_bytes_per_s * self._factor

    def set_rate(self, bytes_per_s: int) -> None:
        """Change the rate; 0 is an outage."""
        self._nominal_bytes_per_s = bytes_per_s


class SimulatedChannel:
    """Implements the `Channel` port. Every message reaches `destination` at once when its time has passed.

    `before_delivery` is called with each message at the moment in which its content is read.
    """

    def __init__(
        self,
        clock: VirtualClock,
        model: LinkModel,
        destination: MigrationDestination,
        random: np.random.Generator,
        before_delivery: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self.sent_bytes = self.multifd_bytes = self.unsent_bytes = 0
        self.compression: CompressionFigures | None = None
        self.is_open = True
        self.max_batch_pages = model.batch_pages
        self._clock = clock
        self._model = model
        self._destination = destination
        self._pace = Pace(clock, model, random)
        self._before_delivery = before_delivery
        self._encoder = Encoder()
        self._sent_exactly = 0.0
        self._answers: list[Message] = []
        self._message_count = 0
        if model.loss_time_ns is not None:
            clock.schedule(model.loss_time_ns, self.lose)

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Let the time pass that the message takes, then deliver it."""
        self._check_open()
        self._before_delivery(message)
        self._transmit(self._size_bytes(message), while_blocked)
        self._count_message()
        answer = self._destination.respond(message)
        if answer:
            self._answers.append(answer)
        if isinstance(answer, Failed):
            self.is_open = False

    def compress(self, how: MultiFdCompression, level: int) -> None:
        """Raises UsageError: how small a modelled guest's pages become is not modelled."""
        raise UsageError(f"simulated links do not compress; leave multifd-compression={how} out")

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        """Nothing to do: messages keep their order."""

    def flush(self, while_blocked: Callable[[], None]) -> None:
        """Nothing to do: what was sent has arrived."""

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Return the destination's next answer after the link's latency there and back."""
        self._wait(2 * self._model.latency_ns, while_blocked)
        while not self._answers:
            self._check_open()
            self._wait(MAX_WAIT_NS, while_blocked)
        self._count_message()
        return self._answers.pop(0)

    def close(self) -> None:
        """Close the connection; a destination that does not own the guest fails."""
        self.is_open = False
        self._destination.fail("the source closed the connection")

    def lose(self) -> None:
        """Break the connection, without a word to either end."""
        self.is_open = False
        self._answers.clear()
        self._destination.fail("the connection is lost")

    def _transmit(self, size_bytes: float, while_blocked: Callable[[], None]) -> None:
        while size_bytes > 0:
            step_ns, sent_bytes = self._pace.step(size_bytes)
            size_bytes -= sent_bytes
            self._clock.sleep_ns(step_ns)
            self._sent_exactly += sent_bytes
            self.sent_bytes = round(self._sent_exactly)
            self._check_open()
            if size_bytes > 0:
                while_blocked()

    def _wait(self, duration_ns: int, while_blocked: Callable[[], None]) -> None:
        end_ns = self._clock.now_ns() + duration_ns
        while (left_ns := end_ns - self._clock.now_ns()) > 0:
            self._clock.sleep_ns(min(left_ns, MAX_WAIT_NS))
            while_blocked()

    def _size_bytes(self, message: Message) -> int:
        if isinstance(message, Pages):
            runs = len(message.data) + len(message.zero)
            return pages_frame_bytes(runs) + message.data.page_count * PAGE_SIZE_BYTES
        return len(self._encoder.encode(message))

    def _count_message(self) -> None:
        if self._message_count == self._model.loss_message:
            self.lose()
            self._check_open()
        self._message_count += 1

    def _check_open(self) -> None:
        if not self.is_open and not self._answers:
            raise ChannelError("the connection is lost")
