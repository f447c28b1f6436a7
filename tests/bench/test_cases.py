"""Cases are data: names, targets, patterns."""

import json

import pytest

from torchsru.bench.cases import LSTM, BenchError, Case, Target, find
from torchsru.bench.suites import CPU, GPU, LENGTHS, PAPER
from torchsru.bench.variants import KINDS


@pytest.mark.parametrize("suite", [CPU, GPU], ids=["CPU", "GPU"])
def test_names_are_unique(suite):
    names = [c.name for c in suite]
    assert len(names) > 20
    assert len(set(names)) == len(names)


def test_every_kind_has_a_case():
    assert {c.kind for c in (*CPU, *GPU)} == set(KINDS)


@pytest.mark.parametrize("suite", [CPU, GPU], ids=["CPU", "GPU"])
def test_the_papers_figure_and_all_lengths_are_there(suite):
    for kind in ("forward", "training"):
        figure = [c for c in suite if c.title.startswith(f"paper's figure, {kind}")]
        assert {c.shape for c in figure} == set(PAPER)
        assert all({LSTM, "QRNN", "nn.Conv1d k=2"} <= set(c.beside) for c in figure)
    assert sorted(c.shape.L for c in suite if c.title.startswith("length")) == list(LENGTHS)


def test_what_decides_comes_first_on_a_gpu():
    with_targets = [i for i, c in enumerate(GPU) if c.targets and c.kind != "memory"]
    assert with_targets == list(range(1, 1 + len(with_targets)))


def test_a_name_says_how_a_gpus_case_is_run():
    for case in GPU[1:]:
        assert ("CUDA graph" in case.name) == case.graph
        assert ("TF32" in case.name) == case.tf32
        assert case.dtype in case.name or case.dtype == "float32"


def test_a_case_survives_the_way_to_another_process():
    for case in (*CPU, *GPU):
        assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_a_pattern_or_a_part_of_the_name_finds_cases():
    assert [c.name for c in find("inference: L=32 *", CPU)] == ["inference: L=32 B=32 d=128"]
    assert len(find("d=128", CPU)) == 6
    assert find(None, CPU) == list(CPU)


def test_an_unknown_case_is_named():
    with pytest.raises(BenchError, match="got 'trianing'"):
        find("trianing", CPU)


def test_another_type_has_another_name_and_no_targets():
    case = find("training: L=32 B=32 d=128", CPU)[0]
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
