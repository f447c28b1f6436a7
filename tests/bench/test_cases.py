"""Cases are data: names, targets, patterns."""

import pytest

from torchsru.bench.cases import CASES, BenchError, Target, find
from torchsru.bench.variants import KINDS


def test_names_are_unique():
    names = [c.name for c in CASES]
    assert len(names) > 20
    assert len(set(names)) == len(names)


def test_every_kind_has_a_case():
    assert {c.kind for c in CASES} == set(KINDS)


def test_a_pattern_or_a_part_of_the_name_finds_cases():
    assert [c.name for c in find("inference: L=32 *")] == ["inference: L=32 B=32 d=128"]
    assert len(find("d=128")) == 3
    assert find(None) == list(CASES)


def test_an_unknown_case_is_named():
    with pytest.raises(BenchError, match="got 'trianing'"):
        find("trianing")


def test_another_type_has_another_name_and_no_targets():
    case = find("training: L=32 B=32 d=128")[0]
    other = case.with_dtype("float64")
    assert other.name == "training in float64: L=32 B=32 d=128"
    assert other.targets == ()
    assert case.with_dtype("float32") is case


@pytest.mark.parametrize(
    ("bound", "value", "met"),
    [("at most", 1.1, True), ("at most", 1.2, True), ("at most", 1.3, False),
     ("at least", 1.1, False), ("at least", 1.2, True), ("at least", 1.3, True)],
)  # fmt: skip
def test_targets(bound, value, met):
    target = Target(variant="a", over="b", bound=bound, value=1.2)
    assert target.met(value) is met
