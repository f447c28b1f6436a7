"""Log-mel features of sound, frame by frame, without a look ahead.

B batch rows, N samples, T frames, F bins, M bands.

Frames   25 ms every 10 ms; frame t ends with sample (t + 1) hop, so that sound in pieces of 10 ms
         has the frames that it has in one piece
Power    |STFT|^2 under a Hann window of unit energy: in each bin white noise has its variance
Bands    triangles over Hz, corners spaced evenly in mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy
         1987), from 0 to half the rate (Davis and Mermelstein 1980)
Log      natural, of the power and of what rounding to 16 bits adds to it: 2^-30 / 12
Check    tests/models/test_log_mel.py
"""

import math

import torch
from torch import Tensor, nn

WINDOW_S = 0.025
HOP_S = 0.010
FLOOR = 2.0**-30 / 12


class LogMel(nn.Module):
    """log(sum_f W_mf |STFT_tf|^2 + FLOOR).

    Args:
        rate: samples per second, a multiple of 200.
        bands: M.

    Attributes:
        hop: samples between frames.
        past: samples before the first new one that a frame may see.

    Raises: ValueError if the rate does not fit, or a band lies between two bins.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int, bands: int):
        super().__init__()
        if rate < 1000 or rate % 200:
            raise ValueError(f"rate must be a multiple of 200, at least 1000, got {rate}")
        size = round(WINDOW_S * rate)
        self.bands, self.hop = bands, round(HOP_S * rate)
        self.bins = 2 ** math.ceil(math.log2(size))  # samples of the transform
        self.past = self.bins - self.hop
        hann = torch.hann_window(size, dtype=torch.float64)
        window = torch.cat([torch.zeros(self.bins - size, dtype=torch.float64), hann])
        filters = mel_filters(rate, self.bins, bands)
        if (empty := (filters.sum(0) == 0).nonzero()).numel():
            raise ValueError(
                f"bands must be few enough that each holds one of {self.bins // 2} bins at rate "
                f"{rate}: band {int(empty[0])} of {bands} is empty"
            )
        self.register_buffer("window", (window / hann.norm()).float(), persistent=False)
        self.register_buffer("filters", filters.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, past + T hop], T >= 1 -> [B, T, M], float32 at least."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.stft(
                x.to(self.window.dtype),
                self.bins,
                self.hop,
                window=self.window,
                center=False,
                return_complex=True,
            )
            power_BFT = torch.view_as_real(spectrum).square().sum(-1)
            return (power_BFT.transpose(1, 2) @ self.filters + FLOOR).log()


def mel_filters(rate: int, bins: int, bands: int) -> Tensor:
    """W [bins // 2 + 1, M] float64: how much of each frequency a band takes."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    f = torch.arange(bins // 2 + 1, dtype=torch.float64)[:, None] * rate / bins
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (f - low) / (middle - low), (high - f) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0)
