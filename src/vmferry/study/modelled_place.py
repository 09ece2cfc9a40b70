"""The place of a driver in virtual time: quotas on a modelled guest, and a guard that keeps its promises in line."""

import json
from collections.abc import Iterable
from typing import Any, Self

from vmferry.client.monitor import Monitor
from vmferry.control.place import Place
from vmferry.control.slowing.actuators import SlowedVm
from vmferry.control.slowing.means import KINDS
from vmferry.control.undoing.changes import Change
from vmferry.control.undoing.promises import Promises
from vmferry.control.undoing.put_back_later import put_back_patiently
from vmferry.control.undoing.undo import keep
from vmferry.simulation.qemu.lab import DESTINATION, ModelledLab
from vmferry.simulation.qemu.quota import ModelledQuota


class ModelledPlace:
    """Beside one modelled lab; `driver_place` is what a driver takes for its host."""

    def __init__(self, lab: ModelledLab, lost_quotas: Iterable[int] = ()) -> None:
        """The quotas of these numbers, counted from 1, somebody takes away."""
        self.told: list[str] = []
        """What the guard has said."""
        self.left: list[Change] = []
        """What nobody has put back in the end."""
        self._lab = lab
        self._lost_quotas = frozenset(lost_quotas)
        self._later: list[Change] = []
        self.driver_place = Place(
            guard=lambda monitor, tell, destination: ModelledGuard(self, monitor),
            means={**KINDS, "cgroup": self._make_quota},
            put_back_later=self._put_back_later,
            used_bytes=lambda monitor, driven, size_bytes: lab.guest.used_bytes,
            scan_ns_per_zero_page=lab.host.costs.scan_ns_per_zero_page,
        )

    def wait_for_the_rest(self) -> None:
        """Let the process work that puts back later what the VM has refused."""
        self.left = put_back_patiently(self._later, self._lab.connect, lambda: False, self._lab.clock)

    def keep(self, promises: dict[int, list[Any]]) -> None:
        """Do what a guard does once its driver is gone."""
        self._lab.host.release_quota()
        keep(promises, self._lab.clock, self._connect, self.told.append)

    def _connect(self, address: str, timeout_s: float) -> Monitor:
        return self._lab.connect_to_destination() if address == DESTINATION else self._lab.connect()

    def _make_quota(self, vm: SlowedVm) -> ModelledQuota:
        return ModelledQuota(self._lab.host, self._lost_quotas)

    def _put_back_later(self, monitor: Monitor, changes: list[Change]) -> str:
        self._later += changes
        return "a modelled process"


class ModelledGuard(Promises):
    """Keeps promises as the guard's process does, with the same steps, but its driver waits until all are kept."""

    def __init__(self, place: ModelledPlace, monitor: Monitor) -> None:
        super().__init__()
        self._place = place
        self._promises: dict[int, list[Any]] = {}
        self.will_reach(monitor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._place.keep(self._promises)

    def _write(self, promise: str) -> None:
        number, *step = json.loads(promise)
        self._promises[number] = step
