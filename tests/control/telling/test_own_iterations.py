from tests.support.fake_qemu import answer
from vmferry.control.asking.progress import Progress
from vmferry.control.telling.own_iterations import OwnIterations

MIB = 1 << 20


def test_iterations_of_a_vm_that_slows_its_guest_itself_are_judged_once_each() -> None:
    iterations, told = OwnIterations(99), []
    for second in range(1, 5):
        transferred, rate = second * 100 * MIB, 99 * MIB // 4096
        looked = answer(at_s=second, dirty_sync_count=second, transferred=transferred, dirty_pages_rate=rate) | {
            "cpu-throttle-percentage": 99
        }
        told += [line for line in (iterations.observe(Progress.from_qmp(looked)) for _ in range(3)) if line]
        assert len(told) == (second > 3)
