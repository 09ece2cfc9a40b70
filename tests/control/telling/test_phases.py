"""What is told of states in which a migration waits for somebody; `vmferry watch` goes on looking then."""

from tests.support.fake_qemu import answer
from vmferry.control.asking.progress import Progress
from vmferry.control.telling.phases import Phases


def test_paused_post_copy_is_told_once_with_what_recovers_it_and_so_is_its_recovery() -> None:
    told: list[str] = []
    phases = Phases(told.append)
    for status in ["postcopy-active", *["postcopy-paused"] * 3, *["postcopy-recover"] * 2, "postcopy-active"]:
        phases.observe(Progress.from_qmp(answer(status)))
    assert len(told) == 3
    assert "post-copy has begun" in told[0]
    assert "migrate-recover" in told[1]
    assert "resume=true" in told[1]
    assert "being recovered" in told[2]
