import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_vm import MemoryRunControl, MemoryVm
from vmferry.migration.dirty_rate import DirtyRateInfo, DirtyRateStatus
from vmferry.migration.info import MigrationInfo, RamInfo
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.commands import COMMANDS
from vmferry.monitor.framing import MAX_NESTING
from vmferry.monitor.session import Answer, Session
from vmferry.monitor.vm_port import RunState, VmEvent

NEGOTIATE = b'{"execute":"qmp_capabilities"}'
RAM = RamInfo(
    transferred=1000, remaining=4096, total=1 << 30, duplicate=3, normal=7, normal_bytes=7 * 4096, dirty_pages_rate=9,
    mbps=800.25, dirty_sync_count=5, iteration_count=2, dirty_sync_time=1.5, page_size=4096, pages_per_second=11,
    precopy_bytes=900, downtime_bytes=100,
)  # fmt: skip


def said(answer: Answer) -> bytes:
    """Return what the client gets in the end."""
    return answer if isinstance(answer, bytes) else answer()


def negotiated(vm: MemoryVm) -> Session:
    session = Session(vm)
    assert list(session.feed(NEGOTIATE)) == [b'{"return": {}}\r\n']
    return session


def execute(vm: MemoryVm, name: str, /, **arguments: object) -> dict[str, object]:
    request = json.dumps({"execute": name, "arguments": arguments})
    (answer,) = negotiated(vm).feed(request.encode())
    decoded = json.loads(said(answer))
    assert isinstance(decoded, dict)
    return decoded


def test_query_migrate_says_nothing_before_the_first_migration() -> None:
    assert execute(MemoryVm(), "query-migrate") == {"return": {}}


def test_query_migrate_reports_a_running_migration_in_qemus_fields() -> None:
    vm = MemoryVm()
    vm.migrations.latest = MigrationInfo(
        status=MigrationStatus.ACTIVE, total_time_ms=5000, setup_time_ms=2, expected_downtime_ms=300, ram=RAM,
        cpu_throttle_percentage=30, cpu_throttle_vcpus=(0, 30),
    )  # fmt: skip
    assert execute(vm, "query-migrate")["return"] == {
        "status": "active", "total-time": 5000, "setup-time": 2, "expected-downtime": 300,
        "cpu-throttle-percentage": 30, "cpu-throttle-vcpus": [0, 30],
        "ram": {
            "transferred": 1000, "remaining": 4096, "total": 1 << 30, "duplicate": 3, "normal": 7,
            "normal-bytes": 28672,
            "dirty-pages-rate": 9, "mbps": 800.25, "dirty-sync-count": 5, "iteration-count": 2, "dirty-sync-time": 1.5,
            "page-size": 4096,
            "pages-per-second": 11, "precopy-bytes": 900, "downtime-bytes": 100, "postcopy-bytes": 0,
            "postcopy-requests": 0, "multifd-bytes": 0, "dirty-sync-missed-zero-copy": 0,
        },
    }  # fmt: skip


def test_query_migrate_reports_the_parts_of_the_downtime() -> None:
    vm = MemoryVm()
    parts_ms = {"stop": 0.5, "last-sync": 1.0, "ram": 7.25, "state": 0.75, "hand-over": 2.0}
    vm.migrations.latest = MigrationInfo(
        status=MigrationStatus.COMPLETED, total_time_ms=5000, setup_time_ms=2, downtime_ms=11,
        downtime_parts_ms=parts_ms, ram=RAM,
    )  # fmt: skip
    answer = execute(vm, "query-migrate")["return"]
    assert isinstance(answer, dict)
    assert answer["downtime"] == 11
    assert answer["downtime-parts"] == parts_ms
    assert "expected-downtime" not in answer


def test_query_migrate_gives_the_reason_of_a_failure() -> None:
    vm = MemoryVm()
    vm.migrations.latest = MigrationInfo(status=MigrationStatus.FAILED, error_desc="the link is gone")
    assert execute(vm, "query-migrate")["return"] == {"status": "failed", "error-desc": "the link is gone"}


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("tcp:[::1]:4444", {"type": "inet", "host": "::1", "port": "4444"}),
        ("unix:/run/in.sock", {"type": "unix", "path": "/run/in.sock"}),
    ],
)
def test_query_migrate_tells_where_a_destination_listens(uri: str, address: dict[str, str]) -> None:
    vm = MemoryVm()
    vm.migrations.latest = MigrationInfo(status=MigrationStatus.SETUP, socket_address=uri)
    assert execute(vm, "query-migrate")["return"] == {"status": "setup", "socket-address": [address]}


def test_the_dirty_rate_comes_in_the_unit_that_is_asked_for() -> None:
    vm = MemoryVm()
    answer = execute(vm, "query-dirty-rate")["return"]
    assert answer == {
        "status": "unstarted", "mode": "page-sampling", "sample-pages": 0, "start-time": 0, "calc-time": 0,
        "calc-time-unit": "second",
    }  # fmt: skip
    assert execute(vm, "calc-dirty-rate", **{"calc-time": 1500, "calc-time-unit": "millisecond"}) == {"return": {}}
    for unit, value in (("second", 1), ("millisecond", 1500)):
        answer = execute(vm, "query-dirty-rate", **{"calc-time-unit": unit})["return"]
        assert isinstance(answer, dict)
        assert (answer["calc-time"], answer["calc-time-unit"], answer["status"]) == (value, unit, "measuring")
    already = {"class": "GenericError", "desc": "the dirty rate is already being measured."}
    assert execute(vm, "calc-dirty-rate", **{"calc-time": 1}) == {"error": already}
    vm.dirty_rate.info = DirtyRateInfo(status=DirtyRateStatus.MEASURED, period_ms=1000, mib_per_s=0)
    assert execute(vm, "query-dirty-rate")["return"]["dirty-rate"] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("time", "unit"), [(0, "second"), (61, "second"), (-1, "second"), (49, "millisecond"), (60_001, "millisecond")]
)
def test_the_dirty_rate_is_measured_in_bounded_time(time: int, unit: str) -> None:
    answer = execute(MemoryVm(), "calc-dirty-rate", **{"calc-time": time, "calc-time-unit": unit})
    text = "Calculation time is out of range [50ms, 60000ms]."
    assert answer == {"error": {"class": "GenericError", "desc": text}}


def test_trace_events_can_be_switched_on_and_off() -> None:
    vm = MemoryVm()
    assert execute(vm, "trace-event-set-state", name="migrate_*", enable=True) == {"return": {}}
    assert execute(vm, "trace-event-set-state", name="migrate_end", enable=False) == {"return": {}}
    states = execute(vm, "trace-event-get-state", name="migrate_*")["return"]
    assert isinstance(states, list)
    assert {item["name"]: item["state"] for item in states} == {
        "migrate_end": "disabled", "migrate_set_state": "enabled", "migrate_start": "enabled",
        "migrate_transferred": "enabled",
    }  # fmt: skip
    assert vm.tracer.enabled == {"migrate_set_state", "migrate_start", "migrate_transferred"}


def test_vcpus_are_listed_with_their_threads() -> None:
    answer = execute(MemoryVm(), "query-cpus-fast")["return"]
    assert isinstance(answer, list)
    assert [(cpu["cpu-index"], cpu["thread-id"]) for cpu in answer] == [(0, 4711), (1, 4712)]


def test_name_and_uuid_are_told() -> None:
    vm = MemoryVm()
    assert execute(vm, "query-name") == {"return": {"name": vm.name}}
    assert execute(vm, "query-uuid") == {"return": {"UUID": vm.uuid}}
    vm.name = ""
    assert execute(vm, "query-name") == {"return": {}}


def test_every_command_is_listed() -> None:
    assert execute(MemoryVm(), "query-commands") == {"return": [{"name": name} for name in COMMANDS]}


def test_what_the_vm_refuses_is_a_generic_error_with_its_text() -> None:
    vm = MemoryVm()
    assert execute(vm, "migrate", uri="tcp:host:4444") == {"return": {}}
    in_progress = {"error": {"class": "GenericError", "desc": "There's a migration process in progress"}}
    assert execute(vm, "migrate", uri="tcp:host:4444") == in_progress
    events_on = [{"capability": "events", "state": True}]
    assert execute(vm, "migrate-set-capabilities", capabilities=events_on) == in_progress
    assert vm.migrations.uris == ["tcp:host:4444"]


def test_one_wrong_parameter_changes_none() -> None:
    vm = MemoryVm()
    before = vm.migrations.parameters
    assert "error" in execute(vm, "migrate-set-parameters", **{"downtime-limit": 1, "cpu-throttle-initial": 0})
    assert vm.migrations.parameters == before


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("multifd-zlib-level", 4, "Parameter 'multifd-zlib-level' expects 1, the only value that is supported here"),
        ("mode", "cpr-reboot", "Parameter 'mode' expects 'normal', the only value that is supported here"),
        ("direct-io", True, "No build-time support for direct-io"),
        ("vcpu-dirty-limit", 0, "Parameter 'vcpu_dirty_limit' must be greater than 1 MB/s"),
    ],
)
def test_what_has_no_effect_here_is_reported_at_its_default_and_cannot_be_changed(
    name: str, value: object, text: str
) -> None:
    vm = MemoryVm()
    before = execute(vm, "query-migrate-parameters")
    changes = {name: value, "downtime-limit": 1}
    assert execute(vm, "migrate-set-parameters", **changes) == {"error": {"class": "GenericError", "desc": text}}
    assert execute(vm, "query-migrate-parameters") == before
    defaults = {name: before["return"][name], "downtime-limit": 1}  # type: ignore[index]
    assert execute(vm, "migrate-set-parameters", **defaults) == {"return": {}}


def test_capabilities_that_do_not_exist_here_can_only_be_off() -> None:
    vm = MemoryVm()
    states = [{"capability": "events", "state": True}, {"capability": "postcopy-ram", "state": True}]
    error = {"class": "GenericError", "desc": "Capability 'postcopy-ram' is not supported"}
    assert execute(vm, "migrate-set-capabilities", capabilities=states) == {"error": error}
    assert not vm.migrations.capabilities.events
    states[1]["state"] = False
    assert execute(vm, "migrate-set-capabilities", capabilities=states) == {"return": {}}
    reported = execute(vm, "query-migrate-capabilities")["return"]
    assert [item["capability"] for item in reported if item["state"]] == ["events"]  # type: ignore[attr-defined]


def test_the_seeds_parameters_can_be_set() -> None:
    vm = MemoryVm()
    execute(vm, "migrate-set-parameters", **{"cpu-responsive-throttle": True, "background-sync": "merge"})
    assert vm.migrations.parameters.cpu_responsive_throttle
    answer = execute(vm, "query-migrate-parameters")["return"]
    assert isinstance(answer, dict)
    assert answer["background-sync"] == "merge"


def test_nothing_can_be_enabled_in_the_negotiation() -> None:
    session = Session(MemoryVm())
    (answer,) = session.feed(b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}')
    assert b"Capability oob not available" in said(answer)
    assert not session.negotiated


def test_an_event_carries_the_time_in_seconds_and_microseconds() -> None:
    event = VmEvent("MIGRATION", {"status": "active"}, 1_700_000_000_123_456_789)
    assert json.loads(Session(MemoryVm()).event(event)) == {
        "timestamp": {"seconds": 1_700_000_000, "microseconds": 123456},
        "event": "MIGRATION",
        "data": {"status": "active"},
    }
    assert b"data" not in Session(MemoryVm()).event(VmEvent("STOP", {}, 0))


def test_answers_and_events_can_be_spread_over_lines() -> None:
    session = Session(MemoryVm(), pretty=True)
    assert list(session.feed(NEGOTIATE)) == [b'{\r\n    "return": {}\r\n}\r\n']
    event = session.event(VmEvent("MIGRATION", {"status": "active"}, 0))
    assert b'    "data": {\r\n        "status": "active"\r\n    }\r\n' in event


def test_after_limits_are_broken_the_conversation_is_over() -> None:
    session = negotiated(MemoryVm())
    (answer,) = session.feed(b"[" * (MAX_NESTING + 1) + NEGOTIATE)
    assert b"nesting depth limit" in said(answer)
    assert session.broken


@pytest.mark.parametrize(("count", "explained"), [(10, True), (400_000, False)])
def test_long_garbage_is_not_read_again_to_explain_it(count: int, explained: bool) -> None:
    (answer,) = negotiated(MemoryVm()).feed(b"[" + b"1," * count + b"]")
    text = json.loads(said(answer))["error"]["desc"]
    assert text.startswith("JSON parse error, ")
    assert ("expecting value" in text) is explained


SNIPPETS = st.sampled_from(
    [b'"execute"', b'"arguments"', b'"id"', b":", b",", b"{", b"}", b"[", b"]", b"1e400", b"-0", b'"\\ud800"', b"'\\''"]
    + [b'{"execute":"', b'","arguments":{', b"}}", b'"uri":', b'"capabilities":[{', b'"max-bandwidth":', b"9" * 5000]
    + [json.dumps(name).encode() for name in COMMANDS]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(SNIPPETS | st.binary(max_size=8), max_size=20))
def test_whatever_is_fed_every_answer_is_an_answer(pieces: list[bytes]) -> None:
    session = negotiated(MemoryVm())
    for piece in pieces:
        for line in map(said, session.feed(piece)):
            answer = json.loads(line)
            assert line.endswith(b"\r\n")
            assert ("return" in answer) != ("error" in answer)


def mutate(text: bytes, position: int, change: bytes) -> bytes:
    return text[: position % len(text)] + change + text[position % len(text) + 1 :]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(COMMANDS)), st.integers(0, 200), st.binary(max_size=2))
def test_a_damaged_command_is_answered_too(name: str, position: int, change: bytes) -> None:
    request = json.dumps({"execute": name, "arguments": {"uri": "tcp:h:1"}, "id": {"a": [name]}}).encode()
    session = negotiated(MemoryVm())
    list(map(said, session.feed(mutate(request, position, change))))
    *_, last = session.feed(b'\xff{"execute":"query-status","id":0}')
    assert json.loads(said(last))["id"] == 0


STOP = NEGOTIATE + b'{"execute":"stop"}'


@pytest.mark.parametrize(
    "beginning",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1:4444\r\nContent-Length: 50\r\n\r\n",
        b"post /[1] HTTP/1.1\r\n\r\n",
        b"GET /%7B%22execute HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00",
        b"*1\r\n$4\r\nPING\r\n",
        b"hello\n",
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_who_begins_with_no_json_is_hung_up_on_unheard(beginning: bytes, step: int) -> None:
    vm = MemoryVm()
    session = Session(vm)
    text = beginning + STOP
    answers: list[bytes] = []
    for start in range(0, len(text), step):
        if not session.broken:
            answers += map(said, session.feed(text[start : start + step]))
    assert session.broken
    assert vm.run_control.state() is RunState.RUNNING
    assert [json.loads(answer)["error"]["class"] for answer in answers] == ["GenericError"]


def test_a_client_that_has_negotiated_may_blunder() -> None:
    vm = MemoryVm()
    session = negotiated(vm)
    answers = [said(answer) for answer in session.feed(b'POST\n\xff{"execute":"stop"}')]
    assert not session.broken
    assert json.loads(answers[-1]) == {"return": {}}
    assert vm.run_control.state() is RunState.PAUSED


class BrokenRunControl(MemoryRunControl):
    def stop(self) -> None:
        raise ZeroDivisionError("a defect of ours\n")


class BrokenVm(MemoryVm):
    def __init__(self) -> None:
        super().__init__()
        self.run_control = BrokenRunControl(self.events)

    def vcpu_thread_ids(self) -> list[int]:
        return ["\ud800"]  # type: ignore[list-item]


def test_a_defect_is_an_error_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    vm = BrokenVm()
    session = negotiated(vm)
    for number in range(3):
        (answer,) = session.feed(b'{"execute":"stop","id":%d}' % number)
        assert json.loads(said(answer)) == {
            "error": {
                "class": "GenericError",
                "desc": "vmferry has a defect here: ZeroDivisionError('a defect of ours\\n')",
            },
            "id": number,
        }
    assert "error" in execute(vm, "query-cpus-fast")
    assert "error" in execute(vm, "human-monitor-command", **{"command-line": "stop"})
    assert capsys.readouterr().err.count("in stop\n    raise ZeroDivisionError") == 1
    assert execute(vm, "query-status")["return"]


def test_what_takes_long_is_left_to_others_to_carry_out(tmp_path: Path) -> None:
    session = negotiated(MemoryVm())
    request = {"execute": "pmemsave", "arguments": {"val": 0, "size": 16, "filename": str(tmp_path / "memory")}}
    (answer,) = session.feed(json.dumps(request).encode())
    assert not isinstance(answer, bytes)
    assert not (tmp_path / "memory").exists()
    assert json.loads(answer()) == {"return": {}}
    assert (tmp_path / "memory").read_bytes() == bytes(16)
    (answer,) = session.feed(b'{"execute":"human-monitor-command","arguments":{"command-line":" migrate_incoming x"}}')
    assert not isinstance(answer, bytes)


@pytest.mark.parametrize("name", ["a\0b", "", ".", "x" * 300, "no/such/directory"])
def test_names_that_cannot_be_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = execute(MemoryVm(), "pmemsave", val=0, size=16, filename=name)
    assert "defect" not in str(answer["error"])
    assert not os.listdir(tmp_path)
