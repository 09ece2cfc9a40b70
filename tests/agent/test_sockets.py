"""Monitors in a directory that cannot be attended to hold up nobody, and are told once."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.agent_web import sources_of
from tests.support.wait import wait_until
from vmferry.agent import sockets
from vmferry.agent.attendants import Attendants
from vmferry.agent.config import Config
from vmferry.agent.explain import explain
from vmferry.agent.log import Log
from vmferry.cancel import CancelToken


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A directory with the sockets of 50 who answer nothing, and of one whose name is not UTF-8."""
    directory = tmp_path / "q"
    directory.mkdir()
    with ExitStack() as stack:
        for name in (*(f"{number}".encode() for number in range(50)), b"\xff"):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.bind(os.fsencode(directory) + b"/" + name)
            one.listen()
        yield directory


def test_why_a_monitor_is_not_attended_to_is_told_once(
    silent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_RETRY_S", 0.01)
    monkeypatch.setattr(sockets, "_LOOK_S", 0.01)
    for number in range(1, 50):
        (silent / str(number)).unlink()
    attendants, said = Attendants(sources_of(f"sqlite:///{tmp_path}/a.db").followers), list[str]()
    attendants.log = Log(lambda level, text, fields: said.append(text))
    attempts = 0
    attend = sockets._SocketAttendant.attend

    def counted(self: sockets._SocketAttendant, cancel: CancelToken) -> None:
        nonlocal attempts
        attempts += 1
        attend(self, cancel)

    monkeypatch.setattr(sockets._SocketAttendant, "attend", counted)
    attendants.begin("directory", lambda cancel: sockets.find_sockets(str(silent), attendants, cancel))
    wait_until(lambda: len(said) == 2 and attempts > 10)
    attendants.close()
    assert any("is not an address" in text for text in said)
    assert any("does not greet" in text for text in said)


def test_all_that_do_not_answer_are_waited_for_at_once(silent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def ask(path: str) -> str:
        nonlocal asked
        asked += 1
        wait_until(lambda: asked == 51)
        return path

    monkeypatch.setattr("vmferry.agent.explain._behind_socket", ask)
    assert len(list(explain(Config(sockets=(str(silent),))))) == 51
