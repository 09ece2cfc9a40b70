"""What a QMP client hears, word for word: the same list is put to our monitor and to a real QEMU."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.monitor.dialogue import (
    AFTER_NEGOTIATION,
    BEFORE_NEGOTIATION,
    STRAY,
    Answers,
    capabilities,
    command,
    setting,
)
from tests.support.memory_vm import MemoryVm
from vmferry.monitor.session import Session

LAST = b'{"execute":"query-name","id":"last"}'
"""Sent after a text; when the answer to it comes, all answers to the text have come."""


class Monitor:
    greeting: dict[str, Any]

    def exchange(self, text: str) -> Any:
        """Return the answers to `text`."""
        return [json.loads(line) for line in self.lines(text.encode())]

    def lines(self, text: bytes) -> list[bytes]:
        """Return the answers to `text` as they are spelled."""
        raise NotImplementedError

    def negotiate(self) -> None:
        assert self.exchange(command("qmp_capabilities")) == [{"return": {}}]


class OurMonitor(Monitor):
    def __init__(self) -> None:
        self._session = Session(MemoryVm())
        self.greeting = json.loads(self._session.greeting())

    def lines(self, text: bytes) -> list[bytes]:
        *answers, last = [said if isinstance(said, bytes) else said() for said in self._session.feed(text + LAST)]
        assert json.loads(last)["id"] == "last"
        return answers


class QemuMonitor(Monitor):
    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(10)
        self._connection.connect(str(path))
        self._file = self._connection.makefile("rb")
        self.greeting = json.loads(self._file.readline())

    def lines(self, text: bytes) -> list[bytes]:
        self._connection.sendall(text + LAST)
        answers = []
        while (answer := json.loads(line := self._file.readline())).get("id") != "last":
            if "event" not in answer:
                answers.append(line)
        return answers

    def close(self) -> None:
        self._file.close()
        self._connection.close()


@pytest.fixture(params=["ours", pytest.param("qemu", marks=pytest.mark.qemu)])
def talker(request: pytest.FixtureRequest) -> Iterator[Monitor]:
    if request.param == "ours":
        yield OurMonitor()
        return
    monitor = QemuMonitor(request.getfixturevalue("qemu_socket"))
    yield monitor
    monitor.close()


def comparable(answers: Answers) -> Answers:
    """Blank out what a lexer shows a stray byte with."""
    return [
        {"error": {"class": "GenericError", "desc": STRAY}} if STRAY in str(answer) else answer for answer in answers
    ]


def test_the_answers_are_those_of_qemu(talker: Monitor) -> None:
    for text, expected in BEFORE_NEGOTIATION:
        assert comparable(talker.exchange(text)) == expected, text
    talker.negotiate()
    for text, expected in AFTER_NEGOTIATION:
        assert comparable(talker.exchange(text)) == expected, text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b'{"execute":"stop"}', b'{"return": {}}'),
        (b'{"execute":"stop","id":[1,{"a":null}]}', b'{"return": {}, "id": [1, {"a": null}]}'),
        ('{"execute":"stop","id":"\u00e9😀\x7f/\\u0001"}'.encode(),
         b'{"return": {}, "id": "\\u00E9\\uD83D\\uDE00\\u007F/\\u0001"}'),
        (b'{"execute":"stop","id":"\x7f"}', b'{"return": {}, "id": "\\u007F"}'),
        (b'{"execute":"\xc3("}', b'{"error": {"class": "GenericError", "desc": '
         b'"JSON parse error, invalid UTF-8 sequence in string"}}'),
    ],
)  # fmt: skip
def test_answers_are_spelled_as_qemu_spells_them(talker: Monitor, text: bytes, answer: bytes) -> None:
    talker.negotiate()
    assert talker.lines(text) == [answer + b"\r\n"]


def test_the_greeting_has_the_shape_of_qemus(talker: Monitor) -> None:
    version = talker.greeting["QMP"]["version"]
    assert set(talker.greeting["QMP"]) == {"version", "capabilities"}
    assert set(version) == {"qemu", "package"}
    assert set(version["qemu"]) == {"major", "minor", "micro"}


def test_values_that_were_set_are_reported(talker: Monitor) -> None:
    talker.negotiate()
    talker.exchange(setting(downtime_limit=1234, max_bandwidth=2**64 - 1, cpu_throttle_tailslow=True))
    talker.exchange(capabilities({"capability": "events", "state": True}))
    (reported,) = talker.exchange(command("query-migrate-parameters"))
    values = {"downtime-limit": 1234, "max-bandwidth": 2**64 - 1, "cpu-throttle-tailslow": True}
    assert values.items() <= reported["return"].items()
    (reported,) = talker.exchange(command("query-migrate-capabilities"))
    assert {"capability": "events", "state": True} in reported["return"]


def test_the_vm_is_described_in_the_same_shape(talker: Monitor) -> None:
    talker.negotiate()
    (version,) = talker.exchange(command("query-version"))
    assert version["return"] == talker.greeting["QMP"]["version"]
    for state, running in (("stop", False), ("cont", True)):
        talker.exchange(command(state))
        (status,) = talker.exchange(command("query-status"))
        assert status["return"]["running"] is running
        assert status["return"]["status"] == ("running" if running else "paused")
    (commands,) = talker.exchange(command("query-commands"))
    names = {item["name"] for item in commands["return"]}
    assert {"query-commands", "qmp_capabilities", "migrate", "migrate_cancel", "query-migrate"} <= names


PIECES = ["{", "}", "[", "]", "[", "]", ":", ",", '"a"', "'b'", '"\\', '"', " ", "\n", "\t", "@", "\x7f", "\x01"]
WORDS = ["12 ", "true ", "nul ", "-1.5 "]


@pytest.mark.qemu
@settings(max_examples=300, deadline=None)
@given(noise=st.lists(st.sampled_from(PIECES + WORDS), max_size=12).map("".join))
def test_noise_is_answered_as_qemu_answers_it(qemu_socket: Path, noise: str) -> None:
    ours, qemu = OurMonitor(), QemuMonitor(qemu_socket)
    ours.negotiate()  # before that, nobody who talks so is listened to here
    qemu.negotiate()
    # Control characters between the noise and what comes after it bring both back to their senses.
    answers, expected = ours.exchange(noise + "\x01\x01"), qemu.exchange(noise + "\x01\x01")
    qemu.close()
    assert comparable(answers) == comparable(expected)
