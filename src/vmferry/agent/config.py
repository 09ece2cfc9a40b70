"""The agent's file: where VMs are, where migrations are remembered, and the rules. Faults are told with their line."""

import re
import socket
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import inspect

from vmferry.agent.rules import Rule
from vmferry.agent.toml_lines import line_of
from vmferry.bounds import one_line
from vmferry.errors import UsageError
from vmferry.experiment.keys import refusal
from vmferry.experiment.quantities import numbers_of, telling

DEFAULT_PATH = Path("/etc/vmferry/agent.toml")
DEFAULT_DATABASE = "sqlite:////var/lib/vmferry/agent.db"
MAX_FILE_BYTES = 4 << 20
_MAX_DAYS = 36500
_PLACE = re.compile(r" at `\$\.?(?P<path>[^`]*)`")
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """What the file says."""

    host: str = ""
    """Goes with everything that is remembered; empty is the host's name. Two agents need two of them."""
    database: str = DEFAULT_DATABASE
    """A URL of SQLAlchemy: `sqlite:///PATH` or `postgresql://...`."""
    keep_days: Annotated[int, msgspec.Meta(ge=1, le=_MAX_DAYS)] = 365
    """How long migrations are remembered."""
    libvirt: tuple[str, ...] = ()
    """URIs whose domains are looked after."""
    sockets: tuple[str, ...] = ()
    """Directories in which every socket is the monitor of a VM, for the agent alone."""
    metrics: str = ""
    """A port at which Prometheus finds the metrics, such as `127.0.0.1:9177`; empty is nowhere."""
    page: str = ""
    """Where the page is: the path of a unix socket, or a port; empty is nowhere."""
    token_file: str = ""
    """The token that it takes to read the page at a port, and metrics at one that other hosts reach."""
    action_token_file: str = ""
    """Another token, that it takes to act by the page; empty is that nobody may."""
    tls_creds: str = ""
    """A directory with `server-cert.pem` and `server-key.pem`, by which ports speak TLS; empty is that they do not."""
    rule: tuple[Rule, ...] = ()

    @property
    def host_name(self) -> str:
        """Return the name of this host."""
        return self.host or socket.gethostname()

    @property
    def counted_rules(self) -> str:
        """Return how many rules there are, in words."""
        return f"{len(self.rule)} rule{'' if len(self.rule) == 1 else 's'}"


def read_config(path: Path) -> Config:
    """Return what a file says. Raises UsageError that names the file, the line and what is allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB, so it is no file of the agent's")
        return parse_config(data.decode(), str(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8, at byte {error.start}") from error


def parse_config(text: str, name: str) -> Config:
    """Return what a text says. Raises UsageError that begins with `name` and the line."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise UsageError(_syntax_fault(name, str(error))) from error
    try:
        return _checked(document)
    except UsageError as error:
        raise UsageError(f"{name}:{line_of(text, _path_in(str(error)))}: {error}") from error


def port_of(address: str) -> tuple[str, int]:
    """Return host and port. Raises UsageError for what is none."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ip_address(host)
        is_port = 0 < int(port) < 1 << 16
    except ValueError:
        is_port = False
    if not is_port:
        raise UsageError(f"'{one_line(address)}' is no port of an address; write one such as 127.0.0.1:9177")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Tell whether a port can be reached from this host only. Raises UsageError for what is none."""
    return ip_address(port_of(address)[0]).is_loopback


def _checked(document: dict[str, Any]) -> Config:
    try:
        config = msgspec.convert(numbers_of(document, inspect.type_info(Config), ""), Config)
    except msgspec.ValidationError as error:
        raise UsageError(refusal(error, Config)) from error
    if config.metrics:
        with telling("metrics"):
            _check_port(config, config.metrics)
    if config.page and not config.page.startswith("/"):
        with telling("page"):
            _check_port(config, config.page)
            if not config.token_file:
                raise UsageError(f"'{config.page}' is open to every user of this host; give a token-file as well")
    for number, rule in enumerate(config.rule):
        rule.check(f"rule[{number}]")
    return config


def _check_port(config: Config, address: str) -> None:
    if not (is_loopback(address) or (config.tls_creds and config.token_file)):
        remedy = "give tls-creds and a token-file as well, or a port of loopback, such as 127.0.0.1:9177"
        raise UsageError(f"'{one_line(address)}' can be reached from other hosts; {remedy}")


def _path_in(fault: str) -> str:
    """Return the path that a fault is about: msgspec tells it at the end, all others at the beginning."""
    place, unknown = _PLACE.search(fault), _UNKNOWN_FIELD.search(fault)
    if place or unknown:
        return ".".join(match[1] for match in (place, unknown) if match)
    return re.split(r": | is ", fault, maxsplit=1)[0]


def _syntax_fault(name: str, fault: str) -> str:
    """Put the line where it stands in all faults."""
    match = re.fullmatch(r"(?P<what>.*) \(at line (?P<line>\d+), column \d+\)", fault)
    return f"{name}:{match['line']}: {match['what']}" if match else f"{name}: {fault}"
