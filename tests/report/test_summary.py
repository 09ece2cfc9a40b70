"""What reports say in words: verdict, labels, limits, configuration."""

from dataclasses import replace

import msgspec

from tests.report.samples import simulated_runs
from tests.report.test_series import COURSE, decided, ended, journal, started
from vmferry.migration.events import (
    Acted,
    Event,
    LinkStalled,
    Ordered,
    RecordedBy,
    SwitchoverBegan,
    SwitchoverFailed,
    ThrottleSeen,
)
from vmferry.report.journal_runs import run_series
from vmferry.report.labels import labelled, title_of
from vmferry.report.look import looks_of
from vmferry.report.runs import variants_of
from vmferry.report.series import RunSeries
from vmferry.report.story import headline, story
from vmferry.report.summary import configuration, costs_of_runs, limits_text, verdict


def with_outcome(run: RunSeries, label: str, **figures: object) -> RunSeries:
    return replace(run, label=label, outcome=msgspec.structs.replace(run.outcome, **figures))


def test_the_verdict_names_the_fastest_its_factor_and_its_cost() -> None:
    base = simulated_runs()[0]
    fast = with_outcome(base, "fast", total_time_ms=10_000, work_lost_percent=30.0)
    slow = with_outcome(base, "slow", total_time_ms=42_000, work_lost_percent=12.0)
    assert verdict([slow, fast]) == (
        "fast is the fastest with 10 s, 4.2 times as fast as slow with 42 s; the throttle took 30 % of the guest's "
        "work with the former, 12 % with the latter; all 2 migrations completed."
    )
    unknown = with_outcome(slow, "slow", work_lost_percent=None)
    assert "an unknown part with the latter" in verdict([unknown, fast])
    measured = [replace(run, lost_is_measured=True) for run in (slow, fast)]
    assert "the migration took 30 %" in verdict(measured)


def test_the_verdict_counts_who_did_not_arrive() -> None:
    runs = simulated_runs()
    torn = run_series(journal(*COURSE[:4]), "torn")
    assert verdict([torn]) == "The migration was setup after 5 s: the journal ends before the migration does."
    assert verdict([torn, *runs]).endswith("; 8 of 9 migrations completed, not: torn (0 of 1).")
    assert "is the fastest" in verdict([torn, *runs])
    assert verdict([torn, torn]).startswith("0 of 2 migrations completed: moved 0 of 2 times: the journal ends")
    [whole] = labelled([run_series(journal(*COURSE), "")])
    some = verdict([replace(torn, label=whole.label), whole])
    assert some.startswith("1 of 2 migrations completed, in the median in")
    only = verdict([torn, runs[0]])
    assert only.startswith("Only original completed every time, in ")


def test_the_verdict_compares_nothing_that_cannot_be_compared() -> None:
    run, *_ = simulated_runs()
    unknown = with_outcome(run, "unknown", total_time_ms=None)
    assert verdict([unknown, replace(unknown, label="b")]) == (
        "How long unknown, b took is unknown; all 2 migrations completed."
    )
    assert "how long unknown took is unknown" in verdict([*simulated_runs(), unknown])
    other = run_series(journal(*COURSE), "other")
    assert verdict([run, other]) == (
        "The guests differ in size, so their times are not compared; all 2 migrations completed."
    )
    assert verdict([run, replace(run, label="b")]).startswith("All took about the same time")


def test_repeats_are_told_by_median_and_range_of_those_that_completed() -> None:
    run = simulated_runs()[0]
    runs = [with_outcome(run, "a", total_time_ms=ms) for ms in (1000, 9000, 2000)]
    assert verdict(runs).startswith("All 3 migrations completed, in the median in 2 s (1 s to 9 s) with ")
    [cost] = costs_of_runs([*runs, with_outcome(run, "a", status="failed", total_time_ms=1)])
    assert (cost.completed_count, cost.run_count) == (3, 4)
    assert cost.total_time_ms is not None
    assert (cost.total_time_ms.low, cost.total_time_ms.median, cost.total_time_ms.high) == (1000, 2000, 9000)


def test_labels_are_of_vm_and_variant_and_of_what_else_differs() -> None:
    def recorded(vm_name: str | None, **parameters: object) -> RunSeries:
        events: list[tuple[float, Event]] = [(0, started(**parameters)), (0, Ordered(vm_name=vm_name)), (2, ended(2))]
        return run_series(journal(*events), "x")

    plain = labelled([recorded(None), recorded("db")])
    assert [run.label for run in plain] == ["background-sync", "db: background-sync"]
    told = labelled([recorded("db", downtime_limit=300), recorded("db", downtime_limit=500), recorded("web")])
    assert [run.label for run in told] == [
        "db: background-sync (downtime-limit 300)",
        "db: background-sync (downtime-limit 500)",
        "web: background-sync",
    ]
    assert title_of(told[:1]) == "Migration: db: background-sync (downtime-limit 300)"
    assert (title_of(told[:2]), title_of(told)) == ("Migrations of db", "Migrations")


def test_the_operators_limits_are_told_and_none_is_not_unlimited() -> None:
    ordered = Ordered(deadline_ns=30 * 10**9, max_guest_loss_percent=20.0, max_throttle_percent=60, max_downtime_ms=300)
    run = run_series(journal((0, started()), (0, ordered), (2, ended(2))), "x")
    words = "finish by 30s, guest's work lost at most 20 %, throttle at most 60 %, downtime at most 300 ms"
    assert limits_text(run) == words
    assert configuration([run])["operator's limits"] == words
    unordered = run_series(journal((0, started()), (2, ended(2))), "x")
    assert (unordered.limits, limits_text(unordered)) == (None, "")
    assert "operator's limits" not in configuration([unordered])


def test_the_story_has_all_that_was_done_in_the_order_of_time() -> None:
    run = run_series(
        journal(
            (0, started()),
            (1, LinkStalled(duration_ns=10**9, over=False)),
            (2, decided(0, 20, "it dirties too much")),
            (3, Acted(what="SetDowntimeLimit", reason="it is cheaper", downtime_limit_ns=10**9)),
            (4, SwitchoverBegan(remaining_bytes=1 << 20, threshold_bytes=2 << 20)),
            (5, SwitchoverFailed(stopped_ns=10**9)),
            (6, ended(6)),
        ),
        "x",
    )
    told = [(line.time_s, line.what, line.reason) for line in story(run)]
    assert told == [
        (1, "link", "it has stood still for 1 s"),
        (2, "start of 0", "it dirties too much"),
        (3, "allow more", "it is cheaper"),
        (4, "guest stops", "1 MiB left to send, 2 MiB fit the downtime limit"),
        (5, "guest stays", "it was stopped for 1 s, and runs on as before"),
        (6, "completed", ""),
    ]


def test_reasons_that_nobody_told_are_unknown() -> None:
    observed = msgspec.structs.replace(started(), recorded_by=RecordedBy.OBSERVER)
    run = run_series(journal((0, observed), (1, ThrottleSeen(throttle_percent=20)), (2, ended(2))), "x")
    assert "is unknown: the VM decided by itself" in headline(run)
    assert ("20 %", "why is unknown") in [(line.what, line.reason) for line in story(run)]


def test_the_configuration_tells_which_label_has_which_value() -> None:
    settings = configuration(simulated_runs()[:4])
    assert settings["guest memory"] == "256 MiB"
    assert settings["background-sync"] == "off (original); preserve (background-sync)"
    run = run_series(journal((0, started(max_bandwidth=1 << 20, tls_creds="")), (2, ended(2))), "x")
    settings = configuration([run])
    assert (settings["max-bandwidth"], settings["downtime-limit"]) == ("1 MiB/s", "300 ms")
    assert "tls-creds" not in settings


def test_settings_are_in_a_label_only_where_they_differ_and_do_not_change_the_look() -> None:
    def planned(settings: str) -> RunSeries:
        values = {"convergence_policy": "planned", "policy_settings": settings}
        return run_series(journal((0, started(**values)), (2, ended(2))), "x")

    [alone] = labelled([planned("pace=fast")])
    assert alone.label == "planned"
    assert looks_of(variants_of([alone])) == looks_of({"planned": "planned"})
    both = labelled([planned("pace=fast"), planned("pace=gentle")])
    assert [run.label for run in both] == [
        "planned (policy-settings pace=fast)",
        "planned (policy-settings pace=gentle)",
    ]
