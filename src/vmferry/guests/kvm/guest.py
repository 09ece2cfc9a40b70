"""A KVM guest put together: RAM, vCPUs, interrupt controllers, serial port; implements the engine's `Guest`."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from vmferry.convergence.written import SLICE_NS
from vmferry.errors import GuestError, UsageError
from vmferry.guests.kvm import abi
from vmferry.guests.kvm.boot import KernelImage, set_entry_state, write_start_info
from vmferry.guests.kvm.dirty_log import DirtyLog
from vmferry.guests.kvm.lending import PageLender
from vmferry.guests.kvm.populate import Populator
from vmferry.guests.kvm.ram import GuestRam
from vmferry.guests.kvm.serial import PORTS, Serial
from vmferry.guests.kvm.state import load_state, save_state
from vmferry.guests.kvm.system import KvmSystem
from vmferry.guests.kvm.throttle import VcpuThrottle
from vmferry.guests.kvm.vcpu import IoExit, KvmVcpu, MmioExit
from vmferry.guests.kvm.vcpu_thread import VcpuThread, install_kick_handler
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import PageRuns
from vmferry.units import PAGE_SIZE_BYTES

MAX_VCPUS = 255
"""Neither the payload nor an 8-bit APIC id can count more."""

DEBUG_EXIT_PORT = 0xF4
"""Writing here ends the guest, as QEMU's isa-debug-exit device does."""

_IDENTITY_MAP_GPA = 0xFFFB_C000
_TSS_GPA = 0xFFFB_D000
_NOTHING = 0xFF
"""What a bus reads as, byte by byte, where nobody answers."""

_GIVEN_UP = {
    abi.EXIT_FAIL_ENTRY: "the processor refuses its state (KVM_EXIT_FAIL_ENTRY)",
    abi.EXIT_INTERNAL_ERROR: "KVM_EXIT_INTERNAL_ERROR, mostly an instruction that it does not emulate",
}


class KvmGuest:
    """A paused guest with zeroed memory; `boot` gives it a kernel, `load_state` another guest's state.

    `serial_output` gets what the guest sends to its serial port, `on_crash` the reason if the guest crashes; both
    are called in a vCPU's thread and must not raise. With `prealloc` all memory is present from the start.
    Raises UsageError or HostError.
    """

    def __init__(
        self,
        memory_bytes: int,
        vcpu_count: int,
        serial_output: Callable[[bytes], object] = lambda data: None,
        on_crash: Callable[[str], None] = lambda reason: None,
        prealloc: bool = False,
    ) -> None:
        if not 1 <= vcpu_count <= MAX_VCPUS:
            raise UsageError(f"a guest cannot have {vcpu_count} vCPUs; give it 1 to {MAX_VCPUS}")
        self.crash: str | None = None
        """Why the guest cannot run any more; its vCPUs are stopped then."""
        self.panicked = False
        """True if that was the guest's own doing."""
        self.running = False
        self.on_crash = on_crash
        self._serial = Serial(serial_output)
        self._run_lock = threading.Lock()
        install_kick_handler()
        with ExitStack() as made:
            self._ram = GuestRam(memory_bytes, prealloc)
            made.callback(self._ram.close)  # last of all: KVM refers to it
            self._system = KvmSystem()
            made.callback(self._system.close)
            self._vm = self._system.create_vm()
            made.callback(self._vm.close)
            self._msr_indices = self._system.msr_indices()
            self._slots = self._ram.slots()
            self._prepare_vm()
            self._dirty_log = DirtyLog(
                self._vm,
                self._slots,
                manual_protection=bool(self._system.check_extension(abi.CAP_MANUAL_DIRTY_LOG_PROTECT2)),
            )
            self._vcpus = [self._make_vcpu(number, made) for number in range(vcpu_count)]
            self._throttle = VcpuThrottle(self._vcpus)
            made.callback(self.set_throttle, 0)
            self._resources = made.pop_all()
        block = RamBlock("pc.ram", memory_bytes // PAGE_SIZE_BYTES)
        self.layout = GuestLayout((block,), vcpu_count)

    def _prepare_vm(self) -> None:
        self._vm.set_identity_map_address(_IDENTITY_MAP_GPA)
        self._vm.set_tss_address(_TSS_GPA)
        self._vm.create_irqchip()
        self._vm.create_pit()
        for slot in self._slots:
            self._vm.set_user_memory_region(slot.region(flags=0))

    def _make_vcpu(self, number: int, made: ExitStack) -> VcpuThread:
        vcpu = self._vm.create_vcpu(number)
        cpuid = self._system.supported_cpuid()
        _set_apic_id(cpuid, number)
        vcpu.set_cpuid(cpuid)
        thread = VcpuThread(vcpu, number, self._serve_exit, self._note_crash)
        made.callback(thread.close)
        return thread

    def boot(self, kernel: bytes, command_line: str = "") -> None:
        """Load an ELF image with a PVH entry and set the first vCPU to it. Raises GuestError or UsageError."""
        image = KernelImage.parse(kernel)
        low = self._slots[0].page_count * PAGE_SIZE_BYTES
        image.load(self._ram.view[:low])
        regions = [(slot.gpa, slot.page_count * PAGE_SIZE_BYTES) for slot in self._slots]
        write_start_info(self._ram.view, regions, command_line)
        set_entry_state(self._vcpus[0].vcpu, image.entry)

    def close(self) -> None:
        """Stop the guest and give everything back."""
        self._resources.close()

    # Running

    def pause(self) -> None:
        with self._run_lock:
            for vcpu in self._vcpus:
                vcpu.request_pause()
            for vcpu in self._vcpus:
                vcpu.wait_until_parked()
            self.running = False

    def resume(self) -> None:
        """Let all vCPUs run. Raises GuestError if the guest has crashed."""
        with self._run_lock:
            self._raise_if_crashed()
            self.running = True
            for vcpu in self._vcpus:
                vcpu.resume()
            if self.crash:  # meanwhile
                self._stop_crashed()

    @property
    def throttle_slice_ns(self) -> int:
        """How long a throttled vCPU runs between two sleeps."""
        return SLICE_NS

    def set_throttle(self, percent: int) -> None:
        self._throttle.set([percent] * len(self._vcpus))

    def set_vcpu_throttles(self, percents: Sequence[int]) -> None:
        self._throttle.set(percents)

    @property
    def vcpu_thread_ids(self) -> list[int]:
        """The kernel's thread ids of the vCPUs, in order."""
        return [vcpu.thread_id for vcpu in self._vcpus]

    # Memory

    def view(self, first_page: int, page_count: int) -> memoryview:
        """Return a writable view of the bytes of some pages."""
        return self._ram.pages(first_page, page_count)

    def physical_memory(self, gpa: int, size_bytes: int) -> memoryview:
        """Return a view of RAM by guest physical address. Raises UsageError if it is not all RAM."""
        for slot in self._slots:
            start = gpa - slot.gpa
            if start >= 0 and size_bytes > 0 and start + size_bytes <= slot.page_count * PAGE_SIZE_BYTES:
                offset = slot.first_page * PAGE_SIZE_BYTES + start
                return self._ram.view[offset : offset + size_bytes]
        raise UsageError(f"Invalid addr 0x{gpa:016x}/size {size_bytes} specified")

    def find_touched(self, bitmap: Bitmap) -> None:
        self._ram.find_touched(bitmap)

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        return self._ram.zero_pages(pages)

    def clear_pages(self, pages: PageRuns) -> None:
        self._ram.clear_pages(pages)

    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        return self._ram.digest(self.layout.page_count if page_count is None else page_count, while_reading)

    def populator(self) -> Populator:
        """Return what makes memory present ahead of an incoming migration; the caller closes it."""
        return Populator(self._slots[0].address, self._ram.size_bytes)

    def lender(self) -> PageLender:
        """Return what lends pages to one socket of this host; the caller closes it. Raises OSError."""
        return PageLender()

    def start_dirty_log(self) -> None:
        self._dirty_log.start()

    def stop_dirty_log(self) -> None:
        self._dirty_log.stop()

    def collect_dirty(self, bitmap: Bitmap) -> None:
        self._dirty_log.collect(bitmap)

    def arm(self, pages: PageRuns) -> None:
        self._dirty_log.arm(pages)

    # State

    def save_state(self) -> bytes:
        """Return vCPU and device state of the paused guest. Raises GuestError if the guest has crashed."""
        self._raise_if_crashed()
        return save_state(self._vm, [thread.vcpu for thread in self._vcpus], self._serial, self._msr_indices)

    def load_state(self, blob: bytes) -> None:
        load_state(self._vm, [thread.vcpu for thread in self._vcpus], self._serial, blob)

    # Exits, in the vCPUs' threads

    def _serve_exit(self, vcpu: KvmVcpu, reason: int) -> None:
        if reason == abi.EXIT_IO:
            self._serve_io(vcpu.io_exit())
        elif reason == abi.EXIT_MMIO:
            _serve_mmio(vcpu.mmio_exit())
        elif reason == abi.EXIT_SHUTDOWN:
            self.panicked = True
            raise GuestError("the guest crashed (triple fault)")
        elif reason != abi.EXIT_INTR:
            what = _GIVEN_UP.get(reason, f"exit reason {reason}")
            raise GuestError(f"KVM cannot go on with the guest: {what}, details {vcpu.exit_data().hex()}")

    def _serve_io(self, io: IoExit) -> None:
        """Carry out an access to ports, in which each further byte belongs to the next port."""
        if io.port == DEBUG_EXIT_PORT and not io.is_read:
            self.panicked = True
            words = self._serial.last_line
            said = f", after it said on the serial port: {words}" if words else ""
            raise GuestError(f"the guest ended itself with code {io.data[0]}{said}")
        for offset in range(io.size):
            port, part = io.port + offset, io.data[offset :: io.size]
            if io.is_read:
                part[:] = bytes(self._serial.read(port) if port in PORTS else _NOTHING for _ in part)
            elif port in PORTS:
                self._serial.write(port, bytes(part))

    def _note_crash(self, reason: str) -> None:
        if self.crash is None:
            self.crash = reason
            self._stop_crashed()
            self.on_crash(reason)

    def _stop_crashed(self) -> None:
        """Begin to stop all vCPUs, without waiting: a vCPU's own thread calls this."""
        for vcpu in self._vcpus:
            vcpu.request_pause()
        self.running = False

    def _raise_if_crashed(self) -> None:
        if self.crash:
            raise GuestError(self.crash)


def _serve_mmio(mmio: MmioExit) -> None:
    if mmio.is_read:
        mmio.data[:] = bytes([_NOTHING]) * len(mmio.data)


def _set_apic_id(cpuid: abi.Cpuid, number: int) -> None:
    """Give each vCPU its own local APIC id where CPUID tells it (Intel SDM 2A, leaves 1 and 0xB)."""
    for entry in cpuid.entries[: cpuid.nent]:
        if entry.function == 1:
            entry.ebx = entry.ebx & 0x00FF_FFFF | number << 24
        elif entry.function in (0xB, 0x1F):
            entry.edx = number
