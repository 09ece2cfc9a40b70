"""What the engine expects of its peer: that it does something in time, and answers what is due."""

from collections.abc import Callable
from typing import TypeVar

from vmferry.errors import ChannelError, PeerError
from vmferry.migration.ports import Channel, Clock
from vmferry.units import format_duration
from vmferry.wire.messages import Failed, Message

_M = TypeVar("_M", bound=Message)


class Deadline:
    """Calls `check`, and raises ChannelError with `text` when called after `timeout_ns` have passed."""

    def __init__(self, clock: Clock, timeout_ns: int, text: str, check: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._end_ns = clock.now_ns() + timeout_ns
        self._text = text
        self._check = check

    def __call__(self) -> None:
        """Check both."""
        self._check()
        if self._clock.now_ns() > self._end_ns:
            raise ChannelError(self._text)


class Patience:
    """Calls `check`, and raises ChannelError when called after nothing was sent for `timeout_ns`."""

    def __init__(self, channel: Channel, clock: Clock, timeout_ns: int, check: Callable[[], None]) -> None:
        self._channel = channel
        self._clock = clock
        self._timeout_ns = timeout_ns
        self._check = check
        self._sent_bytes = channel.sent_bytes
        self._since_ns = clock.now_ns()

    def __call__(self) -> None:
        """Check both."""
        self._check()
        now_ns, sent_bytes = self._clock.now_ns(), self._channel.sent_bytes
        if sent_bytes != self._sent_bytes:
            self._sent_bytes, self._since_ns = sent_bytes, now_ns
        elif now_ns - self._since_ns > self._timeout_ns:
            raise ChannelError(f"the destination stood still for {format_duration(self._timeout_ns)}")


def expect(kind: type[_M], message: Message) -> _M:
    """Return `message` if it is of this kind. Raises PeerError, with the peer's own reason if it failed."""
    if isinstance(message, Failed):
        raise PeerError(f"the destination refused: {message.reason}")
    if not isinstance(message, kind):
        raise PeerError(f"the destination sent {type(message).__name__} where {kind.__name__} was due")
    return message
