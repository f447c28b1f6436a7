import math

import pytest
import torch

from torchsru.models.reader import KINDS, Reader, ReaderConfig, WordTable, best_spans

CONTEXTS, QUESTIONS = torch.tensor([9, 1, 6, 3]), torch.tensor([2, 5, 1, 4])


def make(kind, tuned=4, **fields):
    torch.manual_seed(0)
    config = ReaderConfig(encoder=kind, width=5, layers=2, tuned=tuned, **fields)
    return Reader(config, 3, torch.randn(13, 6)).double().eval()


def inputs():
    draw = torch.manual_seed(1)
    context, question = torch.randint(13, (9, 4), generator=draw), torch.randint(13, (5, 4))
    return context, CONTEXTS, torch.rand(9, 4, 3, dtype=torch.float64), question, QUESTIONS


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_question_has_the_same_answer_in_any_batch(kind, join):
    model, (context, L, features, question, M) = make(kind, join=join), inputs()
    together = model(context, L, features, question, M)
    for b, (length, asked) in enumerate(zip(L.tolist(), M.tolist(), strict=True)):
        row = slice(b, b + 1)
        alone = model(
            context[:length, row], L[row], features[:length, row], question[:asked, row], M[row]
        )
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[b, :length])
            assert (all_[b, length:] == -math.inf).all()
            assert all_[b].exp().sum().item() == pytest.approx(1)
    with pytest.raises(AssertionError):  # what is compared does differ between rows
        torch.testing.assert_close(together[0][0, :6], together[0][2, :6])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_but_the_fixed_vectors(kind):
    model = make(kind).train()
    start, end = model(*inputs())
    (start[:, 0].sum() + 2 * end[:, 0].sum()).backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None and grad.isfinite().all() and grad.abs().sum() > 0, name
    assert model.words.tuned.weight.shape == (4, 6) and model.words.fixed.shape == (9, 6)


@pytest.mark.parametrize("tuned", [0, 4, 13, 20])
def test_the_first_vectors_are_trained(tuned):
    vectors = torch.randn(13, 6)
    table = WordTable(vectors, tuned)
    ids = torch.tensor([[0, 3, 4], [12, 5, 0]])
    found = table(ids)
    assert torch.equal(found, vectors[ids]) and torch.equal(table.all(), vectors)
    assert found.requires_grad == (tuned > 0)
    if tuned:
        found.sum().backward()
        times = torch.zeros(13)
        times[ids[ids < tuned]] = 1
        times[0] = 2
        assert torch.equal(table.tuned.weight.grad[:, 0], times[:tuned])


def test_the_question_is_aligned_as_in_the_paper():
    """Section 3.2: a_ij ~ exp(alpha(E(p_i)) . alpha(E(q_j))), word by word."""
    model = make("sru")
    x, q = torch.randn(3, 2, 6, dtype=torch.float64), torch.randn(4, 2, 6, dtype=torch.float64)
    padding = torch.tensor([[False, False], [False, False], [False, True], [False, True]])
    got = model.attend(x, q, padding)
    for b, asked in enumerate((4, 2)):
        for i in range(3):
            p = model.align(x[i, b]).relu()
            scores = torch.stack([p @ model.align(q[j, b]).relu() for j in range(asked)])
            expected = sum(a * q[j, b] for j, a in enumerate(scores.softmax(0)))
            torch.testing.assert_close(got[i, b], expected)


@pytest.mark.parametrize("longest", [1, 3, 20])
def test_best_spans_are_those_of_a_search_over_all(longest):
    L, draw = 7, torch.manual_seed(2)
    start, end = (torch.randn(2, L, generator=draw, dtype=torch.float64) for _ in range(2))
    start[1, 4:] = end[1, 4:] = -math.inf  # padding
    first, last, value = best_spans(start, end, longest, 4)
    for b, length in enumerate((L, 4)):
        spans = [
            (start[b, i] + end[b, k], i, k)
            for i in range(length)
            for k in range(i, min(length, i + longest))
        ]
        expected = sorted(spans, reverse=True)[:4]
        got = [*zip(value[b], first[b].tolist(), last[b].tolist(), strict=True)]
        assert got == expected


def test_more_spans_than_there_are_have_no_probability():
    start = torch.tensor([[0.0, -1.0]])
    first, last, value = best_spans(start, start, 15, 9)
    found = [p for p in zip(*(t[0].tolist() for t in (first, last, value)), strict=True)]
    assert found[:3] == [(0, 0, 0.0), (0, 1, -1.0), (1, 1, -2.0)]
    assert all(value == -math.inf for _, _, value in found[3:])


def test_sizes_are_those_of_the_paper():
    """Table 2, in millions; no vectors count. A word of the context has some 60 features."""
    from torchsru.recipes.reading import MODELS

    expected = {"sru-3": 2.0, "sru-4": 2.4, "sru-6": 3.2, "lstm-3": 4.1, "qrnn-4": 2.4}
    assert expected.keys() == MODELS.keys()
    for name, millions in expected.items():
        with torch.device("meta"):
            model = Reader(MODELS[name][1], 60, torch.empty(2000, 300))
        count = sum(p.numel() for p in model.parameters()) - model.words.tuned.weight.numel()
        assert abs(count / 1e6 - millions) <= 0.11, f"{name}: {count / 1e6:.2f}M"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"encoder": "bert"}, "encoder must be one of sru, .*got 'bert'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"longest": 0}, "longest must be at least 1, got 0"),
        ({"tuned": -1}, "tuned must be at least 0, got -1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"highway": True}, "highway needs encoder='qrnn', got True"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        ReaderConfig(**fields)
