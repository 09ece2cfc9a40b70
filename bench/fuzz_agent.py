"""Gives the agent nonsense, for long: rule files, HTTP requests, and names of VMs that are markup.

    python -m bench.fuzz_agent [--cases 1000000] [--seed 1]

| kind | a case | what has to be true of it |
|---|---|---|
| rules | the text of a file, mostly a good one, damaged | it is read, or refused in a line that names the file |
| metrics | the name of a VM that migrates | Prometheus' own parser reads that name, and no other |
| names | the name of a VM | in logs it is on one line, in CSV no formula, and any rule can meet it |
| pages | the label of a migration in a report | the page has the elements that it has with a harmless one |
| http | an odd request to the page | no fault of the server; nothing told without the token; no page made of it |

The same seed makes the same cases. Exit code 1 with the first case of which it is not so.
"""

import asyncio
import csv
import io
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from html.parser import HTMLParser
from typing import Any, NamedTuple

import click
import msgspec
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from tests.agent.test_memory import STARTED, complete, facts, remembering
from tests.agent.test_metrics import live
from tests.support.agent_web import ACT_TOKEN, READ_TOKEN, sources_of

from vmferry.agent.config import parse_config
from vmferry.agent.log import Log, as_json, as_text
from vmferry.agent.metrics import Metrics
from vmferry.agent.rules import Rule, Vm, holding
from vmferry.agent.web.access import Access
from vmferry.agent.web.app import application
from vmferry.agent.web.table import table_of
from vmferry.bounds import one_line
from vmferry.cli.history import cell
from vmferry.errors import UsageError
from vmferry.migration.journal import Entry
from vmferry.report.journal_runs import run_series
from vmferry.report.page import Section, page

_GOOD = """\
libvirt = ["qemu:///system"]
sockets = ["/run/vms"]
metrics = "127.0.0.1:9177"
keep-days = 30

[[rule]]
name = "db-*"
mode = "steer"
variant = "planned"
pace = "gentle"
finish-by = "10min"
max-guest-loss = "30%"

[[rule]]
tag = "batch"
uuid = "5f1a2c66-0a8e-4a39-9d5e-9a8a4f2f8d11"
policy = "kubevirt"
set = { allow_workload_disruption = true }
max-downtime = "300ms"
on-limit = "continue"
"""
_DIRT = [
    *("", "[", "]", "[[", "{", "}", '"', "'", '"""', "=", ".", ",", "#", "\n", "\r", "\0", "\\u0000", "\\", "é"),
    *("[[rule]]\n", "rule", "rule.rule = 1\n", "1e999", "-1", "nan", "inf", "1979-05-27", "true", "9" * 400, "[" * 300),
]
_MARKUP = [
    *("<script>alert(1)</script>", "</script>", "<!--", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "<", ">", "&"),
    *(
        "\0",
        "\x1b[31m",
        "\n",
        "\r",
        "\t",
        "\\",
        "\\n",
        "\u202e",
        "\u2028",
        "\ud800",
        "{}",
        "${x}",
        "{{x}}",
        "`",
        '"',
        "'",
    ),
    *("=cmd|' /C'!A0", "+1", "-1", "@x", "\uff1d1", "a", "db-1", "é", "\U0001f600", " ", "/", "../", "%00", "%3Cb%3E"),
    *("x" * 300, "javascript:alert(1)"),
]
_METHODS = ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", ""]
_HEADERS = [
    *(
        "authorization",
        "accept",
        "host",
        "origin",
        "cookie",
        "content-type",
        "content-length",
        "last-event-id",
        "range",
    ),
    "x",
]
_NAMES_PER_PAGE = 200
_PER_ROUND = 500
_PATIENCE_S = 20.0


class WrongError(Exception):
    """Something is not true of a case."""


class Kind(NamedTuple):
    """A kind of cases."""

    share: float
    """Of all cases."""
    run: Callable[[random.Random, int], Counter[str]]
    """Tries so many, and returns how many came to what."""


def damaged(chance: random.Random, text: str, dirt: list[str]) -> str:
    """Return a text with some of it cut out, put in or said twice."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        start = chance.randrange(len(text) + 1)
        end = start + chance.choice((0, 0, 1, 3, 30))
        put_in = chance.choice((chance.choice(dirt), chr(chance.randrange(0x3000)), text[start : start + 20]))
        text = text[:start] + put_in + text[end:]
    return text


def hostile_name(chance: random.Random) -> str:
    """Return a name of markup, controls, and what spreadsheets and templates heed."""
    return "".join(chance.choices(_MARKUP, k=chance.choice((1, 2, 3, 6))))


def rules(chance: random.Random, count: int) -> Counter[str]:
    """Read files."""
    seen: Counter[str] = Counter()
    for _ in range(count):
        text = damaged(chance, _GOOD, _DIRT) if chance.random() < 0.95 else "".join(chance.choices(_DIRT, k=20))
        try:
            parse_config(text, "agent.toml")
            seen["read"] += 1
        except UsageError as error:
            _require(str(error).startswith("agent.toml") and len(one_line(str(error))) < 10_000, text)
            seen["refused"] += 1
    return seen


def metrics(chance: random.Random, count: int) -> Counter[str]:
    """Show names on the page of metrics, some hundreds at a time."""
    seen: Counter[str] = Counter()
    while sum(seen.values()) < count:
        names = [hostile_name(chance) for _ in range(min(_PER_ROUND, count - sum(seen.values())))]
        running = [live(name) for name in names]
        text = generate_latest(Metrics(lambda running=running: running).registry).decode()  # type: ignore[misc]
        families = {family.name: family for family in text_string_to_metric_families(text)}
        found = {sample.labels["domain"] for sample in families["libvirt_domain_job_mem_total_bytes"].samples}
        _require(found == {one_line(name) for name in names}, names)
        seen["told"] += len(names)
    return seen


def names(chance: random.Random, count: int) -> Counter[str]:
    """Say names in every form but in pages."""
    every = [Rule(name=pattern) for pattern in ("*", "[", "a[!-b]*", "\\")]
    for _ in range(count):
        name = hostile_name(chance)
        said = io.StringIO()
        with redirect_stderr(said):
            for sink in (as_text, as_json):
                Log(sink).of(vm=name).info(name)
        lines = said.getvalue().split("\n")
        _require(len(lines) == 3 and all(line.isprintable() for line in lines), name)
        _require(msgspec.json.decode(lines[1])["vm"] == one_line(name), name)
        _require(holding(every, Vm(name, "")).number == 1, name)
        out = io.StringIO()
        csv.writer(out).writerow([cell(name)])
        (read,) = next(csv.reader(io.StringIO(out.getvalue(), newline="")))
        _require(not read.startswith(tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")), name)
    return Counter(said=count)


class _Elements(HTMLParser):
    """Collects the elements of a page and the names of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}",))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment",))


def pages(chance: random.Random, count: int) -> Counter[str]:
    """Make reports of migrations with such names."""
    harmless: dict[int, list[tuple[str, ...]]] = {}
    for done in range(0, count, _NAMES_PER_PAGE):
        size = min(_NAMES_PER_PAGE, count - done)
        if size not in harmless:
            harmless[size] = _elements(["x"] * size)
        labels = [hostile_name(chance) for _ in range(size)]
        _require(_elements(labels) == harmless[size], labels)
    return Counter(shown=count)


def _elements(labels: list[str]) -> list[tuple[str, ...]]:
    runs = [run_series([Entry(0, STARTED)], f"{number} {label}") for number, label in enumerate(labels)]
    return _Elements(page(labels[0], [Section(labels[0], runs)])).found


def http(chance: random.Random, count: int) -> Counter[str]:
    """Ask the page, with the token and without."""
    with _web() as (open_to_all, guarded, paths):
        return asyncio.run(_ask_all(chance, count, open_to_all, guarded, paths))


async def _ask_all(
    chance: random.Random, count: int, open_to_all: Starlette, guarded: Starlette, paths: list[str]
) -> Counter[str]:
    seen: Counter[str] = Counter()
    for _ in range(count):
        web = chance.choice((open_to_all, guarded))
        scope, body = _request(chance, paths)
        try:
            status, headers, text = await asyncio.wait_for(_ask(web, scope, body), _PATIENCE_S)
        except Exception as error:
            raise WrongError(f"{error!r} of {scope}") from error
        _require(status < 500 or status == 503, (status, scope))
        _require(b"x-content-type-options" in headers, scope)
        _require(web is open_to_all or (status == 401 and b"db" not in text), scope)
        if headers.get(b"content-type", b"").startswith(b"text/html"):
            _require(b"alert(1)" not in text, scope)
        seen[str(status)] += 1
    return seen


def _request(chance: random.Random, paths: list[str]) -> tuple[dict[str, Any], bytes]:
    path = chance.choice(paths)
    if chance.random() < 0.5:
        path = damaged(chance, path, _MARKUP)
    words = ("vm", "status", "host", "x")
    query = "&".join(f"{chance.choice(words)}={hostile_name(chance)}" for _ in range(chance.randrange(3)))
    headers = [
        (chance.choice(_HEADERS).encode(), hostile_name(chance).encode(errors="replace"))
        for _ in range(chance.randrange(4))
    ]
    if chance.random() < 0.2:
        given = chance.choice((b"Bearer ", b"Basic ", b"Basic eDp5", b"Bearer " + b"x" * 5000))
        headers.append((b"authorization", given))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": chance.choice(_METHODS),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(errors="replace"),
        "query_string": query.encode(errors="replace"),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    return scope, hostile_name(chance).encode(errors="replace")


async def _ask(web: Starlette, scope: dict[str, Any], body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body of the answer to a client that hangs up once it has asked."""
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        return next(parts, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    await web(scope, receive, send)
    begin: dict[str, Any] = sent[0] if sent else {"status": 499, "headers": [(b"x-content-type-options", b"")]}
    return begin["status"], dict(begin["headers"]), b"".join(part.get("body", b"") for part in sent[1:])


@contextmanager
def _web() -> Iterator[tuple[Starlette, Starlette, list[str]]]:
    """Yield what an agent shows that remembers two migrations, to everybody and to who has the token; and its paths."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/agent.db"
        with remembering(url) as memory:
            for name in ("db-1", "<b>db"):
                recording = memory.begin(facts(Vm(name, name)))
                recording.record(1, STARTED)
                complete(recording)
        table, silent = table_of(sources_of(url, [live(), live("<b>db")])), Log(lambda level, text, fields: None)
        open_to_all, guarded = (application(table, Access(token, ACT_TOKEN), silent) for token in (None, READ_TOKEN))
        yield open_to_all, guarded, ["/none", *(re.sub(r"{[^}]*}", "1", one.path) for one in table)]


def _require(true: bool, case: object) -> None:
    if not true:
        raise WrongError(repr(case))


KINDS = {
    "rules": Kind(0.15, rules),
    "metrics": Kind(0.35, metrics),
    "names": Kind(0.47, names),
    "pages": Kind(0.01, pages),
    "http": Kind(0.02, http),
}


def fuzz(cases: int, seed: int) -> Iterator[str]:
    """Try so many cases in all, and yield a line for each kind. Raises WrongError with the first case that is."""
    for name, kind in KINDS.items():
        count, start_s = max(1, round(cases * kind.share)), time.monotonic()
        seen = kind.run(random.Random(f"{seed} {name}"), count)
        told = ", ".join(f"{what} {number}" for what, number in sorted(seen.items()))
        yield f"{name}: {count} cases in {time.monotonic() - start_s:.0f} s: {told}"


@click.command()
@click.option("--cases", default=1_000_000, show_default=True, help="How many in all.")
@click.option("--seed", default=1, show_default=True, help="The same makes the same cases.")
def main(cases: int, seed: int) -> None:
    """Give the agent nonsense: rule files, HTTP requests, and names that are markup."""
    try:
        for line in fuzz(cases, seed):
            click.echo(line)
    except WrongError as case:
        click.echo(f"not as it should be: {case}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
