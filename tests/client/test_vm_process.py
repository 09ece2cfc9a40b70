"""Whose monitor it is, the kernel says, whatever the monitor says."""

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from tests.support.wait import wait_until
from vmferry.client.qmp_client import QmpClient
from vmferry.client.vm_process import process_of_domain
from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.errors import HostError

QEMU = ("qemu-system-x86_64", "-machine", "none", "-accel", "tcg", "-nodefaults", "-display", "none")
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "qmp"


@pytest.mark.qemu
@pytest.mark.parametrize("options", [(), pytest.param(("-runas", "nobody"), marks=as_root)])
def test_a_qemu_in_the_background_is_found(path: Path, options: tuple[str, ...]) -> None:
    pid_file = path.with_name("pid")
    background = ("-daemonize", "-pidfile", str(pid_file), "-qmp", f"unix:{path},server=on,wait=off")
    subprocess.run([*QEMU, *background, *options], check=True)
    pid = int(pid_file.read_text())
    try:
        with QmpClient.connect(str(path)) as client:
            assert client.peer_pid == pid
    finally:
        os.kill(pid, 9)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


def found_at(path: Path) -> int | None:
    with QmpClient.connect(str(path)) as client:
        try:
            return client.peer_pid
        except HostError:  # the connection was made before QEMU listened itself
            return None


@pytest.mark.qemu
def test_a_qemu_that_was_given_its_listening_socket_is_found(path: Path) -> None:
    """As libvirt and systemd do it; QEMU listens once more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        monitor = f"socket,id=m,fd={listener.fileno()},server=on,wait=off"
        words = [*QEMU, "-chardev", monitor, "-mon", "chardev=m,mode=control"]
        qemu = subprocess.Popen(words, pass_fds=[listener.fileno()])
    with qemu:
        try:
            wait_until(lambda: found_at(path) == qemu.pid)
        finally:
            qemu.kill()


def serve(listener: socket.socket, thread_id: int) -> None:
    """Be a monitor that says that this thread is its vCPU, until the client goes."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rwb", buffering=0) as lines:
        lines.write(json.dumps(GREETING).encode() + b"\n")
        for line in lines:
            request = json.loads(line)
            cpus = [{"cpu-index": 0, "thread-id": thread_id}]
            result = cpus if request["execute"] == "query-cpus-fast" else {}
            lines.write(json.dumps({"return": result, "id": request["id"]}).encode() + b"\n")


@contextmanager
def liar(listener: socket.socket, thread_id: int) -> Iterator[None]:
    server = Thread(target=serve, args=(listener, thread_id))
    server.start()
    yield
    server.join()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[int]:
    """Somebody else's process, which looks like a QEMU."""
    (tmp_path / "qemu-system-x86_64").symlink_to(sys.executable)
    with subprocess.Popen([tmp_path / "qemu-system-x86_64", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_a_monitor_that_names_threads_of_another_process_is_not_believed(path: Path, victim: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with liar(listener, victim), QmpClient.connect(str(path)) as client:
            assert client.peer_pid == os.getpid()
            with pytest.raises(HostError, match=f"process {os.getpid()}, which serves the monitor, is not the one"):
                vcpu_threads(client)


SERVE_FOR_ANOTHER = """
import socket, sys
from tests.client.test_vm_process import serve
serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
"""


def test_whoever_only_began_to_listen_is_not_taken_for_the_one_that_serves(path: Path, victim: int) -> None:
    """Else its number, once it is another's, would make that other one's threads the VM's."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        words = [sys.executable, "-c", SERVE_FOR_ANOTHER, str(listener.fileno()), str(victim)]
        server = subprocess.Popen(words, pass_fds=[listener.fileno()])
    reason = f"process {os.getpid()} began to listen .* but another one serves it"
    with server, QmpClient.connect(str(path)) as client, pytest.raises(HostError, match=reason):
        vcpu_threads(client)


def test_over_tcp_nothing_is_certain() -> None:
    reason = "does not show that the VM runs on this host"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        liar(listener, os.getpid()),
        QmpClient.connect(f"tcp:127.0.0.1:{listener.getsockname()[1]}") as client,
        pytest.raises(HostError, match=reason),
    ):
        vcpu_threads(client)


def test_a_domain_is_the_process_that_was_started_with_its_uuid() -> None:
    domain = str(uuid.uuid4())
    with subprocess.Popen([sys.executable, "-c", "input()", "-uuid", domain], stdin=subprocess.PIPE) as process:
        wait_until(lambda: domain.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        assert process_of_domain(process.pid, domain) == process.pid
        for thread_id, other in ((process.pid, str(uuid.uuid4())), (os.getpid(), domain), (4194999, domain)):
            with pytest.raises(HostError, match="the domain does not run on this host"):
                process_of_domain(thread_id, other)
        process.kill()


@as_root
def test_a_program_that_runs_as_another_user_is_not_a_domain_by_its_words(tmp_path: Path) -> None:
    domain = str(uuid.uuid4())
    ids = "import os; os.setresuid(65534, 0, 0); input()"
    with subprocess.Popen([sys.executable, "-c", ids, "-uuid", domain], stdin=subprocess.PIPE) as process:
        wait_until(lambda: "65534" in Path(f"/proc/{process.pid}/status").read_text())
        with pytest.raises(HostError, match="the domain does not run on this host"):
            process_of_domain(process.pid, domain)
        process.kill()
