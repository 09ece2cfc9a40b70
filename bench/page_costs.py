"""What a GiB of pages costs each thread that it passes through, in processor time: `python -m bench.page_costs --help`.

No VM runs: the pages are a guest's memory, which is there on both sides. Over a unix socket, so they are lent.
"""

import multiprocessing
import socket
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import click

from bench.page_path import Stopwatch
from bench.samples import Samples, recording
from vmferry.guests.kvm.lending import PageLender
from vmferry.guests.kvm.populate import populate
from vmferry.guests.kvm.ram import GuestRam
from vmferry.guests.kvm.vm import memory_address
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import PAGE_SIZE_BYTES, GuestLayout, RamBlock
from vmferry.transport.stream import StreamChannel
from vmferry.units import MIB, NS_PER_S
from vmferry.wire.messages import Finish, Pages


class LentMemory:
    """Memory of a guest that does not exist."""

    def __init__(self, size_bytes: int) -> None:
        self.ram = GuestRam(size_bytes, prealloc=True)
        self.layout = GuestLayout((RamBlock("pc.ram", size_bytes // PAGE_SIZE_BYTES),), 1)
        self.view = self.ram.pages

    def lender(self) -> PageLender:
        """Return what lends it to one socket."""
        return PageLender()


def nothing() -> None:
    """Nobody has to be looked after."""


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--memory", default=1024, show_default=True, help="How much is sent, in MiB.")
@click.option("--runs", default=3, show_default=True, help="How often.")
def page_costs(output: Path | None, memory: int, runs: int) -> None:
    """Send memory from one process to another, as pages of a running guest and as those of a stopped one."""
    with recording(output) as samples:
        for _ in range(runs):
            samples.add("populating", populated_s(memory * MIB) * 1024 / memory, "s/GiB")
            for final in (False, True):
                measure(samples, memory * MIB, final=final)


def populated_s(size_bytes: int) -> float:
    """Return how long it takes to make fresh memory present, most of which is clearing it.

    The first time may be one in which a virtual machine gets its memory back from its own host.
    """
    populating = Stopwatch(populate)
    for _ in range(2):
        with closing(GuestRam(size_bytes)) as ram:
            took_ns = populating(memory_address(ram.view), size_bytes)
    return took_ns / NS_PER_S


def measure(samples: Samples, size_bytes: int, *, final: bool) -> None:
    """Send it once."""
    here, there = socket.socketpair()
    answer, told = multiprocessing.Pipe(duplex=False)
    receiver = multiprocessing.get_context("fork").Process(target=receive, args=(there, size_bytes, told))
    memory = LentMemory(size_bytes)
    memory.ram.view[:] = b"vmferry." * (size_bytes // 8)
    here.setblocking(False)
    with there, answer, told, closing(StreamChannel(here, memory)) as channel:
        receiver.start()
        answer.recv()
        taking, sending = send_all(channel, memory, final=final)
        receiving_ns = answer.recv()
    receiver.join()
    spent = {"taking": taking.total_ns, "sending": sending.total_ns, "receiving": receiving_ns}
    for name, took_ns in spent.items():
        samples.add(name, took_ns / NS_PER_S * (1024 * MIB / size_bytes), "s/GiB", final=final)


def send_all(channel: StreamChannel, memory: LentMemory, *, final: bool) -> tuple[Stopwatch, Stopwatch]:
    """Send all memory, and return what took how long."""
    left = Bitmap(memory.layout.page_count)
    left.set_all()
    messages: list[Pages] = []

    def take() -> None:
        pages = left.take(0, channel.max_batch_pages)
        messages.append(Pages(*pages.split(memory.ram.zero_pages(pages)), final))

    def send() -> None:
        channel.send(messages.pop(), nothing)

    taking, sending = Stopwatch(take), Stopwatch(send)
    while left.any():
        taking()
        sending()
    channel.send(Finish(), nothing)
    return taking, sending


def receive(connection: socket.socket, size_bytes: int, told: "Connection[object, object]") -> None:
    """Take all that comes, in a process of its own, and tell how long that took."""
    connection.setblocking(False)
    channel = StreamChannel(connection, LentMemory(size_bytes))
    told.send("ready")
    told.send(Stopwatch(lambda: take_all(channel, nothing))())


def take_all(channel: StreamChannel, while_blocked: Callable[[], None]) -> None:
    """Take all pages."""
    while not isinstance(message := channel.receive(while_blocked), Finish):
        assert isinstance(message, Pages)
        channel.receive_pages(message, while_blocked)


if __name__ == "__main__":
    page_costs()
