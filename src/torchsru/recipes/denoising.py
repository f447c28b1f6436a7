"""Denoising: the recipe, its models, and what a run of one is used with."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsru.data.noise import DenoisingData, Mixtures, load_mixtures
from torchsru.models.denoiser import Denoiser, DenoiserConfig
from torchsru.recipes.base import Prepared, Recipe, Run, described
from torchsru.train.config import Training
from torchsru.train.denoising import Denoising, means, ratios
from torchsru.train.strategy import make_fabric

MEASURED = 100  # mixtures whose log power is measured


@dataclass(frozen=True, kw_only=True)
class DenoisingRecipe(Recipe):
    """A denoiser: its shape, its data, its training."""

    model: DenoiserConfig
    data: DenoisingData
    training: Training

    task: ClassVar[str] = "denoising"

    def prepare(self) -> Prepared:
        """Find and check speech and noise, and measure the mixtures. Raises DataError."""
        mixtures = load_mixtures(self.data, self.model.rate, self.training.seed)
        task = Denoising(
            mixtures,
            batch=self.data.batch,
            eval_batch=self.data.eval_batch,
            seed=self.training.seed,
        )
        return Prepared(task, partial(Denoiser, self.model, *measure(mixtures, self.model)))

    def evaluate(
        self, run: Run, *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Mean SI-SDR improvement in dB, SI-SDR before and after, the improvement at each level and
        under each noise, how many mixtures they are of, and the seconds it took.

        Args:
            paths: none; what is evaluated on are mixtures of the run's own data.
            layout: eval_batch to use in place of the run's.
        """
        if paths:
            raise ValueError(
                f"data must be left out: a denoiser is evaluated on the mixtures of its own data, "
                f"got {', '.join(paths)}"
            )
        cleaner = SpeechCleaner(run)
        data = replace(self.data, **layout)
        mixtures = load_mixtures(data, cleaner.rate, self.training.seed)
        run.check_content(cleaner.facts, mixtures.content, instead="")
        held = mixtures.side(split)
        started = time.perf_counter()
        before, after = ratios(cleaner.model, held, data.eval_batch)
        gain = after - before

        def mean_of(name: str) -> dict[str, float]:
            groups: dict[Any, list[int]] = {}
            for i, mixture in enumerate(held):
                groups.setdefault(getattr(mixture, name), []).append(i)
            return {str(key): gain[groups[key]].mean().item() for key in sorted(groups)}

        return {
            **means(before, after),
            "improvement_at_snr_db": mean_of("snr_db"),
            "improvement_under": mean_of("noise"),
            "mixtures": len(held),
            "seconds": time.perf_counter() - started,
        }

    def debug(self) -> "DenoisingRecipe":
        """The same layers and optimiser, small, on spoken digits under white noise; name their
        folder with --data."""
        model = replace(self.model, width=24, layers=2, dropout=0.0, rate=8000)
        data = replace(
            self.data,
            source="fsdd",
            noises=("white",),
            noise_paths=(),
            digits=(1, 3),
            pause_s=(0.0, 0.1),
            sequences=64,
            heldout=12,
            batch=8,
        )
        training = replace(
            self.training,
            lr=1e-2,
            steps=80,
            epochs=None,
            evaluations=3,
            checkpoints=2,
            log_every=10,
        )
        return replace(self, model=model, data=data, training=training)

    def next_command(self, run: str) -> str:
        """Evaluate on the test part, and clean a file."""
        return f"torchsru eval {run} --split test; torchsru denoise {run} IN.wav OUT.wav"


@torch.no_grad()
def measure(mixtures: Mixtures, config: DenoiserConfig) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each bin's log power in the training data, [F] each."""
    train = mixtures.train(0)
    power = Denoiser(config).log_power
    found = []
    for mixture in train[:: -(-len(train) // MEASURED)]:
        noisy = mixture.read().noisy
        found.append(power(F.pad(noisy, (config.delay, -len(noisy) % config.hop))[None])[0])
    all_TF = torch.cat(found).double()
    return all_TF.mean(0), all_TF.std(0, correction=0).clamp(min=1e-3)


class SpeechCleaner:
    """A run's model on sound.

    Args:
        run: of denoising.

    Raises: RunError if it has no weights yet, or can't be read.

    Attributes:
        rate: samples per second that it hears.
        facts: what the checkpoint says of the training.
    """

    def __init__(self, run: Run):
        config = run.recipe.model
        self.model = Denoiser(config)
        self.rate = config.rate
        self.facts = run.load_weights(self.model)
        self.model.eval()
        make_fabric(run.recipe.training, alone=True).to_device(self.model)
        self.device = self.model.output.weight.device

    @torch.no_grad()
    def clean(self, samples: Tensor) -> Tensor:
        """Samples [N] without their noise, [N] on the CPU. Raises ValueError if N is 0."""
        if samples.dim() != 1 or not len(samples):
            raise ValueError(f"samples must be [N], N >= 1, got {list(samples.shape)}")
        sizes = torch.tensor([len(samples)], device=self.device)
        output: Tensor = self.model(samples.to(self.device)[None], sizes)
        return output[0].cpu()

    def listen(self) -> "LiveCleaner":
        """Cleaning of live sound. Raises ValueError if the model is bidirectional."""
        if self.model.config.bidirectional:
            raise ValueError(
                "live sound needs a model with bidirectional false, as in the recipe denoise-sru"
            )
        return LiveCleaner(self)


class LiveCleaner:
    """Live sound without its noise, as it comes, `config.delay` samples and less than a hop late:
    what pieces of any size give, put together, is what the whole gives.

    Args:
        cleaner: whose model runs forward only.

    Attributes:
        hop: samples that are cleaned at once; fed with fewer, it waits for more.
    """

    def __init__(self, cleaner: SpeechCleaner):
        self.cleaner = cleaner
        self.hop = cleaner.model.config.hop
        self._rest = torch.zeros(0)
        self._state: Any = None
        self._early = cleaner.model.config.delay  # samples to come that are before the first
        self._owed = 0  # samples that were heard and not given back

    def feed(self, samples: Tensor) -> Tensor:
        """Hear samples [n]; returns those that are ready."""
        self._owed += len(samples)
        whole = torch.cat([self._rest, samples])
        ready = len(whole) // self.hop * self.hop
        self._rest = whole[ready:]
        return self._clean(whole[:ready]) if ready else torch.zeros(0)

    def finish(self) -> Tensor:
        """The samples that are left."""
        if not self._owed:
            return torch.zeros(0)
        fill = -len(self._rest) % self.hop + self.cleaner.model.config.delay
        last, self._rest = F.pad(self._rest, (0, fill)), torch.zeros(0)
        return self._clean(last)

    @torch.no_grad()
    def _clean(self, samples: Tensor) -> Tensor:
        by = self.cleaner
        output, self._state = by.model.step(samples.to(by.device)[None], self._state)
        ready = output[0].cpu()
        early = min(self._early, len(ready))
        ready, self._early = ready[early:], self._early - early
        ready = ready[: self._owed]
        self._owed -= len(ready)
        return ready


#: name: what it is, and the model; about 800,000 parameters each
MODELS: dict[str, tuple[str, DenoiserConfig]] = {
    "sru": ("SRU, 4 layers", DenoiserConfig()),
    "lstm": ("LSTM, 2 layers", DenoiserConfig(rnn="lstm", layers=2, width=240)),
    "gru": ("GRU, 2 layers", DenoiserConfig(rnn="gru", layers=2, width=280)),
    "sru-bidirectional": (
        "bidirectional SRU, 4 layers",
        DenoiserConfig(bidirectional=True, width=128),
    ),
}


def _digits(model: DenoiserConfig) -> DenoisingRecipe:
    return DenoisingRecipe(
        model=model,
        data=DenoisingData(source="fsdd"),
        training=Training(
            lr=2e-3, epochs=20, keep="best", evaluations=20, checkpoints=4, precision="float32"
        ),
    )


RECIPES = {
    f"denoise-{name}": described(
        _digits, f"{said}, on spoken digits under noise and other speakers.", model
    )
    for name, (said, model) in MODELS.items()
}
