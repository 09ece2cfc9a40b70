"""What is remembered, in a real SQLite and a real PostgreSQL."""

import itertools
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, event, text

from tests.support.postgresql import postgresql
from tests.support.wait import wait_until
from vmferry.agent import store
from vmferry.agent.database import open_to_write, reading
from vmferry.agent.memory import Memory
from vmferry.agent.pieces import Pieces, read_pieces
from vmferry.agent.recording import Facts, Foretold, Recording
from vmferry.agent.remembered_run import RememberedRun
from vmferry.agent.rules import Mode, Vm
from vmferry.agent.store import Wanted
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Arrival, ArrivalState, Result
from vmferry.convergence.limit_watch import Verdict
from vmferry.errors import HostError, UsageError
from vmferry.migration.events import BandwidthWindow, Ended, Lost, Started, StatusChanged
from vmferry.migration.journal import Entry
from vmferry.migration.status import MigrationStatus

MIB = 1 << 20
VM = Vm("db-1", "5f1a2c66-0a8e-4a39-9d5e-9a8a4f2f8d11")
STARTED = Started(page_size=4096, page_count=1024, vcpu_count=2, auto_converge=True, parameters={})
PROCESSES = multiprocessing.get_context("forkserver")  # which imports what they need once
PROCESSES.set_forkserver_preload([__name__])
ENDED = Ended(
    status=MigrationStatus.COMPLETED,
    total_time_ns=7_000_000_000,
    downtime_ns=20_000_000,
    downtime_parts_ns={},
    sent_bytes=5 * MIB,
    iteration_count=3,
    dirty_sync_count=4,
    max_throttle_percent=50,
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/agent.db"
        return
    yield (url := request.getfixturevalue("server"))
    change(url, *(f"DROP TABLE IF EXISTS {table}" for table in ("journal", "migration", "alembic_version")))


def change(url: str, *statements: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def facts(vm: Vm = VM, began_ms: int = 1_000_000, mode: Mode = Mode.STEER) -> Facts:
    return Facts(vm=vm, address="unix:/a", mode=mode, rule="rule 1: all VMs", variant="planned", began_ms=began_ms)


def remembering(url: str, host: str = "a", keep_days: int = 36500) -> Memory:
    return Memory(open_to_write(url), host, keep_days, print)


EVERY = Wanted()


def found(url: str, wanted: Wanted = EVERY) -> list[RememberedRun]:
    with reading(url) as connection:
        return list(store.find(connection, wanted))


def journal(url: str, number: int) -> list[Entry]:
    with reading(url) as connection:
        return store.journal_of(connection, number)


def window(remaining: int) -> BandwidthWindow:
    return BandwidthWindow(
        duration_ns=1, sent_bytes=1, remaining_bytes=remaining, throttle_percent=0, threshold_bytes=0
    )


def complete(recording: Recording) -> None:
    recording.record(9, ENDED)
    verdict = Verdict("deadline", kept=True, text="7 s of 10 s")
    arrival = Arrival(ArrivalState.VERIFIED, "libvirt", "it runs there")
    progress = Progress.from_qmp({"status": "completed"})
    recording.ended(Result(progress, 50, verdicts=(verdict,), arrival=arrival), 1_007_000)


def test_a_migration_is_remembered_with_its_figures_and_its_journal(url: str) -> None:
    with remembering(url) as memory:
        recording = memory.begin(facts())
        recording.record(1, STARTED)
        recording.record(2, StatusChanged(old=MigrationStatus.SETUP, new=MigrationStatus.ACTIVE))
        wait_until(lambda: [row.status for row in found(url)] == ["active"])
        assert found(url)[0].followed
        for number in range(1000):
            recording.record(3 + number, window(number))
        recording.foretold = Foretold(elapsed_ms=2000, least_left_ms=1000, most_left_ms=6000)
        complete(recording)
    (row,) = found(url)
    assert (row.forecast, row.left_ms) == (recording.foretold, 5000)
    assert (row.vm_name, row.mode, row.variant, row.status, row.arrival) == (
        *("db-1", "steer", "planned", "completed", "verified"),
    )
    assert (row.began_ms, row.ended_ms, row.followed) == (1_000_000, 1_007_000, False)
    assert (row.total_time_ms, row.downtime_ms, row.sent_per_memory) == (7000, 20, 1.25)
    assert row.limits
    assert row.limits[0].limit == "deadline"
    entries = journal(url, row.id)
    assert entries[0].event == STARTED
    assert [entry.event.remaining_bytes for entry in entries if isinstance(entry.event, BandwidthWindow)] == [
        *range(1000)
    ]
    assert entries[-1].event == ENDED


def test_whoever_finds_a_migration_again_goes_on_with_what_is_remembered_of_it(url: str) -> None:
    with remembering(url) as memory:
        first = memory.begin(facts())
        first.record(1, STARTED)
        first.left("libvirt is gone")
        wait_until(lambda: [row.followed for row in found(url)] == [False])
        assert found(url)[0].remark == "libvirt is gone"
        assert found(url)[0].state == "unknown"
        again = memory.begin(facts(began_ms=1_000_900))
        again.record(1, STARTED)
        complete(again)
    (row,) = found(url)
    assert (row.status, row.remark) == ("completed", "")
    assert [entry.event for entry in journal(url, row.id)] == [STARTED, STARTED, ENDED]


@pytest.mark.parametrize("later", [facts(began_ms=1_010_000), facts(vm=Vm("db-2", "0")), facts(began_ms=999_990)])
def test_another_migration_is_not_taken_for_the_same(url: str, later: Facts) -> None:
    with remembering(url) as memory:
        first = memory.begin(facts())
        first.record(1, STARTED)
        complete(first)
        wait_until(lambda: [row.ended_ms for row in found(url)] == [1_007_000])
        complete(memory.begin(later))
    assert len(found(url)) == 2


def test_figures_of_a_migration_whose_end_nobody_saw_are_those_of_its_journal(url: str) -> None:
    with remembering(url) as memory:
        recording = memory.begin(facts())
        recording.record(1, STARTED)
        recording.record(2_000_000_001, window(1))
        recording.left("gone")
    (row,) = found(url)
    assert (row.total_time_ms, row.sent_bytes, row.downtime_ms) == (2000, 1, None)
    assert "ends before the migration does" in row.error


def write_as(host: str, url: str) -> None:
    with remembering(url, host) as memory:
        for number in range(20):
            recording = memory.begin(facts(Vm(f"vm-{number}", str(number))))
            recording.record(1, STARTED)
            complete(recording)


def test_several_agents_write_to_one_database_at_once(url: str) -> None:
    """The tables are not there yet: one of them makes them."""
    agents = [PROCESSES.Process(target=write_as, args=(host, url)) for host in "abc"]
    for one in agents:
        one.start()
    for one in agents:
        one.join(60)
    assert [one.exitcode for one in agents] == [0, 0, 0]
    rows = found(url, Wanted(limit=1000))
    assert sorted((row.host, row.vm_name) for row in rows) == sorted(
        (host, f"vm-{number}") for host in "abc" for number in range(20)
    )
    assert all(len(journal(url, row.id)) == 2 for row in rows)


def test_migrations_are_found_by_what_is_known_of_them(url: str) -> None:
    with remembering(url) as memory:
        for name, began_ms in (("db_1", 5), ("dbx1", 6), ("web*", 7)):
            recording = memory.begin(facts(Vm(name, f"uuid-{name}"), began_ms))
            recording.record(1, STARTED)
            complete(recording)
        memory.begin(facts(Vm("open", "uuid-open"), 8)).left("lost")

    def names(**wanted: object) -> list[str]:
        return [row.vm_name for row in found(url, Wanted(**wanted))]  # type: ignore[arg-type]

    assert names() == ["open", "web*", "dbx1", "db_1"]
    assert names(vm="db?1") == ["dbx1", "db_1"]
    assert names(vm="db_1") == ["db_1"]
    assert names(vm="*1", limit=1) == ["dbx1"]
    assert names(vm="UUID-web*".lower()) == ["web*"]
    assert names(status="completed", since_ms=6) == ["web*", "dbx1"]
    assert names(status="unknown") == ["open"]
    assert names(status="setup") == []
    assert names(policy="plan*", until_ms=7) == ["dbx1", "db_1"]
    assert names(policy="original") == []
    assert names(host="b") == []
    with reading(url) as connection, pytest.raises(UsageError, match="no migration 99 is remembered"):
        store.get(connection, 99)


def test_what_is_old_is_forgotten_with_its_journal_and_what_is_others_is_not(url: str) -> None:
    for host in "ab":
        with remembering(url, host) as memory:
            recording = memory.begin(facts())
            recording.record(1, STARTED)
            complete(recording)
    with remembering(url, "a", keep_days=1):
        wait_until(lambda: [row.host for row in found(url)] == ["b"])
    with reading(url) as connection:
        assert connection.execute(text("SELECT count(DISTINCT migration_id) FROM journal")).scalar() == 1


def test_texts_that_no_database_takes_are_remembered_in_what_it_does(url: str) -> None:
    with remembering(url) as memory:
        recording = memory.begin(facts(Vm("a\0<b>\udc80", "u\n")))
        recording.record(1, STARTED)
        recording.remark = "x\0y"
        complete(recording)
    assert [(row.vm_name, row.vm_uuid, row.remark) for row in found(url)] == [("a?<b>?", "u?", "x?y")]


def test_a_database_of_another_release_is_refused(url: str) -> None:
    open_to_write(url).dispose()
    change(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UsageError, match="newer release"):
        open_to_write(url)
    with pytest.raises(UsageError, match="newer release"), reading(url):
        pass
    change(url, "DELETE FROM alembic_version", "DROP TABLE journal", "DROP TABLE migration")
    with pytest.raises(UsageError, match="older release"), reading(url):
        pass
    open_to_write(url).dispose()
    assert found(url) == []


def test_the_tables_that_are_made_are_those_that_are_used(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from vmferry.agent.schema import metadata

    open_to_write(url).dispose()
    with reading(url) as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert [one for one in differences if "comment" not in str(one)] == []


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'foo' is no database; write sqlite"):
        open_to_write("foo")
    with pytest.raises(UsageError, match="'mysql' is no database for this"):
        open_to_write("mysql://a/b")
    with pytest.raises(UsageError, match="in memory"):
        open_to_write("sqlite://")
    with pytest.raises(UsageError, match="there is no database"), reading(f"sqlite:///{tmp_path}/none.db"):
        pass
    (tmp_path / "text").write_text("no database at all, but some text that is long enough\n" * 100)
    with pytest.raises(HostError, match="file is not a database"):
        open_to_write(f"sqlite:///{tmp_path}/text")
    with pytest.raises(HostError, match="cannot use the database"):
        open_to_write("postgresql://u:secret@127.0.0.1:1/x")


def test_a_full_disk_delays_what_is_remembered_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/agent.db"
    told: list[str] = []
    engine = open_to_write(url)

    most_pages = 1 << 30

    def limit_pages(connection: sqlite3.Connection, *_: object) -> None:
        """Whichever connection is used, the disk is full for it."""
        connection.execute(f"PRAGMA max_page_count={most_pages}")

    event.listen(engine, "checkout", limit_pages)
    with Memory(engine, "a", 365, told.append) as memory:
        recording = memory.begin(facts())
        recording.record(1, STARTED)
        wait_until(lambda: found(url))
        most_pages = 1
        for number in range(20_000):
            recording.record(2 + number, window(number * 7919 % 10007))
        wait_until(lambda: told)
        complete(recording)
        most_pages = 1 << 30
    assert told == [
        "cannot remember migrations: database or disk is full; that is tried again every 0.5 s",
        "migrations are remembered again",
    ]
    (row,) = found(url)
    assert row.status == "completed"
    assert len(journal(url, row.id)) == 20_002


def test_what_waits_for_a_database_is_bounded_and_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmferry.agent.pieces.MAX_UNKEPT_BYTES", 1000)
    pieces = Pieces()
    for number in range(10_000):
        pieces.add([Entry(number, window(number * 7919 % 10007))])
    waiting = pieces.unkept()
    assert len(waiting) < 1500
    pieces.kept(len(waiting))
    pieces.add([Entry(10_000, window(7))])
    entries = read_pieces([waiting, pieces.unkept()])
    kept = len(entries) - 2
    assert [entry.time_ns for entry in entries[:kept]] == [*range(kept)]
    assert entries[kept:] == [Entry(10_000, Lost(count=10_000 - kept)), Entry(10_000, window(7))]


def write_for_ever(url: str) -> None:
    with remembering(url) as memory:
        recording = memory.begin(facts())
        recording.record(0, STARTED)
        for number in itertools.count(1):
            recording.record(number, window(number))
            time.sleep(0.0005)


@pytest.mark.parametrize("entry_count", [1, 900])
def test_after_kill_9_all_that_was_kept_is_there_and_whole(url: str, entry_count: int) -> None:
    open_to_write(url).dispose()
    writer = PROCESSES.Process(target=write_for_ever, args=(url,))
    writer.start()
    try:
        wait_until(lambda: found(url) and len(journal(url, found(url)[0].id)) >= entry_count)
    finally:
        writer.kill()
        writer.join()
    with remembering(url):
        (row,) = found(url)
        entries = journal(url, row.id)
    assert [entry.time_ns for entry in entries] == [*range(len(entries))]
    assert len(entries) >= entry_count
    assert (row.followed, row.ended_ms, row.remark) == (False, None, "the agent ended before the migration did")
    assert row.memory_bytes  # so there are figures


@pytest.mark.postgresql
def test_a_database_that_drops_its_clients_is_written_to_again(server: str) -> None:
    with remembering(server) as memory:
        recording = memory.begin(facts())
        recording.record(1, STARTED)
        wait_until(lambda: found(server))
        change(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
        complete(recording)
    assert [row.status for row in found(server)] == ["completed"]
