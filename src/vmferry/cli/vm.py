"""`vmferry vm`: run a virtual machine on KVM."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import click

from vmferry.bounds import parse_uuid
from vmferry.cli.log_option import LOG, STDERR
from vmferry.cli.policy_options import policy_option
from vmferry.cli.types import FILE_OR_NONE, SIZE_WITH_UNIT
from vmferry.convergence.policies.registry import load_policy
from vmferry.errors import UsageError
from vmferry.guests.payload import STRESS_ELF
from vmferry.migration.trace import TRACE_EVENTS, matching_events
from vmferry.monitor.server import MonitorEndpoint
from vmferry.vm.process import VmConfig, run_vm

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("vm", short_help="Run a virtual machine on KVM.")
@click.option("--memory", type=SIZE_WITH_UNIT, default="512M", show_default=True, help="Guest memory, such as 1G.")
@click.option(
    "--prealloc",
    is_flag=True,
    help="Take all guest memory from the host at once, in huge pages where it has them, so that no page faults slow an "
    "incoming migration down.",
)
@click.option("--cpus", type=click.IntRange(1, 255), default=1, show_default=True, help="Number of vCPUs.")
@click.option(
    "--kernel", type=_FILE, help="ELF image with a PVH entry to boot; the stress payload that comes along if left out."
)
@click.option("--append", default="", help="Kernel command line; for the stress payload such as 'ramsize=400'.")
@click.option(
    "--qmp",
    "monitors",
    multiple=True,
    help="Serve QMP at unix:PATH or tcp:HOST:PORT[,tls-creds=DIRECTORY]; may be repeated.",
)
@click.option("--serial", default="null", show_default=True, help="Where serial output goes: null, stdio or file:PATH.")
@click.option("--incoming", help="Wait for a guest at tcp:HOST:PORT or unix:PATH; 'defer' to be told over QMP.")
@click.option(
    "--token-file",
    type=FILE_OR_NONE,
    default="",
    help="Take a guest only from a source that knows the secret in this file, and send it only to such a destination.",
)
@click.option(
    "--tls-creds",
    type=FILE_OR_NONE,
    default="",
    help="Migrate with TLS, with the certificates in this directory; see `vmferry certs`.",
)
@click.option("--tls-hostname", default="", help="Name that the destination's certificate must be for.")
@click.option("--tls-authz", default="", help="Take a guest only from sources with one of these names: NAME,NAME.")
@click.option("--require-tls", is_flag=True, help="Refuse every migration without TLS.")
@policy_option("Let `migrate --policy` name this policy; repeatable.", repeatable=True)
@click.option("--journal", type=_FILE, help="Record migrations in this file, which is continued if it is there.")
@click.option(
    "--trace",
    "patterns",
    multiple=True,
    help="Print trace events that match this name or pattern; 'help' lists them; may be repeated.",
)
@click.option("--name", default="", help="Name of the VM.")
@click.option("--uuid", default="", help="UUID of the VM; random if left out.")
@click.option("--paused", is_flag=True, help="Do not let the guest run before 'cont'.")
@click.pass_context
def command(
    context: click.Context,
    /,
    memory: int,
    prealloc: bool,
    cpus: int,
    kernel: Path | None,
    append: str,
    monitors: tuple[str, ...],
    serial: str,
    incoming: str | None,
    token_file: str,
    tls_creds: str,
    tls_hostname: str,
    tls_authz: str,
    require_tls: bool,
    policies: tuple[str, ...],
    journal: Path | None,
    patterns: tuple[str, ...],
    name: str,
    uuid: str,
    paused: bool,
) -> None:
    """Run a virtual machine until its monitor says quit, or a signal ends it.

    The stress payload rewrites memory for ever: --append 'ramsize=MIB pattern=sweep|moving|uniform|hot-spot|read';
    docs/payload.md tells all that it can be. The number of vCPUs is added for it.

    With --incoming, the guest comes from another VM of the same memory size and number of vCPUs. A migration that
    fails is told in one line, and the wait for a guest goes on.
    """
    if "help" in patterns:
        click.echo(trace_help())
        return
    if incoming and (kernel or append):
        raise UsageError("--incoming brings a running guest along; leave out --kernel and --append")
    for policy in policies:
        load_policy(policy)
    image = None if incoming else kernel or STRESS_ELF
    line = f"{append} cpus={cpus}" if image == STRESS_ELF else append
    config = VmConfig(
        memory_bytes=memory,
        vcpu_count=cpus,
        kernel=image,
        command_line=line,
        monitors=tuple(MonitorEndpoint(address) for address in monitors),
        serial=serial,
        incoming=incoming,
        parameters={
            "token-file": token_file,
            "tls-creds": tls_creds,
            "tls-hostname": tls_hostname,
            "tls-authz": tls_authz,
        },
        require_tls=require_tls,
        journal=journal,
        trace=traced_events(patterns),
        name=name,
        uuid=parse_uuid(uuid) if uuid else str(uuid4()),
        start_paused=paused,
        prealloc=prealloc,
    )
    if STDERR.is_json:
        config = replace(config, log=LOG.info, write_trace=partial(LOG.info, trace=True))
    context.exit(run_vm(config))


def trace_help() -> str:
    """Return a line for each trace event."""
    return "\n".join(f"{event.name:41}{event.help}" for event in TRACE_EVENTS)


def traced_events(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the trace events that match. Raises UsageError for a pattern that matches none."""
    for pattern in patterns:
        if not matching_events(pattern):
            raise UsageError(f"no trace event is called '{pattern}'; --trace help lists them")
    return tuple(name for pattern in patterns for name in matching_events(pattern))
