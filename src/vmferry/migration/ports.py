"""The four ports of the engine: what it needs from the world, and nothing else.

Real KVM guests and simulated ones implement `Guest`, sockets and simulated links implement
`Channel`, the monotonic and the virtual clock implement `Clock`, files and lists implement `Journal`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout
from vmferry.memory.ranges import PageRuns
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.events import Event
from vmferry.settings.choices import MultiFdCompression
from vmferry.units import NS_PER_MS
from vmferry.wire.messages import Join, Message

MAX_WAIT_NS = 100 * NS_PER_MS
"""No port blocks longer than this (100 ms) without calling back."""


class Clock(Protocol):
    """A monotonic clock in integer nanoseconds."""

    def now_ns(self) -> int:
        """Return the time since an arbitrary, fixed moment."""
        ...

    def sleep_ns(self, duration_ns: int) -> None:
        """Let `duration_ns` pass."""
        ...


class Guest(Protocol):
    """A virtual machine whose RAM can be read, logged and throttled.

    The engine calls it from one thread. Every method may raise `GuestError` or `HostError`.
    """

    @property
    def layout(self) -> GuestLayout:
        """RAM blocks, page size and vCPU count; constant."""
        ...

    @property
    def running(self) -> bool:
        """True while vCPUs may execute (a throttled guest runs)."""
        ...

    def pause(self) -> None:
        """Stop all vCPUs; on return none of them writes memory any more."""
        ...

    def resume(self) -> None:
        """Let all vCPUs run."""
        ...

    def set_throttle(self, percent: int) -> None:
        """Keep every vCPU from running `percent` (0..99) of the time."""
        ...

    def find_touched(self, bitmap: Bitmap) -> None:
        """Overwrite `bitmap` with the pages that may hold something else than zero bytes; all may be told.

        While the log is on, a page that is left out and written later is in the log.
        """
        ...

    def start_dirty_log(self) -> None:
        """Start recording which pages are written."""
        ...

    def stop_dirty_log(self) -> None:
        """Stop recording; harmless if not started."""
        ...

    def collect_dirty(self, bitmap: Bitmap) -> None:
        """Overwrite `bitmap` with the pages written since each was last armed. The start of the log arms all.

        It changes nothing: a page is in every answer until it is armed.
        """
        ...

    def arm(self, pages: PageRuns) -> None:
        """Log anew what is written to these pages from now on, and forget what was written to them before.

        A write that the next `collect_dirty` does not tell is in what is read of the page after this call. To be told
        of a page that was not written since is allowed, to miss one that was is not.
        """
        ...

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        """Return one flag for each page of `pages`, in order: does it hold only zero bytes now?"""
        ...

    def clear_pages(self, pages: PageRuns) -> None:
        """Make these pages hold only zero bytes."""
        ...

    def save_state(self) -> bytes:
        """Return vCPU and device state of the paused guest."""
        ...

    def load_state(self, blob: bytes) -> None:
        """Take over the state that `save_state` returned elsewhere. Raises PeerError if it is malformed."""
        ...

    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        """Return a digest of the first pages, or of all RAM; it tells something only of a paused guest.

        `while_reading` is called between pieces of a few MiB and in the end; what it raises ends the call.
        """
        ...


@runtime_checkable
class ThrottlesVcpus(Protocol):
    """What a `Guest` has as well if its vCPUs can be throttled one by one."""

    def set_vcpu_throttles(self, percents: Sequence[int]) -> None:
        """Keep each vCPU, in order, from running its percent (0..99) of the time, until any other throttle is set."""
        ...


@runtime_checkable
class ThrottlesInSlices(Protocol):
    """What a `Guest` has as well if a vCPU that is throttled runs for a time at full speed, between two sleeps."""

    @property
    def throttle_slice_ns(self) -> int:
        """For how long; 0 if it runs evenly slower."""
        ...


@runtime_checkable
class TellsVcpus(Protocol):
    """What a `Guest` has as well if it knows which vCPU has written what."""

    def vcpu_dirty_pages(self) -> tuple[int, ...] | None:
        """Return how many pages each vCPU wrote between the last two `collect_dirty`; None if that is not known."""
        ...


@runtime_checkable
class ShowsPages(Protocol):
    """What a `Guest` has as well if its pages have a content, which those of modelled guests do not."""

    def view(self, first_page: int, page_count: int) -> memoryview:
        """Return a view of the bytes of some pages, which the guest may go on writing."""
        ...


class Channel(Protocol):
    """A connection to the other side that carries whole messages.

    `while_blocked` is called at least every MAX_WAIT_NS for as long as a call has to wait; what it raises
    ends the call and leaves the channel unusable. Every method raises `ChannelError` when the
    connection is gone and `PeerError` when the peer sends what is no message.
    """

    @property
    def sent_bytes(self) -> int:
        """All bytes put on the wire so far, headers included."""
        ...

    @property
    def multifd_bytes(self) -> int:
        """How many of them went over further connections."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """How much of what `send` has taken may still have to be put on the wire."""
        ...

    @property
    def max_batch_pages(self) -> int:
        """The largest number of pages one `Pages` message should hold."""
        ...

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Send one message; unless it brings the content of its pages, that is read during this call or later.

        What is sent afterwards may overtake pages, unless `barrier` comes between. No message but pages overtakes any.
        """
        ...

    def compress(self, how: MultiFdCompression, level: int) -> None:
        """Compress the pages that are sent from now on. Raises UsageError where that cannot be."""
        ...

    @property
    def compression(self) -> CompressionFigures | None:
        """What compressing has done so far; None if pages go as they are."""
        ...

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        """Let none of the pages that are sent from now on overtake those that were sent so far."""
        ...

    def flush(self, while_blocked: Callable[[], None]) -> None:
        """Return when all pages that `send` has taken are in place at the other side."""
        ...

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for the peer's next message."""
        ...

    def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        ...


class Widen(Protocol):
    """What opens further connections of an outgoing migration."""

    def __call__(self, channel: Channel, joins: Sequence[Join], while_blocked: Callable[[], None]) -> Channel:
        """Open one with each of `joins`, and return `channel` together with them, over which pages go then."""
        ...


class Journal(Protocol):
    """The record of a migration."""

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event that happened at `time_ns` of the migration's clock."""
        ...
