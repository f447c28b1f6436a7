"""Speech recogniser: sound in, log probabilities of symbols out, for CTC.

B batch rows, N samples, T frames, M bands, L steps, C symbols, S samples of a step.

Steps      `stack` frames of 10 ms side by side; sound is filled up with zeros to whole steps
Features   log-mel (torchsru.models.log_mel), each band less its mean over its deviation in the
           training data, which are saved with the weights: nothing depends on what comes later
Streaming  without `bidirectional` a step's output needs nothing after it, and `step` goes on where
           it stopped: any pieces give what the whole gives, to rounding
Padding    rows are padded at their ends, and what stands there is never read
Check      tests/models/test_recognizer.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.models.log_mel import HOP_S, LogMel
from torchsru.models.sound import StackConfig, Standardized

MASKS = 2  # of each kind, of Park et al. 2019


@dataclass(frozen=True, kw_only=True)
class RecognizerConfig(StackConfig):
    """Shape of a speech recogniser."""

    bidirectional: bool = True
    """Half of each layer runs backward in time; without it, recognition can go along with live
    sound."""
    dropout: float = 0.2
    """Between layers and before the output; between layers of sru, of the states' part alone."""
    rate: int = 8000
    """Samples per second of the sound, a multiple of 200."""
    bands: int = 40
    """M, mel bands."""
    stack: int = 2
    """Frames of 10 ms that are a step."""
    mask_bands: int = 0
    """SpecAugment (Park et al. 2019, arXiv 1904.08779): most bands that a mask covers in
    training."""
    mask_frames: int = 0
    """The same of frames."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bands", "stack"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, most in (("mask_bands", self.bands), ("mask_frames", 10**6)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} must lie in [0, {most}], got {value}")
        LogMel(self.rate, self.bands)  # raises if they do not fit

    @property
    def step_size(self) -> int:
        """S, samples of a step."""
        return self.stack * round(HOP_S * self.rate)


class Recognizer(nn.Module):
    """Log probabilities of symbols, one set for each step.

    Args:
        config: its shape.
        symbols: C, the blank among them, which is number 0.
        mean, deviation: [M] of the features of the training data; default: 0 and 1.
    """

    def __init__(
        self,
        config: RecognizerConfig,
        symbols: int,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ):
        super().__init__()
        self.config = c = config
        self.features = LogMel(c.rate, c.bands)
        self.standardized = Standardized(c.bands, mean, deviation)
        self.rnn = c.make(c.stack * c.bands)
        self.dropout = nn.Dropout(c.dropout)
        self.output = nn.Linear(self.rnn.output_size, symbols)

    def forward(self, samples: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Whole utterances.

        Args:
            samples: [B, N]; anything stands behind a row's last one.
            sizes: [B] samples of each row, at least 1.

        Returns: log probabilities [L, B, C], float32 at least, and steps of each row [B]; anything
            stands behind a row's last step.
        """
        N, S = samples.shape[1], self.config.step_size
        L = (N + S - 1) // S
        real_BN = torch.arange(N, device=samples.device) < sizes[:, None]
        # NaN too may stand there
        samples = F.pad(samples.masked_fill(~real_BN, 0), (self.features.past, L * S - N))
        x_LBF = self._embed(samples)
        steps = (sizes + S - 1) // S
        mask = None
        if self.config.bidirectional:
            mask = torch.arange(L, device=samples.device)[:, None] >= steps
        h, _ = self.rnn(x_LBF, mask=mask)
        return self._score(h), steps

    def step(self, samples: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Go on with live sound.

        Args:
            samples: [B, L S], L >= 1 whole steps.
            state: what the call before returned; None at the start.

        Returns: log probabilities [L, B, C], and the state: a pytree with the batch at dim 1.

        Raises: ValueError if bidirectional, or if samples are no whole steps.
        """
        B, N = samples.shape
        S = self.config.step_size
        if self.config.bidirectional:
            raise ValueError("step needs bidirectional=False: the second half runs backward")
        if not N or N % S:
            raise ValueError(f"samples must be [B, a multiple of {S}], got {list(samples.shape)}")
        past, rnn_state = state if state else (samples.new_zeros(self.features.past, B), None)
        whole = torch.cat([past.t(), samples], 1)
        h, rnn_state = self.rnn(self._embed(whole), rnn_state)
        return self._score(h), (whole[:, -self.features.past :].t(), rnn_state)

    def _embed(self, samples: Tensor) -> Tensor:
        """[B, past + L S] -> what the layers see, [L, B, stack M]."""
        x_BTM = self.standardized(self.features(samples))
        if self.training:
            x_BTM = self._mask(x_BTM)
        x_BTM = x_BTM.to(self.output.weight.dtype)
        return x_BTM.unflatten(1, (-1, self.config.stack)).flatten(2).transpose(0, 1)

    def _mask(self, x_BTM: Tensor) -> Tensor:
        """SpecAugment: in each row some bands and some frames are as in the mean."""
        B, T, M = x_BTM.shape
        c = self.config
        for _ in range(MASKS):
            if c.mask_bands:
                x_BTM = x_BTM.masked_fill(spans(B, M, c.mask_bands, x_BTM.device)[:, None], 0)
            if c.mask_frames:
                widest = min(c.mask_frames, T)
                x_BTM = x_BTM.masked_fill(spans(B, T, widest, x_BTM.device)[:, :, None], 0)
        return x_BTM

    def _score(self, h: Tensor) -> Tensor:
        scores = self.output(self.dropout(h))
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(2)


def spans(rows: int, size: int, widest: int, device: torch.device) -> Tensor:
    """[rows, size] bool, True in one span of each row: its length is uniform in [0, widest], then
    its place."""
    length = torch.randint(widest + 1, (rows, 1), device=device)
    start = (torch.rand(rows, 1, device=device) * (size - length + 1)).long()
    place = torch.arange(size, device=device)
    return (place >= start) & (place < start + length)
