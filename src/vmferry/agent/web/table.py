"""The table of all that can be asked for over HTTP, and what each is answered from."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from msgspec import Struct, convert
from starlette.responses import Response

from vmferry.agent import store
from vmferry.agent.actions import Actions, NewLimits, Observed, SteerOrder, find_live
from vmferry.agent.database import reading
from vmferry.agent.following import Followers
from vmferry.agent.forecasts import Forecasts, ForecastState
from vmferry.agent.reports import report_page
from vmferry.agent.roster import HostVms, Roster
from vmferry.agent.sketch import Point
from vmferry.agent.web.access import PAGE_POLICY
from vmferry.agent.web.answers import LiveMigration, live_migration
from vmferry.agent.web.events import Events
from vmferry.agent.web.openapi import document
from vmferry.agent.web.queries import ForecastTerms, HistoryQuery, HistoryRow, NoBody
from vmferry.agent.web.routes import ApiRoute, Asked, json_response
from vmferry.convergence.variants import ALL_VARIANTS

_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_NOT_DONE = {202: "it was asked for, and not seen yet", 409: "the migration's state, or a rule, does not allow it"}


@dataclass(frozen=True)
class Sources:
    """What answers come from."""

    followers: Followers
    roster: Roster
    forecasts: Forecasts
    actions: Actions
    events: Events
    database: str


def table_of(sources: Sources) -> list[ApiRoute]:
    """Return all endpoints of an agent."""
    table = [*_page(), *_live(sources), *_vms(sources), *_history(sources), *_actions(sources)]
    description = ApiRoute(
        method="GET",
        path="/api/openapi.json",
        summary="This description",
        call=lambda asked: json_response(document(table)),
        answer=dict[str, Any],
    )
    table.append(description)
    return table


def _page() -> list[ApiRoute]:
    """The page, from the files that it is made of."""
    parts = sorted(part.name for part in _folder().iterdir() if PurePath(part.name).suffix in _MEDIA)
    paths = {"/" if name == "index.html" else f"/{name}": name for name in parts}
    return [_part(path, name) for path, name in paths.items()]


def _part(path: str, name: str) -> ApiRoute:
    media = _MEDIA[PurePath(name).suffix]

    def call(asked: Asked) -> Response:
        text = (_folder() / name).read_text(encoding="utf-8")
        return Response(text, media_type=media, headers={"Content-Security-Policy": PAGE_POLICY})

    return ApiRoute(method="GET", path=path, summary=f"The page: {name}", call=call, media=media)


def _folder() -> Any:
    return files("vmferry.agent.web") / "page"


def _live(sources: Sources) -> list[ApiRoute]:
    def course(asked: Asked) -> Response:
        return json_response(find_live(sources.followers, asked.path["key"]).sketch.points)

    return [
        ApiRoute(
            method="GET",
            path="/api/live",
            summary="The migrations that run",
            call=lambda asked: json_response([live_migration(one) for one in sources.followers.live]),
            answer=list[LiveMigration],
        ),
        ApiRoute(
            method="GET",
            path="/api/live/{key}/course",
            summary="The course of a migration so far, in few points",
            call=course,
            answer=list[Point],
        ),
        ApiRoute(
            method="GET",
            path="/api/events",
            summary="The migrations that run, as they change: server-sent events `live`, each as `/api/live` answers",
            call=lambda asked: sources.events.response(),
            media="text/event-stream",
        ),
    ]


def _vms(sources: Sources) -> list[ApiRoute]:
    roster, forecasts = sources.roster, sources.forecasts

    def asked_for(asked: Asked) -> Response:
        vm, terms = roster.find(asked.path["vm"]), asked.body
        state = forecasts.begin(vm, terms.bandwidth_bytes_per_s, terms.downtime_limit_ms)
        return json_response(state, 202)

    return [
        ApiRoute(
            method="GET",
            path="/api/vms",
            summary="The VMs of this host, and which rule holds for each",
            call=lambda asked: json_response(roster.now()),
            answer=HostVms,
        ),
        ApiRoute(
            method="GET",
            path="/api/vms/{vm:path}/forecast",
            summary="The newest forecast for a VM, by its name, UUID or address, and how far it is",
            call=lambda asked: json_response(forecasts.of(roster.find(asked.path["vm"]))),
            answer=ForecastState,
        ),
        ApiRoute(
            method="POST",
            path="/api/vms/{vm:path}/forecast",
            summary="Measure how a guest writes, and work out what migrating it would come to",
            call=asked_for,
            body=ForecastTerms,
            answer=ForecastState,
            statuses={202: "it has begun, or goes on", 409: "the VM migrates, or is to be ignored"},
        ),
    ]


def _history(sources: Sources) -> list[ApiRoute]:
    def rows(asked: Asked) -> Response:
        query: HistoryQuery = asked.query
        wanted = store.Wanted(
            vm=query.vm or None,
            status=query.status or None,
            host=query.host or None,
            policy=query.policy or None,
            since_ms=query.since_ms,
            until_ms=query.until_ms,
            limit=query.limit,
        )
        with reading(sources.database) as connection:
            found = store.find(connection, wanted)
            return json_response([convert(row, HistoryRow, from_attributes=True) for row in found])

    def report(asked: Asked) -> Response:
        with reading(sources.database) as connection:
            return Response(report_page(connection, asked.path["number"]), media_type="text/html")

    return [
        ApiRoute(
            method="GET",
            path="/api/migrations",
            summary="The migrations that are remembered, the newest first",
            call=rows,
            query=HistoryQuery,
            answer=list[HistoryRow],
        ),
        ApiRoute(
            method="GET",
            path="/migrations/{number:int}",
            summary="The report of one",
            call=report,
            media="text/html",
        ),
    ]


def _actions(sources: Sources) -> list[ApiRoute]:
    actions = sources.actions
    return [
        ApiRoute(
            method="GET",
            path="/api/variants",
            summary="The variants that a migration can be handed over to",
            call=lambda asked: json_response(list(ALL_VARIANTS)),
            answer=list[str],
        ),
        _action(
            "steer",
            "Hand a migration over to a variant, with limits",
            lambda asked: actions.steer(asked.path["key"], asked.body, asked.who),
            SteerOrder,
        ),
        _action(
            "limits",
            "Have other limits kept",
            lambda asked: actions.set_limits(asked.path["key"], asked.body, asked.who),
            NewLimits,
        ),
        _action(
            "cancel",
            "Cancel a migration; its guest stays here",
            lambda asked: actions.cancel(asked.path["key"], asked.who),
            NoBody,
        ),
    ]


def _action(name: str, summary: str, act: Callable[[Asked], Observed], body: type[Struct]) -> ApiRoute:
    return ApiRoute(
        method="POST",
        path=f"/api/live/{{key}}/{name}",
        summary=summary,
        call=lambda asked: _seen(act(asked)),
        body=body,
        answer=Observed,
        acts=True,
        statuses=_NOT_DONE,
    )


def _seen(observed: Observed) -> Response:
    return json_response(observed, 200 if observed.is_so else 202)
