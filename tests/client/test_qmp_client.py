import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_vm import MemoryVm
from tests.support.monitor_thread import monitor_thread
from tests.support.ports import free_port
from tests.support.qemu import qemu_without_guest
from tests.support.wait import wait_until
from vmferry.client import qmp_client
from vmferry.client.qmp_client import QmpClient
from vmferry.errors import CommandError, MonitorError, UsageError

GREETING = b'{"QMP":{"version":{"qemu":{"major":9,"minor":0,"micro":0},"package":""},"capabilities":[]}}\r\n'
NEGOTIATED = b'{"return":{},"id":1}\r\n'


@contextmanager
def impostor(path: Path, *says: bytes, hang_up: bool = True) -> Iterator[None]:
    """Something that says these things, one after each thing it hears, and then hangs up or keeps quiet."""
    ended = threading.Event()

    def talk() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            for piece in says:
                connection.sendall(piece)
                connection.recv(65536)
            if not hang_up:
                ended.wait()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def test_commands_are_answered(client: QmpClient) -> None:
    assert client.execute("query-status") == {"running": True, "status": "running"}
    assert client.execute("migrate-set-parameters", {"downtime-limit": 77}) == {}
    assert client.execute("query-migrate-parameters")["downtime-limit"] == 77
    assert client.greeting["version"] == client.execute("query-version")


def test_a_refusal_has_its_text_and_class(client: QmpClient) -> None:
    with pytest.raises(CommandError, match=r"^Parameter 'uri' is missing$") as refusal:
        client.execute("migrate")
    assert refusal.value.error_class == "GenericError"
    with pytest.raises(CommandError) as refusal:
        client.execute("device_add")
    assert refusal.value.error_class == "CommandNotFound"
    assert client.execute("query-status")["running"]


def test_events_wait_for_whoever_asks(client: QmpClient) -> None:
    for command in ("stop", "cont", "stop"):
        client.execute(command)
    assert client.wait_event("RESUME", 60).name == "RESUME"
    assert [event.name for event in client.take_events()] == ["STOP"]
    assert client.take_events() == []


def test_an_event_can_be_waited_for(vm: MemoryVm, path: Path) -> None:
    with monitor_thread(vm, f"unix:{path}") as call, QmpClient.connect(str(path), 10) as client:
        call(lambda: vm.events.emit("MIGRATION", status="active"))
        event = client.wait_event("MIGRATION", 60)
        assert event.data == {"status": "active"}
        assert event.time_s > 1e9


def test_an_event_that_does_not_come_is_an_error(client: QmpClient) -> None:
    with pytest.raises(MonitorError, match=r"no RESUME event in 0\.05 s"):
        client.wait_event("RESUME", 0.05)
    assert client.execute("query-status")["running"]


def test_events_nobody_waits_for_do_not_pile_up(client: QmpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(qmp_client.MAX_KEPT_EVENTS):
        client.execute("stop")
        client.execute("cont")
    assert len(client.take_events()) == qmp_client.MAX_KEPT_EVENTS


def test_tcp_works_too(vm: MemoryVm) -> None:
    address = f"tcp:127.0.0.1:{free_port()}"
    with monitor_thread(vm, address), QmpClient.connect(address, 10) as client:
        assert client.execute("query-name") == {"name": vm.name}


def test_a_late_answer_is_not_taken_for_the_next_one(path: Path) -> None:
    late = b'{"return":{"name":"late"},"id":2}\n{"return":{"name":"in time"},"id":3}\n'
    with impostor(path, GREETING, NEGOTIATED, b"", late, hang_up=False), QmpClient.connect(str(path), 10) as client:
        client._timeout_s = 0.1
        with pytest.raises(MonitorError, match="does not answer query-name"):
            client.execute("query-name")
        client._timeout_s = 10
        assert client.execute("query-name") == {"name": "in time"}


def test_nobody_there(path: Path) -> None:
    with pytest.raises(MonitorError, match=r"cannot reach the monitor at unix:.*No such file.*does the VM run\?"):
        QmpClient.connect(str(path), 10)


def test_a_refused_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(MonitorError, match="Connection refused"):
            QmpClient.connect(f"tcp:127.0.0.1:{port}", 10)


def test_what_is_no_address() -> None:
    with pytest.raises(UsageError, match="not an address"):
        QmpClient.connect("nonsense", 10)


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"[]\n",
        b"{}\n",
        b'{"QMP":1}\n',
        b'{"event":1}\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"a":' + b"[" * 100_000 + b"\n",
    ],
)
def test_what_greets_otherwise_is_no_monitor(path: Path, greeting: bytes) -> None:
    with impostor(path, greeting), pytest.raises(MonitorError, match="no QMP monitor"):
        QmpClient.connect(str(path), 10)


@pytest.mark.parametrize("answer", [b'{"error":"no"}\n', b'{"error":{"class":1,"desc":""}}\n', b"{}\n"])
def test_answers_that_make_no_sense_are_an_error(path: Path, answer: bytes) -> None:
    with impostor(path, GREETING, answer), pytest.raises(MonitorError, match="no QMP monitor"):
        QmpClient.connect(str(path), 10)


def test_an_answer_of_another_kind_is_an_error(path: Path) -> None:
    with impostor(path, GREETING, NEGOTIATED, b'{"return":[{"thread-id":"x"}],"id":2}\n'):
        client = QmpClient.connect(str(path), 10)
        with client, pytest.raises(MonitorError, match=r"query-cpus-fast: Expected `int`, got `str`.*thread-id"):
            client.execute("query-cpus-fast")


def test_an_endless_message_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp_client, "MAX_MESSAGE_BYTES", 1000)
    with impostor(path, b'{"QMP":"' + b"x" * 100_000, hang_up=False), pytest.raises(MonitorError, match="no QMP"):
        QmpClient.connect(str(path), 10)


def test_a_monitor_that_goes_away_is_an_error(path: Path) -> None:
    with impostor(path, GREETING, NEGOTIATED), QmpClient.connect(str(path), 10) as client:
        with pytest.raises(MonitorError, match="closed the connection"):
            client.execute("query-status")
        with pytest.raises(MonitorError, match="is gone"):
            client.execute("query-status")


def test_a_monitor_that_says_nothing_is_an_error(path: Path) -> None:
    with impostor(path, hang_up=False), pytest.raises(MonitorError, match=r"does not greet, though no other client"):
        QmpClient.connect(str(path), 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"tcp:127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(MonitorError, match=f"nothing at {address} greets .*; another client may be connected"):
            QmpClient.connect(address, 0.05)


def test_while_another_client_is_connected_nothing_is_sent(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(path))
        listener.listen(1)
        other.connect(str(path))
        served, _ = listener.accept()
        with served, pytest.raises(MonitorError, match="another client is connected to the monitor at unix:"):
            QmpClient.connect(str(path), 0.05)
        given_up, _ = listener.accept()
        with given_up:
            assert given_up.recv(100) == b"", "nothing happens later"


def test_a_full_queue_is_not_waited_for_for_ever(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as waiting:
        listener.bind(str(path))
        listener.listen(1)
        for _ in range(2):
            waiting.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        with pytest.raises(MonitorError, match=r"queue of the monitor at unix:.* is full: another client is connected"):
            QmpClient.connect(str(path), 0.05)


SERVE = f"""
import os, signal, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen()
os.rename(sys.argv[1] + ".new", sys.argv[1])
if sys.argv[2:]:
    connection, _ = listener.accept()
    connection.sendall({GREETING!r})
    connection.recv(1000)
    connection.sendall({NEGOTIATED!r})
os.kill(os.getpid(), signal.SIGSTOP)
signal.pause()
"""


@pytest.mark.parametrize("greets", [True, False])
def test_a_stopped_process_is_named(path: Path, greets: bool) -> None:
    with (
        subprocess.Popen([sys.executable, "-c", SERVE, str(path), *["greet"] * greets]) as server,
        ExitStack() as end,
    ):
        end.callback(server.kill)
        wait_until(path.exists)
        client = end.enter_context(QmpClient.connect(str(path), 10)) if greets else None
        os.waitid(os.P_PID, server.pid, os.WSTOPPED)
        stopped = f"the VM's process {server.pid} is stopped; `kill -CONT {server.pid}`"
        with pytest.raises(MonitorError, match=stopped):
            if client:
                client._timeout_s = 0.05
                client.execute("query-status")
            else:
                QmpClient.connect(str(path), 0.05)


@pytest.mark.parametrize(
    ("groups", "switch", "frozen", "thawed"),
    [
        ("freezer", "freezer.state", "FROZEN", "THAWED"),
        ("unified", "cgroup.freeze", "1", "0"),
        (".", "cgroup.freeze", "1", "0"),
    ],
)
def test_a_frozen_process_is_named(path: Path, groups: str, switch: str, frozen: str, thawed: str) -> None:
    place = Path("/sys/fs/cgroup") / groups
    if os.geteuid() or not (place / "cgroup.procs").exists():
        pytest.skip("no such control groups here")
    group = place / f"vmferry-test-{os.getpid()}"
    group.mkdir()
    with subprocess.Popen([sys.executable, "-c", SERVE, str(path)]) as server:
        try:
            wait_until(path.exists)
            os.waitid(os.P_PID, server.pid, os.WSTOPPED)
            (group / "cgroup.procs").write_text(str(server.pid))
            server.send_signal(signal.SIGCONT)
            (group / switch).write_text(frozen)
            with pytest.raises(MonitorError, match=f"the VM's process {server.pid} is frozen"):
                QmpClient.connect(str(path), 0.2)
        finally:
            (group / switch).write_text(thawed)
            server.kill()
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@settings(max_examples=100, deadline=None)
@given(
    messages=st.lists(
        st.dictionaries(st.text(), st.recursive(st.text() | st.integers(), st.lists), max_size=3), max_size=4
    ),
    indent=st.sampled_from([None, 0, 4]),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_messages_may_be_spread_over_lines_and_come_in_any_pieces(
    messages: list[dict[str, object]], indent: int | None, cuts: list[int]
) -> None:
    ours, theirs = socket.socketpair()

    def talk() -> None:
        pieces = GREETING + NEGOTIATED
        for message in messages:
            pieces += json.dumps({"return": message}, indent=indent).encode() + b"\r\n"
        for cut in cycle(cuts):
            if not pieces:
                break
            theirs.sendall(pieces[:cut])
            pieces = pieces[cut:]

    talker = threading.Thread(target=talk)
    talker.start()
    with theirs, QmpClient(ours, "here", 10, 10) as client:
        assert [client.execute("anything") for _ in messages] == messages
        talker.join()


def test_a_pretty_monitor_is_understood(path: Path) -> None:
    with monitor_thread(MemoryVm(), f"unix:{path}", pretty=True), QmpClient.connect(str(path), 10) as client:
        client.execute("stop")
        assert client.execute("query-status") == {"running": False, "status": "paused"}
        assert [event.name for event in client.take_events()] == ["STOP"]
        assert len(client.execute("query-qmp-schema")) > 100


@pytest.mark.qemu
def test_a_pretty_monitor_of_qemu_is_understood(path: Path) -> None:
    with qemu_without_guest(path, pretty=True), QmpClient.connect(str(path), 10) as client:
        client.execute("stop")
        assert client.wait_event("STOP", 60).data == {}
        assert len(client.execute("query-qmp-schema")) > 100


@pytest.mark.qemu
def test_what_keeps_qemu_from_greeting_is_named(path: Path) -> None:
    with qemu_without_guest(path) as qemu:
        with QmpClient.connect(str(path), 10) as first:
            with pytest.raises(MonitorError, match="another client is connected to the monitor"):
                QmpClient.connect(str(path), 0.2)
            assert first.execute("query-status")
        qemu.send_signal(signal.SIGSTOP)
        with pytest.raises(MonitorError, match=f"the VM's process {qemu.pid} is stopped"):
            QmpClient.connect(str(path), 0.2)


@pytest.mark.qemu
def test_it_speaks_with_qemu(qemu_client: QmpClient) -> None:
    qemu_client.execute("system_powerdown")
    assert qemu_client.wait_event("POWERDOWN", 60).data == {}
    qemu_client.execute("stop")
    assert qemu_client.wait_event("STOP", 60).data == {}
    with pytest.raises(CommandError, match="expects uint8_t"):
        qemu_client.execute("migrate-set-parameters", {"max-cpu-throttle": 300})
    assert len(qemu_client.execute("query-qmp-schema")) > 100
    qemu_client.execute("quit")
    assert qemu_client.wait_event("SHUTDOWN", 60).data["reason"] == "host-qmp-quit"
