"""The commands of the human monitor in two tables: those that do something, and those that `info` shows."""

from vmferry.errors import UsageError
from vmferry.migration.dirty_rate import DirtyRateMode, DirtyRateRequest
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.hmp import BadLineError, Given, HmpCommand, HmpInterpreter, find_hmp_command, split_name
from vmferry.monitor.hmp_format import (
    format_capabilities,
    format_cpus,
    format_dirty_rate,
    format_migration,
    format_parameters,
    format_status,
    format_trace_events,
)
from vmferry.monitor.hmp_values import parse_expression, parse_value
from vmferry.monitor.migration_commands import check_protocol, migrate_pause
from vmferry.monitor.trace_commands import find_events, switch_events
from vmferry.monitor.vm_port import MonitoredVm
from vmferry.settings.capabilities import CAPABILITIES
from vmferry.settings.inert_parameters import INERT_PARAMETERS
from vmferry.settings.parameters import PARAMETERS, find_parameter


def run_hmp(vm: MonitoredVm, line: str) -> str:
    """Carry a line out and return what there is to say."""
    return HmpInterpreter(vm, HMP_COMMANDS, INFO_COMMANDS).execute(line)


def hmp_takes_long(line: str) -> bool:
    """Tell whether a line is a command that may have to wait."""
    command = find_hmp_command(HMP_COMMANDS, split_name(line)[0])
    return command is not None and command.takes_long


def _help(_vm: MonitoredVm, given: Given) -> str:
    match given.words:
        case []:
            return "".join(command.description() for command in HMP_COMMANDS)
        case ["info"]:
            return _info_help()
        case ["info", name]:
            command = find_hmp_command(INFO_COMMANDS, name)
            return command.description("info ") if command else f"unknown command: 'info {name}'\n"
        case [name, *_]:
            command = find_hmp_command(HMP_COMMANDS, name)
            return command.description() if command else f"unknown command: '{name}'\n"
    raise AssertionError("words are a list")


def _info_help() -> str:
    return "".join(command.description("info ") for command in INFO_COMMANDS)


def _migrate(vm: MonitoredVm, given: Given) -> str:
    check_protocol(given.words[0])
    vm.migrations.start(given.words[0])
    # Waiting would keep the monitor from serving anybody else, so it never waits, as in QEMU over QMP.
    return "" if "d" in given.flags else "terminal does not allow synchronous migration, continuing detached\n"


def _set_parameter(vm: MonitoredVm, given: Given) -> None:
    name, text = given.words
    if name not in PARAMETERS.keys() | INERT_PARAMETERS.keys():
        raise UsageError(f"invalid parameter value: {name}")
    vm.migrations.set_parameters(vm.migrations.parameters.changed({name: parse_value(find_parameter(name), text)}))


def _set_capability(vm: MonitoredVm, given: Given) -> None:
    name, state = (*given.words, "")[:2]
    if state not in ("on", "off"):
        raise BadLineError("Expected 'on' or 'off'")
    if name not in CAPABILITIES:
        raise UsageError(f"invalid parameter value: {name}")
    vm.migrations.set_capabilities(vm.migrations.capabilities.changed({name: state == "on"}))


def _continue(vm: MonitoredVm, given: Given) -> None:
    name = given.words[0]
    if name not in list(MigrationStatus):
        raise UsageError(f"invalid parameter value: {name}")
    vm.migrations.continue_from(MigrationStatus(name))


def _calc_dirty_rate(vm: MonitoredVm, given: Given) -> str:
    seconds, *samples = [parse_expression(word) for word in given.words or [""]]
    if {"r", "b"} <= set(given.flags):
        return "Either dirty ring or dirty bitmap can be specified!\n"
    if not seconds:
        return "Incorrect period length specified!\n"
    mode = _DIRTY_RATE_MODES[given.flags[:1]]
    sample_pages = samples[0] if samples else None
    vm.dirty_rate.start(DirtyRateRequest(period_ms=seconds * 1000, mode=mode, sample_pages_per_gib=sample_pages))
    return (
        f"Starting dirty rate measurement with period {seconds} seconds\n"
        "[Please use 'info dirty_rate' to check results]\n"
    )


def _trace_event(vm: MonitoredVm, given: Given) -> str:
    pattern, state = (*given.words, "")[:2]
    if state not in ("on", "off"):
        raise BadLineError("Expected 'on' or 'off'")
    try:
        switch_events(vm, pattern, on=state == "on")
    except UsageError as error:
        return f"{error}\n"  # QEMU does not say "Error:" here
    return ""


def _info_trace_events(vm: MonitoredVm, given: Given) -> str:
    try:
        names = find_events(given.words[0] if given.words else "*")
    except UsageError as error:
        return f"{error}\n"
    return format_trace_events(names, vm.tracer.enabled)


_DIRTY_RATE_MODES = {
    "": DirtyRateMode.PAGE_SAMPLING,
    "r": DirtyRateMode.DIRTY_RING,
    "b": DirtyRateMode.DIRTY_BITMAP,
}

HMP_COMMANDS = (
    HmpCommand(
        "calc_dirty_rate",
        _calc_dirty_rate,
        "measure the dirty rate by samples (-b: by the dirty log)",
        "[-r] [-b] second [sample_pages_per_GB]",
        flags="rb",
        more_words=2,
    ),
    HmpCommand(
        "cont",
        lambda vm, given: vm.run_control.cont(force="f" in given.flags),
        "let the guest run (-f: also if its hand-over is in doubt, and the destination lacks it)",
        "[-f]",
        flags="f",
        alias="c",
    ),
    HmpCommand("help", _help, "describe a command, or all of them", "[cmd]", alias="?", more_words=2),
    HmpCommand("info", lambda _vm, _given: _info_help(), "show something of the VM", "[subcommand]"),
    HmpCommand("migrate", _migrate, "begin to migrate the guest to a uri", "[-d] uri", flags="d", words=1),
    HmpCommand("migrate_cancel", lambda vm, _: vm.migrations.cancel(), "call the outgoing migration off"),
    HmpCommand("migrate_continue", _continue, "let a migration go on that waits in a state", "state", words=1),
    HmpCommand(
        "migrate_incoming",
        lambda vm, given: vm.migrations.listen(given.words[0]),
        "begin to wait at a uri for a guest",
        "uri",
        words=1,
        takes_long=True,
    ),
    HmpCommand("migrate_pause", lambda vm, _: migrate_pause(vm), "interrupt a post-copy migration (none here)"),
    HmpCommand(
        "migrate_set_capability",
        _set_capability,
        "switch a migration capability on or off",
        "capability state",
        words=1,
        more_words=1,
    ),
    HmpCommand("migrate_set_parameter", _set_parameter, "change a migration parameter", "parameter value", words=2),
    HmpCommand("quit", lambda vm, _: vm.quit(), "end the VM", alias="q"),
    HmpCommand("stop", lambda vm, _: vm.run_control.stop(), "pause the guest", alias="s"),
    HmpCommand(
        "system_powerdown", lambda vm, _: vm.system_powerdown(), "ask the guest to power down (none here hears it)"
    ),
    HmpCommand(
        "trace-event",
        _trace_event,
        "print trace events that match to standard error",
        "name on|off",
        words=1,
        more_words=1,
    ),
)
"""What the human monitor can do, in the order of `help`."""

INFO_COMMANDS = (
    HmpCommand("cpus", lambda vm, _: format_cpus(vm.vcpu_thread_ids()), "the vCPUs and their threads"),
    HmpCommand(
        "dirty_rate", lambda vm, _: format_dirty_rate(vm.dirty_rate.info), "the latest measurement of the dirty rate"
    ),
    HmpCommand(
        "migrate",
        lambda vm, given: format_migration(vm.migrations.info(), everything="a" in given.flags),
        "the state of the latest migration (-a: with the throttle and the parts of the downtime)",
        "[-a]",
        flags="a",
    ),
    HmpCommand(
        "migrate_capabilities",
        lambda vm, _: format_capabilities(vm.migrations.capabilities.as_qmp()),
        "the migration capabilities",
    ),
    HmpCommand(
        "migrate_parameters", lambda vm, _: format_parameters(vm.migrations.parameters), "the migration parameters"
    ),
    HmpCommand("name", lambda vm, _: f"{vm.name}\n" if vm.name else "", "the name of the VM"),
    HmpCommand("status", lambda vm, _: format_status(vm.run_control.state()), "whether the guest runs"),
    HmpCommand(
        "trace-events",
        _info_trace_events,
        "which trace events are printed (1) and which are not",
        "[name]",
        more_words=1,
    ),
    HmpCommand("uuid", lambda vm, _: f"{vm.uuid}\n", "the UUID of the VM"),
)
"""What `info` can show, in the order of `help info`."""
