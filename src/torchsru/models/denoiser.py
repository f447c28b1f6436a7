"""Denoiser: a mask on the short-time Fourier transform of sound, estimated by a stack of layers.

B batch rows, N samples, T frames, F bins, H samples between frames, W = 4 H samples of a frame.

Frames     32 ms every 8 ms under the square root of a Hann window, before and after: unchanged
           frames, added up, are the sound
Mask       sigmoid of the layers' output, in [0, 1], one for each frame and bin; the phase stays
Features   log power of each bin, less its mean over its deviation in the training data, which are
           saved with the weights
Streaming  without `bidirectional`, `step` gives sound W - H = 24 ms late; any pieces give what the
           whole gives, to rounding
Padding    rows are padded at their ends, and what stands there is never read
Check      tests/models/test_denoiser.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.models.sound import StackConfig, Standardized

OVERLAP = 4  # W / H
HOP_S = 0.008
FLOOR = 2.0**-30 / 12  # power of rounding to 16 bits, as in torchsru.models.log_mel


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(StackConfig):
    """Shape of a denoiser."""

    width: int = 256
    """d, channels of each layer and direction."""
    rate: int = 8000
    """Samples per second of the sound, a multiple of 125."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate < 1000 or self.rate % 125:
            raise ValueError(f"rate must be a multiple of 125, at least 1000, got {self.rate}")

    @property
    def hop(self) -> int:
        """H."""
        return round(HOP_S * self.rate)

    @property
    def delay(self) -> int:
        """W - H, samples by which live sound comes late."""
        return (OVERLAP - 1) * self.hop

    @property
    def bins(self) -> int:
        """F."""
        return OVERLAP * self.hop // 2 + 1


class Denoiser(nn.Module):
    """Sound without its noise.

    Args:
        config: its shape.
        mean, deviation: [F] of the log power in the training data; default: 0 and 1.
    """

    window: Tensor

    def __init__(
        self,
        config: DenoiserConfig,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ):
        super().__init__()
        self.config = c = config
        window = torch.hann_window(OVERLAP * c.hop, dtype=torch.float64).sqrt().float()
        self.register_buffer("window", window, persistent=False)
        self.standardized = Standardized(c.bins, mean, deviation)
        self.rnn = c.make(c.bins)
        self.output = nn.Linear(self.rnn.output_size, c.bins)

    def forward(self, samples: Tensor, sizes: Tensor) -> Tensor:
        """Whole sounds.

        Args:
            samples: [B, N]; anything stands behind a row's last one.
            sizes: [B] samples of each row, at least 1.

        Returns: [B, N], 0 behind a row's last sample.
        """
        N, c = samples.shape[1], self.config
        real_BN = torch.arange(N, device=samples.device) < sizes[:, None]
        samples = samples.masked_fill(~real_BN, 0)  # NaN too may stand there
        fill = -N % c.hop + c.delay
        samples = F.pad(samples, (c.delay, fill))
        T = (N + fill) // c.hop
        mask = None
        if c.bidirectional:
            frames = (sizes + c.hop - 1) // c.hop + OVERLAP - 1
            mask = torch.arange(T, device=samples.device)[:, None] >= frames
        frames_BTW, _ = self._clean(samples, None, mask)
        late = self._add_up(F.pad(frames_BTW, (0, 0, OVERLAP - 1, 0)))
        return late[:, c.delay : c.delay + N].masked_fill(~real_BN, 0)

    def step(self, samples: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Go on with live sound.

        Args:
            samples: [B, n H], n >= 1 whole hops.
            state: what the call before returned; None at the start.

        Returns: [B, n H], what was heard `config.delay` samples before the same place, and the
            state: a pytree with the batch at dim 1.

        Raises: ValueError if bidirectional, or if samples are no whole hops.
        """
        c = self.config
        B, N = samples.shape
        if c.bidirectional:
            raise ValueError("step needs bidirectional=False: the second half runs backward")
        if not N or N % c.hop:
            raise ValueError(
                f"samples must be [B, a multiple of {c.hop}], got {list(samples.shape)}"
            )
        if state is None:
            frames = samples.new_zeros(OVERLAP - 1, B, OVERLAP * c.hop)
            state = (samples.new_zeros(c.delay, B), frames, None)
        past, frames_TBW, rnn_state = state
        whole = torch.cat([past.t(), samples], 1)
        new_BTW, rnn_state = self._clean(whole, rnn_state, None)
        frames_BTW = torch.cat([frames_TBW.transpose(0, 1), new_BTW], 1)
        kept = frames_BTW[:, 1 - OVERLAP :].transpose(0, 1)
        return self._add_up(frames_BTW), (whole[:, -c.delay :].t(), kept, rnn_state)

    def log_power(self, samples: Tensor) -> Tensor:
        """log(|STFT|^2 + FLOOR) of samples [B, W - H + T H], [B, T, F]."""
        return self._power(self._transform(samples))

    def _transform(self, samples: Tensor) -> Tensor:
        """[B, W - H + T H] -> complex [B, T, F], in float32 at least."""
        with torch.autocast(samples.device.type, enabled=False):
            return torch.stft(
                samples.to(self.window.dtype),
                OVERLAP * self.config.hop,
                self.config.hop,
                window=self.window,
                center=False,
                return_complex=True,
            ).transpose(1, 2)

    def _power(self, spectrum: Tensor) -> Tensor:
        return (torch.view_as_real(spectrum).square().sum(-1) + FLOOR).log()

    def _clean(self, samples: Tensor, state: Any, mask: Tensor | None) -> tuple[Tensor, Any]:
        """[B, W - H + T H] -> masked frames [B, T, W], and the layers' state."""
        spectrum = self._transform(samples)
        x_BTF = self.standardized(self._power(spectrum))
        h, state = self.rnn(x_BTF.transpose(0, 1).to(self.output.weight.dtype), state, mask=mask)
        share_BTF = self.output(h).transpose(0, 1).to(self.window.dtype).sigmoid()
        with torch.autocast(samples.device.type, enabled=False):
            frames = torch.fft.irfft(spectrum * share_BTF, OVERLAP * self.config.hop)
            return frames * self.window / (OVERLAP / 2), state

    def _add_up(self, frames_BTW: Tensor) -> Tensor:
        """Frames [B, 3 + n, W], each a hop after the one before -> their sum, the n hops that have
        all of their four frames, [B, n H]."""
        B, T, _ = frames_BTW.shape
        n = T - (OVERLAP - 1)
        parts = frames_BTW.reshape(B, T, OVERLAP, self.config.hop)
        late = [parts[:, OVERLAP - 1 - i : OVERLAP - 1 - i + n, i] for i in range(OVERLAP)]
        return torch.stack(late).sum(0).reshape(B, n * self.config.hop)
