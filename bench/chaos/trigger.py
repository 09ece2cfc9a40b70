"""Finds the place of a fault in a stream that comes in pieces of any size. Pure."""

from typing import Protocol

from bench.chaos.faults import Place
from vmferry.units import PAGE_SIZE_BYTES
from vmferry.wire.decoder import Decoder
from vmferry.wire.format import MAX_PAGES, FrameType
from vmferry.wire.messages import Pages


class Trigger(Protocol):
    """Looks for one place in one direction of a stream."""

    def bytes_before(self, data: memoryview) -> int | None:
        """Take the next bytes; return how many of them come before the place, or None if it is not among them.

        It is found as soon as the byte before it has come. Must not be called after that.
        """
        ...


def trigger_at(place: Place) -> Trigger:
    """Return what finds this place."""
    return _FrameTrigger(place) if place.frame else _OffsetTrigger(place.offset_bytes)


class _OffsetTrigger:
    def __init__(self, offset_bytes: int) -> None:
        self._left_bytes = offset_bytes

    def bytes_before(self, data: memoryview) -> int | None:
        if len(data) >= self._left_bytes:
            return self._left_bytes
        self._left_bytes -= len(data)
        return None


class _FrameTrigger:
    """Follows the frames. Raises PeerError if these are none of ours."""

    def __init__(self, place: Place) -> None:
        self._type = FrameType[place.frame]
        self._to_come = place.occurrence
        """Frames of that type until the one that is meant has begun."""
        self._offset_bytes = place.offset_bytes
        self._decoder = Decoder(MAX_PAGES)
        self._frame_bytes = 0
        """Passed of the present frame."""
        self._payload_bytes = 0
        """Still to pass of the pages that follow a frame."""
        self._found = False

    def bytes_before(self, data: memoryview) -> int | None:
        passed = 0
        while passed < len(data) and not self._found:
            if self._frame_bytes == 0:
                self._begin(data[passed])
            passed += self._take(data[passed:])
        return passed if self._found else None

    def _begin(self, frame_type: int) -> None:
        self._to_come -= frame_type == self._type
        self._is_meant = self._to_come == 0
        self._found = self._is_meant and self._offset_bytes == 0

    def _take(self, data: memoryview) -> int:
        """Take bytes of one frame, up to the place or something else that matters, and return how many."""
        room = self._payload_bytes or self._decoder.wanted_bytes
        if self._is_meant:
            room = min(room, self._offset_bytes - self._frame_bytes)
        taken = data[:room]
        self._frame_bytes += len(taken)
        has_ended = self._follow(taken)
        self._found = self._is_meant and (has_ended or self._frame_bytes == self._offset_bytes)
        if has_ended:
            self._frame_bytes = 0
        return len(taken)

    def _follow(self, taken: memoryview) -> bool:
        """Return whether a frame, with its pages, ends with these bytes."""
        if self._payload_bytes:
            self._payload_bytes -= len(taken)
        else:
            message = self._decoder.feed(taken) if taken else None
            if message is None:
                return False
            self._payload_bytes = message.data.page_count * PAGE_SIZE_BYTES if isinstance(message, Pages) else 0
        return self._payload_bytes == 0
