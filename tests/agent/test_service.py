"""An agent as a service: what systemd is told, what is said, and why it does not begin."""

import io
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from tests.support.agent import agent
from tests.support.agent_web import READ_TOKEN, bearer
from tests.support.certificates import lab
from tests.support.ports import free_port
from tests.support.wait import wait_until
from vmferry.agent.log import Journald, Level, Log, as_json, as_text
from vmferry.agent.metrics import Metrics
from vmferry.agent.service import Agent
from vmferry.cli.main import vmferry
from vmferry.errors import HostError, UsageError
from vmferry.transport.tls_credentials import Endpoint, load_credentials

UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "vmferry-agent.service"


def test_systemd_is_told_that_it_is_ready_alive_reloads_and_ends(tmp_path: Path) -> None:
    (tmp_path / "qmp").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, agent(tmp_path) as one:
        notified.bind(f"{tmp_path}/notify")
        told: list[str] = []

        def read() -> None:
            while text := notified.recv(1000).decode():
                told.append(text)

        def await_told(start: str, count: int = 1) -> None:
            wait_until(lambda: sum(text.startswith(start) for text in told) >= count)

        reader = threading.Thread(target=read)
        reader.start()
        one.write(f'sockets = ["{tmp_path}/qmp"]\n')
        one.start(NOTIFY_SOCKET=f"{tmp_path}/notify", WATCHDOG_USEC="300000")
        await_told("READY=1")
        await_told("WATCHDOG=1", 3)
        one.write(f'keep-days = 7\nsockets = ["{tmp_path}/qmp"]\n[[rule]]\nmode = "steer"\n')
        one.reload()
        await_told("RELOADING=1\nMONOTONIC_USEC=")
        await_told("READY=1", 2)
        assert one.wait_for("start the agent anew")["message"].endswith("keep-days")
        with pytest.raises(UsageError, match="runs here already"):  # another one of the same host
            Agent(tmp_path / "agent.toml", Log(as_text)).run()
        assert one.stop() == 0
        await_told("STOPPING=1")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", f"{tmp_path}/notify")
        reader.join()


def test_why_it_does_not_begin_is_told(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'host = "{tmp_path}"\ndatabase = "sqlite:///{tmp_path}/no/where.db"\n')
    with pytest.raises(HostError, match="unable to open database file"):
        Agent(path, Log(as_text)).run()
    path.write_text("rules = []\n")
    with pytest.raises(UsageError, match=f"{path}:1: Object contains unknown field `rules`"):
        Agent(path, Log(as_text))


def test_other_hosts_get_metrics_with_tls_and_the_token_only(tmp_path: Path) -> None:
    port, creds, token = free_port(), lab() / "127.0.0.1", tmp_path / "token"
    token.touch(0o600)
    token.write_text(READ_TOKEN)
    path = tmp_path / "agent.toml"
    path.write_text(f'metrics = "0.0.0.0:{port}"\ntls-creds = "{creds}"\ntoken-file = "{token}"\n')
    tls = load_credentials(str(creds), Endpoint.CLIENT)
    with ExitStack() as stack, httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=tls) as client:
        Agent(path, Log(as_text))._serve_metrics(Metrics(list), stack)
        assert client.get("/metrics").status_code == 401
        assert "vmferry_migrations_running" in client.get("/metrics", headers=bearer(READ_TOKEN)).text
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{port}/metrics", headers=bearer(READ_TOKEN))


def test_a_check_reads_the_tokens_and_certificates_that_are_needed(tmp_path: Path) -> None:
    token, creds = tmp_path / "token", lab() / "127.0.0.1"
    path = tmp_path / "agent.toml"

    def check(metrics: str, creds: Path, page: str) -> str:
        path.write_text(f'metrics = "{metrics}"\npage = "{page}"\ntls-creds = "{creds}"\ntoken-file = "{token}"\n')
        ran = CliRunner().invoke(vmferry, ["agent", "--check", "--config", str(path)])
        return str(ran.exception or ran.output)

    assert check("", creds, "").endswith(": 0 rules\n"), "nothing is served, so nothing is read"
    assert "cannot read the token in" in check("0.0.0.0:9177", creds, "")
    assert "cannot read the token in" in check("", creds, "/run/page.sock")
    token.touch(0o600)
    token.write_text(READ_TOKEN)
    assert check("0.0.0.0:9177", creds, "").endswith(": 0 rules\n")
    assert "server-cert.pem" in check("0.0.0.0:9177", tmp_path, "")
    assert check("", tmp_path, "/run/page.sock").endswith(": 0 rules\n"), "a unix socket speaks no TLS"


@pytest.mark.systemd
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    command = shutil.which("true")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/vmferry", str(command)))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_journald_gets_fields_that_no_name_can_forge(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(f"{tmp_path}/journal")
        Log(Journald(f"{tmp_path}/journal")).of(vm="a\nPRIORITY=0").warn("slowed\nMESSAGE=no")
        assert journal.recv(1000).decode().splitlines() == [
            "MESSAGE=slowed?MESSAGE=no",
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=vmferry-agent",
            "VMFERRY_VM=a?PRIORITY=0",
        ]


def test_without_journald_lines_go_to_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Journald(f"{tmp_path}/none")(Level.WARNING, "slowed", {"vm": "a"})
    assert capsys.readouterr().err == "vmferry agent: warning: a: slowed\n"


def test_what_a_vm_is_called_forges_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for sink in (as_text, as_json):
        monkeypatch.setattr(sys, "stderr", written := io.StringIO())
        Log(sink).of(vm="a\n{}\x1b[31m\udc80").info("moved\n")
        assert written.getvalue().count("\n") == 1
        assert "\x1b" not in written.getvalue()
        if sink is as_json:
            line = msgspec.json.decode(written.getvalue())
            assert (line["vm"], line["message"], line["level"]) == ("a?{}?[31m?", "moved?", "info")


@pytest.mark.parametrize("words", [("agent",), ("history",), ("report", "--id", "1")])
def test_a_command_that_lacks_the_extra_says_so_in_one_line(words: tuple[str, ...]) -> None:
    code = "import sys; sys.modules['sqlalchemy'] = None; from vmferry.cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "sqlalchemy is missing; install `pip install 'vmferry[agent]'`" in ended.stderr
