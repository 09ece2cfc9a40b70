"""Server-sent events: all migrations that run, whenever something about them has changed, and that the list of the
remembered ones has."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from sse_starlette import EventSourceResponse
from starlette.responses import Response

from vmferry.agent.live import Live
from vmferry.agent.web.answers import live_migration
from vmferry.errors import HostError

LOOK_S = 0.25
MAX_READERS = 32


class Events:
    """Streams what changes at one agent to everybody who reads it."""

    def __init__(self, live: Callable[[], Sequence[Live]], change_count: Callable[[], int]) -> None:
        """`change_count` says how often the list of remembered migrations has changed."""
        self._live = live
        self._change_count = change_count
        self._readers = 0
        self._ending = False

    def response(self) -> Response:
        """Return a stream. Raises HostError if there are too many."""
        if self._readers >= MAX_READERS:
            raise HostError(f"{MAX_READERS} read events already; close one of their pages")
        return EventSourceResponse(self._stream())

    def end(self) -> None:
        """End all streams."""
        self._ending = True

    async def _stream(self) -> AsyncIterator[dict[str, str]]:
        self._readers += 1
        try:
            last = last_count = None
            while not self._ending:
                now = msgspec.json.encode([live_migration(one) for one in self._live()]).decode()
                if now != last:
                    yield {"event": "live", "data": now}
                count = self._change_count()
                if count != last_count:
                    yield {"event": "history", "data": str(count)}
                last, last_count = now, count
                await asyncio.sleep(LOOK_S)
        finally:
            self._readers -= 1
