"""The API's description in OpenAPI 3.1, made of the table of its routes."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from vmferry import __version__
from vmferry.agent.web.routes import ApiRoute

_REFERENCE = "#/components/schemas/{name}"
_REFUSED = 400
_KINDS = {"int": "integer", "str": "string", "path": "string"}
_READING: list[dict[str, list[str]]] = [{"password": []}, {"reading": []}, {"acting": []}]
_ACTING: list[dict[str, list[str]]] = [{"acting": []}]
_FAULTS = {
    400: "a parameter or the body is not what it may be",
    401: "it takes a token",
    503: "the database, or the agent itself, cannot answer now",
}
_MORE_FAULTS = {
    403: "the token for reading is not enough, or another site's page asks",
    404: "there is no such thing",
    415: "the body is no JSON, or too long",
}


class Refusal(msgspec.Struct, frozen=True):
    """Why something is refused."""

    error: str
    """One line, for people."""


def document(table: Sequence[ApiRoute]) -> dict[str, Any]:
    """Return the description."""
    types = [*dict.fromkeys(kind for one in table for kind in (one.answer, one.body) if kind is not None), Refusal]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in table:
        paths.setdefault(one.plain_path, {})[one.method.lower()] = _operation(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vmferry agent",
            "version": __version__,
            "description": "The migrations of one host. What is not known is null.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic", "description": "the token for reading as password"},
                "reading": {"type": "http", "scheme": "bearer", "description": "the token for reading"},
                "acting": {"type": "http", "scheme": "bearer", "description": "the token for actions"},
            },
        },
    }


def _operation(one: ApiRoute, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": one.summary,
        "parameters": list(_parameters(one)),
        "responses": _responses(one, schema_of),
        "security": _ACTING if one.acts else [*_READING, {}],  # at a unix socket reading takes no token
    }
    if one.body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": schema_of[one.body]}}}
    return operation


def _responses(one: ApiRoute, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content = {one.media: {"schema": {"type": "string"} if one.answer is None else schema_of[one.answer]}}
    fault = {"application/json": {"schema": schema_of[Refusal]}}
    is_plain = not one.parameters and one.body is None and not one.acts
    faults = _FAULTS if is_plain else _FAULTS | _MORE_FAULTS
    told = {200: "what was asked for", **faults, **one.statuses}
    return {
        str(status): {"description": text, "content": content if status < _REFUSED else fault}
        for status, text in sorted(told.items())
    }


def _parameters(one: ApiRoute) -> Iterator[dict[str, Any]]:
    for name, kind in one.parameters.items():
        yield {"name": name, "in": "path", "required": True, "schema": {"type": _KINDS[kind]}}
    schema = msgspec.json.schema(one.query)
    own = schema["$defs"][one.query.__name__]
    for name, kind in own.get("properties", {}).items():
        yield {"name": name, "in": "query", "required": name in own.get("required", ()), "schema": kind}
