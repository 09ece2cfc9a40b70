"""Pages that are lent to a socket arrive as they are when they are read there, whatever has to wait."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from vmferry.guests.kvm.lending import PageLender
from vmferry.guests.kvm.ram import GuestRam

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with closing(GuestRam(16 * MIB)) as ram:
        ram.view[:] = os.urandom(MIB) * 16
        yield ram


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        yield here, there


def test_all_pages_arrive_in_order_whatever_has_to_wait(
    ram: GuestRam, ends: tuple[socket.socket, socket.socket]
) -> None:
    here, there = ends
    runs = [(7, 1), (9, 1), (0, 3), (1000, 700), (2000, 1)]
    views = [ram.pages(first, count) for first, count in runs]
    expected = b"".join(map(bytes, views))
    received, waits = bytearray(), 0
    with closing(PageLender()) as lender:
        while len(received) < len(expected):
            try:
                left = memoryview(b"")
                sent = lender.send(here.fileno(), views) if views else 0
                while sent:
                    left, views = views[0], views[1:]
                    sent, left = max(0, sent - len(left)), left[sent:]
                    views = [left, *views] if len(left) else views
            except BlockingIOError:
                waits += 1
                received += there.recv(MIB)
            else:
                received += there.recv(MIB) if not views else b""
    assert bytes(received) == expected
    assert waits


def test_a_page_that_is_written_meanwhile_is_newer_and_not_copied_before(
    ram: GuestRam, ends: tuple[socket.socket, socket.socket]
) -> None:
    here, there = ends
    with closing(PageLender()) as lender:
        assert lender.send(here.fileno(), [ram.pages(3, 1)]) == PAGE
        ram.pages(3, 1)[:] = b"x" * PAGE
    assert there.recv(PAGE, socket.MSG_WAITALL) == b"x" * PAGE


def test_memory_that_is_given_back_meanwhile_arrives(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    with closing(GuestRam(16 * MIB)) as ram, closing(PageLender()) as lender:
        ram.pages(0, 2)[:] = b"y" * 2 * PAGE
        assert lender.send(here.fileno(), [ram.pages(0, 2)]) == 2 * PAGE
    assert there.recv(2 * PAGE, socket.MSG_WAITALL) == b"y" * 2 * PAGE


def test_a_peer_that_is_gone_is_an_error(ram: GuestRam, ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    there.close()
    with closing(PageLender()) as lender, pytest.raises(BrokenPipeError):
        lender.send(here.fileno(), [ram.pages(0, 1)])
