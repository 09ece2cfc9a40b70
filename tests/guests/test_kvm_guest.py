"""KVM guests keep the guest contract, and more."""

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.kvm import MEMORY_BYTES, STRESS_MIB, check, kvm_guest, progress_of, wait_for_work, wait_until
from vmferry.errors import GuestError, HostError, PeerError, UsageError
from vmferry.guests.kvm import abi, system
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.guests.kvm.ram import HOLE_GPA
from vmferry.guests.kvm.state import PREFIX
from vmferry.guests.kvm.system import KvmSystem
from vmferry.guests.payload import STRESS_ELF
from vmferry.memory.bitmap import Bitmap
from vmferry.testing.guest import GuestContentContract, Numbers

pytestmark = pytest.mark.kvm


class TestContract(GuestContentContract[KvmGuest]):
    @pytest.fixture(autouse=True)
    def _guests(self) -> Iterator[None]:
        self._made: list[KvmGuest] = []
        yield
        for guest in self._made:
            guest.close()

    def make(self, *, empty: bool = False) -> KvmGuest:
        guest = KvmGuest(MEMORY_BYTES, 2)
        self._made.append(guest)
        if not empty:
            guest.boot(STRESS_ELF.read_bytes(), "ramsize=32 cpus=2")
        return guest

    def content(self, guest: KvmGuest) -> Numbers:
        words = np.frombuffer(guest.physical_memory(0, MEMORY_BYTES), np.uint64).reshape(-1, 512)
        numbers: Numbers = words.sum(axis=1)
        return numbers

    def let_work(self, guest: KvmGuest) -> None:
        wait_for_work(guest, 3000)

    def copy_memory(self, source: KvmGuest, target: KvmGuest) -> None:
        target.physical_memory(0, MEMORY_BYTES)[:] = source.physical_memory(0, MEMORY_BYTES)


class TestContractOnKernelsWithoutManualProtection(TestContract):
    @pytest.fixture(autouse=True)
    def _old_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check = KvmSystem.check_extension

        def check_extension(system: KvmSystem, capability: int) -> int:
            return 0 if capability == abi.CAP_MANUAL_DIRTY_LOG_PROTECT2 else check(system, capability)

        monkeypatch.setattr(KvmSystem, "check_extension", check_extension)


@pytest.mark.parametrize("mode", ["touch", "xor"])
def test_memory_is_one_moment_whenever_the_guest_is_stopped(mode: str) -> None:
    with kvm_guest(options=f"mode={mode}") as guest:
        for _ in range(10):
            guest.resume()
            wait_for_work(guest, 1000 if mode == "touch" else 50)
            guest.pause()
            check(guest)


def test_one_vcpu_and_many() -> None:
    for vcpu_count in (1, 5):
        with kvm_guest(vcpu_count=vcpu_count) as guest:
            guest.resume()
            wait_until(partial(_has_crashed_or_works, guest))
            assert len(guest.vcpu_thread_ids) == len(set(guest.vcpu_thread_ids)) == vcpu_count


def test_vcpus_that_nobody_counted_are_found() -> None:
    with kvm_guest(boot=False, vcpu_count=3) as guest:
        guest.boot(STRESS_ELF.read_bytes(), f"ramsize={STRESS_MIB}")
        guest.resume()
        wait_until(lambda: _all_work(guest))
        assert len(progress_of(guest).vcpus) == 3


def test_memory_above_the_hole() -> None:
    """With so many vCPUs, the last one's share lies above 4 GiB as a whole."""
    with kvm_guest(memory_bytes=3456 << 20, vcpu_count=16, stress_mib=3360) as guest:
        guest.start_dirty_log()
        guest.resume()
        wait_until(lambda: _all_work(guest))
        guest.pause()
        progress = check(guest)
        log = Bitmap(guest.layout.page_count)
        guest.collect_dirty(log)
        last = progress.vcpus[-1]
        first = progress.base // 4096 + last.first_page
        assert first > HOLE_GPA // 4096
        assert log.test_pages(np.arange(first, first + min(last.written_pages, last.page_count))).all()
        guest.arm(log.runs())
        guest.collect_dirty(log)
        assert not log.any(), "pages of both slots are armed"


def test_a_payload_with_less_memory_than_it_is_to_write_says_so() -> None:
    out = bytearray()
    guest = KvmGuest(MEMORY_BYTES, 2, out.extend)
    try:
        guest.boot(STRESS_ELF.read_bytes(), "ramsize=49")
        guest.resume()
        wait_until(lambda: guest.crash is not None)
        assert guest.crash == (
            "the guest ended itself with code 1, after it said on the serial port: "
            "stress (00001): ERROR: ramsize exceeds the usable memory of 48 MiB"
        )
        assert out == b"stress (00001): ERROR: ramsize exceeds the usable memory of 48 MiB\n"
    finally:
        guest.close()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("ramsize=abc", "ramsize=abc"),
        ("ramsize=16MiB cpus=1", "ramsize=16MiB"),
        ("ramsize=-1", "ramsize=-1"),
        ("  cpus=1  ramsize=", "ramsize="),
        ("ramsize=1234567890123456", "ramsize=1234567890123456"),
        ("ramsiz=16", "ramsiz=16"),
        ("ramsize=16 mode=fast", "mode=fast"),
        ("ramsize=16 mode=xors cpus=1", "mode=xors"),
        ("ramsize=16 quiet", "quiet"),
        ("ramsize=16 pattern=hot", "pattern=hot"),
        ("ramsize=16 fill=101", "fill=101"),
        ("vcpus=0-", "vcpus=0-"),
        ("vcpus=0,,1", "vcpus=0,,1"),
        ("epoch=\x1b[2J" + 100 * "x", "epoch=?[2J" + 54 * "x"),
    ],
)
def test_a_command_line_that_the_payload_does_not_understand_ends_it(line: str, word: str) -> None:
    out = bytearray()
    guest = KvmGuest(MEMORY_BYTES, 1, out.extend)
    try:
        guest.boot(STRESS_ELF.read_bytes(), line)
        guest.resume()
        wait_until(lambda: guest.crash is not None)
        options = "ramsize mode pattern working-set rounds hot-share pace every fill vcpus cpus epoch"
        said = f"stress (00001): ERROR: cannot understand '{word}'; there are {options}"
        assert out.decode() == f"{said}\n"
        assert guest.crash == f"the guest ended itself with code 1, after it said on the serial port: {said}"
    finally:
        guest.close()


def _has_crashed_or_works(guest: KvmGuest) -> bool:
    return guest.crash is not None or _all_work(guest)


def _all_work(guest: KvmGuest) -> bool:
    return _has_started(guest) and all(vcpu.written_pages for vcpu in progress_of(guest).vcpus)


def test_a_payload_without_memory_to_write_writes_nothing() -> None:
    with kvm_guest(boot=False) as guest:
        guest.boot(STRESS_ELF.read_bytes(), "cpus=2")
        guest.start_dirty_log()
        guest.resume()
        wait_until(lambda: _has_started(guest))
        wait_until(lambda: _written_in(guest, 0.1) == 0)
        assert _written_in(guest, 0.3) == 0
        assert guest.crash is None


def _has_started(guest: KvmGuest) -> bool:
    try:
        return bool(progress_of(guest).vcpus)
    except GuestError:
        return False


def _written_in(guest: KvmGuest, seconds: float) -> int:
    log = Bitmap(guest.layout.page_count)
    guest.collect_dirty(log)
    guest.arm(log.runs())
    time.sleep(seconds)
    guest.collect_dirty(log)
    return log.count()


def shares(guest: KvmGuest, seconds: float) -> NDArray[np.float64]:
    """Of the time, how much each vCPU's thread runs, and how much it runs or waits for a processor."""
    start_ns, before = time.monotonic_ns(), thread_times_ns(guest)
    time.sleep(seconds)
    return (thread_times_ns(guest) - before) / (time.monotonic_ns() - start_ns)


def thread_times_ns(guest: KvmGuest) -> NDArray[np.int64]:
    """See Linux `Documentation/scheduler/sched-stats.rst`."""
    texts = [Path(f"/proc/self/task/{number}/schedstat").read_text() for number in guest.vcpu_thread_ids]
    return np.array([np.cumsum([int(word) for word in text.split()[:2]]) for text in texts])


@pytest.mark.parametrize("percent", [20, 50, 90])
def test_the_throttle_keeps_every_vcpu_asleep_for_its_percentage(percent: int) -> None:
    """These bounds hold however busy the machine is: to go to sleep, a thread may first have to wait."""
    with kvm_guest() as guest:
        guest.resume()
        wait_for_work(guest)
        guest.set_throttle(percent)
        awake = (100 - percent) / 100
        running, runnable = shares(guest, 1.0).T
        assert (running < 1.2 * awake + 0.03).all()
        assert (runnable > 0.8 * awake).all()
        guest.set_throttle(0)
        wait_until(lambda: bool((shares(guest, 0.3)[:, 1] > 0.9).all()))


def test_each_vcpu_is_kept_asleep_for_its_own_percentage() -> None:
    with kvm_guest() as guest:
        guest.resume()
        wait_for_work(guest)
        guest.set_vcpu_throttles([90, 0])
        running, runnable = shares(guest, 1.0).T
        assert running[0] < 1.2 * 0.1 + 0.03
        assert runnable[0] > 0.8 * 0.1
        assert runnable[1] > 0.9
        guest.set_vcpu_throttles([0, 50])
        running, runnable = shares(guest, 1.0).T
        assert runnable[0] > 0.9
        assert running[1] < 1.2 * 0.5 + 0.03
        guest.set_throttle(0)
        wait_until(lambda: bool((shares(guest, 0.3)[:, 1] > 0.9).all()))


def test_a_throttled_guest_gets_less_done() -> None:
    with kvm_guest() as guest:
        guest.resume()
        wait_for_work(guest)
        wait_until(lambda: 0 < work_in(guest, 95) < work_in(guest, 0) / 4)


def work_in(guest: KvmGuest, percent: int) -> int:
    guest.set_throttle(percent)
    before = progress_of(guest).written_pages
    time.sleep(0.4)
    return progress_of(guest).written_pages - before


def test_serial_output_arrives_in_order() -> None:
    out = bytearray()
    guest = KvmGuest(MEMORY_BYTES, 1, out.extend)
    try:
        guest.boot(STRESS_ELF.read_bytes(), "ramsize=32 cpus=1")
        guest.resume()
        wait_until(lambda: out.count(b"\n") >= 2)
    finally:
        guest.close()
    lines = out.decode().splitlines()
    assert lines[0] == "stress (00001): INFO: RAM 32 MiB across 1 CPUs"
    assert lines[1].startswith("stress (00001): INFO: ")
    assert "ms copied 1 GB in " in lines[1]


def run_code(guest: KvmGuest, code: str) -> None:
    """Let the first vCPU run 32-bit code, in flat segments without paging, until it crashes or ends itself."""
    guest.boot(STRESS_ELF.read_bytes())
    machine_code = bytes.fromhex(code)
    guest.physical_memory(0x10_0000, 1 << 16)[:] = machine_code.rjust(1 << 16, b"\x90")  # the entry lies in the nops
    guest.resume()
    wait_until(lambda: guest.crash is not None)


READ_NOTHING = """
    a1 00 00 00 d0  a3 00 00 20 00      mov eax, [0xd0000000]; mov [0x200000], eax
    a0 05 00 00 d0  a2 04 00 20 00      mov al, [0xd0000005]; mov [0x200004], al
    66 ba 00 50  ed  a3 08 00 20 00     mov dx, 0x5000; in eax, dx; mov [0x200008], eax
    66 ba ff 03  ed  a3 0c 00 20 00     mov dx, 0x3ff (of the serial device); in eax, dx; mov [0x20000c], eax
    b0 07  e6 f4                        mov al, 7; out 0xf4, al
"""


def test_a_read_of_nothing_on_the_bus_is_all_ones() -> None:
    code = "".join(line[4:36] for line in READ_NOTHING.splitlines())
    with kvm_guest(boot=False) as guest:
        run_code(guest, code)
        assert guest.crash == "the guest ended itself with code 7"
        assert guest.panicked
        found = bytes(guest.physical_memory(0x20_0000, 16))
        assert found == b"\xff\xff\xff\xff" + b"\xff\0\0\0" + b"\xff\xff\xff\xff" + b"\0\xff\xff\xff"


def test_a_crash_is_told_and_survived() -> None:
    reasons: list[str] = []
    guest = KvmGuest(MEMORY_BYTES, 2, on_crash=reasons.append)
    try:
        guest.boot(STRESS_ELF.read_bytes(), "ramsize=32 cpus=2")
        guest.physical_memory(0x10_0000, 1 << 16)[:] = b"\x0f\x0b" * (1 << 15)  # ud2 without a handler
        guest.resume()
        wait_until(lambda: bool(reasons))
        assert reasons == [guest.crash]
        assert "triple fault" in reasons[0] or "cannot go on" in reasons[0]
        assert not guest.running
        guest.pause()
        for refused in (guest.resume, guest.save_state):
            with pytest.raises(GuestError, match=re.escape(reasons[0])):
                refused()
        assert bytes(guest.physical_memory(0x10_0000, 2)) == b"\x0f\x0b"
    finally:
        guest.close()


def test_memory_is_only_taken_when_it_is_used() -> None:
    before_mib = anonymous_mib()
    guest = KvmGuest(8 << 30, 1)
    try:
        guest.memory_digest()
        assert anonymous_mib() < before_mib + 1024
        high = guest.physical_memory(4 << 30, 4096)
        high[:5] = b"above"
        assert bytes(guest.view((3 << 30) // 4096, 1)[:5]) == b"above"
    finally:
        guest.close()


def test_closing_gives_everything_back() -> None:
    def in_use() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = in_use()
    with kvm_guest(memory_bytes=1 << 30) as guest:
        memory = guest.view(0, guest.layout.page_count)
        np.frombuffer(memory, np.uint64)[:: 4096 // 8] = 1
        memory.release()
        guest.resume()
        guest.set_throttle(50)
        full_mib = anonymous_mib()
    assert in_use() == before
    assert anonymous_mib() < full_mib - 1000
    with pytest.raises(HostError, match="KVM refused KVM_GET_DIRTY_LOG: Bad file descriptor"):
        guest.collect_dirty(Bitmap(guest.layout.page_count))
    guest.close()


def anonymous_mib() -> int:
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) // 1024


@pytest.mark.parametrize(("gpa", "size"), [(MEMORY_BYTES, 1), (MEMORY_BYTES - 1, 2), (0, 0), (-1, 1), (0, -1)])
def test_physical_memory_that_is_not_there(gpa: int, size: int) -> None:
    with kvm_guest(boot=False) as guest, pytest.raises(UsageError, match="Invalid addr"):
        guest.physical_memory(gpa, size)


@pytest.mark.parametrize(
    ("memory_bytes", "vcpu_count"),
    [(0, 1), (1 << 20, 1), ((64 << 20) + 4096, 1), (1 << 70, 1), (64 << 20, 0), (64 << 20, 256)],
)
def test_sizes_that_cannot_be(memory_bytes: int, vcpu_count: int) -> None:
    with pytest.raises(UsageError, match="a guest cannot have"):
        KvmGuest(memory_bytes, vcpu_count)


def test_hosts_without_kvm_are_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="does not exist: load the kvm_intel or kvm_amd module"):
        KvmSystem(str(tmp_path / "kvm"))
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="KVM refused KVM_GET_API_VERSION: Inappropriate ioctl"):
        KvmSystem(str(tmp_path / "file"))


def test_kernels_that_lack_a_capability_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(system.REQUIRED, 0x7FFF, "KVM_CAP_OF_THE_FUTURE")
    with pytest.raises(HostError, match="lacks KVM_CAP_OF_THE_FUTURE; use Linux"):
        KvmSystem()


def test_a_dead_descriptor_gives_ebadf_from_every_wrapper() -> None:
    system = KvmSystem()
    vm = system.create_vm()
    vcpu = vm.create_vcpu(0)
    vcpu.close()
    vm.close()
    system.close()
    words = np.zeros(1, np.uint64)
    calls = [
        lambda: vcpu.get(abi.GET_REGS),
        lambda: vcpu.set(abi.SET_REGS, bytes(144)),
        vcpu.get_tsc_khz,
        lambda: vcpu.set_tsc_khz(1_000_000),
        lambda: vcpu.get_msrs([0x10]),
        lambda: vcpu.set_msrs({0x10: 0}),
        lambda: vcpu.set_cpuid(abi.Cpuid()),
        vcpu.run,
        lambda: vm.get_dirty_log(0, words),
        lambda: vm.clear_dirty_log(0, 0, 64, words),
        lambda: vm.set_user_memory_region(abi.UserspaceMemoryRegion()),
        lambda: vm.enable_capability(abi.CAP_MANUAL_DIRTY_LOG_PROTECT2, 1),
        lambda: vm.set_tss_address(0xFFFB_D000),
        lambda: vm.set_identity_map_address(0xFFFB_C000),
        vm.create_irqchip,
        vm.create_pit,
        lambda: vm.create_vcpu(0),
        lambda: vm.get_irqchip(0),
        lambda: vm.set_irqchip(bytes(520)),
        lambda: vm.get(abi.GET_CLOCK),
        lambda: vm.set(abi.SET_CLOCK, bytes(48)),
        lambda: system.check_extension(0),
        system.create_vm,
        system.vcpu_mmap_size,
        system.supported_cpuid,
        system.msr_indices,
    ]
    for call in calls:
        with pytest.raises(HostError) as caught:
            call()
        assert caught.value.errno == 9  # EBADF


def test_kicks_cost_the_main_thread_nothing() -> None:
    """Every signal that Python handles is written to the wake-up descriptor, and asyncio wakes up."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno())
    try:
        with kvm_guest() as guest:
            for _ in range(10):
                guest.resume()
                wait_for_work(guest, 100)
                guest.pause()
            with pytest.raises(BlockingIOError):
                reader.recv(1)
    finally:
        signal.set_wakeup_fd(before)
        reader.close()
        writer.close()


def test_no_pause_is_ever_missed() -> None:
    with kvm_guest() as guest:
        guest.resume()
        wait_for_work(guest)
        for _ in range(1000):
            guest.pause()  # would wait for ever
            guest.resume()
        guest.pause()
        check(guest)


def test_the_state_that_arrives_is_the_state_that_was_saved() -> None:
    with kvm_guest() as source, kvm_guest(boot=False) as target:
        source.resume()
        wait_for_work(source)
        source.pause()
        saved = state_of(source)
        events = saved["vcpus"][1]["vcpu_events"]
        saved["vcpus"][1]["vcpu_events"] = b"\1\6" + events[2:]  # an invalid opcode exception was being injected
        target.load_state(PREFIX + msgspec.msgpack.encode(saved))
        arrived = state_of(target)
        for before, after in zip(saved["vcpus"], arrived["vcpus"], strict=True):
            elapsed_ticks = after["msrs"].pop(TSC) - before["msrs"].pop(TSC)
            assert 0 <= elapsed_ticks < 5e9, "the guest's clock goes on from where it was"
            assert before == after
        assert saved["irqchips"] == arrived["irqchips"]


TSC = 0x10


def state_of(guest: KvmGuest) -> dict[str, Any]:
    return msgspec.msgpack.decode(guest.save_state().removeprefix(PREFIX), type=dict[str, Any])


def test_state_that_was_damaged_is_refused() -> None:
    with kvm_guest() as source, kvm_guest(boot=False) as target, kvm_guest(boot=False, vcpu_count=1) as smaller:
        blob = source.save_state()
        with pytest.raises(PeerError, match="has 2 vCPUs, this side 1"):
            smaller.load_state(blob)
        for length in (0, 1, 10, len(blob) // 2, len(blob) - 1):
            with pytest.raises(PeerError):
                target.load_state(blob[:length])
        rng = np.random.default_rng(1)
        for _ in range(200):
            damaged = bytearray(blob)
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            try:
                target.load_state(bytes(damaged))
            except PeerError as error:
                assert "\n" not in str(error)
        target.load_state(blob)


def test_state_of_any_shape_is_refused() -> None:
    values = st.recursive(
        st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=20) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STATE_FIELDS, inner, max_size=4),
    )
    with kvm_guest(boot=False) as target:

        @given(st.binary(max_size=50) | values.map(msgspec.msgpack.encode))
        def refuse(blob: bytes) -> None:
            with pytest.raises(PeerError):
                target.load_state(PREFIX + blob)

        refuse()


STATE_FIELDS = st.sampled_from(["vcpus", "irqchips", "pit", "clock", "regs", "msrs", "tsc_khz", "another"])
