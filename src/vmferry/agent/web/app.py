"""The applications that answer all requests: access first, then one endpoint, and faults as one line of JSON."""

from collections.abc import Sequence

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vmferry.agent.actions import NotDoneError, UnknownError
from vmferry.agent.log import Log
from vmferry.agent.metrics import Metrics
from vmferry.agent.web.access import HEADERS, Access, is_from_elsewhere
from vmferry.agent.web.routes import ApiRoute, BadRequestError, MediaError, json_response, who_asks
from vmferry.errors import UsageError, VmferryError

_STATUSES: dict[type[VmferryError], int] = {
    BadRequestError: 400,
    UnknownError: 404,
    NotDoneError: 409,
    MediaError: 415,
    UsageError: 404,
}
"""By the first kind that fits; any other is 503."""


def application(table: Sequence[ApiRoute], access: Access, log: Log) -> Starlette:
    """Return that of the page and its API; what actions came to is logged."""
    return Starlette(
        routes=[_route(one, access, log) for one in table],
        middleware=[_guard(access)],
        exception_handlers={VmferryError: _refused},
    )


def metrics_application(metrics: Metrics, access: Access) -> Starlette:
    """Return that of `/metrics`, in the format of Prometheus that is asked for."""

    def tell(request: Request) -> Response:
        encode, media = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), headers={"Content-Type": media})

    return Starlette(routes=[Route("/metrics", tell)], middleware=[_guard(access)])


def _guard(access: Access) -> Middleware:
    async def guarded(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if not access.may_read(request.headers):
            response = json_response({"error": "it takes the agent's token"}, 401)
            response.headers["WWW-Authenticate"] = 'Basic realm="vmferry agent, any name, the token as password"'
        elif is_from_elsewhere(request.method, request.headers):
            response = json_response({"error": "only this agent's own page may ask for that"}, 403)
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    return Middleware(BaseHTTPMiddleware, dispatch=guarded)


def _route(one: ApiRoute, access: Access, log: Log) -> Route:
    async def answer(request: Request) -> Response:
        if not one.acts:
            return await one.answer_to(request)
        if why := access.why_not_act(request.headers):
            log.warn(f"{who_asks(request)} may not ask for {request.url.path}: {why}")
            return json_response({"error": why}, 403)
        try:
            return await one.answer_to(request)
        except VmferryError as error:
            log.warn(f"{who_asks(request)} asked for {request.url.path} in vain: {error}")
            raise

    return Route(one.path, answer, methods=[one.method])


async def _refused(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 503)
    return json_response({"error": str(error)}, status)
