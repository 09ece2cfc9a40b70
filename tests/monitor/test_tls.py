"""A monitor over TCP that speaks TLS: who is let in, and what both sides are told of everybody else."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import HERE, THERE, foreign_lab, lab
from tests.support.memory_vm import MemoryVm
from tests.support.wait import wait_until
from vmferry.client.qmp_client import QmpClient
from vmferry.errors import MonitorError, UsageError
from vmferry.monitor.server import MonitorServer


class Served:
    """A monitor in a thread of its own, which tells what it logs."""

    def __init__(self, *tls: str) -> None:
        self.log: list[str] = []
        self.vm = MemoryVm()
        self._server = MonitorServer(self.vm, ",".join(["tcp:127.0.0.1:0", *tls]), log=self.log.append)
        self.address = self._server.where
        self.is_open_to_others = self._server.is_open_to_others
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._server.start())
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def told(self) -> str:
        wait_until(lambda: bool(self.log))
        [line] = self.log
        assert "\n" not in line
        return line.removeprefix("turned a client of the monitor away: ")


@pytest.fixture
def monitor() -> Iterator[Served]:
    monitor = Served(f"tls-creds={lab() / THERE}")
    yield monitor
    monitor.close()


def secured(monitor: Served, directory: Path, hostname: str = THERE) -> str:
    return f"{monitor.address},tls-creds={directory},tls-hostname={hostname}"


def refusal(address: str) -> str:
    with pytest.raises(MonitorError) as error:
        QmpClient.connect(address)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_client_with_a_certificate_is_served(monitor: Served) -> None:
    address = secured(monitor, lab() / HERE)
    with QmpClient.connect(address) as first, QmpClient.connect(address) as second:
        first.execute("stop")
        assert second.execute("query-status")["status"] == "paused"
        assert second.wait_event("STOP", 60).name == "STOP"
        assert first.descriptor is None, "another process has not the keys of the connection"
        assert first.where == address, "so it makes one of its own"
    assert monitor.log == []


def test_long_answers_pass(monitor: Served) -> None:
    with QmpClient.connect(secured(monitor, lab() / HERE)) as client:
        assert len(str(client.execute("query-qmp-schema"))) > 20_000


def test_a_host_that_is_a_number_is_checked_too() -> None:
    monitor = Served(f"tls-creds={lab() / '127.0.0.1'}")
    with QmpClient.connect(f"{monitor.address},tls-creds={lab() / HERE}") as client:
        assert client.execute("query-status")["running"]
    monitor.close()


@pytest.mark.parametrize(
    ("client", "told_here", "told_there"),
    [
        ("expired", "it refuses our certificate, which has expired", "its certificate is refused: it has expired"),
        ("revoked", "it refuses our certificate, which was revoked", "its certificate is refused: it was revoked"),
    ],
)
def test_a_client_with_a_bad_certificate_is_turned_away(
    monitor: Served, client: str, told_here: str, told_there: str
) -> None:
    assert told_here in refusal(secured(monitor, lab() / client))
    assert told_there in monitor.told()


def test_a_monitor_of_another_name_or_another_ca_is_not_spoken_to(monitor: Served) -> None:
    assert "not valid for 'elsewhere'" in refusal(secured(monitor, lab() / HERE, "elsewhere"))
    assert "which may be of another name" in monitor.told()
    monitor.log.clear()
    assert "another CA than ours" in refusal(secured(monitor, foreign_lab() / HERE))
    assert "it does not know its CA" in monitor.told()


def test_a_client_whose_name_is_not_allowed_is_turned_away() -> None:
    monitor = Served(f"tls-creds={lab() / THERE}", "tls-authz=boss", "tls-authz=127.0.0.1")
    assert "closed the connection" in refusal(secured(monitor, lab() / HERE))
    assert monitor.told() == f"its certificate is that of '{HERE}', whom tls-authz does not allow"
    with QmpClient.connect(secured(monitor, lab() / "127.0.0.1")) as client:
        assert client.execute("query-status")["running"]
    monitor.close()


def test_a_client_without_tls_gets_nothing(monitor: Served) -> None:
    assert "or it wants TLS (tls-creds)" in refusal(monitor.address)


def test_a_monitor_without_tls_is_told_as_such() -> None:
    monitor = Served()
    assert "no TLS with the monitor: it speaks none (tls-creds)" in refusal(secured(monitor, lab() / HERE))
    monitor.close()


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("tcp:127.0.0.1:0,tls-authz=a", "has no tls-creds=DIRECTORY"),
        ("tcp:127.0.0.1:0,tls-creds", "'tls-creds' in .* is not understood; allowed are tls-creds=, tls-authz="),
        ("tcp:127.0.0.1:0,tls-creds=/nowhere", "cannot read the TLS credentials '/nowhere/ca-cert.pem'"),
        ("tcp:127.0.0.1:0,server=on", "is not understood"),
    ],
)
def test_what_is_wrong_with_an_address_is_told(address: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        MonitorServer(MemoryVm(), address)
