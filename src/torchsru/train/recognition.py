"""Speech recognition as a task: the CTC loss, word and character error rates on held-out speech.

Batches    of utterances of alike lengths, as in torchsru.train.passes; each pass may have
           other ones. A pure function of the step
Loss       -log P(text | sound) (Graves et al. 2006) in nats per utterance; an utterance with fewer
           steps than its text needs counts 0 and teaches nothing
Rates      edits (Levenshtein, by the library rapidfuzz) of all texts over their words or
           characters; a text's words are parted by one blank
Check      tests/train/test_recognition.py
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from torchsru.data.progress import tracked
from torchsru.data.speech import Alphabet, Speech, Utterance
from torchsru.models.ctc import BLANK, greedy
from torchsru.train.passes import Passes


class Sounds(NamedTuple):
    """samples [B, N] and sizes [B]; symbols [B, U] int64, padded with 0, and lengths [B]."""

    samples: Tensor
    sizes: Tensor
    symbols: Tensor
    lengths: Tensor
    fresh: bool = True


def batch_of(utterances: Sequence[Utterance], alphabet: Alphabet) -> Sounds:
    """Utterances side by side."""
    samples = [u.read() for u in utterances]
    symbols = [alphabet.encode(u.text) for u in utterances]
    return Sounds(
        pad_sequence(samples, batch_first=True),
        torch.tensor([len(s) for s in samples]),
        pad_sequence(symbols, batch_first=True),
        torch.tensor([len(s) for s in symbols]),
    )


def steps_needed(symbols: Tensor) -> int:
    """Fewest steps of a path that says this [U]: equal neighbours need a blank between."""
    return len(symbols) + int((symbols[1:] == symbols[:-1]).sum())


class Recognition:
    """Speech with texts; see `Task`.

    Args:
        speech: to learn from and to judge by.
        alphabet: what is written.
        batch: B, utterances of a batch.
        eval_batch: the same of an evaluation.
        seed: of the order.

    Raises: DataError if a pass does not fill a batch.
    """

    unit = "utterance"
    higher_is_better = False

    def __init__(
        self, speech: Speech, alphabet: Alphabet, *, batch: int, eval_batch: int, seed: int
    ):
        import rapidfuzz  # noqa: F401  what is missing is told before the first evaluation

        self.speech, self.alphabet, self.content = speech, alphabet, speech.content
        self.eval_batch = eval_batch
        self._train = lru_cache(maxsize=1)(speech.train)  # the pass that batches are taken from

        def sizes(passed: int) -> list[int]:
            return [utterance.size for utterance in self._train(passed)]

        self.passes = Passes(sizes, batch, seed, "utterance")
        self.steps_per_pass = self.passes.steps

    def batch(self, step: int) -> Sounds:
        """The step-th B utterances."""
        train = self._train(step // self.steps_per_pass)
        return batch_of([train[i] for i in self.passes.batch(step)], self.alphabet)

    def split(self, batch: Sounds, parts: int) -> list[Sounds]:
        """The utterances in `parts` groups."""
        groups = zip(*(t.chunk(parts) for t in batch[:4]), strict=True)
        return [Sounds(*group) for group in groups]

    def units(self, batch: Sounds) -> int:
        """B."""
        return len(batch.sizes)

    def loss(self, model: nn.Module, batch: Sounds, state: Any) -> tuple[Tensor, Any]:
        """Mean of -log P(text | sound) in nats per utterance; there is no state."""
        return ctc(model, batch) / len(batch.sizes), None

    def numbers(self, loss: float) -> dict[str, float]:
        """The loss."""
        return {"nats": loss}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Word and character error rates of greedy decoding, and the loss."""
        return evaluate(model, self.speech.valid, self.alphabet, self.eval_batch)


def ctc(model: nn.Module, batch: Sounds) -> Tensor:
    """The sum over the batch of -log P(text | sound)."""
    log_LBC, steps = model(batch.samples, batch.sizes)
    return ctc_sum(log_LBC, steps, batch)


def ctc_sum(log_LBC: Tensor, steps: Tensor, batch: Sounds) -> Tensor:
    """The same of a model's output."""
    return ctc_loss(
        log_LBC,
        batch.symbols.to(log_LBC.device),
        steps,
        batch.lengths.to(log_LBC.device),
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )


class Errors:
    """Word and character error rates, summed up text by text."""

    def __init__(self) -> None:
        self.edits, self.units = [0, 0], [0, 0]  # of words, of characters

    def add(self, said: str, heard: str) -> None:
        """Count one text."""
        from rapidfuzz.distance import Levenshtein

        cuts: tuple[Callable[[str], Sequence[str]], ...] = (str.split, spaced)
        for i, cut in enumerate(cuts):
            self.edits[i] += Levenshtein.distance(cut(said), cut(heard))
            self.units[i] += len(cut(said))

    def rates(self) -> dict[str, float]:
        """Edits per word and per character of what was said."""
        return {
            name: edits / units
            for name, edits, units in zip(("wer", "cer"), self.edits, self.units, strict=True)
        }


def spaced(text: str) -> str:
    """The text with one blank between words and none around."""
    return " ".join(text.split())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    utterances: Sequence[Utterance],
    alphabet: Alphabet,
    batch: int,
    decoders: Mapping[str, Callable[[Tensor], Sequence[int]]] = MappingProxyType({"": greedy}),
) -> dict[str, float]:
    """Error rates and mean loss in nats; the model is in evaluation mode.

    Args:
        decoders: each from log probabilities [L, C] to symbols; the name stands before its rates.
    """
    device = next(model.parameters()).device
    errors = {name: Errors() for name in decoders}
    nats = torch.zeros((), dtype=torch.float64)
    for part in by_size(utterances, batch):
        sounds = batch_of(part, alphabet)
        log_LBC, steps = model(sounds.samples.to(device), sounds.sizes.to(device))
        nats += ctc_sum(log_LBC, steps, sounds).double().cpu()
        log_LBC, steps = log_LBC.cpu(), steps.tolist()
        for b, utterance in enumerate(part):
            for name, decode in decoders.items():
                heard = alphabet.decode(decode(log_LBC[: steps[b], b]))
                errors[name].add(utterance.text, heard)
    rates = {f"{name}{k}": v for name, e in errors.items() for k, v in e.rates().items()}
    return {**rates, "nats": nats.item() / len(utterances)}


def by_size(utterances: Sequence[Utterance], batch: int) -> Iterator[list[Utterance]]:
    """All utterances once, shortest first."""
    ordered = sorted(utterances, key=lambda u: u.size)
    for start in tracked(range(0, len(ordered), batch), "evaluating"):
        yield ordered[start : start + batch]
