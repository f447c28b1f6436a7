from typing import get_args

import pytest
import torch

from torchsru.models.denoiser import Denoiser, DenoiserConfig
from torchsru.models.sound import Kind

SIZES = torch.tensor([1000, 1, 640, 577])


def make(rnn="sru", **fields):
    torch.manual_seed(0)
    config = DenoiserConfig(rnn=rnn, width=6, layers=2, **fields)
    net = Denoiser(config, torch.randn(config.bins), torch.rand(config.bins) + 0.5)
    return net.double().eval()


def sounds(B=4, N=1000):
    return 0.1 * torch.randn(B, N, dtype=torch.float64, generator=torch.manual_seed(1))


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_mask_of_ones_gives_the_sound_back(rate):
    net = make(rate=rate)
    torch.nn.init.zeros_(net.output.weight)
    torch.nn.init.constant_(net.output.bias, 50.0)  # sigmoid 1
    x = sounds()
    found = net(x, SIZES)
    for b, size in enumerate(SIZES.tolist()):
        torch.testing.assert_close(found[b, :size], x[b, :size])
        assert not found[b, size:].any()
    torch.nn.init.constant_(net.output.bias, 0.0)
    torch.testing.assert_close(net(x, SIZES), found / 2)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("rnn", get_args(Kind))
def test_a_row_has_the_same_output_in_any_batch(rnn, bidirectional):
    net = make(rnn, bidirectional=bidirectional)
    x = sounds()
    x[1, 1:] = torch.nan  # what stands behind a row's end is never read
    together = net(x, SIZES)
    assert together.shape == x.shape
    for b, size in enumerate(SIZES.tolist()):
        alone = net(x[b : b + 1, :size], SIZES[b : b + 1])
        torch.testing.assert_close(alone[0], together[b, :size])


@pytest.mark.parametrize("rnn", get_args(Kind))
def test_pieces_are_the_whole_and_come_late(rnn):
    net = make(rnn)
    H, late = net.config.hop, net.config.delay
    assert (H, late) == (64, 192)
    x = sounds(2, 12 * H)
    whole = net(x, torch.tensor([12 * H] * 2))
    for hops in ([1] * 12, [5, 1, 6], [12]):
        state, found = None, []
        for piece in [*x.split([n * H for n in hops], 1), x.new_zeros(2, late)]:
            out, state = net.step(piece, state)
            found.append(out)
        got = torch.cat(found, 1)
        torch.testing.assert_close(got[:, late:], whole)
    with pytest.raises(AssertionError):  # the state does matter
        torch.testing.assert_close(net.step(x[:, 6 * H :])[0][:, late:], whole[:, 6 * H : -late])


def test_what_comes_later_does_not_matter():
    """Sound is given back before anything later than the delay was heard."""
    net = make()
    x = sounds(1, 1280)
    changed = x.clone()
    changed[:, 640:] = 0
    one, other = (net(t, torch.tensor([1280])) for t in (x, changed))
    torch.testing.assert_close(one[:, : 640 - net.config.delay], other[:, : 640 - net.config.delay])
    assert not torch.allclose(one[:, :640], other[:, :640])


def test_a_step_needs_whole_hops_of_one_direction():
    with pytest.raises(ValueError, match="step needs bidirectional=False"):
        make(bidirectional=True).step(sounds(1, 64))
    for N in (0, 100):
        with pytest.raises(ValueError, match=rf"multiple of 64\], got \[1, {N}\]"):
            make().step(sounds(1, N))


def test_every_parameter_learns():
    net = make().train()
    net(sounds(), SIZES).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rnn": "cnn"}, "rnn must be one of sru, .*got 'cnn'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"rate": 11_025 + 1}, "rate must be a multiple of 125"),
        ({"rnn": "gru", "highway_bias": -1.0}, "highway_bias needs rnn='sru', got -1.0"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        DenoiserConfig(**fields)
