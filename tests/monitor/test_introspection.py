import json
from typing import Any

import pytest

from tests.support.memory_vm import MemoryVm
from vmferry.client.qmp_client import QmpClient
from vmferry.migration.info import MigrationInfo
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.commands import COMMANDS
from vmferry.monitor.events import EVENTS
from vmferry.monitor.session import Session

Entry = dict[str, Any]
Schema = dict[str, Entry]

REFERENCES = {
    "builtin": (),
    "enum": (),
    "array": ("element-type",),
    "object": (),
    "alternate": (),
    "command": ("arg-type", "ret-type"),
    "event": ("arg-type",),
}


def execute(vm: MemoryVm, name: str, **arguments: object) -> Any:
    session = Session(vm)
    list(session.feed(b'{"execute":"qmp_capabilities"}'))
    (answer,) = session.feed(json.dumps({"execute": name, "arguments": arguments}).encode())
    assert isinstance(answer, bytes)
    return json.loads(answer)["return"]


@pytest.fixture(scope="module")
def schema() -> Schema:
    return {entry["name"]: entry for entry in execute(MemoryVm(), "query-qmp-schema")}


def references(entry: Entry) -> list[str]:
    found = [entry[key] for key in REFERENCES[entry["meta-type"]]]
    found += [member["type"] for member in entry.get("members", []) if "type" in member]
    return found + [variant["type"] for variant in entry.get("variants", [])]


def accepts(schema: Schema, type_name: str, value: Any) -> bool:
    """Check a value against a description, as a client would that knows nothing else."""
    entry = schema[type_name]
    match entry["meta-type"]:
        case "builtin":
            return is_json(entry["json-type"], value)
        case "enum":
            return value in entry["values"]
        case "array":
            return isinstance(value, list) and all(accepts(schema, entry["element-type"], item) for item in value)
        case "alternate":
            return any(accepts(schema, member["type"], value) for member in entry["members"])
        case "object":
            return isinstance(value, dict) and accepts_members(schema, entry, value)
    raise AssertionError(entry)


def is_json(json_type: str, value: Any) -> bool:
    kinds: dict[str, Any] = {
        "string": str,
        "number": (int, float),
        "int": int,
        "boolean": bool,
        "null": type(None),
        "value": object,
    }
    return isinstance(value, kinds[json_type]) and (json_type in ("boolean", "value") or not isinstance(value, bool))


def accepts_members(schema: Schema, entry: Entry, value: dict[str, Any]) -> bool:
    members = list(entry["members"])
    for variant in entry.get("variants", []):
        if variant["case"] == value.get(entry["tag"]):
            members += schema[variant["type"]]["members"]
    allowed = {member["name"] for member in members}
    required = {member["name"] for member in members if "default" not in member}
    fits = all(accepts(schema, member["type"], value[member["name"]]) for member in members if member["name"] in value)
    return fits and required <= value.keys() <= allowed


def test_every_name_is_described_once() -> None:
    entries = execute(MemoryVm(), "query-qmp-schema")
    assert len({entry["name"] for entry in entries}) == len(entries)


def test_all_that_is_referred_to_is_described(schema: Schema) -> None:
    for entry in schema.values():
        assert set(references(entry)) <= schema.keys()


def test_exactly_the_commands_and_events_are_described(schema: Schema) -> None:
    for meta_type, names in (("command", COMMANDS), ("event", EVENTS)):
        assert {name for name, entry in schema.items() if entry["meta-type"] == meta_type} == set(names)


def test_the_description_describes_itself(schema: Schema) -> None:
    assert accepts(schema, schema["query-qmp-schema"]["ret-type"], list(schema.values()))


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("query-")])
def test_answers_are_as_described(schema: Schema, name: str) -> None:
    assert accepts(schema, schema[name]["ret-type"], execute(MemoryVm(), name))


def test_a_destinations_answer_is_as_described(schema: Schema) -> None:
    vm = MemoryVm()
    vm.migrations.latest = MigrationInfo(status=MigrationStatus.SETUP, socket_address="unix:/run/x")
    answer = execute(vm, "query-migrate")
    ret_type = schema["query-migrate"]["ret-type"]
    assert accepts(schema, ret_type, answer)
    answer["socket-address"][0]["port"] = "1"
    assert not accepts(schema, ret_type, answer)


def test_events_are_as_described(schema: Schema) -> None:
    vm = MemoryVm()
    vm.subscribe(lambda event: heard.append((event.name, event.data)))
    heard: list[tuple[str, object]] = []
    vm.run_control.stop()
    vm.run_control.cont()
    vm.system_powerdown()
    vm.quit()
    vm.migrations.capabilities = vm.migrations.capabilities.changed({"events": True})
    vm.migrations.start("tcp:h:1")
    assert {name for name, _ in heard} == {"STOP", "RESUME", "POWERDOWN", "SHUTDOWN", "MIGRATION"}
    for name, data in heard:
        assert accepts(schema, schema[name]["arg-type"], data)


def test_what_is_optional_is_said_to_be(schema: Schema) -> None:
    takes = schema["migrate"]["arg-type"]
    assert accepts(schema, takes, {"uri": "tcp:h:1"})
    assert accepts(schema, takes, {"uri": "tcp:h:1", "detach": True})
    assert not accepts(schema, takes, {"detach": True})
    assert not accepts(schema, takes, {"uri": "tcp:h:1", "speed": 1})


def shape(schema: Schema, type_name: str) -> Any:
    """Spell a type out, without the names of types."""
    entry = schema[type_name]
    match entry["meta-type"]:
        case "builtin":
            return entry["json-type"]
        case "enum":
            return "enum"
        case "array":
            return [shape(schema, entry["element-type"])]
        case "alternate":
            return {shape(schema, member["type"]) for member in entry["members"]}
        case _:
            return {member["name"]: shape(schema, member["type"]) for member in entry["members"]}


def differences(ours: Any, theirs: Any, path: str) -> list[str]:
    """Name what both sides have and describe differently."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        shared = ours.keys() & theirs.keys()
        return [found for name in shared for found in differences(ours[name], theirs[name], f"{path}.{name}")]
    if isinstance(ours, list) and isinstance(theirs, list):
        return differences(ours[0], theirs[0], f"{path}[]")
    return [] if ours in (theirs, "value") else [f"{path}: {ours} here, {theirs} in QEMU"]


@pytest.mark.qemu
def test_what_qemu_describes_too_it_describes_alike(schema: Schema, qemu_monitor: QmpClient) -> None:
    qemus = {entry["name"]: entry for entry in qemu_monitor.execute("query-qmp-schema")}
    shared = [name for name in (*COMMANDS, *EVENTS) if name in qemus]
    assert len(shared) > 20
    for name in shared:
        for key in REFERENCES[schema[name]["meta-type"]]:
            ours, theirs = shape(schema, schema[name][key]), shape(qemus, qemus[name][key])
            assert differences(ours, theirs, f"{name} {key}") == []
