"""Real destinations, and who knocks at their ports besides the real source."""

import os
import resource
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from vmferry.errors import CommandError, HostError
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.handshake import Credentials
from vmferry.migration.peer import expect
from vmferry.perf.lab import VM_COMMAND, Lab, VmProcess
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import connect
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import TcpAddress, parse_uri
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Accepted, Challenge, Hello, Pages, Proof

pytestmark = pytest.mark.kvm

VM = ["--memory", "64M"]
PAGES = (64 << 20) // 4096
BOOT = ["--append", "ramsize=16"]
EASY = {"max-bandwidth": 0, "downtime-limit": 2000}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start_destination(lab: Lab, *options: str, name: str = "destination") -> tuple[VmProcess, str]:
    destination = lab.start([*VM_COMMAND, *VM, "--incoming", "tcp:127.0.0.1:0", *options], name)
    [address] = destination.monitor.execute("query-migrate")["socket-address"]
    return destination, f"tcp:{address['host']}:{address['port']}"


def start_source(lab: Lab, name: str = "source") -> VmProcess:
    source = lab.start([*VM_COMMAND, *VM, *BOOT], name)
    source.wait_for_passes(1)
    return source


def migrate(source: VmProcess, uri: str, **parameters: object) -> tuple[str, str]:
    """Return status and reason."""
    changes = EASY | {name.replace("_", "-"): value for name, value in parameters.items()}
    source.monitor.execute("migrate-set-parameters", changes)
    source.monitor.execute("migrate", {"uri": uri})
    wait_until(lambda: source.monitor.execute("query-migrate")["status"] in ("completed", "failed"))
    info = source.monitor.execute("query-migrate")
    return info["status"], info.get("error-desc", "")


def assert_waits(destination: VmProcess) -> None:
    assert destination.process.poll() is None
    assert destination.monitor.execute("query-status") == {"running": False, "status": "inmigrate"}
    assert destination.monitor.execute("query-migrate")["status"] == "setup"


def token_file(lab: Lab, name: str, text: str | None = None) -> str:
    path = lab.directory / name
    path.touch(0o600)
    path.write_text((text or secrets.token_hex(32)) + "\n")
    return str(path)


class Stranger:
    """Somebody with a guest of the right size, who has been accepted."""

    def __init__(self, uri: str) -> None:
        self.guest = MemoryGuest(PAGES)
        self.guest.ram[:, 0] = 7
        self._channel = StreamChannel(connect(parse_uri(uri), lambda: None), self.guest)
        credentials = Credentials(secrets.token_bytes(NONCE_BYTES))
        self.send(Hello(self.guest.layout, credentials.nonce))
        challenge = expect(Challenge, self._channel.receive(lambda: None))
        self.send(credentials.answer(challenge))
        expect(Accepted, self._channel.receive(lambda: None))

    def send(self, message: Hello | Proof | Pages) -> None:
        self._channel.send(message, lambda: None)

    def close(self) -> None:
        self._channel.close()


@pytest.mark.parametrize("pages", [EMPTY, PageRuns.of([(0, 1)]), PageRuns.of([(0, 1000)])], ids=len)
def test_pages_of_a_stranger_end_no_wait_and_leave_nothing(lab: Lab, pages: PageRuns) -> None:
    destination, uri = start_destination(lab)
    with closing(Stranger(uri)) as stranger:
        stranger.send(Pages(pages, EMPTY))
    wait_until(lambda: "closed the connection" in destination.errors() or "is lost" in destination.errors())
    assert_waits(destination)
    assert migrate(start_source(lab), uri) == ("completed", "")
    destination.check_memory()


def test_a_stranger_who_was_accepted_and_is_silent_keeps_nobody_out(lab: Lab) -> None:
    destination, uri = start_destination(lab)
    with closing(Stranger(uri)), closing(Stranger(uri)) as other:
        other.send(Pages(EMPTY, EMPTY))
        assert migrate(start_source(lab), uri) == ("completed", "")
    destination.check_memory()


@pytest.mark.parametrize("descriptors", [None, 20])
def test_a_flood_of_connections_keeps_nobody_out(lab: Lab, descriptors: int | None) -> None:
    destination, uri = start_destination(lab)
    if descriptors:
        in_use = len(os.listdir(f"/proc/{destination.process.pid}/fd"))
        resource.prlimit(destination.process.pid, resource.RLIMIT_NOFILE, (in_use + descriptors, 4096))
    source = start_source(lab)
    opened: list[socket.socket] = []
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set() and len(opened) < 900:
            with suppress(OSError):
                opened.append(socket.create_connection(tcp(uri), 5))

    flooder = threading.Thread(target=flood)
    flooder.start()
    try:
        wait_until(lambda: len(opened) > 300)
        assert migrate(source, uri) == ("completed", "")
    finally:
        ended.set()
        flooder.join()
        for connection in opened:
            connection.close()
    resource.prlimit(destination.process.pid, resource.RLIMIT_NOFILE, (1024, 4096))
    destination.check_memory()
    lines = destination.errors().splitlines()
    assert len(lines) < 60, "strangers fill the log"


def test_a_recorded_migration_is_not_accepted_again(lab: Lab) -> None:
    first, uri = start_destination(lab)
    second, second_uri = start_destination(lab, name="second")
    recorded = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relaying = threading.Thread(target=relay, args=(listener, tcp(uri), recorded), daemon=True)
        relaying.start()
        assert migrate(start_source(lab), f"tcp:127.0.0.1:{listener.getsockname()[1]}")[0] == "completed"
        relaying.join()
    assert len(recorded) > 16 << 20
    with socket.create_connection(tcp(second_uri)) as replayer, suppress(OSError):
        replayer.sendall(recorded)
    wait_until(lambda: "the source's stream is a recording" in second.errors())
    assert_waits(second)
    assert first.monitor.execute("query-status")["running"]


def test_a_destination_that_had_loaded_everything_takes_the_same_guest_again(lab: Lab) -> None:
    destination, uri = start_destination(lab)
    source = start_source(lab)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relaying = threading.Thread(target=relay_until_ready, args=(listener, tcp(uri)), daemon=True)
        relaying.start()
        assert migrate(source, f"tcp:127.0.0.1:{listener.getsockname()[1]}")[0] == "failed"
        relaying.join()
    assert source.monitor.execute("query-status")["running"]
    wait_until(lambda: "incoming migration failed" in destination.errors())
    assert_waits(destination)
    assert migrate(source, uri) == ("completed", "")
    passes = destination.check_memory().passes
    destination.wait_for_passes(passes + 1)


def relay(listener: socket.socket, target: tuple[str, int], record: bytearray) -> None:
    """Pass a migration on and record what its source sends."""
    here, _ = listener.accept()
    with here, socket.create_connection(target) as there:
        back = threading.Thread(target=pump, args=(there, here), daemon=True)
        back.start()
        pump(here, there, record)
        back.join()


def relay_until_ready(listener: socket.socket, target: tuple[str, int]) -> None:
    """Pass a migration on until the destination says READY, which is its third frame, and lose that."""
    here, _ = listener.accept()
    with here, socket.create_connection(target) as there:
        forth = threading.Thread(target=pump, args=(here, there), daemon=True)
        forth.start()
        encoder = Encoder()
        for message in (Challenge(bytes(NONCE_BYTES)), Accepted()):
            here.sendall(there.recv(len(encoder.encode(message)), socket.MSG_WAITALL))
        there.recv(1)
        for end in (here, there):
            with suppress(OSError):  # `pump` may have been sooner
                end.shutdown(socket.SHUT_RDWR)
        forth.join()


def pump(source: socket.socket, target: socket.socket, record: bytearray | None = None) -> None:
    """Pass on and record all that comes; when one end is closed, close the other."""
    with suppress(OSError):
        while data := source.recv(1 << 20):
            if record is not None:
                record += data
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def tcp(uri: str) -> tuple[str, int]:
    address = parse_uri(uri)
    assert isinstance(address, TcpAddress)
    return address.host, address.port


def test_who_knows_the_token_migrates(lab: Lab) -> None:
    token = token_file(lab, "token")
    destination, uri = start_destination(lab, "--token-file", token)
    start_source(lab)
    words = ["migrate", "--qmp", f"unix:{lab.directory / 'source.qmp'}", uri, "--token-file", Path(token).name]
    driver = subprocess.run(
        [sys.executable, "-m", "vmferry", *words], cwd=lab.directory, capture_output=True, text=True, timeout=60
    )
    assert driver.returncode == 0, driver.stderr
    destination.check_memory()


def test_a_token_that_is_wrong_or_missing_is_told_on_both_sides_and_costs_nothing(lab: Lab) -> None:
    token, other = token_file(lab, "token"), token_file(lab, "other")
    destination, uri = start_destination(lab, "--token-file", token)
    source = start_source(lab)
    for wrong, complaint in (("", "the destination asks for a token"), (other, "does not know this token")):
        status, reason = migrate(source, uri, token_file=wrong)
        assert status == "failed"
        assert complaint in reason
        assert source.monitor.execute("query-status")["running"]
    wait_until(lambda: destination.errors().count("before it proved to know the token") == 2)
    assert_waits(destination)
    assert migrate(source, uri, token_file=token) == ("completed", "")
    destination.check_memory()
    shown = source.monitor.execute("query-migrate-parameters")
    assert shown["token-file"] == token
    assert Path(token).read_text().strip() not in str(shown)


def test_a_token_in_a_file_that_will_not_do_is_refused(lab: Lab) -> None:
    open_to_others = token_file(lab, "open")
    os.chmod(open_to_others, 0o640)
    os.mkfifo(fifo := str(lab.directory / "fifo"), 0o600)
    source = start_source(lab)
    for path, complaint in (
        (open_to_others, "is open to others (mode 0640); chmod 600 it"),
        (fifo, "is not a regular file"),
        (token_file(lab, "short", "guess"), "holds 5 bytes, 16 to 4096 are allowed"),
        (token_file(lab, "long", "x" * 5000), "holds 4097 bytes, 16 to 4096 are allowed"),
        (str(lab.directory / "nowhere"), "cannot read the token file"),
    ):
        with pytest.raises(HostError, match="did not start") as caught:
            start_destination(lab, "--token-file", path, name="refused")
        assert complaint in str(caught.value)
        assert "Traceback" not in str(caught.value)
        source.monitor.execute("migrate-set-parameters", {"token-file": path})
        with pytest.raises(CommandError) as refusal:
            source.monitor.execute("migrate", {"uri": "tcp:127.0.0.1:1"})
        assert complaint in str(refusal.value)
