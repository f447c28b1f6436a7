import itertools
import math

import pytest
import torch

from torchsru.models.beam import Search, beam_search, length_penalty
from torchsru.models.translator import Translator, TranslatorConfig

V, START, END, PAD = 6, 1, 2, 0
WORDS = (3, 4, 5)
KINDS = {
    "transformer": {},
    "both": {"position_wise": "sru", "autoregression": "ssru"},
}


def make(kind="transformer", seed=0):
    torch.manual_seed(seed)
    config = TranslatorConfig(
        width=8, heads=2, encoder_layers=1, decoder_layers=1, inner=12, **KINDS[kind]
    )
    model = Translator(config, V).double().eval()
    with torch.no_grad():
        model.embedding.weight *= 4.0  # so that some continuations are much better than others
    return model


LENGTHS = torch.tensor([4, 2, 3])
SOURCE = torch.randint(3, V, (4, 3), generator=torch.manual_seed(1))


def find(model, search, source=SOURCE, lengths=LENGTHS):
    return beam_search(model, source, lengths, search, start=START, end=END, banned=(PAD, START))


@torch.no_grad()
def log_probabilities(model, b, translations):
    """Of translations of one length, their ends counted, by one call without a cache."""
    target = torch.tensor([[START, *ids, END] for ids in translations]).T
    scores, _, _ = model(target[:-1], SOURCE[: LENGTHS[b], b : b + 1])
    return scores.log_softmax(-1).gather(2, target[1:, :, None])[:, :, 0].sum(0).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_what_trying_all_finds(kind, alpha):
    model = make(kind)
    extra = 1  # limits of 5, 3 and 4 symbols
    found = find(model, Search(beam=130, length_penalty=alpha, extra=extra, wanted=5))
    for b, length in enumerate(LENGTHS.tolist()):
        tried = {}
        for n in range(length + extra):
            translations = list(itertools.product(WORDS, repeat=n))
            for ids, log_p in zip(
                translations, log_probabilities(model, b, translations), strict=True
            ):
                tried[ids] = (log_p / length_penalty(n + 1, alpha), log_p)
        best = sorted(tried, key=lambda ids: -tried[ids][0])[:5]
        assert [tuple(h.ids) for h in found[b]] == best
        for hypothesis, ids in zip(found[b], best, strict=True):
            score, log_p = tried[ids]
            assert hypothesis.score == pytest.approx(score, rel=1e-9)
            assert hypothesis.log_probability == pytest.approx(log_p, rel=1e-9)


def test_the_penalty_decides():
    """What is compared above differs: a longer translation wins with a larger alpha."""
    model = make()
    lengths = [
        [len(best[0].ids) for best in find(model, Search(beam=130, length_penalty=a, extra=1))]
        for a in (0.0, 2.0)
    ]
    assert sum(lengths[0]) < sum(lengths[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_of_one_is_greedy(kind):
    for seed in range(30):
        model = make(kind, seed)
        found = find(model, Search(beam=1, extra=6))
        if len({len(best[0].ids) for best in found}) == 3:  # they end at different steps
            break
    else:
        pytest.fail("no model ends its translations at different steps")
    for b, length in enumerate(LENGTHS.tolist()):
        source, ids = SOURCE[:length, b : b + 1], [START]
        while len(ids) <= length + 6:
            scores, _, _ = model(torch.tensor(ids)[:, None], source)
            last = scores[-1, 0].detach()
            last[[PAD, START]] = -torch.inf
            symbol = int(last.argmax()) if len(ids) < length + 6 else END
            if symbol == END:
                break
            ids.append(symbol)
        assert found[b][0].ids == ids[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_is_translated_the_same_in_any_batch(kind):
    model, search = make(kind), Search(beam=3, wanted=2, extra=5)
    together = find(model, search)
    for b, length in enumerate(LENGTHS.tolist()):
        (alone,) = find(model, search, SOURCE[:length, b : b + 1], LENGTHS[b : b + 1])
        assert [h.ids for h in alone] == [h.ids for h in together[b]]
        assert alone[0].score == pytest.approx(together[b][0].score, rel=1e-9)


def test_scores_are_those_of_the_translations():
    model = make("both")
    for b, best in enumerate(find(model, Search(beam=4, wanted=4))):
        assert [h.score for h in best] == sorted((h.score for h in best), reverse=True)
        for h in best:
            (exact,) = log_probabilities(model, b, [h.ids])
            assert h.log_probability == pytest.approx(exact, rel=1e-9)
            penalty = length_penalty(len(h.ids) + 1, 0.6)
            assert h.score == pytest.approx(h.log_probability / penalty, rel=1e-12)
            assert not set(h.ids) & {PAD, START, END}


class Endless(torch.nn.Module):
    """Never wants to end."""

    def forward(self, target, source=None, hidden=None, *, context=None, state=None):
        scores = torch.zeros(*target.shape, V)
        scores[..., END] = -50.0
        scores[..., 3] = 5.0
        context = source if context is None else context
        return scores, context, torch.zeros(1, target.shape[1])


def test_a_translation_has_a_limit():
    for beam in (1, 3):
        found = find(Endless(), Search(beam=beam, extra=7))
        assert [len(best[0].ids) + 1 for best in found] == [11, 9, 10]


def test_a_model_without_finite_scores_ends_with_nothing():
    """As after a step of training that diverged."""
    model = make()
    with torch.no_grad():
        model.embedding.weight[3] = torch.nan
    for beam in (1, 3):
        for best in find(model, Search(beam=beam)):
            assert [(h.ids, h.score) for h in best] == [([], -math.inf)]


def test_padding_of_rows_that_are_all_as_long_is_not_read():
    model, search, lengths = make(), Search(beam=2), torch.tensor([3, 3, 3])
    want = find(model, search, SOURCE[:3], lengths)
    assert find(model, search, SOURCE, lengths) == want
    assert find(model, search, SOURCE, torch.tensor([4, 4, 4])) != want


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"beam": 0}, "beam must be at least 1, got 0"),
        ({"length_penalty": -1.0}, r"length_penalty must lie in \[0, 10.0\], got -1.0"),
        ({"length_penalty": 1000.0}, r"length_penalty must lie in \[0, 10.0\], got 1000.0"),
        ({"beam": 2, "wanted": 3}, "wanted must be at most beam = 2, got 3"),
    ],
)
def test_bad_searches_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        Search(**fields)
