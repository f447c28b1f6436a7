"""Adaptive input and softmax against a softmax over all symbols, written out."""

import copy
import math

import pytest
import torch

from torchsru.nn.adaptive import AdaptiveEmbedding, AdaptiveSoftmax

V, E, W, L, B = 30, 8, 6, 5, 4
CUTOFFS = (5, 12)
TIES = {"tied": (True, True), "own projections": (True, False), "own": (False, False)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(tie="tied", cutoffs=CUTOFFS, embedding_size=E, **options):
    sizes = (V, embedding_size, W, cutoffs)
    given = {"div_value": 2.0, "dtype": torch.float64} | options
    embedding = AdaptiveEmbedding(*sizes, **given)
    rows, projections = TIES[tie]
    softmax = AdaptiveSoftmax(*sizes, tie=rows, tie_projections=projections, **given)
    with torch.no_grad():
        for p in softmax.parameters():
            p.copy_(torch.randn_like(p))
    return embedding, softmax, embedding if rows else None


def draw(dtype=torch.float64):
    return torch.randn(L, B, W, dtype=dtype), torch.randint(V, (L, B))


def log_softmax(embedding, softmax, h, *, conditional=True):
    """One position: h [W] -> log-probabilities [V], symbol by symbol."""
    bounds = softmax.clusters.bounds
    rows = [t.weight for t in embedding.tables] if softmax.tie else [*softmax.rows]
    projections = (embedding if softmax.tie_projections else softmax).projections
    inner = [p @ h for p in projections] if softmax.clusters.projected else [h]
    scores = [r @ x + b for r, x, b in zip(rows, inner, softmax.biases, strict=True)]
    clusters = inner[0].new_empty(0)
    if len(bounds) > 2:
        clusters = softmax.cluster_rows @ inner[0] + softmax.cluster_biases
    among = torch.cat([scores[0], clusters]).exp().sum()
    found = []
    for symbol in range(V):
        i = max(i for i in range(len(bounds) - 1) if bounds[i] <= symbol)
        p = scores[i][symbol - bounds[i]].exp()
        if i == 0:
            p = p / among
        else:
            p = p / scores[i].exp().sum() if conditional else p
            p = p * clusters[i - 1].exp() / among
        found.append(p.log())
    return torch.stack(found)


def check(parts, **options):
    """All log-probabilities, those of targets alone, and their gradients, against the loop."""
    embedding, softmax, tied = parts
    h, y = draw()
    h.requires_grad_()
    want = torch.stack([log_softmax(embedding, softmax, x, **options) for x in h.flatten(0, 1)])
    want = want.view(L, B, V)
    got = softmax(h, tied)
    got = got if softmax.clusters.bounds[1:-1] else got.log_softmax(-1)  # of one cluster: scores
    torch.testing.assert_close(got, want)
    y[0] = 7 if softmax.clusters.bounds[1:-1] else y[0]  # no row for the last cluster there
    y[1, 1] = -1
    picked = -want.gather(-1, y.clamp(min=0)[..., None])[..., 0].masked_fill(y == -1, 0)
    nats = softmax.nats(h, y, tied, ignore_index=-1)
    torch.testing.assert_close(nats, picked)
    leaves = [h, *softmax.parameters(), *(tied.parameters() if tied else ())]
    weights = torch.randn_like(picked)
    gradients = [
        torch.autograd.grad((t * weights).sum(), leaves, materialize_grads=True)
        for t in (nats, picked)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("ignored", [-100, 3, CUTOFFS[0], CUTOFFS[1], V - 1, 6])
def test_an_ignored_symbol_of_any_cluster_counts_nothing_and_moves_no_other(ignored):
    """5 and 6 are also the places, in the head, of the other clusters."""
    _, softmax, tied = make()
    h, y = draw()
    y[0], y[1, 0] = torch.tensor([ignored, CUTOFFS[0], CUTOFFS[1] - 1, V - 2]), 0
    want = -softmax(h, tied).gather(-1, y.clamp(min=0)[..., None])[..., 0]
    got = softmax.nats(h, y, tied, ignore_index=ignored)
    torch.testing.assert_close(got, want.masked_fill(y == ignored, 0))


@pytest.mark.parametrize("symbol", [-1, V])
def test_symbols_of_no_cluster_are_refused(symbol):
    embedding, _, _ = make()
    with pytest.raises(IndexError):
        embedding(torch.tensor([2, symbol]))


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize(("cutoffs", "size"), [(CUTOFFS, E), ((5,), 9), ((), W), ((), 4)])
def test_equals_a_softmax_over_all_symbols(tie, cutoffs, size):
    check(make(tie, cutoffs, size))


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check(make(), conditional=False)


@pytest.mark.parametrize("tie", TIES)
def test_probabilities_sum_to_one(tie):
    _, softmax, tied = make(tie)
    total = softmax(draw()[0], tied).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_equals_pytorchs_own():
    """Of W features in the first cluster, with its projection the identity and no tail biases."""
    _, softmax, _ = make("own", embedding_size=W)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        W, V, [*CUTOFFS], div_value=2.0, head_bias=True, dtype=torch.float64
    )
    with torch.no_grad():
        softmax.projections[0].copy_(torch.eye(W))
        theirs.head.weight.copy_(torch.cat([softmax.rows[0], softmax.cluster_rows]))
        theirs.head.bias.copy_(torch.cat([softmax.biases[0], softmax.cluster_biases]))
        for i, (down, up) in enumerate(theirs.tail, start=1):
            softmax.biases[i].zero_()
            down.weight.copy_(softmax.projections[i])
            up.weight.copy_(softmax.rows[i])
    h, y = draw()
    torch.testing.assert_close(softmax(h).flatten(0, 1), theirs.log_prob(h.flatten(0, 1)))
    want = -theirs(h.flatten(0, 1), y.flatten()).output
    torch.testing.assert_close(softmax.nats(h, y).flatten(), want)


def test_the_input_is_a_row_times_its_clusters_projection():
    embedding, _, _ = make()
    x = torch.arange(V).view(6, 5)
    got = embedding(x)
    bounds = embedding.clusters.bounds
    for symbol in range(V):
        i = max(i for i in range(3) if bounds[i] <= symbol)
        row = embedding.tables[i].weight[symbol - bounds[i]]
        want = (row @ embedding.projections[i]) * W**0.5
        torch.testing.assert_close(got.flatten(0, 1)[symbol], want)
    first = torch.autograd.grad(got.sum(), [t.weight for t in embedding.tables])
    assert all(g.any(dim=1).all() for g in first)
    (used,) = torch.autograd.grad(embedding(torch.tensor([7])).sum(), [embedding.tables[0].weight])
    assert not used.any()


def test_starts_with_inputs_and_scores_of_unit_size():
    embedding = AdaptiveEmbedding(3000, 64, 96, (1000, 2000))
    softmax = AdaptiveSoftmax(3000, 64, 96, (1000, 2000))
    for x in torch.arange(3000).split(1000):
        assert 0.8 < embedding(x).var() < 2.2
    scores = softmax._scores(1, torch.randn(200, 96), embedding)
    assert 0.8 < scores.var() < 2.2


def test_dropout_drops_the_features_of_a_symbol_before_its_projection():
    """Feature i is worth 2^i, all projected to their sum: it tells which are left, here and there
    alike in all of the output; after the projection it would not be the same everywhere."""
    p, kept = 0.25, [0, 0]
    embedding, _, _ = make(dropout=p)
    with torch.no_grad():
        for table, projection in zip(embedding.tables, embedding.projections, strict=True):
            table.weight.copy_((1 - p) * 2 ** torch.arange(table.weight.shape[1]))
            projection.fill_(W**-0.5)
    for x in (torch.zeros(500, dtype=torch.int64), torch.full((500,), 29)):  # 8 and 2 features
        sums = embedding(x)
        torch.testing.assert_close(sums, sums[:, :1].expand_as(sums))
        size = 8 if x[0] == 0 else 2
        bits = sums[:, :1].round().long() >> torch.arange(size) & 1
        torch.testing.assert_close((bits * 2 ** torch.arange(size)).sum(1).double(), sums[:, 0])
        assert ((bits.double().mean(0) - (1 - p)).abs() < 0.08).all()
        kept[0] += bits.sum().item()
        kept[1] += bits.numel()
    assert abs(kept[0] / kept[1] - (1 - p)) < 0.03
    whole = embedding.eval()(torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(whole, torch.full((1, W), (1 - p) * 255).double())


def test_dropout_drops_what_the_outputs_projections_lead_to():
    """Each feature is 1, and the score of one symbol: in every cluster drawn anew."""
    p = 0.25
    _, softmax, _ = make("own", dropout=p)
    with torch.no_grad():
        for rows, projection, bias in zip(
            softmax.rows, softmax.projections, softmax.biases, strict=True
        ):
            rows.copy_(torch.eye(*rows.shape))
            projection.fill_(1 / W)
            bias.zero_()
    h, found = torch.ones(500, W).double(), []
    for i, size in enumerate((5, 4, 2)):  # as many symbols as features at most
        scores = softmax._scores(i, h, None)[:, :size] * (1 - p)
        assert ((scores == 0) | ((scores - 1).abs() < 1e-6)).all()
        assert ((scores.mean(0) - (1 - p)).abs() < 0.08).all()
        found.append(scores[:, :2])
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(softmax.eval()._scores(2, h, None)[:, :2], h[:, :2])


def test_dropout_is_for_training_and_projections_alone():
    check([part and part.eval() for part in make(dropout=0.5)])
    check(make(cutoffs=(), embedding_size=W, dropout=0.5))
    with pytest.raises(AssertionError, match="not close"):
        check(make(dropout=0.5))


def test_rows_start_in_the_range_given_and_projections_as_without():
    sizes = (3000, 64, 96, (1000, 2000))
    embedding = AdaptiveEmbedding(*sizes, init_range=0.03)
    softmax = AdaptiveSoftmax(*sizes, init_range=0.03, tie=False)
    tables = [table.weight for table in embedding.tables]
    for rows in (*tables, *softmax.rows, softmax.cluster_rows):
        assert 0.028 < rows.abs().max() <= 0.03
        assert abs(rows.std().item() / 0.03 - 3**-0.5) < 0.06
    for projection in (*embedding.projections, *softmax.projections):
        bound = math.sqrt(6 / sum(projection.shape))
        assert 0.98 * bound < projection.abs().max() <= bound
    assert not any(bias.any() for bias in (*softmax.biases, softmax.cluster_biases))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_types_compute_probabilities_in_float32(dtype):
    embedding, softmax, _ = make()
    h, y = draw()
    want = softmax(h, embedding)
    embedding, softmax = copy.deepcopy(embedding).to(dtype), copy.deepcopy(softmax).to(dtype)
    got = softmax(h.to(dtype), embedding)
    nats = softmax.nats(h.to(dtype), y, embedding)
    assert got.dtype == nats.dtype == torch.float32 and embedding(y).dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0.1, atol=0.2)
    torch.testing.assert_close(nats, -got.gather(-1, y[..., None])[..., 0], rtol=1e-4, atol=1e-4)


def test_compiled_and_exported():
    torch._dynamo.reset()
    embedding, softmax, _ = make()
    y = draw()[1]

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.softmax = embedding, softmax

        def forward(self, x):
            return self.softmax(self.embedding(x), self.embedding)

    both = Both()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(y), both(y))
    program = torch.export.export(both, (y,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    torch.testing.assert_close(program.module()(y[:3]), both(y[:3]))


@pytest.mark.parametrize(
    ("vocabulary", "width", "cutoffs", "tie_projections", "millions"),
    [  # rows of 1024, 256, 64 (and 16) features; projections, tied or twice; biases
        (
            *(267735, 3072, (19997, 39997, 199997), True),
            19.997 * 1.024 + 20 * 0.256 + 160 * 0.064 + 67.738 * 0.016 + 1.36 * 3.072 + 0.271,
        ),
        (
            *(793471, 4096, (59998, 159998), False),
            59.998 * 1.024 + 100 * 0.256 + 633.473 * 0.064 + 2 * 1.344 * 4.096 + 0.796,
        ),
    ],
    ids=["WikiText-103", "Billion Word"],
)
def test_parameter_counts_of_the_published_recipes(
    vocabulary, width, cutoffs, tie_projections, millions
):
    sizes = (vocabulary, 1024, width, cutoffs)
    with torch.device("meta"):
        parts = (
            AdaptiveEmbedding(*sizes),
            AdaptiveSoftmax(*sizes, tie_projections=tie_projections),
        )
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((V, E, W, (5, 5)), r"cutoffs must rise between 0 and vocabulary_size = 30, got \(5, 5\)"),
        ((V, E, W, (5, 30)), "cutoffs must rise"),
        ((V, 3, W, (5, 12)), r"embedding_size must be at least div_value\^2 = 16, got 3"),
        ((V, 0, W, ()), "embedding_size must be a positive integer, got 0"),
    ],
)
def test_impossible_values_are_refused_by_name(arguments, message):
    for kind in (AdaptiveEmbedding, AdaptiveSoftmax):
        with pytest.raises(ValueError, match=message):
            kind(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"init_range": 0.0}, "init_range must be positive and finite, or None, got 0.0"),
        ({"init_range": math.nan}, "init_range must be positive and finite, or None, got nan"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    for kind in (AdaptiveEmbedding, AdaptiveSoftmax):
        with pytest.raises(ValueError, match=message):
            kind(V, E, W, (5,), **options)


def test_the_loss_for_estimates_is_that_of_first_symbols_in_zipfs_shares():
    embedding, softmax, tied = make()
    h = draw()[0]
    bounds, n = softmax.clusters.bounds, L * B
    shares = [n, *(round(n * math.log(b / a) / math.log(V)) for a, b in ((5, 12), (12, 30)))]
    rows, by_hand = h.flatten(0, 1), 0
    for i, count in enumerate(shares):
        first = softmax(rows[:count], tied)[:, bounds[i]]
        if i:  # of its cluster alone
            scores = torch.stack([log_softmax(embedding, softmax, row) for row in rows[:count]])
            first = first - scores[:, bounds[i] : bounds[i + 1]].logsumexp(-1)
        by_hand -= first.sum()
    torch.testing.assert_close(softmax.zipf_nats(h, tied), by_hand / n)


def test_the_embedding_belongs_to_tied_calls_alone():
    embedding, tied, _ = make()
    _, own, _ = make("own")
    h, _ = draw()
    with pytest.raises(ValueError, match="embedding must be given with tie=True"):
        tied(h)
    with pytest.raises(ValueError, match="embedding must not be given with tie=False"):
        own(h, embedding)
