"""The page of an agent and what it is made from: JSON of migrations that run and of those that are remembered.

Everything here is for reading. At a unix socket the file's permissions say who may; at a port of loopback it takes the
token, as the password of HTTP's basic authentication, which browsers ask for.
"""

import asyncio
import base64
import binascii
import errno
import hmac
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vmferry.agent import store
from vmferry.agent.config import loopback_port
from vmferry.agent.database import reading
from vmferry.agent.live import Live
from vmferry.agent.reports import report_page
from vmferry.errors import HostError, UsageError, VmferryError

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_LOOK_S = 0.5
_END_S = 5.0
_PARTS = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
_MAX_HISTORY = 200


class Web:
    """What an agent shows."""

    def __init__(self, live: Callable[[], Sequence[Live]], database: str, token: str | None) -> None:
        """`live` returns the migrations that run; without a token everybody may read who can connect."""
        self._live = live
        self._database = database
        self._token = token
        self._ending = False
        routes = [
            *(Route(f"/{path}", self._part, name=path or "index") for path in _PARTS),
            Route("/api/live", self._show_live),
            Route("/api/events", self._show_events),
            Route("/api/migrations", self._show_history),
            Route("/migrations/{number:int}", self._show_report),
        ]
        self.app = Starlette(
            routes=routes,
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guarded)],
            exception_handlers={VmferryError: _refused},
        )

    def end(self) -> None:
        """End the streams of events."""
        self._ending = True

    async def _guarded(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if self._token is not None and not _has_token(request.headers.get("Authorization", ""), self._token):
            response = _json({"error": "it takes the agent's token"}, 401)
            response.headers["WWW-Authenticate"] = 'Basic realm="vmferry agent, any name, the token as password"'
        else:
            response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    async def _part(self, request: Request) -> Response:
        name, kind = _PARTS[request.url.path.removeprefix("/")]
        text = (files("vmferry.agent") / "page" / name).read_text(encoding="utf-8")
        return Response(text, media_type=kind, headers={"Content-Security-Policy": _POLICY})

    async def _show_live(self, request: Request) -> Response:
        return _json([_figures(one) for one in self._live()])

    async def _show_events(self, request: Request) -> Response:
        return EventSourceResponse(self._events())

    async def _events(self) -> AsyncIterator[dict[str, str]]:
        """Yield all migrations that run whenever something about them has changed."""
        last = None
        while not self._ending:
            now = msgspec.json.encode([_figures(one) for one in self._live()]).decode()
            if now != last:
                yield {"event": "live", "data": now}
            last = now
            await asyncio.sleep(_LOOK_S)

    def _show_history(self, request: Request) -> Response:
        asked = request.query_params
        wanted = store.Wanted(
            vm=asked.get("vm") or None,
            status=asked.get("status") or None,
            host=asked.get("host") or None,
            limit=_MAX_HISTORY,
        )
        with reading(self._database) as connection:
            return _json([{**row.flat(), "state": row.state} for row in store.find(connection, wanted)])

    def _show_report(self, request: Request) -> Response:
        with reading(self._database) as connection:
            return Response(report_page(connection, request.path_params["number"]), media_type="text/html")


@contextmanager
def shown(web: Web, listener: socket.socket) -> Iterator[None]:
    """Serve the page at a socket that listens."""
    config = uvicorn.Config(
        web.app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        web.end()
        server.should_exit = True
        thread.join(_END_S)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Yield a socket at a path, for its owner only, or at a port of loopback. Raises HostError, UsageError."""
    try:
        listener = _listen(address)
    except OSError as error:
        raise HostError(f"cannot serve the page at {address}: {error.strerror}", error.errno) from error
    with listener:
        yield listener
    if address.startswith("/"):
        with suppress(OSError):
            os.unlink(address)


def read_token(path: str) -> str:
    """Return the token in a file. Raises UsageError for one that is missing, short, or for everybody's eyes."""
    try:
        mode, token = Path(path).stat().st_mode, Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the token in '{path}': {getattr(error, 'strerror', error)}") from error
    if mode & 0o077:
        raise UsageError(f"others may read the token in '{path}'; chmod 600 it")
    if len(token) < 16:
        raise UsageError(f"the token in '{path}' has {len(token)} characters; write at least 16")
    return token


def _listen(address: str) -> socket.socket:
    """Raises OSError."""
    if not address.startswith("/"):
        return socket.create_server(loopback_port(address))
    listener = socket.socket(socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError):
        probe.settimeout(_END_S)  # whoever listens there may have no room
        if probe.connect_ex(address) == errno.ECONNREFUSED:  # what an agent has left that was killed
            os.unlink(address)
    before = os.umask(0o177)
    try:
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _has_token(authorization: str, token: str) -> bool:
    kind, _, text = authorization.partition(" ")
    if kind.lower() == "bearer":
        given = text.strip()
    else:
        try:
            given = base64.b64decode(text, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    return hmac.compare_digest(given.encode(), token.encode())


def _figures(live: Live) -> dict[str, Any]:
    """Return what is shown of a migration that runs; what nobody knows is None."""
    facts, progress, outlook = live.recording.facts, live.progress, live.outlook
    return {
        "vm_name": facts.vm.name,
        "vm_uuid": facts.vm.uuid,
        "mode": facts.mode,
        "rule": facts.rule,
        "variant": facts.variant,
        "began_ms": facts.began_ms,
        "status": live.recording.status,
        **{name: getattr(progress, name) if progress else None for name in _PROGRESS},
        "percent": outlook.percent if outlook else None,
        "converges": outlook.converges if outlook else None,
        "least_left_ms": _ms(outlook.least_s if outlook else None),
        "most_left_ms": _ms(outlook.most_s if outlook else None),
        "said": live.said,
    }


_PROGRESS = (
    *("elapsed_ms", "remaining_bytes", "total_bytes", "sent_bytes", "bandwidth_bytes_per_s", "dirty_bytes_per_s"),
    *("throttle_percent", "iteration_count", "dirty_sync_count"),
)


def _ms(value_s: float | None) -> int | None:
    return None if value_s is None else round(value_s * 1000)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 404 if isinstance(error, UsageError) else 503)
