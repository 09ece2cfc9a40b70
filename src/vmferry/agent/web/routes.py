"""One endpoint of the HTTP API: what it is called with, what it answers, and how a request becomes a call of it.

The table of all of them (`table.py`) is what the server and the OpenAPI document are made of, so neither tells of
anything that the other does not know.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vmferry.errors import UsageError

JSON = "application/json"
MAX_BODY_BYTES = 4096
_PARAMETER = re.compile(r"{(?P<name>\w+)(:(?P<kind>\w+))?}")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


@dataclass(frozen=True)
class Asked:
    """A request, checked."""

    path: Mapping[str, Any]
    query: Any
    """An instance of the endpoint's type."""
    body: Any
    who: str
    """Who asks, as far as the kernel tells."""


class BadRequestError(UsageError):
    """A parameter or a body is not what it may be."""


class MediaError(UsageError):
    """A body is too long, or not JSON by its header."""


@dataclass(frozen=True, kw_only=True)
class ApiRoute:
    """What can be asked for at a path."""

    method: str
    path: str
    """In Starlette's form, such as `/migrations/{number:int}`."""
    summary: str
    call: Callable[[Asked], Response]
    """Is called in a thread of its own, which may wait."""
    answer: Any = None
    """The type of the JSON that is answered; None for other media."""
    media: str = JSON
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] | None = None
    acts: bool = False
    """True if it takes the token for actions."""
    statuses: Mapping[int, str] = field(default_factory=dict)
    """What may come instead of 200, beside what may always come."""

    @property
    def parameters(self) -> dict[str, str]:
        """The names of what stands in the path, and their kinds."""
        return {match["name"]: match["kind"] or "str" for match in _PARAMETER.finditer(self.path)}

    @property
    def plain_path(self) -> str:
        """The path in OpenAPI's form."""
        return _PARAMETER.sub(r"{\g<name>}", self.path)

    async def answer_to(self, request: Request) -> Response:
        """Answer a request. Raises VmferryError."""
        query = _checked(dict(request.query_params), self.query, "the query")
        body = _checked(await _json_of(request), self.body, "the body") if self.body else None
        asked = Asked(request.path_params, query, body, who_asks(request))
        return await run_in_threadpool(self.call, asked)


def json_response(value: object, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type=JSON)


def who_asks(request: Request) -> str:
    """Return who asks, for people: the address, or at a unix socket the process and its user."""
    client = request.client
    return (f"{client.host}:{client.port}" if client.port else client.host) if client else "somebody"


def _checked(value: object, kind: type[msgspec.Struct], where: str) -> msgspec.Struct:
    try:
        return msgspec.convert(value, kind, strict=where != "the query")
    except msgspec.ValidationError as error:
        raise BadRequestError(f"{where} cannot be: {error}") from error


async def _json_of(request: Request) -> object:
    """Return the JSON in a body, an empty object if there is none. Raises BadRequestError, MediaError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise MediaError(f"a body must be {JSON}, and say so in Content-Type")
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                raise MediaError(f"the body is longer than {MAX_BODY_BYTES} bytes")
        return msgspec.json.decode(data) if data else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    except ClientDisconnect as error:
        raise BadRequestError("the body was cut off") from error
