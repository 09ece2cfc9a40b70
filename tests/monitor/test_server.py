import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError, QMPClient

from tests.support.memory_vm import MemoryVm
from vmferry.errors import ChannelError, UsageError
from vmferry.monitor.server import MAX_CLIENTS, MAX_UNSENT_BYTES, MonitorEndpoint, MonitorServer, open_monitor

NEGOTIATE = b'{"execute":"qmp_capabilities"}'
TIMEOUT_S = 10.0


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), TIMEOUT_S))


@asynccontextmanager
async def served(vm: MemoryVm, address: str) -> AsyncIterator[MonitorServer]:
    server = MonitorServer(vm, address)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[QMPClient]:
    client = QMPClient()
    await client.connect(str(path))
    try:
        yield client
    finally:
        await client.disconnect()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


def test_several_clients_are_served_at_once(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}"), connected(path) as first, connected(path) as second:
            await first.execute("stop")
            assert await second.execute("query-status") == {"running": False, "status": "paused"}
            many = [client.execute("query-name") for client in (first, second) for _ in range(50)]
            assert await asyncio.gather(*many) == [{"name": vm.name}] * 100

    run(test)


def test_each_client_gets_its_own_answers_in_order(path: Path) -> None:
    commands = ["query-migrate", "migrate_cancel", "query-status", "nonsense", "query-migrate-parameters"]

    async def talk(client_number: int) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        requests = [
            {"execute": commands[(number * client_number) % 5], "id": [client_number, number]}
            for number in range(1, 100)
        ]
        writer.write(NEGOTIATE + "".join(map(json.dumps, requests)).encode())
        greeting, negotiated = [json.loads(await reader.readline()) for _ in range(2)]
        assert "QMP" in greeting
        assert negotiated == {"return": {}}
        answers = [json.loads(await reader.readline()) for _ in requests]
        assert [answer["id"] for answer in answers] == [request["id"] for request in requests]
        for request, answer in zip(requests, answers, strict=True):
            assert ("error" in answer) == (request["execute"] == "nonsense")
        writer.close()

    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"):
            await asyncio.gather(*(talk(number) for number in range(1, 9)))

    run(test)


def test_errors_come_with_their_class_and_text(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"), connected(path) as client:
            with pytest.raises(ExecuteError, match=r"Parameter 'uri' is missing") as generic:
                await client.execute("migrate")
            with pytest.raises(ExecuteError, match=r"has not been found") as not_found:
                await client.execute("device_add")
            assert [generic.value.error_class, not_found.value.error_class] == ["GenericError", "CommandNotFound"]

    run(test)


def test_every_client_gets_every_event(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"), connected(path) as first, connected(path) as second:
            with first.listener() as heard_first, second.listener() as heard_second:
                await first.execute("stop")
                await second.execute("cont")
                for heard in (heard_first, heard_second):
                    assert [(await heard.get())["event"] for _ in range(2)] == ["STOP", "RESUME"]

    run(test)


def test_events_of_other_threads_arrive(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}"), connected(path) as client:
            with client.listener("MIGRATION_PASS") as heard:
                migration = threading.Thread(target=lambda: vm.events.emit("MIGRATION_PASS", **{"pass": 3}))
                migration.start()
                assert (await heard.get())["data"] == {"pass": 3}
                migration.join()

    run(test)


def test_migration_events_follow_the_capability(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}"), connected(path) as client:
            with client.listener() as heard:
                await client.execute("migrate", {"uri": "tcp:host:4444"})
                await client.execute("migrate_cancel")
                states = [{"capability": "events", "state": True}]
                await client.execute("migrate-set-capabilities", {"capabilities": states})
                await client.execute("migrate", {"uri": "tcp:host:4444"})
                assert (await heard.get())["data"] == {"status": "setup"}

    run(test)


def test_an_event_caused_by_a_command_comes_before_its_answer(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(NEGOTIATE + b'{"execute":"stop"}')
            lines = [await reader.readline() for _ in range(4)]
            assert b"STOP" in lines[2]
            assert lines[3] == b'{"return": {}}\r\n'
            writer.close()

    run(test)


def test_no_events_before_the_negotiation(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"), connected(path) as client:
            reader, writer = await asyncio.open_unix_connection(path)
            await reader.readline()
            await client.execute("stop")
            writer.write(NEGOTIATE)
            assert await reader.readline() == b'{"return": {}}\r\n'
            writer.close()

    run(test)


def test_quit_is_answered_before_the_monitor_goes(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}") as server:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(NEGOTIATE + b'{"execute":"quit"}')
            await until(lambda: vm.has_quit)
            await server.close()
            *_, event, answer = (await reader.read()).splitlines()
            assert b"host-qmp-quit" in event
            assert answer == b'{"return": {}}'
            writer.close()

    run(test)


def test_a_client_that_reads_no_events_is_disconnected(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}"), connected(path) as good:
            reader, writer = await asyncio.open_unix_connection(path, limit=1)
            writer.write(NEGOTIATE)
            for _ in range(2 * MAX_UNSENT_BYTES // 10_000):
                vm.events.emit("BIG", text="x" * 10_000)
                await asyncio.sleep(0)
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(NEGOTIATE)
                    await writer.drain()
                    await asyncio.sleep(0)
            assert await good.execute("query-name") == {"name": vm.name}
            assert reader

    run(test)


def test_a_client_that_reads_no_answers_is_not_read_from(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}"), connected(path) as good:
            with socket.socket(socket.AF_UNIX) as mute:
                mute.connect(str(path))
                mute.setblocking(False)
                sent_bytes = await send_until_stuck(mute, b'{"execute":"query-commands"}' * 1000)
                assert sent_bytes < 2 << 20  # a few buffers full
                assert await good.execute("query-name") == {"name": vm.name}

    run(test)


async def send_until_stuck(connection: socket.socket, data: bytes) -> int:
    """Send again and again until nothing can be sent for a while; return how much went."""
    sent_bytes = refusals = 0
    while refusals < 50 and sent_bytes < 10 << 20:
        try:
            sent_bytes += connection.send(data)
            refusals = 0
        except BlockingIOError:
            refusals += 1
            await asyncio.sleep(0.002)
    return sent_bytes


class SlowVm(MemoryVm):
    """Its disk does not answer before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = threading.Event()
        self.writers = 0

    def save_memory(self, gpa: int, size_bytes: int, path: str) -> None:
        self.writers += 1
        self.disk.wait()


PMEMSAVE = b'{"execute":"pmemsave","arguments":{"val":0,"size":1,"filename":"x"},"id":"slow"}'


def test_a_command_that_waits_holds_up_nobody_else(path: Path) -> None:
    async def test() -> None:
        vm = SlowVm()
        async with served(vm, f"unix:{path}"), connected(path) as other:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(NEGOTIATE + PMEMSAVE + b'{"execute":"query-name","id":"after"}')
            await until(lambda: vm.writers > 0)
            assert await other.execute("query-name") == {"name": vm.name}
            await other.execute("stop")
            vm.disk.set()
            lines = [json.loads(await reader.readline()) for _ in range(5)]
            assert [line.get("id", line.get("event")) for line in lines] == [None, None, "STOP", "slow", "after"]
            writer.close()

    run(test)


def test_a_command_that_waits_holds_up_no_end(path: Path) -> None:
    async def test() -> None:
        vm = SlowVm()
        async with served(vm, f"unix:{path}"):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(NEGOTIATE + PMEMSAVE)
            await until(lambda: vm.writers > 0)
        writer.close()
        vm.disk.set()

    run(test)


def test_a_web_page_cannot_use_the_browser_to_command(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, "tcp:127.0.0.1:0") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + NEGOTIATE + b'{"execute":"quit"}')
            assert b"parse error" in (await reader.read()).splitlines()[-1]
            writer.close()
        assert not vm.has_quit

    run(test)


def test_broken_limits_end_the_connection_with_a_reason(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(NEGOTIATE + b"[" * 1000)
            assert b"nesting" in (await reader.read()).splitlines()[-1]
            writer.close()

    run(test)


def test_a_client_that_vanishes_does_no_harm(path: Path) -> None:
    async def test() -> None:
        vm = MemoryVm()
        async with served(vm, f"unix:{path}"), connected(path) as good:
            for farewell in (b"", NEGOTIATE, NEGOTIATE + b'{"execute":"query-commands"}' * 1000, b'{"half'):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(farewell)
                writer.transport.abort()
                vm.events.emit("STOP")
            assert await good.execute("query-name") == {"name": vm.name}

    run(test)


def test_too_many_clients_are_turned_away(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"):
            streams = [await asyncio.open_unix_connection(path) for _ in range(MAX_CLIENTS + 1)]
            greetings = [await reader.readline() for reader, _ in streams]
            assert [bool(greeting) for greeting in greetings] == [True] * MAX_CLIENTS + [False]
            for _, writer in streams:
                writer.close()

    run(test)


def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    run(test)


def test_a_socket_left_by_a_dead_process_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"), connected(path) as client:
            await client.execute("query-status")

    run(test)


def test_nothing_but_a_socket_is_replaced(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UsageError, match="not a socket"):
        MonitorServer(MemoryVm(), f"unix:{path}")
    assert path.read_text() == "precious"


def test_a_living_monitor_keeps_its_socket(path: Path) -> None:
    async def test() -> None:
        async with served(MemoryVm(), f"unix:{path}"), connected(path) as client:
            with pytest.raises(UsageError, match="another process listens"):
                MonitorServer(MemoryVm(), f"unix:{path}")
            await client.execute("query-status")

    run(test)


def test_tcp_works_on_an_explicit_address() -> None:
    async def test() -> None:
        async with served(MemoryVm(), "tcp:127.0.0.1:0") as server:
            client = QMPClient()
            await client.connect(("127.0.0.1", server.port))
            await client.execute("query-status")
            await client.disconnect()

    run(test)


@pytest.mark.parametrize("address", ["tcp::0", "tcp:*:0"])
def test_tcp_on_every_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="every network"):
        MonitorServer(MemoryVm(), address)


def test_an_address_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="cannot listen"):
        MonitorServer(MemoryVm(), f"unix:{tmp_path / 'no' / 'such'}")
    assert not os.listdir(tmp_path)


def test_an_endpoint_can_speak_to_people(path: Path) -> None:
    async def test() -> None:
        monitor = open_monitor(MemoryVm(), MonitorEndpoint(f"unix:{path}", pretty=True))
        await monitor.start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert [await reader.readline() for _ in range(2)] == [b"{\r\n", b'    "QMP": {\r\n']
        writer.close()
        await monitor.close()

    run(test)


def test_a_client_that_waits_is_called(path: Path) -> None:
    async def test() -> None:
        vm, client = MemoryVm(), QMPClient()
        await client.start_server(str(path))
        monitor = open_monitor(vm, MonitorEndpoint(f"unix:{path}", listens=False))
        await monitor.start()
        await client.accept()
        with client.listener() as heard:
            await client.execute("stop")
            assert (await heard.get())["event"] == "STOP"
        await client.disconnect()
        await monitor.close()

    run(test)


def test_a_client_at_an_inherited_socket_is_served() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        ours.set_inheritable(True)
        monitor = open_monitor(MemoryVm(), MonitorEndpoint(ours.detach(), listens=False))
        await monitor.start()
        client = QMPClient()
        await client.connect(theirs)
        await client.execute("query-status")
        await client.disconnect()
        await monitor.close()

    run(test)


def test_clients_come_to_an_inherited_listener(path: Path) -> None:
    async def test() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listener.set_inheritable(True)
        monitor = open_monitor(MemoryVm(), MonitorEndpoint(listener.detach()))
        await monitor.start()
        async with connected(path) as client:
            await client.execute("query-status")
        await monitor.close()

    run(test)


@pytest.mark.parametrize("listens", [True, False])
def test_only_sockets_that_were_handed_over_will_do(listens: bool) -> None:
    kind = "listening" if listens else "connected"
    with open(os.devnull) as file, socket.socket() as kept, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        passed_on = [os.dup2(number.fileno(), os.dup(number.fileno())) for number in (file, datagrams)]
        assert all(map(os.get_inheritable, passed_on))
        for number in (*passed_on, kept.fileno(), 999_999):
            with pytest.raises(UsageError, match=f"file descriptor {number} is no {kind} stream socket"):
                open_monitor(MemoryVm(), MonitorEndpoint(number, listens))
        os.close(passed_on[0])


def test_an_inherited_socket_must_be_of_the_kind_that_was_said() -> None:
    for listens in (True, False):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            if not listens:
                other.listen()
            other.set_inheritable(True)
            with pytest.raises(UsageError, match="stream socket that this process was started with"):
                open_monitor(MemoryVm(), MonitorEndpoint(other.detach(), listens))


def test_nobody_waits_to_be_called(path: Path) -> None:
    with pytest.raises(ChannelError, match="cannot connect to unix:"):
        open_monitor(MemoryVm(), MonitorEndpoint(f"unix:{path}", listens=False))
