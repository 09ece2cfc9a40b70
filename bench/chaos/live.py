"""Many live migrations one after another.

The guest's owner is kept for the next run, whoever it is then, so what one run leaves behind would break a later one.
"""

import time
from collections.abc import Iterator, Sequence

import msgspec

from bench.chaos.bodies import Body
from bench.chaos.check import Outcome
from bench.chaos.faults import CATALOGUE, draw_fault, generator
from bench.chaos.live_run import LiveRun
from bench.chaos.records import Record, judged
from bench.chaos.vms import Vm
from vmferry.perf.lab import Lab

_SPEED_S = 1.0


def run_many(body: Body, seed: int, numbers: Sequence[int], faults: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the records of these runs, in order, with `faults` of the catalogue, or any."""
    with Lab() as lab:
        campaign = Campaign(lab, body, seed, faults)
        for number in numbers:
            yield campaign.run(number)


class Campaign:
    """Runs with the same kind of VM in one directory; the lab ends the VMs."""

    def __init__(self, lab: Lab, body: Body, seed: int, faults: Sequence[str] = ()) -> None:
        self._lab = lab
        self._body = body
        self._seed = seed
        self._faults = faults or list(CATALOGUE)
        self._owner: Vm | None = None
        self._waiting: dict[object, Vm] = {}
        """By transport, destinations that a migration has failed into."""
        self._recording = b""
        """The stream of the latest migration that completed."""
        self._started = 0
        self._pages_per_s = 0.0

    def run(self, number: int) -> Record:
        """Make the run of this number: the same fault, place and settings at every time."""
        draw = generator(self._seed, number)
        settings = self._body.settings(draw)
        fault = draw_fault(draw, self._faults, self._body.place)
        source = self._owner or self._start(None)
        destination = self._waiting.pop(settings.transport, None) or self._start(self._uri(settings.transport, "in"))
        self._owner = None
        run = LiveRun(self._body, source, destination, settings, fault)
        start_s = time.monotonic()
        played = self._recording if settings.after_a_recording else b""
        seen = run.carry_out(self._uri(settings.transport, "proxy"), self._pages_per_s, played)
        seconds = time.monotonic() - start_s
        record = judged(self._body.name, self._seed, number, seconds, msgspec.to_builtins(settings), seen)
        self._keep(source, destination, run, record)
        return record

    def _keep(self, source: Vm, destination: Vm, run: LiveRun, record: Record) -> None:
        """Keep who has the guest, and a destination that waits for the next source; end the others."""
        if record.outcome is Outcome.MOVED:
            self._owner = destination
            self._recording = run.recording
        elif record.outcome is Outcome.STAYED:
            self._owner = source
            if destination.run_state() == "inmigrate":
                self._waiting[record.settings["transport"]] = destination
        for vm in (source, destination):
            if vm not in (self._owner, *self._waiting.values()):
                vm.close()

    def _start(self, incoming: str | None) -> Vm:
        self._started += 1
        vm = Vm(self._lab, self._body.peer, self._body.load, f"vm{self._started}", incoming)
        if incoming is None:
            vm.process.wait_for_passes(1)
            self._pages_per_s = vm.process.pages_per_s(_SPEED_S)
        return vm

    def _uri(self, transport: str, name: str) -> str:
        path = self._lab.directory / f"{name}{self._started}.sock"
        return "tcp:127.0.0.1:0" if transport == "tcp" else f"unix:{path}"
