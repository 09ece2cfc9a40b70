"""`vmferry forecast`: what a migration would come to, before it begins."""

from collections.abc import Sequence
from dataclasses import asdict

import click
import msgspec
from rich.console import Console
from rich.table import Table

from vmferry.cli.exit_codes import ExitCode
from vmferry.cli.interrupts import cancelled_by_signals, told_as
from vmferry.cli.monitor_option import monitor_options
from vmferry.cli.tables import compact_table, terminal
from vmferry.cli.types import DURATION_MS, RATE_WITH_UNIT
from vmferry.client.monitor import Monitor, open_monitor
from vmferry.clock import MonotonicClock
from vmferry.control.driven_vm import DrivenVm
from vmferry.control.survey import measure_curve, resident_bytes
from vmferry.convergence.curve import Written
from vmferry.errors import UsageError
from vmferry.study.forecast import Interval, Prices, StrategyForecast, Survey, forecast, prices, verdict
from vmferry.units import format_duration, format_rate, format_size

_NS_PER_MS = 1_000_000
_EXIT_CODES = {"will": ExitCode.DONE, "may": ExitCode.MAY_CONVERGE, "will not": ExitCode.WILL_NOT_CONVERGE}


@click.command("forecast", short_help="Will it converge? What a migration would come to, before it begins.")
@monitor_options
@click.option("--bandwidth", type=RATE_WITH_UNIT, help="What the link carries, such as 1Gbit/s; else max-bandwidth.")
@click.option("--downtime-limit", type=DURATION_MS, help="How long the guest may stop; else the VM's downtime-limit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.pass_context
def command(
    context: click.Context, /, address: str, bandwidth: int | None, downtime_limit: int | None, as_json: bool
) -> None:
    """Tell whether a VM will converge, how long it will take and what it will cost the guest, for every strategy.

    Nothing is moved and the guest is not throttled: how it writes is measured in windows of several lengths, for
    which its writes are logged, and then a guest that writes so is migrated in virtual time. Exit code 0: it will
    converge by the best strategy; 5: it may; 6: it will not.
    """
    if bandwidth == 0:
        raise UsageError("--bandwidth is 0; give what the link carries, such as 1Gbit/s")
    clock = MonotonicClock()
    log = terminal(stderr=True, quiet=as_json)
    with (
        cancelled_by_signals() as cancel,
        told_as("interrupted; nothing was changed", cancel),
        open_monitor(address, while_waiting=cancel.check) as monitor,
        log.status("measuring how the guest writes") as status,
    ):
        driven = DrivenVm.ask(monitor)
        written = tuple(measure_curve(monitor, driven, clock, cancel))
        survey = _survey(monitor, driven, written, bandwidth, downtime_limit)

        def tell(strategy: str) -> None:
            cancel.check()
            status.update(f"working out: {strategy}")

        told = list(forecast(survey, tell=tell))
    price = prices(survey)
    chance = verdict(told)
    if as_json:
        click.echo(msgspec.json.encode(asdict(survey) | {"verdict": chance, "strategies": told, "prices": price}))
    else:
        _show(terminal(), driven.name, survey, told, price, chance)
    context.exit(_EXIT_CODES[chance])


def _survey(
    monitor: Monitor,
    driven: DrivenVm,
    written: tuple[Written, ...],
    bandwidth: int | None,
    downtime_limit_ms: int | None,
) -> Survey:
    memory = monitor.execute("query-memory-size-summary")
    memory_bytes = memory["base-memory"] + memory.get("plugged-memory", 0)
    resident = resident_bytes(monitor)
    unknown = [] if resident is not None else ["how much of its memory the guest uses: all of it is taken for used"]
    rate = bandwidth or driven.parameters.get("max-bandwidth")
    if bandwidth is None:
        unknown.append("what the link carries: the VM's max-bandwidth is taken for it")
    if not isinstance(rate, int) or not rate:
        raise UsageError("the VM's max-bandwidth is 0, no limit; give --bandwidth, what the link carries")
    if min(point.duration_ns for point in written) >= 1_000_000_000:
        unknown.append("what the guest writes in less than a second, which this QEMU cannot measure")
    limit = driven.parameters.get("downtime-limit") if downtime_limit_ms is None else downtime_limit_ms
    if not isinstance(limit, int):
        raise UsageError("the VM tells no downtime-limit; give --downtime-limit, such as 300ms")
    return Survey(
        memory_bytes=memory_bytes,
        used_bytes=memory_bytes if resident is None else min(memory_bytes, resident),
        vcpu_count=len(monitor.execute("query-cpus-fast")),
        written=written,
        bandwidth_bytes_per_s=rate,
        downtime_limit_ms=limit,
        unknown=tuple(unknown),
    )


def _show(
    console: Console, name: str, survey: Survey, told: Sequence[StrategyForecast], price: Prices, chance: str
) -> None:
    curve = ", ".join(
        f"{format_size(point.distinct_bytes)} in {format_duration(point.duration_ns)}" for point in survey.written
    )
    used, memory = format_size(survey.used_bytes), format_size(survey.memory_bytes)
    link = f"link {format_rate(survey.bandwidth_bytes_per_s)}, downtime limit {survey.downtime_limit_ms} ms"
    console.print(f"{name}: {survey.vcpu_count} vCPUs, {used} of {memory} used; {link}.")
    console.print(f"It writes {curve}.\n")
    console.print(f"It {chance} converge{_by_which(told)}.\n")
    console.print(_table(told))
    console.print("chance: of runs that completed. Medians, and what 4 of 5 runs lie within.\n")
    for line in _price_list(price):
        console.print(line)
    for what in survey.unknown:
        console.print(f"Not known: {what}.")


def _by_which(told: Sequence[StrategyForecast]) -> str:
    ranked = sorted((-each.chance, each.total_time_ms.p50, each.strategy) for each in told if each.total_time_ms)
    return f", best by '{ranked[0][2]}'" if ranked else ""


def _table(told: Sequence[StrategyForecast]) -> Table:
    table = compact_table("", "strategy", "chance", "total s", "", "down ms", "lost vCPU-s", "sent")
    for each in told:
        table.add_row(
            each.strategy.replace("background-sync+responsive-throttle", "both"),
            f"{each.chance:.0%}",
            _middle(each.total_time_ms, 1000),
            _range(each.total_time_ms, 1000),
            _middle(each.downtime_ms, 1),
            _middle(each.work_lost_vcpu_s, 1),
            format_size(round(each.sent_bytes.p50)) if each.sent_bytes else "-",
        )
    return table


def _middle(interval: Interval | None, unit: float) -> str:
    return f"{interval.p50 / unit:.3g}" if interval else "-"


def _range(interval: Interval | None, unit: float) -> str:
    return f"{interval.p10 / unit:.3g} to {interval.p90 / unit:.3g}" if interval else ""


def _price_list(price: Prices) -> list[str]:
    if price.throttle_percent == 0:
        return ["It converges by itself: nothing has to change."]
    lines = ["What would make it converge without slowing it, one change at a time:"]
    if price.downtime_limit_ms is not None:
        lines.append(f"  a downtime limit of {format_duration(round(price.downtime_limit_ms * _NS_PER_MS))}")
    if price.bandwidth_bytes_per_s is not None:
        lines.append(f"  or a link of {format_rate(round(price.bandwidth_bytes_per_s))}")
    if price.throttle_percent is None:
        return [*lines, "No throttle makes it converge as things are."]
    return [*lines, f"As things are it has to be slowed by at least {price.throttle_percent} %."]
