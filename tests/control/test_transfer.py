"""Channels, compression and credentials on both sides of a QEMU's migration, as monitors are told."""

from collections.abc import Mapping
from typing import Any, Self

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.cancel import CancelToken
from vmferry.control.arriving.destination import Destination
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.place import Place
from vmferry.control.ports import Ports
from vmferry.control.slowing.means import KINDS
from vmferry.control.undoing.promises import Promises
from vmferry.errors import CommandError, UsageError
from vmferry.simulation.clock import VirtualClock


class NoGuard(Promises):
    """Nobody dies here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _write(self, promise: str) -> None:
        pass


NOWHERE = Place(lambda monitor, warn, other: NoGuard(), KINDS, lambda monitor, changes: "nobody", lambda *of: None, 0.0)
WIDE = {"multifd": False, "auto-converge": False}


class WideQemu(FakeQemu):
    """Knows multifd, and refuses it once it listens, if `is_strict`."""

    def __init__(self, *course: Any, listens: bool = True, is_strict: bool = False, **parameters: object) -> None:
        compression = {"multifd_channels": 2, "multifd_compression": "none", "tls_creds": ""}
        super().__init__(course or [answer("completed", 9)], **compression | parameters)
        self.capabilities = dict(WIDE)
        self.listens, self._is_strict = listens, is_strict
        self.instead["qom-list"] = [{"name": "type"}, {"name": "tls0"}]

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command == "query-migrate" and self.run_state == "inmigrate":
            return {"status": "setup"} if self.listens else {}
        if command == "migrate-set-capabilities" and self._is_strict and self.listens:
            raise CommandError("Multifd must be set before incoming starts", "GenericError")
        if command == "migrate-incoming":
            self.listens = True
        return super().execute(command, arguments)


def waiting(**options: Any) -> WideQemu:
    there = WideQemu(**options)
    there.run_state = "inmigrate"
    return there


def migrate(here: WideQemu, there: WideQemu | None, told: list[str] | None = None, **wishes: Any) -> None:
    clock = VirtualClock()
    destination = Destination(there, clock) if there else None
    order = Order(uri="unix:/x", auto_converge=False, destination=destination, **wishes)
    there_arrives = there

    def watch(progress: object) -> None:
        if there_arrives:
            there_arrives.run_state = "running"

    lines = told if told is not None else []
    carry_out(Ports(here, clock, CancelToken(), lines.append, lines.append), order, watch, NOWHERE)


def test_both_sides_are_told_and_both_are_as_before() -> None:
    here, there = WideQemu(answer(), answer("completed", 9)), waiting()
    migrate(here, there, channels=4, compression="zlib")
    for vm in (here, there):
        assert {"multifd-channels": 4, "multifd-compression": "zlib"} in [
            arguments for command, arguments in vm.told if command == "migrate-set-parameters"
        ]
        assert vm.capabilities["multifd"] is False
        assert vm.parameters["multifd-channels"] == 2
        assert vm.parameters["multifd-compression"] == "none"
    assert not any(command == "migrate-incoming" for command, _ in there.told)


def test_a_destination_that_waits_to_be_told_listens_when_all_is_set() -> None:
    here, there = WideQemu(answer(), answer("completed", 9)), waiting(listens=False, is_strict=True)
    migrate(here, there, channels=2)
    commands = [command for command, _ in there.told]
    assert commands.index("migrate-set-parameters") < commands.index("migrate-incoming")
    assert ("migrate-incoming", {"uri": "unix:/x"}) in there.told


def test_a_destination_that_listens_too_early_is_told_how_to_start() -> None:
    here, there = WideQemu(), waiting(is_strict=True)
    with pytest.raises(UsageError, match=r"the destination refuses .* start a QEMU that waits with -incoming defer"):
        migrate(here, there, channels=2)
    assert not any(command == "migrate" for command, _ in here.told)
    assert here.capabilities == WIDE


def test_credentials_are_set_where_there_are_none() -> None:
    for own, expected in (("", "tls0"), ("its-own", None)):
        here, there = WideQemu(answer(), answer("completed", 9)), waiting(tls_creds=own)
        migrate(here, there, parameters={"tls-creds": "tls0"})
        set_there = [arguments.get("tls-creds") for _, arguments in there.told if "tls-creds" in arguments]
        assert set_there[:1] == ([expected] if expected else [])
        assert there.parameters["tls-creds"] == own
        assert here.parameters["tls-creds"] == ""


def test_credentials_without_a_destination_to_ask_are_told() -> None:
    told: list[str] = []
    migrate(WideQemu(), None, told, parameters={"tls-creds": "tls0"})
    assert "tls-creds is set at the source; the destination must have been given its own" in told


@pytest.mark.parametrize(
    ("wishes", "complaint"),
    [
        ({"channels": 2}, "add --destination-qmp"),
        ({"compression": "zlib"}, "pages are compressed on channels"),
        (
            {"parameters": {"tls-creds": "/etc/tls"}},
            "QEMU has no object '/etc/tls'; start it with -object tls-creds-x509",
        ),
    ],
)
def test_what_one_side_alone_cannot_do_is_refused(wishes: dict[str, Any], complaint: str) -> None:
    here = WideQemu()
    with pytest.raises(UsageError, match=complaint):
        migrate(here, None, **wishes)
    assert here.told == []


def test_a_vm_without_channels_says_so() -> None:
    here = FakeQemu([])
    with pytest.raises(UsageError, match=r"QEMU 7.2.0 cannot send over several connections \(multifd\)"):
        migrate(here, waiting(), channels=2)  # type: ignore[arg-type]


def test_a_migration_that_runs_keeps_its_channels() -> None:
    here = WideQemu(answer())
    here.begin()
    order = Order(uri=None, channels=2)
    with pytest.raises(UsageError, match="cannot be changed now"):
        carry_out(Ports(here, VirtualClock(), CancelToken(), print, print), order, lambda progress: None)
