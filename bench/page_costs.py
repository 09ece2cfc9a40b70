"""What a GiB of pages costs each thread that it passes through, in processor time: `python -m bench.page_costs --help`.

No VM runs: the pages are a guest's memory, which is there on both sides. Over a unix socket, so they are lent, but with
TLS.
"""

import multiprocessing
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import click

from bench.page_path import Stopwatch
from bench.samples import Samples, recording
from bench.tls import DAYS, HOST
from vmferry.guests.kvm.lending import PageLender
from vmferry.guests.kvm.populate import populate
from vmferry.guests.kvm.ram import GuestRam
from vmferry.guests.kvm.vm import memory_address
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.transport.lab_ca import LabCa
from vmferry.transport.sockets import Connection, accept, connect, listen
from vmferry.transport.stream import StreamChannel
from vmferry.transport.tls import TlsClient, TlsServer
from vmferry.transport.tls_credentials import Endpoint, load_credentials
from vmferry.transport.uri import UnixAddress
from vmferry.units import MIB, NS_PER_S, PAGE_SIZE_BYTES
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


@dataclass(frozen=True)
class Tls:
    """What both ends speak TLS with."""

    client: TlsClient
    server: TlsServer

    @classmethod
    def of_lab(cls) -> Self:
        """Make credentials of one host."""
        with TemporaryDirectory() as directory:
            credentials = str(LabCa.open(Path(directory), DAYS).certify(HOST, DAYS))
            client, server = (load_credentials(credentials, endpoint) for endpoint in Endpoint)
        return cls(TlsClient(client, HOST), TlsServer(server))


def nothing() -> None:
    """Nobody has to be looked after."""


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
@click.option("--memory", default=1024, show_default=True, help="How much is sent, in MiB.")
@click.option("--runs", default=3, show_default=True, help="How often.")
def page_costs(output: Path | None, memory: int, runs: int) -> None:
    """Send memory from one process to another: pages of a running guest, those of a stopped one, and with TLS."""
    tls = Tls.of_lab()
    with recording(output) as samples:
        for _ in range(runs):
            samples.add("populating", populated_s(memory * MIB) * 1024 / memory, "s/GiB")
            measure(samples, memory * MIB, final=False)
            measure(samples, memory * MIB, final=True)
            measure(samples, memory * MIB, final=False, tls=tls)


def populated_s(size_bytes: int) -> float:
    """Return how long it takes to make fresh memory present, most of which is clearing it.

    The first time may be one in which a virtual machine gets its memory back from its own host.
    """
    populating = Stopwatch(populate)
    for _ in range(2):
        with closing(GuestRam(size_bytes)) as ram:
            took_ns = populating(memory_address(ram.view), size_bytes)
    return took_ns / NS_PER_S


def measure(samples: Samples, size_bytes: int, *, final: bool, tls: Tls | None = None) -> None:
    """Send it once."""
    here, there = connected()
    far: Connection = tls.server.wrap(there) if tls else there
    answer, told = multiprocessing.Pipe(duplex=False)
    receiver = multiprocessing.get_context("fork").Process(target=receive, args=(far, size_bytes, told))
    memory = LentMemory(size_bytes)
    memory.ram.view[:] = b"vmferry." * (size_bytes // 8)
    receiver.start()
    near: Connection = tls.client.wrap(here, nothing) if tls else here
    with there, answer, told, closing(StreamChannel(near, memory)) as channel:
        answer.recv()
        taking, sending = send_all(channel, memory, final=final)
        receiving_ns = answer.recv()
    receiver.join()
    spent = {"taking": taking.total_ns, "sending": sending.total_ns, "receiving": receiving_ns}
    for name, took_ns in spent.items():
        samples.add(name, took_ns / NS_PER_S * (1024 * MIB / size_bytes), "s/GiB", final=final, tls=tls is not None)


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection."""
    with TemporaryDirectory() as directory:
        address = UnixAddress(f"{directory}/socket")
        with listen(address) as listener:
            here, there = connect(address, nothing), accept(listener)
    assert there
    return here, there


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


def receive(connection: Connection, size_bytes: int, told: "Pipe[object, object]") -> None:
    """Take all that comes, in a process of its own, and tell how long that took."""
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
