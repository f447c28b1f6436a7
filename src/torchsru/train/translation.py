"""Translation as a task: smoothed cross entropy, and BLEU on held-out sentences.

S source steps, T target steps, B pairs.

Batches    of pairs of alike lengths: as many as fit into so many subwords of either side, padding
           included. The pairs are sorted by the longer side, those of equal length in an order
           drawn anew for each pass, and cut up; the cut is the same in each pass, the order of
           the batches is drawn. A pure function of the step
Loss       the sum over a batch's subwords by their number, of all its parts together: a batch dealt
           out to several processes has the gradient that it has on one
Judged by  BLEU of greedy translations of some held-out sentences; nats are a mean over all of them
Check      tests/train/test_translation.py
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from torchsru.data.batches import NOTHING
from torchsru.data.parallel import END, PAD, START, UNKNOWN, Lines, Side, Subwords
from torchsru.data.progress import tracked
from torchsru.data.texts import DataError
from torchsru.models.beam import Hypothesis, Search, beam_search

MULTIPLE = 8  # batches of more pairs than this hold a multiple of it, as matrices like it


class Pairs(NamedTuple):
    """Pairs side by side: source [S, B], True in `hidden` [S, B] at its padding; the target x
    [T, B], and what follows each of its symbols, y [T, B], NOTHING at padding."""

    source: Tensor
    hidden: Tensor | None
    x: Tensor
    y: Tensor
    share: float
    """Subwords to predict in the whole batch, by the number of its parts."""
    fresh: bool = True


def batch_of(side: Side, rows: Sequence[int]) -> Pairs:
    """These pairs side by side, the end after each sentence."""
    end, start = torch.tensor([END]), torch.tensor([START])
    sources = [torch.cat([side.source[i], end]) for i in rows]
    targets = [side.target[i] for i in rows]
    y = pad_sequence([torch.cat([t, end]) for t in targets], padding_value=NOTHING)
    return Pairs(
        *padded(sources),
        pad_sequence([torch.cat([start, t]) for t in targets], padding_value=PAD),
        y,
        int((y != NOTHING).sum()),
    )


def side_of(subwords: Subwords, *texts: Sequence[str]) -> Side:
    """Sentences and their translations, as text, in subwords."""
    found = []
    for lines in texts:
        ids = subwords.encode(lines)
        flat = torch.tensor([symbol for line in ids for symbol in line])
        found.append(Lines(flat, torch.tensor([len(line) for line in ids])))
    return Side(*found)


def padded(sources: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Symbols [S, B] and where padding stands [S, B]; None if there is none."""
    lengths = torch.tensor([len(s) for s in sources])
    ids = pad_sequence(list(sources), padding_value=PAD)
    hidden = torch.arange(len(ids))[:, None] >= lengths
    return ids, hidden if hidden.any() else None


def sizes_of(side: Side) -> Tensor:
    """[N] subwords of the longer side of each pair, the end included."""
    return torch.maximum(side.source.lengths, side.target.lengths).long() + 1


def cut(sizes: Sequence[int], batch: int) -> list[slice]:
    """Places of each batch among pairs of these sizes, in ascending order: as many pairs as have
    `batch` subwords with padding, one at least."""
    slices, start = [], 0
    while start < len(sizes):
        stop = start + 1
        while stop < len(sizes) and sizes[stop] * (stop + 1 - start) <= batch:
            stop += 1
        if stop < len(sizes) and stop - start > MULTIPLE:
            stop -= (stop - start) % MULTIPLE
        slices.append(slice(start, stop))
        start = stop
    return slices


class Translation:
    """Pairs of sentences; see `Task`.

    Args:
        train: to learn from.
        heldout: to judge by.
        texts: the same as text: (sentences, translations).
        subwords: the vocabulary of both languages.
        content: hash of the data.
        batch: subwords of either side in a batch, padding included.
        eval_batch: the same of an evaluation.
        longest: subwords of a sentence, its end included, that is trained on.
        eval_sentences: held-out sentences that are translated in an evaluation.
        label_smoothing: part of each target's probability that is spread over all symbols.
        seed: of the order.

    Raises: DataError if no pair is short enough.

    Attributes:
        dropped: pairs to learn from that are too long.
    """

    unit = "subword"
    higher_is_better = True

    def __init__(
        self,
        train: Side,
        heldout: Side,
        texts: tuple[Sequence[str], Sequence[str]],
        subwords: Subwords,
        *,
        content: str,
        batch: int,
        eval_batch: int,
        longest: int,
        eval_sentences: int,
        label_smoothing: float,
        seed: int,
    ):
        import sacrebleu  # noqa: F401  what is missing is told before the first evaluation

        sizes = sizes_of(train)
        self._pairs = (sizes <= min(longest, batch)).nonzero()[:, 0]
        if not len(self._pairs):
            raise DataError(
                f"data.longest and data.batch must be {int(sizes.min())} at least, the shortest "
                f"pair, got {longest} and {batch}"
            )
        self.dropped = len(sizes) - len(self._pairs)
        self._sizes = sizes[self._pairs]
        self._cut = cut(self._sizes.sort().values.tolist(), batch)
        self.train, self.heldout, self.texts, self.subwords = train, heldout, texts, subwords
        self.content, self.seed, self.eval_batch = content, seed, eval_batch
        self.label_smoothing = label_smoothing
        count = min(eval_sentences, len(texts[0]))
        self.judged = [i * len(texts[0]) // count for i in range(count)]
        self.steps_per_pass = len(self._cut)
        self._pass: tuple[int, Tensor, list[slice]] | None = None

    def batch(self, step: int) -> Pairs:
        """The step-th pairs."""
        passed, at = divmod(step, self.steps_per_pass)
        if self._pass is None or self._pass[0] != passed:
            draw = random.Random(f"{self.seed}/{passed}")
            generator = torch.Generator().manual_seed(draw.getrandbits(63))
            order = torch.randperm(len(self._pairs), generator=generator)
            order = order[self._sizes[order].sort(stable=True).indices]
            self._pass = passed, self._pairs[order], draw.sample(self._cut, len(self._cut))
        _, pairs, slices = self._pass
        return batch_of(self.train, pairs[slices[at]].tolist())

    def split(self, batch: Pairs, parts: int) -> list[Pairs]:
        """The pairs in `parts` groups; where there are too few, a group has one that nothing is
        predicted of."""
        found = []
        for rows in torch.arange(batch.y.shape[1]).tensor_split(parts):
            y = batch.y[:, rows] if len(rows) else torch.full_like(batch.y[:, :1], NOTHING)
            rows = rows if len(rows) else torch.tensor([0])
            hidden = None if batch.hidden is None else batch.hidden[:, rows]
            found.append(
                Pairs(batch.source[:, rows], hidden, batch.x[:, rows], y, batch.share / parts)
            )
        return found

    def units(self, batch: Pairs) -> int:
        """Subwords of the target, ends included: of each of several parts the same."""
        return int(batch.share)

    def loss(self, model: nn.Module, batch: Pairs, state: Any) -> tuple[Tensor, Any]:
        """Smoothed cross entropy in nats per subword; there is no state."""
        scores, *_ = model(batch.x, batch.source, batch.hidden)
        total = cross_entropy(
            scores.flatten(0, 1).float(),
            batch.y.flatten(),
            ignore_index=NOTHING,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / batch.share, None

    def numbers(self, loss: float) -> dict[str, float]:
        """The loss, which is not the held-out "nats" where labels are smoothed."""
        return {"smoothed_nats": loss}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """BLEU of greedy translations, then nats per subword."""
        sources = [self.heldout.source[i].tolist() for i in self.judged]
        found = translate(model, sources, Search(beam=1), self.eval_batch, "translating")
        translations = [self.subwords.decode(hypotheses[0].ids) for hypotheses in found]
        scores = scores_of(translations, [self.texts[1][i] for i in self.judged])
        return {"bleu": scores["bleu"], "nats": nats_of(model, self.heldout, self.eval_batch)}


@torch.no_grad()
def nats_of(model: nn.Module, side: Side, batch: int) -> float:
    """Mean cross entropy in nats per subword of all translations, their ends included."""
    device = next(model.parameters()).device
    total, count = torch.zeros((), dtype=torch.float64), 0
    sizes, order = sizes_of(side).sort(stable=True)
    for rows in tracked(cut(sizes.tolist(), batch), "evaluating"):
        pairs = batch_of(side, order[rows].tolist())
        hidden = None if pairs.hidden is None else pairs.hidden.to(device)
        scores, *_ = model(pairs.x.to(device), pairs.source.to(device), hidden)
        nats = cross_entropy(
            scores.flatten(0, 1).float(), pairs.y.flatten().to(device), reduction="sum"
        )
        total, count = total + nats.double().cpu(), count + int(pairs.share)
    return total.item() / count


def translate(
    model: nn.Module, sources: Sequence[Sequence[int]], search: Search, batch: int, doing: str = ""
) -> list[list[Hypothesis]]:
    """Translations of sentences that are subwords, in their order, the best first.

    Args:
        model: a `Translator`, in evaluation mode.
        sources: without an end; none is empty.
        search: how.
        batch: subwords of the source at once, those of all hypotheses counted.
        doing: shown beside a progress bar; without it there is none.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: dict[int, list[Hypothesis]] = {}
    slices = cut([len(sources[i]) + 1 for i in order], max(1, batch // search.beam))
    for rows in tracked(slices, doing) if doing else slices:
        places = order[rows]
        ids, _ = padded([torch.tensor([*sources[i], END]) for i in places])
        lengths = torch.tensor([len(sources[i]) + 1 for i in places])
        best = beam_search(
            model,
            ids.to(device),
            lengths,
            search,
            start=START,
            end=END,
            banned=(PAD, START, UNKNOWN),
        )
        found |= zip(places, best, strict=True)
    return [found[i] for i in range(len(sources))]


def scores_of(translations: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU and chrF of a whole set (Papineni et al. 2002; Popovic 2015), as sacrebleu defines them,
    and BLEU's signature, which says how."""
    from sacrebleu.metrics import BLEU, CHRF

    bleu, chrf = BLEU(), CHRF()
    found = bleu.corpus_score(list(translations), [list(references)])
    also = chrf.corpus_score(list(translations), [list(references)])
    return {"bleu": found.score, "chrf": also.score, "signature": str(bleu.get_signature())}
