"""What a modelled QEMU answers to `query-qmp-schema`: of a real one's answer, the commands that are modelled."""

from typing import Any

from vmferry.simulation.qemu.dirty_rate import MODES, UNITS
from vmferry.simulation.qemu.releases import Release

_COMMANDS = (
    *("migrate", "migrate_cancel", "migrate-continue", "migrate-set-parameters", "migrate-set-capabilities"),
    *("query-migrate", "query-migrate-parameters", "query-migrate-capabilities", "query-dirty-rate", "query-status"),
    *("query-version", "query-kvm", "query-cpus-fast", "query-memory-size-summary", "query-qmp-schema"),
    *("set-vcpu-dirty-limit", "cancel-vcpu-dirty-limit", "stop", "cont", "yank"),
)


def schema(release: Release) -> list[dict[str, Any]]:
    """Return the entries."""
    members = [("calc-time", "int"), ("sample-pages", "int"), ("mode", "DirtyRateMeasureMode")]
    if release.measures_milliseconds:
        members.insert(1, ("calc-time-unit", "TimeUnit"))
    arguments = [{"name": name, "type": kind} for name, kind in members]
    commands = [{"name": name, "meta-type": "command", "arg-type": "0"} for name in _COMMANDS]
    return [
        *commands,
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "calc-dirty-rate", "meta-type": "command", "arg-type": "1"},
        {"name": "1", "meta-type": "object", "members": arguments},
        {"name": "DirtyRateMeasureMode", "meta-type": "enum", "values": list(MODES)},
        {"name": "TimeUnit", "meta-type": "enum", "values": list(UNITS)},
    ]
