"""Beam search: the translations that a model finds most likely.

B sentences, K hypotheses of each, n sentences still at work, R = n K rows, V symbols.

Score     log P(Y | X) / lp(Y),  lp(Y) = ((5 + |Y|) / 6)^alpha, where |Y| counts the end
          (Wu et al. 2016, arXiv 1609.08144, eq. 14, without coverage)
Finished  a hypothesis whose end is among its sentence's K best continuations leaves the beam, and
          the next best fills its place; K = 1 is thus greedy decoding
Done      a sentence with K finished hypotheses, or with none at work that could still beat those
          wanted; it leaves the batch
Limit     a translation has `extra` symbols more than its source at most, its end among them
Rows      the state is reordered at each step; the context is one row a sentence and stays
Check     tests/models/test_beam.py
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchsru.nn.state import reorder

STRONGEST = 10.0  # length penalty, far above what helps; powers stay within a float's range


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to search."""

    beam: int = 5
    """K, hypotheses that are kept of each sentence; 1: greedy decoding."""
    length_penalty: float = 0.6
    """alpha, 0 to 10; 0: long translations are at a disadvantage."""
    extra: int = 50
    """Symbols that a translation may have more than its source."""
    wanted: int = 1
    """Hypotheses of each sentence that are returned, at most `beam`."""

    def __post_init__(self) -> None:
        for name in ("beam", "extra", "wanted"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.length_penalty <= STRONGEST:
            raise ValueError(
                f"length_penalty must lie in [0, {STRONGEST}], got {self.length_penalty}"
            )
        if self.wanted > self.beam:
            raise ValueError(f"wanted must be at most beam = {self.beam}, got {self.wanted}")


class Hypothesis(NamedTuple):
    """A translation: its symbols without the end, its score, and its log probability in nats."""

    ids: list[int]
    score: float
    log_probability: float


def length_penalty(length: int, alpha: float) -> float:
    """lp of so many symbols."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: Any,
    source: Tensor,
    lengths: Tensor,
    search: Search,
    *,
    start: int,
    end: int,
    banned: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Translate a batch.

    Args:
        model: called as a `torchsru.models.Translator`, in evaluation mode.
        source: [S, B] symbols, int64; anything stands behind a row's last one.
        lengths: [B] symbols of each row, at least 1, on the CPU.
        search: how.
        start: the symbol that stands before a translation.
        end: the symbol that ends it.
        banned: symbols that no translation holds.

    Returns: of each sentence the hypotheses wanted, the best first; fewer where there are fewer;
        an empty one of score -inf where the model's scores are not finite.
    """
    S, B = source.shape
    K, alpha = search.beam, search.length_penalty
    device = source.device
    limits = [length + search.extra for length in lengths.tolist()]
    place = torch.arange(S, device=device)[:, None]
    hidden = None if int(lengths.min()) == S else place >= lengths.to(device)
    finished: list[list[Hypothesis]] = [[] for _ in range(B)]
    at_work = list(range(B))

    scores, context, state = model(source.new_full((1, B), start), source, hidden)
    rows = torch.arange(B, device=device).repeat_interleave(K)
    scores_RV, state = scores[-1].index_select(0, rows), reorder(state, rows)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    log_p_nK = torch.full((B, K), -torch.inf, device=device, dtype=dtype)
    log_p_nK[:, 0] = 0  # all K begin alike: one is enough
    taken_nKt = source.new_zeros(B, K, 0)
    t = 0
    while True:
        t += 1
        n = len(at_work)
        step_nKV = scores_RV.log_softmax(-1, dtype=dtype).unflatten(0, (n, K))
        step_nKV[:, :, list(banned)] = -torch.inf
        if last := [i for i, b in enumerate(at_work) if limits[b] == t]:
            to_end = step_nKV[last, :, end]
            step_nKV[last] = -torch.inf
            step_nKV[last, :, end] = to_end
        all_nKV = log_p_nK[:, :, None] + step_nKV
        V = all_nKV.shape[2]
        # of 2 K continuations K at least go on: each hypothesis has but one end
        best, index = all_nKV.flatten(1).topk(2 * K, dim=1)
        parent, symbol = index // V, index % V
        ends = symbol == end
        i, j = (ends[:, :K] & best[:, :K].isfinite()).nonzero(as_tuple=True)
        for group, log_p, ids in zip(
            i.tolist(), best[i, j].tolist(), taken_nKt[i, parent[i, j]].tolist(), strict=True
        ):
            score = log_p / length_penalty(t, alpha)
            finished[at_work[group]].append(Hypothesis(ids, score, log_p))
        order = ends.int().argsort(dim=1, stable=True)[:, :K]  # those that go on, the best first
        log_p_nK, parent, symbol = (
            found.gather(1, order) for found in (best.masked_fill(ends, -torch.inf), parent, symbol)
        )
        most = log_p_nK[:, 0].tolist()
        kept = [
            i
            for i, b in enumerate(at_work)
            if not is_done(finished[b], most[i], length_penalty(limits[b], alpha), search)
        ]
        if not kept:
            break
        keep = torch.tensor(kept, device=device)
        rows = (keep[:, None] * K + parent[keep]).flatten()
        taken_nKt = torch.cat(
            [
                taken_nKt[keep].gather(1, parent[keep][:, :, None].expand(-1, -1, t - 1)),
                symbol[keep][:, :, None],
            ],
            2,
        )
        log_p_nK = log_p_nK[keep]
        if len(kept) < n:
            context = reorder(context, keep)
            at_work = [at_work[i] for i in kept]
        scores, context, state = model(
            taken_nKt[:, :, -1].reshape(1, -1), context=context, state=reorder(state, rows)
        )
        scores_RV = scores[-1]
    nothing = [Hypothesis([], -math.inf, -math.inf)]
    return [
        sorted(found, key=lambda hypothesis: -hypothesis.score)[: search.wanted] or nothing
        for found in finished
    ]


def is_done(
    finished: Sequence[Hypothesis], most: float, largest_penalty: float, search: Search
) -> bool:
    """Whether a sentence's search can stop.

    Args:
        most: the largest log probability of a hypothesis that goes on; it only falls, and is
            divided by `largest_penalty` at the most.
    """
    if len(finished) >= search.beam or not most > -math.inf:  # NaN, too, leads nowhere
        return True
    if len(finished) < search.wanted:
        return False
    worst = sorted(hypothesis.score for hypothesis in finished)[-search.wanted]
    return most / largest_penalty <= worst
