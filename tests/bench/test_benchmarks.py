"""Each benchmark runs, tiny, so that it cannot rot."""

import json
import re
from pathlib import Path

import bench.delta
import bench.driven
import bench.peers
import pytest
from bench.agent import bench as agent
from bench.cgroup_v2 import build
from bench.delta import cases
from bench.driven import Guest
from bench.driven import bench as driven
from bench.fuzz_agent import main as fuzz_agent
from bench.guest import bench as guest
from bench.looks import main as looks
from bench.memory import main as memory
from bench.migration import bench as migration
from bench.monitor import main as monitor
from bench.page import main as page
from bench.page_costs import page_costs
from bench.peers import Load
from bench.qemu import bench as qemu
from bench.simulation import main as simulation
from bench.steering import GUESTS, steered
from click.testing import CliRunner

from tests.support.known import known


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody measures need not wait for the machine to come to rest, nor be done for every case."""
    monkeypatch.setattr(bench.peers, "REST_S", 0.0)
    monkeypatch.setattr(bench.delta, "cases", lambda stress_mib: cases(stress_mib)[1:2])


def samples_of(path: Path) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for line in path.read_text().splitlines():
        sample = json.loads(line)
        assert {"unit", "parameters", "commit", "cpu", "kernel"} <= sample.keys()
        values.setdefault(sample["name"], []).append(sample["value"])
    return values


def test_memory(tmp_path: Path) -> None:
    result = CliRunner().invoke(memory, ["--runs", "1", "--gib", "1", "--output", str(tmp_path / "samples")])
    assert result.exit_code == 0, result.output
    names = {"bitmap_runs", "bitmap_take", "zero_pages", "encode", "decode", "delta_make", "delta_apply"}
    assert names <= samples_of(tmp_path / "samples").keys()


def test_simulation(tmp_path: Path) -> None:
    result = CliRunner().invoke(simulation, ["--runs", "1", "--gib", "1", "--output", str(tmp_path / "samples")])
    assert result.exit_code == 0, result.output
    assert {"simulated_page_send", "simulated_sync"} == samples_of(tmp_path / "samples").keys()


def test_page_costs(tmp_path: Path) -> None:
    result = CliRunner().invoke(page_costs, ["--runs", "1", "--memory", "16", "--output", str(tmp_path / "samples")])
    assert result.exit_code == 0, result.output
    assert {"populating", "taking", "sending", "receiving"} == samples_of(tmp_path / "samples").keys()


@pytest.mark.chromium
def test_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(page, ["--runs", "1", "--seconds", "3", "--output", str(tmp_path / "samples")])
    assert result.exit_code == 0, result.output
    assert {"page_first_paint", "page_figure_age"} == samples_of(tmp_path / "samples").keys()


def test_looks() -> None:
    result = CliRunner().invoke(looks, ["--only", "800 MiB, 200 MiB/s, ours"])
    assert result.exit_code == 0, result.output
    _, _, *rows = [line.strip("| ").split(" | ") for line in result.output.splitlines()]
    assert [row[0] for row in rows] == ["rewrites 800 MiB, 200 MiB/s, ours", "all"]
    assert all(0 < int(row[5]) < int(row[1]) for row in rows), "most looks only take notice"


def test_what_was_measured_of_driven_qemus_is_simulated_within_15_percent() -> None:
    recorded = Path(__file__).parents[2] / "bench/results/qemu.jsonl"
    result = CliRunner().invoke(driven, ["recorded", "--seeds", "2", str(recorded)])
    assert result.exit_code == 0, result.output
    rows = [line.split("|")[1:-1] for line in result.output.splitlines()[2:]]
    assert len(rows) == 12
    assert all(abs(int(row[-1].strip().removesuffix("%"))) <= 15 for row in rows), result.output


@pytest.mark.kvm
@pytest.mark.qemu
def test_driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.driven, "_CALIBRATION", Load(96, 1, 64))
    monkeypatch.setattr(bench.driven, "GUESTS", [Guest("idle", Load(96, 1, 32), 100, idle=True)])
    few = ["--runs", "1", "--looks", "1", "--seeds", "1", "--guest", "idle", "--others", "1000"]
    result = CliRunner().invoke(driven, ["live", *few, "--output", str(tmp_path / "samples")])
    assert result.exit_code == 0, result.output
    assert {"logged_write_rate", "populate_rate", "total_time"} == samples_of(tmp_path / "samples").keys()


@pytest.mark.kvm
def test_guest(tmp_path: Path) -> None:
    words = ["--memory", "64", "--stress", "32", "--duration", "0.05", "--output", str(tmp_path / "samples")]
    result = CliRunner().invoke(guest, words)
    assert result.exit_code == 0, result.output
    assert {"speed", "work_left", "pause", "collect_dirty", "load_state"} <= samples_of(tmp_path / "samples").keys()


@pytest.mark.kvm
def test_monitor(tmp_path: Path) -> None:
    words = ["--runs", "1", "--questions", "3", "--memory", "32", "--output", str(tmp_path / "samples")]
    result = CliRunner().invoke(monitor, words)
    assert result.exit_code == 0, result.output
    samples = samples_of(tmp_path / "samples")
    assert {name: len(values) for name, values in samples.items()} == {
        "query_migrate": 3,
        "query_migrate_cpu": 1,
        "throughput": 2,
    }


@pytest.mark.kvm
@pytest.mark.qemu
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["demo", "--memory", "32", "--stress", "8"], {"total_time"}),
        (["throughput", "--memory", "32", "--channels", "0,2", "--prealloc"], {"throughput", "memory_copy"}),
        (["compress", "--stress", "1", "--rate", "1000"], {"total_time"}),
        (["converge", "--memory", "64", "--stress", "16", "--rate", "128"], {"total_time", "downtime", "max_throttle"}),
        (["downtime", "--memory", "64", "--stress", "16", "--rate", "128"], {"downtime", "downtime_hand-over"}),
        (["verify", "--memory", "96"], {"downtime", "verified"}),
        (["tls", "--memory", "32"], {"tls_throughput"}),
        (["rearm", "--stress", "8", "--rate", "128", "--share", "0.2"], {"sent", "work_lost", "total_time"}),
        (
            ["delta", "--stress", "8", "--rate", "256", "--share", "0.2"],
            {"sent", "total_time", "work_lost", "downtime"},
        ),
        (
            ["holes", "--memory", "2048", "--touched", "8", "--stress", "8"],
            {"paused_total_time", "paused_resident", "busy_total_time"},
        ),
        (["sync", "--memory", "1024", "--dirty", "8"], {"iteration_sync", "background_sync", "arming_share"}),
        (["drip", "--count", "2", "--timeout", "200"], {"stopped"}),
    ],
)
def test_migrations(words: list[str], names: set[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(migration, ["--runs", "1", "--output", str(tmp_path / "samples"), *words])
    assert result.exit_code == 0, result.output
    assert names <= samples_of(tmp_path / "samples").keys()


@pytest.mark.kvm
@pytest.mark.qemu
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["pairs", "--rate", "64", "--max-time", "3"], {"total_time", "work_lost", "driver_cpu", "max_throttle"}),
        (["kills", "--kills", "1", "--seconds", "2"], {"time_to_undo"}),
    ],
)
def test_stock_qemu(words: list[str], names: set[str], tmp_path: Path) -> None:
    options = ["--runs", "1", "--memory", "128", "--stress", "16", "--output", str(tmp_path / "samples")]
    result = CliRunner().invoke(qemu, [*options, *words])
    assert result.exit_code == 0, result.output
    assert names <= samples_of(tmp_path / "samples").keys()


def test_the_archive_for_cgroup_v2_is_whole() -> None:
    """The kernel that would boot it is not at hand."""
    archive = build()
    assert archive.startswith(b"070701")
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
    modules = [f"vmferry/vmferry/{module}.py" for module in ("client/processes", "control/host/cgroup", "output")]
    for name in ("init", "lib64/ld-linux-x86-64.so.2", *modules):
        assert f"{name}\0".encode() in archive


def test_nonsense_is_given_to_the_agent_and_nothing_is_wrong() -> None:
    result = CliRunner().invoke(fuzz_agent, ["--cases", "3000"])
    assert result.exit_code == 0, result.output
    assert re.findall(r"^(\w+): (\d+) cases", result.output, re.MULTILINE) == [
        *(("rules", "450"), ("metrics", "1050"), ("names", "1410"), ("pages", "30"), ("http", "60")),
    ]


def test_idle_agent(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path / "samples")]
    result = CliRunner().invoke(agent, [*output, "idle", "--vms", "3", "--seconds", "1", "--begin", "1"])
    assert result.exit_code == 0, result.output
    assert {"idle_cpu", "idle_memory", "noticed"} == samples_of(tmp_path / "samples").keys()


@pytest.mark.kvm
@pytest.mark.qemu
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (
            ["many", "--real", "--vms", "2", "--shadowed", "1", "--seconds", "1"],
            {"all_followed", "driver_cpu", "busiest_guest", "remembered"},
        ),
        (["kills", "--kills", "1"], {"taken_up", "resumed", "time_to_undo", "consistent", "remembered"}),
    ],
)
def test_agent_of_real_vms(words: list[str], names: set[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(agent, ["--output", str(tmp_path / "samples"), *words])
    assert result.exit_code == 0, result.output
    samples = samples_of(tmp_path / "samples")
    assert names == samples.keys()
    assert samples["remembered"] == [2.0 if "many" in words else 1.0]
    assert all(samples.get("consistent", [1.0]))


@pytest.mark.parametrize("name", ["rewrites 800 MiB, 200 MiB/s", "rewrites 300 MiB, 400 MiB/s"])
def test_what_steers_somebody_elses_migration_is_compared_in_virtual_time(name: str) -> None:
    """The passes of the latter are shorter than any look that QEMU 7.2 takes at its guest."""
    (case,) = (case for case in GUESTS if case.name == name and "qemu-7.2" in case.bodies)
    planned, responsive = (steered(case, "qemu-7.2", variant) for variant in ("planned", "responsive"))
    assert planned.completed
    assert responsive.completed
    assert known(planned.work_lost_vcpu_s) < known(responsive.work_lost_vcpu_s)


@pytest.mark.kvm
@pytest.mark.qemu
@pytest.mark.libvirt
def test_plain_virsh_with_an_agent_and_without(tmp_path: Path) -> None:
    words = ["virsh", "--runs", "1", "--memory", "64", "--stress", "16", "--bandwidth", "32", "--times", "0.1"]
    result = CliRunner().invoke(agent, ["--output", str(tmp_path / "samples"), *words])
    assert result.exit_code == 0, result.output
    assert {"took", "downtime", "work_lost"} == samples_of(tmp_path / "samples").keys()
    assert "| steers | 1 of 1 |" in result.output
    assert "| none | 0 of 1 |" in result.output
