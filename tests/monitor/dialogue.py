"""What a QMP client says, and what QEMU 7.2 answers, word for word."""

import json

Answers = list[dict[str, object]]

STRAY = "JSON parse error, stray"
"""Stands for any text that begins so: what a stray byte is shown with is the lexer's own."""


def error(text: str, error_class: str = "GenericError", **extra: object) -> dict[str, object]:
    return {"error": {"class": error_class, "desc": text}, **extra}


def not_found(text: str, **extra: object) -> dict[str, object]:
    return error(text, "CommandNotFound", **extra)


def expects(name: str, what: str) -> dict[str, object]:
    return error(f"Parameter '{name}' expects {what}")


def wrong_type(name: str, expected: str) -> dict[str, object]:
    return error(f"Invalid parameter type for '{name}', expected: {expected}")


def missing(name: str) -> dict[str, object]:
    return error(f"Parameter '{name}' is missing")


def unexpected(name: str) -> dict[str, object]:
    return error(f"Parameter '{name}' is unexpected")


def command(name: str, /, **arguments: object) -> str:
    with_dashes = {key.replace("_", "-"): value for key, value in arguments.items()}
    return json.dumps({"execute": name, "arguments": with_dashes})


def setting(**parameters: object) -> str:
    return command("migrate-set-parameters", **parameters)


def capabilities(*items: object) -> str:
    return command("migrate-set-capabilities", capabilities=items)


OK: dict[str, object] = {"return": {}}
STRAY_BYTE = error(STRAY)
NOT_AN_OBJECT = error("QMP input must be a JSON object")
EXTRA = "QMP input member 'extra' is unexpected"
NEGOTIATE_FIRST = "Expecting capabilities negotiation with 'qmp_capabilities'"
PERCENT = "an integer in the range of 1 to 99"

BEFORE_NEGOTIATION: list[tuple[str, Answers]] = [
    ('{"execute":"query-status"}', [not_found(NEGOTIATE_FIRST)]),
    ('{"execute":"no","id":5}', [not_found(NEGOTIATE_FIRST, id=5)]),
    ("[]", [NOT_AN_OBJECT]),
]

REQUESTS: list[tuple[str, Answers]] = [
    (command("qmp_capabilities"), [not_found("Capabilities negotiation is already complete, command ignored")]),
    ('{"execute":"stop","id":[1,null,{"x":2.5}]}', [{"return": {}, "id": [1, None, {"x": 2.5}]}]),
    ("{'execute':'stop','id':'a\\'b'}", [{"return": {}, "id": "a'b"}]),
    ('{"execute":\n"cont"\r\n}{"execute":"cont","id":""}', [OK, {"return": {}, "id": ""}]),
    ('{"execute":"cont","arguments":{},"id":"é€😀"}', [{"return": {}, "id": "é€😀"}]),
    (command("nosuch"), [not_found("The command nosuch has not been found")]),
    ("[1]", [NOT_AN_OBJECT]),
    ('1 "x" null ', [NOT_AN_OBJECT, NOT_AN_OBJECT, NOT_AN_OBJECT]),
    ('{"execute":"cont","extra":1}', [error(EXTRA)]),
    ('{"execute":"cont","extra":1,"id":7}', [error(EXTRA, id=7)]),
    ('{"execute":1}', [error("QMP input member 'execute' must be a string")]),
    ('{"id":7}', [error("QMP input lacks member 'execute'", id=7)]),
    ('{"execute":"cont","arguments":[]}', [error("QMP input member 'arguments' must be an object")]),
    ('{"execute":"cont","arguments":null}', [error("QMP input member 'arguments' must be an object")]),
]


def bad_json(text: str) -> dict[str, object]:
    return error(f"JSON parse error, {text}")


MALFORMED: list[tuple[str, Answers]] = [
    ("{bad}", [bad_json("invalid keyword 'bad'")]),
    ('{"execute":nul}', [bad_json("invalid keyword 'nul'")]),
    ("]", [bad_json("expecting value")]),
    ('{"execute":"cont"]', [bad_json("expected separator in dict")]),
    ('{"execute":"cont" foo}', [bad_json("expected separator in dict")]),
    ("[1 2]", [bad_json("expected separator in list")]),
    ("[1,]", [bad_json("expecting value")]),
    ('{"a":1,}', [bad_json("expecting value")]),
    ('{"a":}', [bad_json("expecting value")]),
    ('{"a" "b"}', [bad_json("missing : in object pair")]),
    ("{1:2}", [bad_json("key is not a string in object")]),
    ('{"execute":"cont","execute":"stop"}', [bad_json("duplicate key")]),
    ('{"execute":"cont","arguments":{"a":[{"b":1,"b":1}]}}', [bad_json("duplicate key")]),
    ('{"a":"\\ud800"}', [bad_json("\\ud800 is not a valid Unicode character")]),
    ('{"a":"\\u12"}', [bad_json('\\u12" is not a valid Unicode character')]),
    ('{"a":"\\q"}', [bad_json("invalid escape sequence in string")]),
    ('{"a": @\n', [STRAY_BYTE]),
    ('{"a": "half of a line\n', [STRAY_BYTE]),
    ("\x00", [STRAY_BYTE]),
    ('{"a": NaN}', [STRAY_BYTE, bad_json("expecting value")]),
    (
        '{"id":1\n,"x":@, "y"}\n{"execute":"cont"}',
        [STRAY_BYTE, bad_json("expecting value"), NOT_AN_OBJECT, bad_json("expecting value"), OK],
    ),
]

MIGRATION: list[tuple[str, Answers]] = [
    (command("system_powerdown"), [OK]),
    (command("cont", a=1), [unexpected("a")]),
    (command("migrate"), [missing("uri")]),
    (command("migrate", uri=1), [wrong_type("uri", "string")]),
    (command("migrate", uri=None), [wrong_type("uri", "string")]),
    (command("migrate", uri="tcp:h:1", detach=1), [wrong_type("detach", "boolean")]),
    (command("migrate-incoming", uri="tcp:h:1"), [error("'-incoming' was not specified on the command line")]),
    (command("migrate_cancel"), [OK]),
    (command("query-migrate"), [OK]),
    (command("migrate-continue"), [missing("state")]),
    (command("migrate-continue", state=1), [wrong_type("state", "string")]),
    (command("migrate-continue", state="foo"), [error("Parameter 'state' does not accept value 'foo'")]),
    (command("migrate-continue", state="pre-switchover"), [error("Migration not in expected state: none")]),
    (command("migrate-continue", state="none"), [OK]),
    # Last, for QEMU counts these as migrations that failed.
    (command("migrate", uri="foo"), [expects("uri", "a valid migration protocol")]),
    (command("migrate", uri="foo:bar:1"), [expects("uri", "a valid migration protocol")]),
]

PARAMETERS: list[tuple[str, Answers]] = [
    (setting(), [OK]),
    (setting(cpu_throttle_initial=256), [expects("cpu-throttle-initial", "uint8_t")]),
    (setting(cpu_throttle_initial=-1), [expects("cpu-throttle-initial", "uint8_t")]),
    (setting(cpu_throttle_initial=2**64), [expects("cpu-throttle-initial", "uint64")]),
    (setting(cpu_throttle_initial=1.0), [expects("cpu-throttle-initial", "uint64")]),
    (setting(cpu_throttle_initial="5"), [expects("cpu-throttle-initial", "uint64")]),
    (setting(cpu_throttle_initial=True), [expects("cpu-throttle-initial", "uint64")]),
    (setting(max_bandwidth=2**64), [expects("max-bandwidth", "uint64")]),
    (setting(cpu_throttle_tailslow=1), [wrong_type("cpu-throttle-tailslow", "boolean")]),
    (setting(no_such=1), [unexpected("no-such")]),
    (setting(cpu_throttle_initial=0), [expects("cpu_throttle_initial", PERCENT)]),
    (setting(cpu_throttle_increment=100), [expects("cpu_throttle_increment", PERCENT)]),
    (
        setting(throttle_trigger_threshold=101),
        [expects("throttle_trigger_threshold", "an integer in the range of 1 to 100")],
    ),
    (
        setting(downtime_limit=2000001),
        [expects("downtime_limit", "an integer in the range of 0 to (2000 * 1000) ms")],
    ),
    (
        setting(cpu_throttle_initial=90, max_cpu_throttle=50),
        [expects("max_cpu_throttle", "an integer in the range of cpu_throttle_initial to 99")],
    ),
    (setting(downtime_limit=500, cpu_throttle_tailslow=True, max_bandwidth=0), [OK]),
]

INERT_PARAMETERS: list[tuple[str, Answers]] = [
    (setting(announce_initial=100_001), [expects("announce_initial", "a value between 0 and 100000")]),
    (setting(announce_rounds=1001), [expects("announce_rounds", "a value between 0 and 1000")]),
    (setting(announce_step=0), [expects("announce_step", "a value between 0 and 10000")]),
    (setting(multifd_channels=0), [expects("multifd_channels", "a value between 1 and 255")]),
    (setting(multifd_channels=256), [expects("multifd-channels", "uint8_t")]),
    (
        setting(multifd_compression="zz"),
        [error("Parameter 'multifd-compression' does not accept value 'zz'")],
    ),
    (setting(multifd_compression=1), [wrong_type("multifd-compression", "string")]),
    (
        setting(xbzrle_cache_size=10),
        [expects("xbzrle_cache_size", "a power of two no less than the target page size")],
    ),
    (
        setting(xbzrle_cache_size=3 << 20),
        [expects("xbzrle_cache_size", "a power of two no less than the target page size")],
    ),
    (setting(x_checkpoint_delay=-1), [expects("x-checkpoint-delay", "uint32_t")]),
    (setting(tls_creds=5), [wrong_type("tls-creds", "StrOrNull")]),
    (setting(tls_creds=None, tls_hostname="", tls_authz=None), [OK]),
    (setting(multifd_channels=2, multifd_compression="none", max_postcopy_bandwidth=0, announce_max=550), [OK]),
]

CAPABILITIES: list[tuple[str, Answers]] = [
    (command("migrate-set-capabilities"), [missing("capabilities")]),
    (command("migrate-set-capabilities", capabilities=1), [wrong_type("capabilities", "array")]),
    (capabilities(1), [wrong_type("capabilities[0]", "object")]),
    (capabilities(), [OK]),
    (
        capabilities({"capability": "foo", "state": True}),
        [error("Parameter 'capability' does not accept value 'foo'")],
    ),
    (capabilities({"capability": "events", "state": 1}), [wrong_type("capabilities[0].state", "boolean")]),
    (capabilities({"capability": "events"}), [missing("capabilities[0].state")]),
    (capabilities({"capability": "events", "state": True, "x": 1}), [unexpected("capabilities[0].x")]),
    (capabilities({"capability": "auto-converge", "state": True}), [OK]),
    (capabilities({"capability": "pause-before-switchover", "state": True}), [OK]),
    (capabilities({"capability": "xbzrle", "state": False}, {"capability": "multifd", "state": False}), [OK]),
]


def calc(**arguments: object) -> str:
    return command("calc-dirty-rate", **arguments)


DIRTY_RATE: list[tuple[str, Answers]] = [
    (calc(), [missing("calc-time")]),
    (calc(calc_time="1"), [wrong_type("calc-time", "integer")]),
    (calc(calc_time=1, mode="foo"), [error("Parameter 'mode' does not accept value 'foo'")]),
]

TRACE: list[tuple[str, Answers]] = [
    (command("trace-event-get-state"), [missing("name")]),
    (command("trace-event-get-state", name="nosuch"), [error('unknown event "nosuch"')]),
    (command("trace-event-get-state", name="nosuch*"), [{"return": []}]),
    (command("trace-event-set-state", name="nosuch", enable=True), [error('unknown event "nosuch"')]),
    (command("trace-event-set-state", name="migration_thrott*"), [missing("enable")]),
    (command("trace-event-set-state", name="migration_thrott*", enable=True), [OK]),
]

AFTER_NEGOTIATION = REQUESTS + MALFORMED + MIGRATION + PARAMETERS + INERT_PARAMETERS + CAPABILITIES + DIRTY_RATE + TRACE
