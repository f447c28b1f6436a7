"""Denoising as a task: signal to noise ratio as the loss, SI-SDR improvement on held-out mixtures.

Loss     -10 log10(|s|^2 / |s - y|^2) in dB, of each mixture's speech s and the model's output y: it
         keeps the level of the speech, which SI-SDR leaves open
SI-SDR   10 log10(|a s|^2 / |a s - y|^2), a = <y, s> / |s|^2 (Le Roux et al. 2019, arXiv
         1811.02508), which is 10 log10(r^2 / (1 - r^2)) of the cosine r between y and s; the
         improvement is that of the output less that of the mixture
Check    tests/train/test_denoising.py
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from torchsru.data.noise import Mixture, Mixtures
from torchsru.data.progress import tracked
from torchsru.train.passes import Passes

TINY = 1e-10  # relative energy: ratios lie between -100 and 100 dB


class Sounds(NamedTuple):
    """noisy and clean [B, N], 0 behind a row's end; sizes [B]."""

    noisy: Tensor
    clean: Tensor
    sizes: Tensor
    fresh: bool = True


def batch_of(mixtures: Sequence[Mixture]) -> Sounds:
    """Mixtures side by side."""
    pairs = [mixture.read() for mixture in mixtures]
    return Sounds(
        pad_sequence([pair.noisy for pair in pairs], batch_first=True),
        pad_sequence([pair.clean for pair in pairs], batch_first=True),
        torch.tensor([len(pair.clean) for pair in pairs]),
    )


def snr(clean: Tensor, output: Tensor) -> Tensor:
    """10 log10(|s|^2 / |s - y|^2) of [B, N], [B] in dB."""
    energy = clean.square().sum(-1)
    return -10 * ((clean - output).square().sum(-1) / energy + TINY).log10()


def si_sdr(clean: Tensor, output: Tensor) -> Tensor:
    """Scale-invariant signal to distortion ratio of [B, N], [B] in dB."""
    whole = output.square().sum(-1) * clean.square().sum(-1)
    share = (output * clean).sum(-1).square() / whole.clamp(min=torch.finfo(whole.dtype).tiny)
    return 10 * ((share + TINY) / (1 - share + TINY)).log10()


class Denoising:
    """Mixtures of speech and noise; see `Task`.

    Args:
        mixtures: to learn from and to judge by.
        batch: B, mixtures of a batch.
        eval_batch: the same of an evaluation.
        seed: of the order.

    Raises: DataError if a pass does not fill a batch.
    """

    unit = "mixture"
    higher_is_better = True

    def __init__(self, mixtures: Mixtures, *, batch: int, eval_batch: int, seed: int):
        self.mixtures, self.content = mixtures, mixtures.content
        self.eval_batch = eval_batch
        self._train = lru_cache(maxsize=1)(mixtures.train)  # the pass that batches are taken from

        def sizes(passed: int) -> list[int]:
            return [mixture.size for mixture in self._train(passed)]

        self.passes = Passes(sizes, batch, seed, "mixture")
        self.steps_per_pass = self.passes.steps

    def batch(self, step: int) -> Sounds:
        """The step-th B mixtures."""
        train = self._train(step // self.steps_per_pass)
        return batch_of([train[i] for i in self.passes.batch(step)])

    def split(self, batch: Sounds, parts: int) -> list[Sounds]:
        """The mixtures in `parts` groups."""
        groups = zip(*(t.chunk(parts) for t in batch[:3]), strict=True)
        return [Sounds(*group) for group in groups]

    def units(self, batch: Sounds) -> int:
        """B."""
        return len(batch.sizes)

    def loss(self, model: nn.Module, batch: Sounds, state: Any) -> tuple[Tensor, Any]:
        """Mean of -SNR in dB per mixture; there is no state."""
        return -snr(batch.clean, model(batch.noisy, batch.sizes).float()).mean(), None

    def numbers(self, loss: float) -> dict[str, float]:
        """The ratio itself."""
        return {"snr_db": -loss}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean SI-SDR improvement and SI-SDR on the held-out mixtures, in dB."""
        before, after = ratios(model, self.mixtures.valid, self.eval_batch)
        return means(before, after)


def means(before: Tensor, after: Tensor) -> dict[str, float]:
    """Of the improvement, and of what there was before and after it."""
    return {
        "si_sdr_improvement_db": (after - before).mean().item(),
        "si_sdr_db": after.mean().item(),
        "si_sdr_of_mixture_db": before.mean().item(),
    }


@torch.no_grad()
def ratios(model: nn.Module, mixtures: Sequence[Mixture], batch: int) -> tuple[Tensor, Tensor]:
    """SI-SDR of each mixture before and after the model, in dB, float64 [len(mixtures)] each; the
    model is in evaluation mode."""
    device = next(model.parameters()).device
    before, after = torch.empty(2, len(mixtures), dtype=torch.float64)
    for places in by_size(mixtures, batch):
        sounds = batch_of([mixtures[i] for i in places])
        output = model(sounds.noisy.to(device), sounds.sizes.to(device)).cpu()
        before[places] = si_sdr(sounds.clean.double(), sounds.noisy.double())
        after[places] = si_sdr(sounds.clean.double(), output.double())
    return before, after


def by_size(mixtures: Sequence[Mixture], batch: int) -> Iterator[list[int]]:
    """The places of all mixtures once, shortest first."""
    ordered = sorted(range(len(mixtures)), key=lambda i: mixtures[i].size)
    for start in tracked(range(0, len(ordered), batch), "evaluating"):
        yield ordered[start : start + batch]
