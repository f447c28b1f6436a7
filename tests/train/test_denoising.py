import pytest
import torch
from torchmetrics.functional.audio import (
    scale_invariant_signal_distortion_ratio,
    signal_noise_ratio,
)

from torchsru.data import DataError
from torchsru.data.noise import Mixture, Mixtures, Pair
from torchsru.train.denoising import Denoising, batch_of, means, ratios, si_sdr, snr


def sound(*shape, seed=0):
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=torch.float64)


def mixtures(count, seed=0):
    found = []
    for i in range(count):
        size = 100 + 37 * i % 211
        clean, noise = (sound(size, seed=2 * (1000 * seed + i) + k) for k in (0, 1))
        pair = Pair((clean + 0.5 * noise).float(), clean.float())
        found.append(Mixture("white", 6.0, size, lambda pair=pair: pair))
    return found


def make_task(count=43, batch=8):
    whole = Mixtures(lambda passed: mixtures(count, passed), mixtures(9, 99), [], "x")
    return Denoising(whole, batch=batch, eval_batch=4, seed=0)


class Same(torch.nn.Module):
    """The mixture, made louder."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, samples, sizes):
        return samples * self.gain


def test_ratios_are_those_of_torchmetrics():
    clean, noise = sound(5, 300), sound(5, 300, seed=1)
    for scale in (0.01, 0.3, 3.0):
        output = 0.7 * (clean + scale * noise)
        torch.testing.assert_close(snr(clean, output), signal_noise_ratio(output, clean))
        expected = scale_invariant_signal_distortion_ratio(output, clean)
        torch.testing.assert_close(si_sdr(clean, output), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(si_sdr(clean, -9 * output), expected, rtol=1e-4, atol=1e-4)


def test_ratios_are_bounded():
    clean = sound(1, 300)
    assert si_sdr(clean, clean).item() == pytest.approx(100, abs=0.1)
    assert si_sdr(clean, torch.zeros(1, 300).double()).item() == pytest.approx(-100)
    assert snr(clean, clean).item() == pytest.approx(100)
    assert snr(clean, torch.zeros(1, 300).double()).item() == pytest.approx(0, abs=1e-6)


def test_a_pass_gives_each_mixture_once_but_those_left_over():
    task = make_task()
    assert task.steps_per_pass == 5
    for passed in (0, 1):
        whole = {m.read().clean[0].item() for m in mixtures(43, passed)}
        batches = [task.batch(5 * passed + step) for step in range(5)]
        seen = [value for batch in batches for value in batch.clean[:, 0].tolist()]
        assert len(seen) == len(set(seen)) == 40 and set(seen) <= whole


def test_a_batch_is_a_function_of_the_step():
    a, b = make_task(), make_task()
    for step in (7, 3, 7, 0):
        for x, y in zip(a.batch(step)[:3], b.batch(step)[:3], strict=True):
            assert torch.equal(x, y)


def test_parts_of_a_batch_are_the_batch():
    task = make_task()
    batch = task.batch(0)
    parts = task.split(batch, 4)
    assert [task.units(part) for part in parts] == [2] * 4
    whole, _ = task.loss(Same(), batch, None)
    mean = sum(task.loss(Same(), part, None)[0] for part in parts) / 4
    torch.testing.assert_close(mean, whole)
    assert task.numbers(whole.item())["snr_db"] == pytest.approx(6, abs=1)


def test_evaluation_counts_each_mixture_once():
    held = mixtures(9, 99)
    before, after = ratios(Same(), held, 4)
    for i, mixture in enumerate(held):
        pair = mixture.read()
        alone = si_sdr(pair.clean[None].double(), pair.noisy[None].double())
        torch.testing.assert_close(before[i : i + 1], alone)
    torch.testing.assert_close(before, after)  # SI-SDR does not see a gain
    assert means(before, after)["si_sdr_improvement_db"] == pytest.approx(0, abs=1e-4)
    assert means(before, before + 2)["si_sdr_improvement_db"] == pytest.approx(2)
    assert sorted(batch_of(held).sizes.tolist()) == sorted(m.size for m in held)


def test_too_few_mixtures_for_a_batch_are_refused():
    with pytest.raises(DataError, match=r"data\.batch must be 5 at most, .*got 8"):
        make_task(count=5)
