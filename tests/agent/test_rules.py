from collections.abc import Iterator

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vmferry.agent.rules import Mode, Rule, Rulebook, Vm, holding

UUID = "5f1a2c66-0a8e-4a39-9d5e-9a8a4f2f8d11"
VM = Vm("db-1", UUID, frozenset({"gold"}))


def test_the_first_rule_that_matches_holds() -> None:
    rules = [Rule(name="web-*"), Rule(name="db-?", mode=Mode.STEER), Rule(name="*", mode=Mode.IGNORE)]
    held = holding(rules, VM)
    assert (held.number, held.rule.mode) == (2, Mode.STEER)
    assert str(held) == "rule 2: name 'db-?'"


def test_without_a_rule_nothing_is_touched() -> None:
    held = holding([Rule(name="web-*", mode=Mode.STEER)], VM)
    assert (held.number, held.rule.mode) == (None, Mode.SHADOW)
    assert str(held) == "no rule matches"


def test_what_holds_for_a_vm_is_looked_for_once() -> None:
    looked = 0

    class Noted(list[Rule]):
        def __iter__(self) -> Iterator[Rule]:
            nonlocal looked
            looked += 1
            return super().__iter__()

    rules = Rulebook(Noted([Rule(name="db-?", mode=Mode.STEER)]))
    assert [rules.holding(VM).number for _ in range(10)] == [1] * 10
    assert rules.holding(Vm("web", UUID)).number is None
    assert looked == 2


def test_all_that_a_rule_names_has_to_fit() -> None:
    whole = {"name": "db-*", "uuid": UUID.upper().replace("-", ""), "tag": "gold"}
    other = {"name": "web-*", "uuid": UUID.replace("5", "6"), "tag": "silver"}
    assert msgspec.convert(whole, Rule).matches(VM)
    assert not any(msgspec.convert({**whole, key: other[key]}, Rule).matches(VM) for key in whole)


@given(st.text(), st.text())
def test_any_pattern_meets_any_name(pattern: str, name: str) -> None:
    assert isinstance(Rule(name=pattern).matches(Vm(name, "")), bool)


def test_what_is_done_is_told_in_the_words_of_the_file() -> None:
    rule = Rule(mode=Mode.STEER, finish_by=600 * 10**9, max_guest_loss="30%")
    assert ", ".join(rule.orders()) == "steer, planned, finish-by 10min, max-guest-loss 30%, on-limit cancel"
    assert ", ".join(Rule(mode=Mode.WATCH).orders()) == "watch"
    assert str(holding([rule], VM)) == "rule 1: all VMs"


def test_a_pace_is_told_the_policy_that_plans_and_limits_are_its_goals() -> None:
    rule = Rule(mode=Mode.STEER, variant="planned", pace="gentle", finish_by=600 * 10**9)
    assert "planned, pace gentle, finish-by 10min" in ", ".join(rule.orders())
    told = str(rule.chosen_with_goals.settings["policy-settings"])
    assert told == "pace=gentle,finish_by_ms=600000,on_limit=cancel"
    assert Rule(variant="original", finish_by=600 * 10**9).chosen_with_goals == Rule(variant="original").chosen
