import cmath
import math

import pytest
import torch

from torchsru.models.log_mel import FLOOR, LogMel, mel_filters


def test_features_are_their_definition():
    """Frame by frame and bin by bin, in Python's own numbers."""
    net = LogMel(8000, 10).double()
    assert (net.hop, net.bins, net.past) == (80, 256, 176)
    x = torch.randn(1, net.past + 3 * 80, dtype=torch.float64, generator=torch.manual_seed(0))
    got = net(x)
    assert got.shape == (1, 3, 10)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 200) for n in range(200)]
    energy = sum(w * w for w in hann)
    filters = mel_filters(8000, 256, 10)
    for t in range(3):
        end = net.past + (t + 1) * 80
        frame = x[0, end - 200 : end].tolist()
        power = [
            abs(
                sum(
                    w * s * cmath.exp(-2j * math.pi * k * n / 256)
                    for n, (w, s) in enumerate(zip(hann, frame, strict=True))
                )
            )
            ** 2
            / energy
            for k in range(129)
        ]
        for m in range(10):
            band = sum(p * filters[k, m].item() for k, p in enumerate(power))
            assert got[0, t, m].item() == pytest.approx(math.log(band + FLOOR), rel=1e-5)


def test_bands_are_triangles_that_meet():
    filters = mel_filters(16_000, 512, 40)
    assert filters.shape == (257, 40) and filters.min() == 0 and filters.max() <= 1
    f = torch.arange(257) * 16_000 / 512
    mel = 2595 * torch.log10(1 + f / 700)
    inside = (mel > mel[-1] / 41) & (mel < mel[-1] * 40 / 41)  # all but the outermost halves
    torch.testing.assert_close(filters.sum(1)[inside], torch.ones(int(inside.sum())).double())
    peaks = mel[filters.argmax(0)] / (mel[-1] / 41)
    assert (peaks - torch.arange(1, 41)).abs().max() < 0.6  # evenly spaced, to a bin


def test_a_tone_is_in_its_band_and_white_noise_has_its_variance():
    net = LogMel(8000, 20)
    t = torch.arange(net.past + 8000) / 8000
    found = net(torch.sin(2 * math.pi * 1000 * t)[None])[0].mean(0)
    centre = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + 4000 / 700) / 21)
    assert found.argmax().item() + 1 == round(centre)
    noise = 0.1 * torch.randn(1, net.past + 160_000, generator=torch.manual_seed(0))
    power = (net(noise).exp().mean((0, 1)) / net.filters.sum(0)).log10()
    torch.testing.assert_close(power, torch.full((20,), -2.0), atol=0.02, rtol=0)
    silence = net(torch.zeros(1, net.past + 80))
    torch.testing.assert_close(silence, torch.full((1, 1, 20), math.log(FLOOR)))


def test_rates_and_bands_that_do_not_fit_are_refused():
    for rate in (0, 8001, 11_025 + 1):
        with pytest.raises(ValueError, match=f"rate must be a multiple of 200.*got {rate}"):
            LogMel(rate, 20)
    with pytest.raises(ValueError, match=r"bands must be few enough .*: band \d+ of 200 is empty"):
        LogMel(8000, 200)
