"""A monitor that answers as QEMU's does during one migration, whose course the test writes down."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from vmferry.client.manager import Manager
from vmferry.client.qmp_client import Event, result_of
from vmferry.errors import CommandError, HostError, MonitorError

Answer = dict[str, Any]


class FakeQemu:
    """`course` are the answers to `query-migrate` once it migrates; an answer that is an exception is raised.

    Before that it says `none`, and after the last it repeats it. Somebody else measures its dirty rate for ever.
    """

    where = "unix:/nowhere"
    descriptor = None
    manager: Manager | None = None

    def __init__(self, course: Iterable[Any], **parameters: object) -> None:
        self.told: list[tuple[str, Mapping[str, object]]] = []
        """Commands that are no questions."""
        self.parameters: dict[str, object] = {
            "downtime-limit": 300,
            "max-bandwidth": 128 << 20,
            "cpu-throttle-initial": 20,
            "cpu-throttle-increment": 10,
            "max-cpu-throttle": 99,
            "cpu-throttle-tailslow": False,
        } | {name.replace("_", "-"): value for name, value in parameters.items()}
        self.capabilities = {"auto-converge": False}
        self.version = (7, 2, 0)
        self.run_state = "running"
        self.obeys_cancel = True
        """Whether a migration that is cancelled ends."""
        self.during: Callable[[str], None] = lambda command: None
        """Called with every command before it is carried out."""
        self.while_waiting: Callable[[], None] = lambda: None
        """As with `open_monitor`: called while the answer is waited for."""
        self.instead: dict[str, Any] = {}
        """Answers to questions that are not those of a QEMU."""
        self.events: list[Event] = []
        """What `take_events` returns the next time."""
        self.yanked: Iterable[Any] | None = None
        """The course after its connection was broken out of band; None if it does not even answer that."""
        self._course: Iterator[Answer | BaseException] = iter(course)
        self._status: Answer | BaseException = {"status": "none"}
        self._migrating = False

    def begin(self) -> None:
        """Let a migration run that somebody else has begun."""
        self._migrating = True

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        self.during(command)
        self.while_waiting()
        if command in self.instead:
            return checked(command, self.instead[command])
        if command == "query-migrate":
            return checked(command, self._query_migrate())
        if command.startswith("query-"):
            return checked(command, self._query(command))
        self.told.append((command, dict(arguments or {})))
        match command:
            case "calc-dirty-rate":
                raise CommandError("Can't start a measurement while one is under way", "GenericError")
            case "migrate":
                self._migrating = True
            case "migrate_cancel" if self.obeys_cancel:
                self._course = iter(())
                self._status = {"status": "cancelled", "error-desc": "Channel error: Input/output error"}  # as QEMU 10
            case "migrate-set-parameters":
                self.parameters |= arguments or {}
            case "migrate-set-capabilities":
                assert arguments
                entries: Any = arguments["capabilities"]
                self.capabilities |= {entry["capability"]: entry["state"] for entry in entries}
        return {}

    @property
    def peer_pid(self) -> int:
        raise HostError("the monitor does not show that the VM runs on this host")

    def execute_out_of_band(self, command: str, arguments: Mapping[str, object]) -> Any:
        self.told.append((command, dict(arguments)))
        if self.yanked is None:
            raise MonitorError("no answer")
        self._course = iter(self.yanked)
        return {}

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def hurry(self) -> None:
        self.told.append(("hurry", {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def _query_migrate(self) -> Answer:
        if self._migrating:
            self._status = next(self._course, self._status)
        if isinstance(self._status, BaseException):
            error, self._status = self._status, {"status": "active"}
            raise error
        return self._status

    def _query(self, command: str) -> Any:
        match command:
            case "query-qmp-schema":
                arguments = {"name": "1", "meta-type": "object", "members": [{"name": "calc-time", "type": "int"}]}
                each = {"meta-type": "command", "arg-type": "1"}
                names = ("calc-dirty-rate", "set-vcpu-dirty-limit")
                return [arguments, *({"name": name} | each for name in names)]
            case "query-version":
                return {"qemu": dict(zip(("major", "minor", "micro"), self.version, strict=True))}
            case "query-migrate-parameters":
                return dict(self.parameters)
            case "query-migrate-capabilities":
                return [{"capability": name, "state": state} for name, state in self.capabilities.items()]
            case "query-cpus-fast":
                return [{"cpu-index": 0, "thread-id": 4194999}]
            case "query-vcpu-dirty-limit":
                return []
            case "query-dirty-rate":
                return {"status": "measuring"}
            case "query-status":
                return {"status": self.run_state, "running": self.run_state == "running"}
            case "query-memory-size-summary":
                return {"base-memory": 1 << 30}
        raise CommandError(f"The command {command} has not been found", "CommandNotFound")


def checked(command: str, answer: Any) -> Any:
    """Return an answer that could be one, as a real monitor's client does."""
    try:
        return result_of(command, {"return": answer})
    except ValueError as error:
        raise MonitorError(str(error)) from error


def answer(status: str = "active", at_s: float = 0, **ram: object) -> Answer:
    """An answer to `query-migrate`; names of `ram` are QMP's with underscores."""
    figures = {name.replace("_", "-"): value for name, value in ram.items()}
    return {"status": status, "total-time": round(at_s * 1000), "ram": {"page-size": 4096} | figures}
