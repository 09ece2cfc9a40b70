"""What a VM's process tells of how much of its memory a guest uses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vmferry.control.asking import survey
from vmferry.control.asking.survey import used_bytes

MIB = 1 << 20
KIB_PER_MIB = 1 << 10
OURS: Any = SimpleNamespace(converges_responsively=True, kvm=True)
QEMU: Any = SimpleNamespace(converges_responsively=False, kvm=True)
QEMU_WITHOUT_KVM: Any = SimpleNamespace(converges_responsively=False, kvm=False)
SMAPS = """\
5643267de000-564326c75000 r-xp 00000000 fe:00 1491393                    /usr/bin/qemu-system-x86_64
Rss:               10240 kB
7efee3e00000-7efefbe00000 rw-p 00000000 00:00 0
Rss:              217088 kB
Private_Dirty:    217088 kB
7eff04000000-7eff43fff000 rwxp 00000000 00:00 0
Rss:               51200 kB
Anonymous:         51200 kB
"""
OWN = {True: 32, False: 20}
"""What a process of ours, or a QEMU, needs for itself, in MiB."""


def used_mib(proc: Path, driven: Any, size_mib: int = 4096, **held_mib: int) -> int:
    status = "".join(f"{name}:\t{mib * KIB_PER_MIB:>8} kB\n" for name, mib in held_mib.items())
    (proc / "77").mkdir(exist_ok=True)
    (proc / "77" / "status").write_text(f"Name:\tqemu: system\nSeccomp:\t0\n{status}")
    used = used_bytes(SimpleNamespace(peer_pid=77), driven, size_mib * MIB)
    assert used is not None
    return used // MIB


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(survey, "PROC", tmp_path)
    return tmp_path


@pytest.mark.parametrize("where", ["RssAnon", "RssShmem", "HugetlbPages", "VmSwap"])
@pytest.mark.parametrize("driven", [OURS, QEMU])
def test_a_guest_uses_what_its_process_holds_wherever_that_is(proc: Path, where: str, driven: Any) -> None:
    own_mib = OWN[driven.converges_responsively]
    assert used_mib(proc, driven, **{where: 2000 + own_mib}) == 2000
    assert used_mib(proc, driven, RssAnon=own_mib, HugetlbPages=700) == 700
    assert used_mib(proc, driven, size_mib=1024, **{where: 2000}) == 1024, "it has no more"


def test_of_files_a_process_holds_its_program_and_what_is_more_is_the_guests(proc: Path) -> None:
    assert used_mib(proc, QEMU, RssAnon=220, RssFile=90) == 200
    assert used_mib(proc, QEMU, RssAnon=20, RssFile=1128) == 1000


def test_nobody_knows_what_a_process_holds_that_is_not_seen(proc: Path) -> None:
    assert used_bytes(SimpleNamespace(peer_pid=78), QEMU, MIB) is None


def test_code_that_qemu_has_made_of_a_guests_is_none_of_the_guests_memory(proc: Path) -> None:
    (proc / "77").mkdir()
    (proc / "77" / "smaps").write_text(SMAPS)
    assert used_mib(proc, QEMU_WITHOUT_KVM, RssAnon=300) == 300 - 20 - 50
    assert used_mib(proc, QEMU, RssAnon=300) == 300 - 20
