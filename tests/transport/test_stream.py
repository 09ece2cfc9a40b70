"""The channel over real sockets."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vmferry.errors import CancelledError, ChannelError, PeerError, UsageError
from vmferry.memory.ranges import PageRuns
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import accept, connect, listen, local_address
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import TcpAddress, UnixAddress, parse_uri
from vmferry.wire.messages import Failed, Finish, Pages, Ready, State

PAGES = 3000


class TimeIsUpError(Exception):
    pass


def patience(polls: int = 50) -> Callable[[], None]:
    """A `while_blocked` that gives up after that many calls of about 100 ms."""
    left = [polls]

    def while_blocked() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise TimeIsUpError

    return while_blocked


def connected(kind: str, tmp_path: Path) -> tuple[socket.socket, socket.socket]:
    if kind == "pair":
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        return here, there
    if kind == "unix":
        listener = listen(UnixAddress(str(tmp_path / "in.sock")))
        address = parse_uri(f"unix:{tmp_path / 'in.sock'}")
    else:
        listener = listen(TcpAddress("127.0.0.1", 0))
        address = parse_uri(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
    with listener:
        here = connect(address, patience())
        accepted = accept(listener)
        assert accepted
        return here, accepted


class Ends:
    def __init__(self, here: socket.socket, there: socket.socket) -> None:
        self.source, self.target = MemoryGuest(PAGES), MemoryGuest(PAGES)
        self.here, self.there = StreamChannel(here, self.source), StreamChannel(there, self.target)


@pytest.fixture(params=["pair", "tcp", "unix"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    pair = Ends(*connected(request.param, tmp_path))
    yield pair
    pair.here.close()
    pair.there.close()


def in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_pages_arrive_where_they_belong(ends: Ends, final: bool, stride: int) -> None:
    ends.source.ram[:] = np.random.default_rng(1).integers(0, 2**64, ends.source.ram.shape, np.uint64)
    runs = PageRuns.from_indices(np.arange(0, PAGES, stride))
    message = Pages(runs, PageRuns.of([]), final)
    sender = in_thread(lambda: ends.here.send(message, patience()))
    assert ends.there.receive(patience()) == message
    assert not ends.target.ram.any()
    ends.there.receive_pages(message, patience())
    sender.join()
    sent = runs.indices()
    assert np.array_equal(ends.target.ram[sent], ends.source.ram[sent])
    others = np.setdiff1d(np.arange(PAGES), sent)
    assert not ends.target.ram[others].any()
    assert ends.here.sent_bytes == ends.there.received_bytes > len(sent) * 4096


def test_messages_in_both_directions(ends: Ends) -> None:
    state = State(os.urandom(3 << 20))
    sender = in_thread(lambda: ends.here.send(state, patience()))
    assert ends.there.receive(patience()) == state
    sender.join()
    ends.there.send(Ready(), patience())
    ends.here.send(Finish(), patience())
    assert ends.here.receive(patience()) == Ready()
    assert ends.there.receive(patience()) == Finish()


def test_damage_to_the_last_pages_is_noticed(ends: Ends) -> None:
    ends.source.ram[:] = 7
    frame_and_pages: list[bytes] = []
    original = ends.here._send_all
    ends.here._send_all = lambda views, *_: frame_and_pages.extend(map(bytes, views))  # type: ignore[method-assign]
    ends.here.send(Pages(PageRuns.of([(5, 3)]), PageRuns.of([]), final=True), patience())
    damaged = bytearray(b"".join(frame_and_pages))
    damaged[-100] ^= 1
    original([memoryview(damaged)], patience())
    message = ends.there.receive(patience())
    assert isinstance(message, Pages)
    with pytest.raises(PeerError, match="arrived damaged"):
        ends.there.receive_pages(message, patience())


def test_waiting_calls_back_and_can_be_ended(ends: Ends) -> None:
    with pytest.raises(TimeIsUpError):
        ends.here.receive(patience(2))
    with pytest.raises(TimeIsUpError):
        while True:  # until the socket's buffers are full
            ends.here.send(State(bytes(1 << 20)), patience(2))


def test_a_closed_peer_is_a_channel_error(ends: Ends) -> None:
    ends.there.close()
    with pytest.raises(ChannelError, match=r"closed the connection|connection is lost"):
        ends.here.receive(patience())
    with pytest.raises(ChannelError, match="connection is lost"):
        while True:
            ends.here.send(State(bytes(1 << 20)), patience())


def test_the_last_words_of_a_peer_can_be_read_after_sending_failed(ends: Ends) -> None:
    ends.there.send(Failed("no memory"), patience())
    ends.there.close()
    with pytest.raises(ChannelError):
        while True:
            ends.here.send(State(bytes(1 << 20)), patience())
    assert ends.here.receive(patience()) == Failed("no memory")


def test_garbage_is_a_peer_error(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    with here:
        here.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        there.setblocking(False)
        channel = StreamChannel(there, MemoryGuest(PAGES))
        with pytest.raises(PeerError, match="not a migration"):
            channel.receive(patience())
        channel.close()


def test_connecting_to_nobody_is_one_clear_line(tmp_path: Path) -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChannelError, match=f"cannot connect to tcp:127.0.0.1:{port}: Connection refused; is it"):
        connect(TcpAddress("127.0.0.1", port), patience())
    with pytest.raises(ChannelError, match="No such file"):
        connect(UnixAddress(str(tmp_path / "none")), patience())


def test_a_unix_socket_is_for_its_user_only_and_replaces_a_dead_one(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "in.sock"))
    with listen(address):
        assert stat.S_IMODE(Path(address.path).stat().st_mode) == 0o600
        with pytest.raises(UsageError, match="another process listens"):
            listen(address)
    listen(address).close()


def test_a_host_that_vanishes_is_noticed_at_both_ends(tmp_path: Path) -> None:
    for end in connected("tcp", tmp_path):
        with end:
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, interval, count = (
                end.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + interval * count <= 40
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 40_000


def test_what_is_not_a_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(UsageError, match="exists and is not a socket"):
        listen(UnixAddress(str(path)))
    assert path.read_text() == "data"


def test_a_port_in_use_is_one_clear_line() -> None:
    with listen(TcpAddress("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ChannelError, match=f"cannot listen at tcp:127.0.0.1:{port}: Address already in use"):
            listen(TcpAddress("127.0.0.1", port))


def test_port_0_is_any_free_one_and_the_listener_tells_which() -> None:
    with listen(parse_uri("tcp:127.0.0.1:0")) as listener:
        address = local_address(listener)
        assert isinstance(address, TcpAddress)
        assert address.port
        with connect(address, lambda: None):
            there = accept(listener)
            assert there
            there.close()


def test_a_unix_listener_tells_its_path(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "socket"))
    with listen(address) as listener:
        assert local_address(listener) == address


def test_a_name_server_that_does_not_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: answer.wait())
    for call in (connect, listen):
        checks: list[None] = []

        def give_up(checks: list[None] = checks) -> None:
            checks.append(None)
            if len(checks) == 3:
                raise CancelledError("enough")

        with pytest.raises(CancelledError):
            call(TcpAddress("slow.example", 1), give_up)
    answer.set()
