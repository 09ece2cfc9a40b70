"""A modelled source and destination, made of an experiment's parts."""

from collections.abc import Callable, Iterable

import numpy as np

from vmferry.experiment.experiment import Experiment
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.host_model import HostModel
from vmferry.simulation.link import Pace
from vmferry.simulation.models import busy_host_of, costs_of, link_of, workload_of
from vmferry.simulation.qemu.board import Board
from vmferry.simulation.qemu.destination import LOADS, LoadModel, ModelledDestination
from vmferry.simulation.qemu.host import Host
from vmferry.simulation.qemu.machine import ModelledQemu
from vmferry.simulation.qemu.monitor import Fault, ModelledMonitor
from vmferry.simulation.qemu.releases import Release
from vmferry.simulation.qemu.waking import ThreadClock
from vmferry.units import PAGE_SIZE_BYTES

URI = "tcp:modelled:4444"
"""Where the destination listens."""
SOURCE, DESTINATION = "modelled:source", "modelled:destination"
"""The addresses of the monitors; no kind that there is, so that nobody looks for a socket."""


class ModelledLab:
    """Two QEMUs of a release, and the link between them. The guest runs from the beginning on."""

    def __init__(self, experiment: Experiment, release: Release, seed: int, load_model: LoadModel = LOADS) -> None:
        """The same seed gives the same course."""
        self.clock = VirtualClock()
        randoms = np.random.default_rng(seed).spawn(7)
        guest_random, link_random, qemu_random, source_random, there_random, host_random, driver_random = randoms
        self.driver_clock = ThreadClock(self.clock, driver_random)
        """What the driver reads, and sleeps by."""
        self.guest = SimulatedGuest(
            self.clock,
            experiment.guest.page_count,
            experiment.guest.vcpu_count,
            workload_of(experiment.guest, guest_random),
            HostModel(busy=busy_host_of(experiment.guest, host_random)),
            used_page_count=experiment.guest.used_bytes // PAGE_SIZE_BYTES,
        )
        link = link_of(experiment.link)
        self.destination = ModelledDestination(Board(self.clock, there_random), load_model, URI)
        self.host = Host(
            Board(self.clock, source_random),
            release,
            self.guest,
            costs_of(experiment.guest),
            Pace(self.clock, link, link_random),
            link.latency_ns,
            self.destination,
        )
        self.source = ModelledQemu(self.host, qemu_random)
        if link.loss_time_ns is not None:
            self.clock.schedule(link.loss_time_ns, self.lose_link)

    def connect(
        self, faults: Iterable[Fault] = (), while_waiting: Callable[[], None] = lambda: None
    ) -> ModelledMonitor:
        """Return a new client's connection to the source."""
        return ModelledMonitor(self.source, SOURCE, faults, while_waiting)

    def connect_to_destination(
        self, faults: Iterable[Fault] = (), while_waiting: Callable[[], None] = lambda: None
    ) -> ModelledMonitor:
        """Return one to the destination."""
        return ModelledMonitor(self.destination, DESTINATION, faults, while_waiting)

    def lose_link(self) -> None:
        """Break the connection between the two, if there is one."""
        if self.source.migration:
            self.source.migration.break_connection()

    @property
    def running_guests(self) -> int:
        """How many copies of the guest run; never more than one, if nobody makes a mistake."""
        return self.host.runs_guest + self.destination.runs_guest
