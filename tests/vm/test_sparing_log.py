from tests.support.loopback import ManualClock
from vmferry.vm.sparing_log import SparingLog


def test_what_is_left_out_is_counted() -> None:
    clock, lines = ManualClock(), list[str]()
    log = SparingLog(clock, lines.append)
    for number in range(25):
        log(f"stranger {number}")
    assert lines == [f"stranger {number}" for number in range(10)]
    clock.sleep_ns(10_000_000_000)
    log("stranger 25")
    log("stranger 26")
    assert lines[10:] == ["stranger 25 (and 15 more before)", "stranger 26"]
