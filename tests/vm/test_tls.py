"""Migrations with TLS over real sockets: who is let in, and what both sides are told of everybody else."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.certificates import HERE, THERE, foreign_lab, lab, secured_client, secured_server
from tests.support.wait import wait_until
from vmferry.clock import MonotonicClock
from vmferry.errors import CancelledError, PeerError, UsageError, VmferryError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.ports import Channel
from vmferry.migration.receiver import Receiver
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import connect, listen, local_address
from vmferry.transport.stream import StreamChannel, _without_first
from vmferry.transport.tls import TlsClient, TlsServer
from vmferry.transport.tls_client_connection import TlsClientConnection
from vmferry.transport.tls_connection import RECORD_BYTES
from vmferry.transport.tls_credentials import Endpoint, load_credentials
from vmferry.transport.tls_server_connection import TlsServerConnection
from vmferry.transport.uri import TcpAddress, UnixAddress
from vmferry.vm.reception import Reception
from vmferry.vm.tls import destination_tls, source_tls, what_is_missing
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Hello

PAGES = 600
CLOCK = MonotonicClock()
CREDENTIALS = Credentials(bytes(NONCE_BYTES))


class WaitingDestination:
    """Waits in a thread of its own for a guest, as a VM's process does. A context manager that ends it."""

    def __init__(self, tls: TlsServer | None) -> None:
        self.guest = MemoryGuest(PAGES, running=False)
        self.log: list[str] = []
        self.in_charge = False
        self._tls = tls
        self._ending = False
        listener = listen(TcpAddress("127.0.0.1", 0))
        self.address = local_address(listener)
        self._reception = Reception(listener, CLOCK, self._open_channel, self._make_destination, self.log.append)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "WaitingDestination":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join()
        self._reception.close()

    def told(self) -> str:
        """Wait for the one line that it has logged."""
        wait_until(lambda: bool(self.log))
        [line] = self.log
        return line

    def _open_channel(self, connection: socket.socket) -> StreamChannel:
        return StreamChannel(self._tls.wrap(connection) if self._tls else connection, self.guest)

    def _make_destination(self) -> MigrationDestination:
        return MigrationDestination(
            self.guest, CLOCK, MemoryJournal(), CREDENTIALS, tells_reasons=self._tls is not None
        )

    def _check_stop(self) -> None:
        if self._ending:
            raise CancelledError

    def _run(self) -> None:
        with suppress(CancelledError):
            while not self.in_charge:
                caller = self._reception.next_source(self._check_stop)
                receiver = Receiver(
                    caller.channel, caller.destination, CLOCK, lambda: 0, self._check_stop, lambda page: None
                )
                with suppress(VmferryError):
                    receiver.run(caller.first)
                self.in_charge = caller.destination.in_charge
                caller.channel.close()


def migrate(destination: WaitingDestination, tls: TlsClient | None) -> MigrationSource:
    guest = MemoryGuest(PAGES)
    for page in range(0, PAGES, 2):
        guest.write(page, page + 1)

    def open_channel(while_blocked: Callable[[], None]) -> Channel:
        connection = connect(destination.address, while_blocked)
        return StreamChannel(tls.wrap(connection, while_blocked) if tls else connection, guest)

    source = MigrationSource(
        guest,
        open_channel,
        CLOCK,
        MemoryJournal(),
        lambda: MigrationParameters(max_bandwidth=0),
        MigrationCapabilities(),
        CREDENTIALS,
    )
    source.run()
    if source.owner is Owner.SOURCE:
        assert source.status is MigrationStatus.FAILED
        assert guest.running
        assert not destination.in_charge
    else:
        assert source.status is MigrationStatus.COMPLETED
        assert not guest.running
        assert np.array_equal(guest.ram, destination.guest.ram)
    return source


def client(directory: Path, hostname: str = THERE) -> TlsClient:
    return TlsClient(load_credentials(str(directory), Endpoint.CLIENT), hostname)


def server(directory: Path, *allowed: str) -> TlsServer:
    return TlsServer(load_credentials(str(directory), Endpoint.SERVER), frozenset(allowed))


def anonymous_client() -> TlsClient:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(lab() / HERE / "ca-cert.pem")
    return TlsClient(context, THERE)


def old_client() -> TlsClient:
    context = load_credentials(str(lab() / HERE), Endpoint.CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return TlsClient(context, THERE)


@pytest.fixture
def destination() -> Iterator[WaitingDestination]:
    with WaitingDestination(secured_server()) as destination:
        yield destination


@pytest.mark.parametrize("allowed", [(), (HERE,), ("another", HERE)])
def test_a_guest_moves_with_tls(allowed: tuple[str, ...]) -> None:
    with WaitingDestination(server(lab() / THERE, *allowed)) as destination:
        source = migrate(destination, secured_client())
    assert source.error is None
    assert source.owner is Owner.DESTINATION
    assert destination.log == []


BAD_SOURCES: dict[str, tuple[Callable[[], TlsClient | None], str, str]] = {
    "plain": (lambda: None, "without TLS nobody is received here", "without TLS nobody is received here"),
    "expired": (
        lambda: client(lab() / "expired"),
        "it refuses our certificate, which has expired",
        "no TLS with the source: its certificate is refused: it has expired",
    ),
    "revoked": (
        lambda: client(lab() / "revoked"),
        "it refuses our certificate, which was revoked",
        "no TLS with the source: its certificate is refused: it was revoked",
    ),
    "without certificate": (
        anonymous_client,
        "it asks for a certificate of ours",
        "no TLS with the source: it has no certificate",
    ),
    "old": (old_client, "it speaks no TLS 1.3", "no TLS with the source: it speaks no TLS 1.3"),
    "another name": (
        lambda: client(lab() / HERE, "elsewhere.lab"),
        "its certificate is refused: Hostname mismatch, certificate is not valid for 'elsewhere.lab'",
        "no TLS with the source: it refuses our certificate, which may be of another name",
    ),
    "another CA at the source": (
        lambda: client(foreign_lab() / HERE),
        "no TLS with the destination: its certificate is refused: another CA than ours (ca-cert.pem) has certified it",
        "no TLS with the source: it refuses our certificate, as it does not know its CA",
    ),
}


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_a_source_that_should_not_come_is_turned_away_and_both_are_told(
    destination: WaitingDestination, kind: str
) -> None:
    make_client, told_here, told_there = BAD_SOURCES[kind]
    source = migrate(destination, make_client())
    assert source.owner is Owner.SOURCE
    assert told_here in (source.error or "")
    line = destination.told()
    assert line.startswith("turned a connection away before its greeting: ")
    assert told_there in line
    assert "\n" not in line + (source.error or "")
    assert not destination.guest.ram.any()
    assert migrate(destination, secured_client()).owner is Owner.DESTINATION, "the next one is received"


def mixed(directory: Path) -> Path:
    """Return credentials of the other CA that trust ours."""
    mixed = directory / "mixed"
    mixed.mkdir()
    for name in ("client-cert.pem", "client-key.pem", "server-cert.pem", "server-key.pem"):
        (mixed / name).write_bytes((foreign_lab() / HERE / name).read_bytes())
        (mixed / name).chmod(0o600)
    (mixed / "ca-cert.pem").write_bytes((lab() / HERE / "ca-cert.pem").read_bytes())
    return mixed


def test_a_source_that_another_ca_has_certified_is_turned_away(destination: WaitingDestination, tmp_path: Path) -> None:
    source = migrate(destination, client(mixed(tmp_path)))
    assert "it refuses our certificate, as it does not know its CA" in (source.error or "")
    assert "its certificate is refused: another CA than ours (ca-cert.pem) has certified it" in destination.told()


@pytest.mark.parametrize(("host", "reason"), [("expired", "it has expired"), ("revoked", "it was revoked")])
def test_a_destination_that_should_not_be_there_gets_nothing(host: str, reason: str) -> None:
    with WaitingDestination(server(lab() / host)) as destination:
        source = migrate(destination, client(lab() / HERE, host))
        assert source.owner is Owner.SOURCE
        assert source.error == f"no TLS with the destination: its certificate is refused: {reason}"
    line = destination.told()
    assert "no TLS with the source: it refuses our certificate, which" in line


def test_a_destination_without_tls_gets_nothing() -> None:
    with WaitingDestination(None) as destination:
        source = migrate(destination, secured_client())
        assert source.error == "no TLS with the destination: it speaks none (tls-creds)"
    line = destination.told()
    assert "it speaks TLS, which tls-creds asks for" in line


def test_a_name_that_is_not_allowed_is_turned_away() -> None:
    with WaitingDestination(server(lab() / THERE, "another", "source")) as destination:
        source = migrate(destination, secured_client())
        assert source.owner is Owner.SOURCE
    expected = f"its certificate is that of '{HERE}', whom tls-authz does not allow"
    assert source.error == f"the destination refused: {expected}"
    assert destination.told() == f"turned a connection away before its greeting: {expected}"


def test_a_server_certificate_is_not_one_of_a_source(destination: WaitingDestination) -> None:
    context = load_credentials(str(lab() / HERE), Endpoint.CLIENT)
    context.load_cert_chain(lab() / HERE / "server-cert.pem", lab() / HERE / "server-key.pem")
    source = migrate(destination, TlsClient(context, THERE))
    assert source.owner is Owner.SOURCE
    assert "it is for another purpose" in destination.told()


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x01\xff\xff" + bytes(400)])
def test_who_begins_tls_and_does_not_go_on_holds_nobody_up(destination: WaitingDestination, sent: bytes) -> None:
    assert isinstance(destination.address, TcpAddress)
    with socket.create_connection((destination.address.host, destination.address.port)) as stranger:
        stranger.sendall(sent)
        assert migrate(destination, secured_client()).owner is Owner.DESTINATION


def test_connections_that_are_reset_at_once_cost_nobody_anything(destination: WaitingDestination) -> None:
    assert isinstance(destination.address, TcpAddress)
    place = (destination.address.host, destination.address.port)
    with socket.create_connection(place) as patient:
        patient.sendall(b"\x16")
        for sent in (b"", b"\x16", b"GET / HTTP/1.0\r\n\r\n"):
            for _ in range(20):
                with socket.create_connection(place) as hasty:
                    hasty.sendall(sent)
                    hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert migrate(destination, secured_client()).owner is Owner.DESTINATION
        assert all(line.startswith("turned a connection away before its greeting: ") for line in destination.log)


def test_of_messages_that_come_at_once_each_is_looked_at(destination: WaitingDestination) -> None:
    connection = connect(destination.address, lambda: None)
    with closing(secured_client().wrap(connection, lambda: None)) as stranger:
        encoder, hello = Encoder(), Hello(MemoryGuest(PAGES).layout)
        stranger.sendmsg([memoryview(encoder.encode(hello) + encoder.encode(hello))])
        assert "the source sent Hello where Proof was due" in destination.told()


def test_what_is_held_is_known_until_all_of_it_is_read() -> None:
    here, there = both_ends(secured_client(), secured_server())
    with closing(here), closing(there):
        here.sendmsg([memoryview(b"one and another")])
        room = memoryview(bytearray(3))
        assert not there.holds_more
        for read in (b"one", b" an", b"d a", b"not", b"her"):
            assert there.recvmsg_into([room]) == (3,)
            assert bytes(room) == read
            assert there.holds_more
        with pytest.raises(BlockingIOError):
            there.recvmsg_into([room])
        assert not there.holds_more


def test_records_that_say_nothing_do_not_keep_a_reader_busy_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmferry.transport.tls_server_connection.CALL_BYTES", 1)
    monkeypatch.setattr("vmferry.transport.tls_server_connection._AHEAD_BYTES", 1 << 14)
    here, there = both_ends(secured_client(), secured_server())
    with closing(here), closing(there):
        here.sendmsg([memoryview(bytes(1 << 15))])

        def nothing_for_it(size_bytes: int, room: memoryview) -> int:
            raise ssl.SSLWantReadError

        with pytest.raises(BlockingIOError):
            there._go_on(nothing_for_it, 1, memoryview(bytearray(1)))
        assert there.socket.recv(1)


def test_an_answer_that_has_to_wait_is_sent_once() -> None:
    here, there = both_ends(secured_client(), secured_server())
    with closing(here), closing(there):
        sent, received, room = 0, bytearray(), memoryview(bytearray(1 << 14))
        answers = memoryview(np.random.default_rng(7).integers(0, 256, 1 << 20, np.uint8).tobytes())
        with pytest.raises(BlockingIOError):
            while True:
                sent += there.sendmsg([answers[sent:]])
        while len(received) < len(answers):
            with suppress(BlockingIOError):
                received += room[: here.recvmsg_into([room])[0]]
            with suppress(BlockingIOError):
                sent += there.sendmsg([answers[sent:]]) if sent < len(answers) else 0
        assert received == answers


def both_ends(client: TlsClient, server: TlsServer) -> tuple[TlsClientConnection, TlsServerConnection]:
    """Shake hands as far as that goes."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
    there = server.wrap(far)

    def go_on() -> None:
        with suppress(PeerError):
            there.shake_hands()

    here = client.wrap(near, go_on)
    with suppress(PeerError):
        there.shake_hands()
    return here, there


def test_who_asks_and_takes_no_answers_is_not_answered_without_end() -> None:
    """Python's client cannot ask for new keys, which TLS answers by itself: such answers are made here."""
    here, there = both_ends(secured_client(), secured_server())
    room, answers = memoryview(bytearray(1)), bytes(RECORD_BYTES + 1)
    with closing(here), closing(there):
        with pytest.raises(BlockingIOError):
            while True:
                there.socket.send(answers)
        for _ in range(2):  # the first answers wait to be sent, those behind them are too many
            with pytest.raises(BlockingIOError):
                there.recvmsg_into([room])
            there._outgoing.write(answers)
        with pytest.raises(PeerError, match="it takes no answers"):
            there.recvmsg_into([room])


def test_who_is_turned_away_is_not_listened_to_but_told() -> None:
    here, there = both_ends(secured_client(), server(lab() / THERE, "somebody else"))
    with closing(here), closing(there):
        here.sendmsg([memoryview(b"let me in")])
        heard = memoryview(bytearray(100))
        assert there.recvmsg_into([heard])[0] > 0
        assert bytes(heard) == bytes(100)
        there.sendmsg([memoryview(b"no")])
        answer = memoryview(bytearray(2))
        assert here.recvmsg_into([answer]) == (2,)
        assert bytes(answer) == b"no"


@given(sizes=st.lists(st.sampled_from([1, 16, 4095, 4096, 16_384, 16_385, 300_000]), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_views_of_any_sizes_arrive_in_order(sizes: list[int]) -> None:
    here, there = both_ends(secured_client(), secured_server())
    with closing(here), closing(there):
        sent = bytes(np.random.default_rng(len(sizes)).integers(0, 256, sum(sizes), np.uint8))
        views, start = [], 0
        for size in sizes:
            views.append(memoryview(sent)[start : start + size])
            start += size
        received = bytearray(len(sent))
        left_to_send, left_to_take = views, [memoryview(received)]
        while left_to_take:
            with suppress(BlockingIOError):
                left_to_send = _without_first(left_to_send, here.sendmsg(left_to_send)) if left_to_send else []
            with suppress(BlockingIOError):
                left_to_take = _without_first(left_to_take, there.recvmsg_into(left_to_take)[0])
        assert bytes(received) == sent


class HurriedClock(MonotonicClock):
    """Each look at it takes five seconds."""

    def __init__(self) -> None:
        self._looks = 0

    def now_ns(self) -> int:
        self._looks += 1
        return self._looks * 5 * 10**9


@pytest.mark.parametrize("answered", [b"", b"\x16\x03\x03\x00\x7a", b"\x16\x03\x03\x40\x00" + bytes(300)])
def test_a_destination_that_begins_tls_and_does_not_go_on_is_given_up(answered: bytes) -> None:
    guest = MemoryGuest(PAGES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port, *_ = listener.getsockname()

        def open_channel(while_blocked: Callable[[], None]) -> Channel:
            connection = connect(TcpAddress(host, port), while_blocked)
            with listener.accept()[0] as other:
                other.sendall(answered)
                return StreamChannel(secured_client().wrap(connection, while_blocked), guest)

        source = MigrationSource(
            guest,
            open_channel,
            HurriedClock(),
            MemoryJournal(),
            MigrationParameters,
            MigrationCapabilities(),
            CREDENTIALS,
        )
        source.run()
    assert source.error == "no connection in 60 s"
    assert guest.running


# What is wrong is told before anybody connects


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    for path in (lab() / HERE).iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
        (directory / path.name).chmod(0o600)
    return directory


def refusal(parameters: MigrationParameters) -> str:
    with pytest.raises(UsageError) as error:
        source_tls(parameters, TcpAddress("there", 4444))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["ca-cert.pem", "client-cert.pem", "client-key.pem"])
def test_files_that_are_missing_damaged_or_no_files_are_named(credentials: Path, name: str) -> None:
    parameters = MigrationParameters(tls_creds=str(credentials))
    path = credentials / name
    spoilings: list[tuple[Callable[[], object], str]] = [
        (lambda: path.write_text("nonsense"), "cannot use the TLS credentials in"),
        (path.unlink, "No such file or directory"),
        (path.mkdir, "are not a regular file"),
    ]
    for spoil, reason in spoilings:
        spoil()
        text = refusal(parameters)
        assert reason in text
        assert name in text or "client-" in text


def test_a_private_key_is_private_and_the_right_one(credentials: Path) -> None:
    parameters = MigrationParameters(tls_creds=str(credentials))
    (credentials / "client-key.pem").chmod(0o644)
    assert "is open to others (mode 0644); chmod 600 it" in refusal(parameters)
    (credentials / "server-key.pem").rename(credentials / "client-key.pem")
    assert "key values mismatch" in refusal(parameters)


def test_a_damaged_list_of_revoked_certificates_is_named(credentials: Path) -> None:
    (credentials / "ca-crl.pem").write_text("nonsense")
    assert "ca-crl.pem" in refusal(MigrationParameters(tls_creds=str(credentials)))


def test_pre_shared_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.psk").write_text("user:0123456789abcdef")
    assert "holds pre-shared keys" in refusal(MigrationParameters(tls_creds=str(tmp_path)))


def test_what_is_asked_for_without_credentials_is_refused() -> None:
    assert refusal(MigrationParameters(tls_hostname="there")).startswith("tls-hostname is set and tls-creds is not")
    with pytest.raises(UsageError, match="tls-authz is set and tls-creds is not"):
        destination_tls(MigrationParameters(tls_authz="here"))


def test_a_unix_socket_needs_a_name_to_expect(credentials: Path) -> None:
    parameters = MigrationParameters(tls_creds=str(credentials))
    with pytest.raises(UsageError, match="set tls-hostname"):
        source_tls(parameters, UnixAddress("/run/in.sock"))
    tls = source_tls(parameters.changed({"tls-hostname": "there"}), UnixAddress("/run/in.sock"))
    assert tls
    assert tls.hostname == "there"


def test_names_that_are_allowed_are_a_list() -> None:
    tls = destination_tls(MigrationParameters(tls_creds=str(lab() / THERE), tls_authz=" a.lab, b.lab,"))
    assert tls
    assert tls.allowed_names == {"a.lab", "b.lab"}


@pytest.mark.parametrize(
    ("host", "token", "told"),
    [
        ("127.0.0.1", False, None),
        ("::1", False, None),
        ("0.0.0.0", False, "whoever reaches it can send a guest"),
        ("::", True, "who knows the token can send a guest"),
        ("192.0.2.1", False, "in clear"),
        ("fe80::1%eth0", False, "in clear"),
    ],
)
def test_what_is_open_to_others_is_told(host: str, token: bool, told: str | None) -> None:
    text = what_is_missing(TcpAddress(host, 4444), token=token)
    assert text is None if told is None else told in (text or "")
    assert what_is_missing(UnixAddress("/run/in.sock"), token=token) is None
