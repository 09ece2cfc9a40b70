"""Talks nonsense to a monitor, for long: does it answer everything, and stay as small as it was?

    python -m bench.fuzz_qmp [--messages 100000] [--seed 1] [--kvm]

A server with a VM in memory, or a real VM with --kvm, runs in a process of its own, in a directory of its own.
First, every argument of every command in the schema that the server itself describes is given every hostile value,
while the others are right; then messages are made by chance, most of them damaged. Every line that comes back must be
QMP and tell of no defect, and the memory of the server must not grow once it is warm. Exit code 1 if one of this is
not so.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tests.support.memory_vm import MemoryVm

from vmferry.client.qmp_client import QmpClient
from vmferry.errors import MonitorError
from vmferry.monitor.hmp_commands import HMP_COMMANDS, INFO_COMMANDS
from vmferry.monitor.server import MonitorServer

MAX_GROWTH_KIB = 4096
_BATCH_MESSAGES = 50
_ENDING = ("quit", "q")
"""A real VM obeys."""
_HMP_WORDS = [command.name for command in (*HMP_COMMANDS, *INFO_COMMANDS)] + ["on", "off", "1M", "-d", '"', "tcp:h:1"]
_WORDS = ["", "tcp:127.0.0.1:1", "unix:x", "é\u0000\U0001f600", "a\0b", "memory", "fifo", ".", "no/where", "x" * 5000]
_WORDS += [
    "tcp:a\0b:1",
    "unix:a\0b",
    "tcp:" + "x" * 300 + ":1",
    "unix:" + "x" * 300,
    "auto-converge",
    "events",
    "\ud800",
]
_NUMBERS = [0, 1, -1, 99, 100, 4096, 2**63, 2**64, 10**400, 0.5, 1e300]
_HOSTILE = [*_WORDS, *_NUMBERS, None, True, [], {}, [[[0]] * 3], {"a": {"b": [None]}}, [1] * 1000]
_PLAUSIBLE = {"string": "memory", "int": 1, "number": 1, "boolean": True, "null": None, "value": 1}
_DIRT = [b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b"\xff", b"\x00", b"\n", b"[" * 20, b"1e999", b"NaN"]
_DIRT += [b"\\ud800", b"\\u0000", b"9" * 5000, b'{"a":' * 70, b"null"]
_START_TIMEOUT_S = 30
_DEFECT = b"has a defect"

Schema = dict[str, dict[str, Any]]


class Talk:
    """Makes messages by chance, always the same ones for a seed."""

    def __init__(self, schema: Schema, seed: int, without: Collection[str]) -> None:
        self._schema = schema
        self._random = random.Random(seed)
        self._commands = [
            name for name, entry in schema.items() if entry["meta-type"] == "command" and name not in without
        ]
        self._lines = [word for word in _HMP_WORDS if word not in without]

    def hostile(self) -> Iterator[bytes]:
        """Yield a message for each command, argument and hostile value."""
        for name in self._commands:
            argument_type = self._schema[name]["arg-type"]
            plausible = self._plausible(argument_type)
            for value in _HOSTILE:
                yield _encode(name, value)
                for member in self._schema[argument_type]["members"]:
                    yield _encode(name, plausible | {member["name"]: value})

    def _plausible(self, type_name: str) -> Any:
        """Return a value of a type; an object without what may be left out."""
        entry = self._schema[type_name]
        match entry["meta-type"]:
            case "enum":
                return entry["values"][0]
            case "array":
                return [self._plausible(entry["element-type"])]
            case "alternate":
                return self._plausible(entry["members"][0]["type"])
            case "object":
                needed = [member for member in entry["members"] if "default" not in member]
                return {member["name"]: self._plausible(member["type"]) for member in needed}
            case _:
                return _PLAUSIBLE[entry["json-type"]]

    def message(self) -> bytes:
        """Return a message that is right, slightly damaged, or hopeless."""
        text = json.dumps(self._request()).encode()
        for _ in range(self._random.choice((0, 1, 1, 2, 10))):
            text = self._damage(text)
        return text + self._random.choice((b"", b"\n", b" "))

    def _request(self) -> dict[str, Any]:
        name = self._random.choice(self._commands)
        arguments = self._value(self._schema[name]["arg-type"])
        if name == "human-monitor-command":
            arguments["command-line"] = " ".join(self._random.choices(self._lines, k=self._random.randrange(5)))
        return {"execute": name, "arguments": arguments, "id": self._random.choice((1, "x", None, [{}], 2**70))}

    def _value(self, type_name: str) -> Any:
        entry = self._schema[type_name]
        match entry["meta-type"]:
            case "enum":
                return self._random.choice(entry["values"])
            case "array":
                return [self._value(entry["element-type"]) for _ in range(self._random.randrange(3))]
            case "alternate":
                return self._value(self._random.choice(entry["members"])["type"])
            case "object":
                chosen = [
                    member for member in entry["members"] if "default" not in member or self._random.random() < 0.4
                ]
                chosen = self._random.choice((chosen, chosen, chosen, chosen[1:]))
                return {member["name"]: self._value(member["type"]) for member in chosen}
            case _:
                return self._scalar(entry["json-type"])

    def _share(self, member: dict[str, Any]) -> float:
        """Return how often a member is there: most of the time, unless it may be left out."""
        return 0.4 if "default" in member else 0.9

    def _scalar(self, json_type: str) -> object:
        if self._random.random() < 0.1:
            json_type = self._random.choice(("string", "number", "boolean", "null"))
        match json_type:
            case "string":
                return self._random.choice(_WORDS)
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
            case _:
                return self._random.choice(_NUMBERS)

    def _damage(self, text: bytes) -> bytes:
        start = self._random.randrange(len(text) + 1)
        end = start + self._random.choice((0, 0, 1, 1, 5, 50))
        dirt = self._random.choice(
            (b"", self._random.choice(_DIRT), bytes([self._random.randrange(256)]), text[:start])
        )
        return text[:start] + dirt + text[end:]


def _encode(name: str, arguments: object) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode()


class Connection:
    """A raw connection, which is made anew whenever the monitor has had enough."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.connections = 0
        self.answers = 0
        self._connect()

    def exchange(self, messages: bytes) -> None:
        """Send these and read all answers to them. Raises ValueError for a line that is no QMP."""
        try:
            # 0xFF and a line end bring the monitor back to its senses, whatever came before.
            self._socket.sendall(messages + b'\n\xff\n{"execute":"query-name","id":"last"}')
            while self._read_line().get("id") != "last":
                self.answers += 1
        except ConnectionError:
            self._socket.close()
            self._connect()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def _connect(self) -> None:
        self.connections += 1
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(self._path))
        self._file = self._socket.makefile("rb")
        self._read_line()
        self._socket.sendall(b'{"execute":"qmp_capabilities"}')
        self._read_line()

    def _read_line(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise ConnectionResetError
        answer = json.loads(line)
        if not isinstance(answer, dict) or not answer.keys() & {"QMP", "return", "error", "event"}:
            raise ValueError(f"not QMP: {line[:200]!r}")
        if _DEFECT in line:
            raise ValueError(f"a defect: {line[:200]!r}")
        return answer


def connect(path: Path) -> QmpClient:
    """Return a client of a monitor that is about to be served."""
    end_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            return QmpClient.connect(str(path))
        except MonitorError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.01)


def fuzz(path: Path, messages: int, seed: int, without: Collection[str], rss_kib: Callable[[], int]) -> int:
    """Send that many messages and return by how many KiB the server has grown since a tenth of them."""
    with connect(path) as client:
        schema = {entry["name"]: entry for entry in client.execute("query-qmp-schema")}
    talk, connection = Talk(schema, seed, without), Connection(path)
    hostile = list(talk.hostile())
    for start in range(0, len(hostile), _BATCH_MESSAGES):
        connection.exchange(b"".join(hostile[start : start + _BATCH_MESSAGES]))
    start_s, sent, warm_kib = time.monotonic(), 0, 0
    while sent < messages:
        connection.exchange(b"".join(talk.message() for _ in range(_BATCH_MESSAGES)))
        sent += _BATCH_MESSAGES
        if not warm_kib and sent >= messages // 10:
            warm_kib = rss_kib()
    connection.close()
    rate = sent / (time.monotonic() - start_s)
    growth_kib = rss_kib() - warm_kib
    print(
        f"{len(hostile)} hostile messages and {sent} by chance ({rate:.0f}/s, seed {seed}), "
        f"{connection.answers} answers, {connection.connections} connections, "
        f"{warm_kib} KiB when warm, {growth_kib:+} KiB at the end"
    )
    return growth_kib


def serve(path: str) -> None:
    """Serve a VM in memory, for ever."""

    async def run() -> None:
        await MonitorServer(MemoryVm(), f"unix:{path}").start()
        await asyncio.Event().wait()

    asyncio.run(run())


def read_rss_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kvm", action="store_true")
    options = parser.parse_args()
    in_memory = [sys.executable, "-c", "import sys; from bench.fuzz_qmp import serve; serve(sys.argv[1])"]
    real = [sys.executable, "-m", "vmferry", "vm", "--memory", "16M", "--qmp"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "qmp"
        command = [*real, f"unix:{path}"] if options.kvm else [*in_memory, str(path)]
        os.mkfifo(Path(directory) / "fifo")
        with subprocess.Popen(command, cwd=directory, env=os.environ | {"PYTHONPATH": os.getcwd()}) as server:
            try:
                without = _ENDING if options.kvm else ()
                growth_kib = fuzz(path, options.messages, options.seed, without, lambda: read_rss_kib(server.pid))
                return 0 if server.poll() is None and growth_kib <= MAX_GROWTH_KIB else 1
            finally:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main())
