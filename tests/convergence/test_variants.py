import pytest

from vmferry.convergence.variants import VARIANTS, find_variant, label_of
from vmferry.errors import UsageError


def test_variants_are_those_of_the_seed_and_of_qemu() -> None:
    rows = {v.name: (v.background_sync.value, v.settings.get("cpu-responsive-throttle")) for v in VARIANTS.values()}
    assert rows == {
        "original": ("off", False),
        "background-sync": ("preserve", False),
        "background-sync+responsive-throttle": ("preserve", True),
        "periodic-sync": ("merge", False),
    }


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no variant 'fast'; there are: original, "):
        find_variant("fast")


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_is_known_by_its_parameters(name: str) -> None:
    assert label_of({"max-bandwidth": 0, **VARIANTS[name].settings}) == name


def test_a_policy_of_ones_own_is_never_called_by_the_name_of_a_variant() -> None:
    original = {**VARIANTS["original"].settings}
    assert label_of({**original, "convergence-policy": "mine.py:Mine"}) == "mine.py:Mine (background-sync=off)"
    assert label_of({"background-sync": "merge", "cpu-responsive-throttle": True}) == "unnamed variant"
    assert label_of({"convergence-policy": "original"}) == "original (background-sync=preserve)"


def test_runs_of_one_policy_are_told_apart_by_settings_digest_and_background_sync() -> None:
    mine = {"convergence-policy": "pack:Mine", "background-sync": "preserve", "policy-settings": "gain=2,step=5"}
    labels = [
        label_of(mine),
        label_of(mine, "12345678" * 8),
        label_of(mine, "87654321" * 8),
        label_of({**mine, "policy-settings": ""}, "87654321" * 8),
        label_of({**mine, "background-sync": "merge"}, "87654321" * 8),
        label_of({**mine, "convergence-policy": "mine.py:Mine@12345678", "policy-settings": ""}, "12345678" * 8),
    ]
    assert labels == [
        "pack:Mine (gain=2, step=5)",
        "pack:Mine@12345678 (gain=2, step=5)",
        "pack:Mine@87654321 (gain=2, step=5)",
        "pack:Mine@87654321",
        "pack:Mine@87654321 (gain=2, step=5, background-sync=merge)",
        "mine.py:Mine@12345678",
    ]
