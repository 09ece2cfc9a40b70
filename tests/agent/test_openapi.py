"""The API's description tells of every endpoint, and what is really answered is as it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent.test_memory import STARTED, complete, facts, remembering
from tests.agent.test_metrics import live
from tests.support.agent_web import ACT_TOKEN, bearer, client_of, sources_of
from vmferry.agent.rules import Vm
from vmferry.agent.web.access import Access
from vmferry.agent.web.app import application
from vmferry.agent.web.table import table_of
from vmferry.control.asking.progress import NOTHING_SEEN

Schema = dict[str, Any]
KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    url = f"sqlite:///{tmp_path}/agent.db"
    with remembering(url) as memory:
        for close in (True, False):
            recording = memory.begin(facts(Vm(f"db-{close}", "u")))
            recording.record(1, STARTED)
            if close:
                complete(recording)
    with client_of(sources_of(url, [live(), live("new", NOTHING_SEEN)], wait_s=0.1), tmp_path) as one:
        yield one


def faults(value: object, schema: Schema, document: Schema, where: str = "") -> Iterator[str]:
    """Yield what in a value is not as a schema says; of JSON Schema what such descriptions have."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        if all(any(faults(value, one, document)) for one in schema["anyOf"]):
            yield f"{where}: {value!r} is none of {schema['anyOf']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is not in {schema['enum']}"
    if (kind := schema.get("type")) and type(value) not in KINDS[kind]:
        yield f"{where}: {value!r} is no {kind}"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        yield from (f"{where}: '{name}' is missing" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            rest = schema.get("additionalProperties", True)
            if name in properties:
                yield from faults(item, properties[name], document, f"{where}.{name}")
            elif isinstance(rest, dict):
                yield from faults(item, rest, document, f"{where}.{name}")
            elif properties:
                yield f"{where}: '{name}' is not told of"
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            yield from faults(item, schema["items"], document, f"{where}[{number}]")


def test_every_endpoint_is_told_of_and_no_other(tmp_path: Path) -> None:
    table = table_of(sources_of(f"sqlite:///{tmp_path}/agent.db"))
    app = application(table, Access(None, ACT_TOKEN), sources_of(f"sqlite:///{tmp_path}/agent.db").followers.log)
    served = {
        (method, route.path.replace(":path}", "}").replace(":int}", "}"))  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    (described,) = [one for one in table if one.path == "/api/openapi.json"]
    document = json.loads(described.call(None).body)  # type: ignore[arg-type]
    assert served == {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    acting = {
        (method, path)
        for path, methods in document["paths"].items()
        for method, told in methods.items()
        if told["security"] == [{"acting": []}]
    }
    assert acting == {("post", f"/api/live/{{key}}/{what}") for what in ("steer", "limits", "cancel")}


def test_what_is_answered_is_as_the_description_says(client: httpx.Client) -> None:
    document = client.get("/api/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    (first, _) = client.get("/api/live").json()
    values = {"{key}": first["key"], "{number}": "1", "{vm}": "none"}
    checked = set()
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            if path == "/api/events":
                continue
            filled = path
            for name, value in values.items():
                filled = filled.replace(name, value)
            body: dict[str, object] | None = {} if method == "post" else None
            answered = client.request(method, filled, headers=bearer(), json=body)
            content = told["responses"][str(answered.status_code)]["content"]
            media = answered.headers["content-type"].partition(";")[0]
            assert media in content, (path, answered.text)
            if media == "application/json":
                assert list(faults(answered.json(), content[media]["schema"], document)) == [], path
                checked.add((method, path, answered.status_code))
    assert {("get", "/api/live", 200), ("get", "/api/migrations", 200), ("get", "/api/vms", 200)} <= checked
    assert ("post", "/api/live/{key}/cancel", 202) in checked


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"a": "x"}, {"type": "object", "properties": {"a": {"type": "integer"}}}),
        ({}, {"type": "object", "required": ["a"], "properties": {"a": {}}}),
        ({"b": 1}, {"type": "object", "properties": {"a": {}}}),
        ([None], {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}),
        ("x", {"enum": ["y"]}),
    ],
)
def test_the_check_finds_faults(value: object, schema: Schema) -> None:
    assert list(faults(value, schema, {}))
