"""No option of any command takes a size, a rate or a time without its unit: it means something else to everybody."""

from collections.abc import Iterator

import click
import pytest

from vmferry.cli.main import vmferry
from vmferry.cli.types import DIRECTORY_OR_ID, FILE_OR_NONE

COUNTS_AND_SHARES = {
    *(
        "--channels",
        "--cpus",
        "--days",
        "--id",
        "--jobs",
        "--limit",
        "--max-iters",
        "--migration",
        "--multifd-channels",
        "--multifd-zstd-level",
        "--repeats",
        "--seeds",
        "--step",
        "--time-scale",
    ),
    *("--cpu-throttle-increment", "--cpu-throttle-initial", "--max-cpu-throttle", "--max-throttle"),
    *("--jitter", "--throttle-trigger-threshold"),
}
SECONDS = {"--max-time"}
"""As guestperf has it."""


def commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            assert one
            yield from commands(one, f"{path} {name}".strip())
    else:
        yield path, command


def takes_numbers(option: click.Option) -> bool:
    words = (
        type(FILE_OR_NONE),
        type(DIRECTORY_OR_ID),
        click.types.StringParamType,
        click.Path,
        click.Choice,
        click.DateTime,
        click.types.UnprocessedParamType,
    )
    return not (option.is_flag or option.opts[0] in COUNTS_AND_SHARES | SECONDS or isinstance(option.type, words))


OPTIONS = [
    pytest.param(command, option.opts[0], id=f"{path} {option.opts[0]}")
    for path, command in commands(vmferry)
    for option in command.params
    if isinstance(option, click.Option) and takes_numbers(option)
]


@pytest.mark.parametrize(("command", "option"), OPTIONS)
@pytest.mark.parametrize("number", ["7", "1.5"])
def test_a_number_without_a_unit_is_refused(command: click.Command, option: str, number: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{number}' (has no unit|is not a duration|is neither)") as refused:
        command.make_context("x", [option, number])
    assert refused.value.param
    assert option in refused.value.param.opts


def test_every_kind_of_quantity_is_among_them() -> None:
    kinds = {str(option.values[1]) for option in OPTIONS}
    assert kinds >= {"--max-bandwidth", "--memory", "--mem", "--rate", "--max-guest-loss", "--finish-by"}
