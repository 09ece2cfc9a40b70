"""The proxy does to real sockets what a fault says, where it says it."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.chaos.faults import AnyFault, Cut, Direction, Flip, Freeze, Nothing, Party, Place, Replay, Reset, Stall
from bench.chaos.proxy import Incident, Proxy

from tests.support.wait import wait_until
from vmferry.transport.sockets import connect, listen, local_address
from vmferry.transport.uri import Address, TcpAddress, UnixAddress

THERE, BACK = Direction
DATA = bytes(range(256)) * 1000
ANYWHERE = TcpAddress("127.0.0.1", 0)


class Ends:
    """Both ends of a connection through a proxy."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket, happened: list[Incident]) -> None:
        self.proxy, self.near, self.far, self.happened = proxy, near, far, happened
        for end in (near, far):
            end.settimeout(10)


@contextmanager
def connected(fault: AnyFault, proxys: Address = ANYWHERE, target: Address = ANYWHERE) -> Iterator[Ends]:
    happened: list[Incident] = []
    with (
        listen(target) as listener,
        Proxy(proxys, local_address(listener), fault, happened.append) as proxy,
        connect(proxy.address, lambda: None) as near,
    ):
        listener.settimeout(10)
        far, _ = listener.accept()
        with far:
            yield Ends(proxy, near, far, happened)


def read(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := end.recv(size - len(data))):
        data += piece
    return data


def everything(end: socket.socket) -> bytes:
    return read(end, 1 << 30)


@pytest.fixture(params=["tcp", "unix"])
def addresses(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Address, Address]:
    if request.param == "tcp":
        return ANYWHERE, ANYWHERE
    return UnixAddress(str(tmp_path / "proxy")), UnixAddress(str(tmp_path / "target"))


def test_bytes_pass_in_both_directions(addresses: tuple[Address, Address]) -> None:
    with connected(Nothing(Place(THERE, 0)), *addresses) as ends:
        ends.near.sendall(DATA)
        assert read(ends.far, len(DATA)) == DATA
        ends.far.sendall(DATA)
        assert read(ends.near, len(DATA)) == DATA
        ends.near.shutdown(socket.SHUT_WR)
        assert everything(ends.far) == b""
        ends.far.sendall(b"last words")
        ends.far.close()
        assert everything(ends.near) == b"last words"
        assert not ends.proxy.has_fired
        assert ends.proxy.recording == DATA
        assert ends.proxy.passed_bytes == {THERE: len(DATA), BACK: len(DATA) + 10}


def test_a_cut_ends_both_ends(addresses: tuple[Address, Address]) -> None:
    with connected(Cut(Place(THERE, 1000), half=False), *addresses) as ends:
        ends.near.sendall(DATA[:1000])
        assert everything(ends.far) == DATA[:1000]
        assert everything(ends.near) == b""
        assert ends.proxy.has_fired


def test_a_half_cut_leaves_the_other_direction(addresses: tuple[Address, Address]) -> None:
    with connected(Cut(Place(THERE, 7), half=True), *addresses) as ends:
        ends.near.sendall(DATA[:7])
        assert everything(ends.far) == DATA[:7]
        ends.far.sendall(DATA)
        assert read(ends.near, len(DATA)) == DATA


def test_a_reset_is_an_error_at_both_ends() -> None:
    with connected(Reset(Place(BACK, 5))) as ends:
        ends.far.sendall(DATA[:5])
        for end in (ends.near, ends.far):
            with pytest.raises(ConnectionResetError):
                everything(end)


def test_a_stall_holds_one_direction_for_so_long() -> None:
    with connected(Stall(Place(THERE, 10), 300)) as ends:
        start_s = time.monotonic()
        ends.near.sendall(DATA)
        assert read(ends.far, 10) == DATA[:10]
        ends.far.sendall(b"answer")
        assert read(ends.near, 6) == b"answer"
        assert read(ends.far, len(DATA) - 10) == DATA[10:]
        assert time.monotonic() - start_s >= 0.3


def test_flipped_and_replayed_bytes_arrive() -> None:
    for fault, expected in (
        (Flip(Place(BACK, 3), 0), b"\0\1\2\2\4"),
        (Replay(Place(BACK, 4), 2), b"\0\1\2\3\2\3\4"),
    ):
        with connected(fault) as ends:
            ends.far.sendall(DATA[:5])
            assert read(ends.near, len(expected)) == expected


def test_processes_are_hit_before_the_next_byte_passes() -> None:
    fault = Freeze(Place(THERE, 4), Party.DESTINATION, 10)
    with connected(fault) as ends:
        ends.near.sendall(DATA[:4])
        wait_until(lambda: ends.happened)
        assert ends.happened == [fault]
        assert read(ends.far, 4) == DATA[:4]


def test_a_fault_happens_once_and_the_next_connection_is_whole() -> None:
    with listen(ANYWHERE) as listener:
        listener.settimeout(10)
        with Proxy(ANYWHERE, local_address(listener), Cut(Place(THERE, 3), half=False), lambda _: None) as proxy:
            for expected in (DATA[:3], DATA[:9]):
                with connect(proxy.address, lambda: None) as near:
                    near.setblocking(True)
                    near.sendall(DATA[:9])
                    near.shutdown(socket.SHUT_WR)
                    with listener.accept()[0] as far:
                        far.settimeout(10)
                        assert everything(far) == expected


def test_where_nobody_listens_the_near_end_is_told() -> None:
    with listen(ANYWHERE) as listener:
        target = local_address(listener)
    with (
        Proxy(ANYWHERE, target, Nothing(Place(THERE, 0)), lambda _: None) as proxy,
        connect(proxy.address, lambda: None) as near,
    ):
        near.settimeout(10)
        assert everything(near) == b""
