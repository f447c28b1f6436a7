from typing import get_args

import pytest
import torch

from torchsru.models.recognizer import MASKS, Recognizer, RecognizerConfig, spans
from torchsru.models.sound import Kind

SIZES = torch.tensor([2000, 1, 1280, 700])


def make(rnn="sru", **fields):
    torch.manual_seed(0)
    config = RecognizerConfig(rnn=rnn, width=6, layers=2, bands=10, **fields)
    net = Recognizer(config, 5, torch.randn(10), torch.rand(10) + 0.5)
    return net.double().eval()


def sounds(B=4, N=2000):
    return 0.1 * torch.randn(B, N, dtype=torch.float64, generator=torch.manual_seed(1))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("rnn", get_args(Kind))
def test_a_row_has_the_same_output_in_any_batch(rnn, bidirectional):
    net = make(rnn, bidirectional=bidirectional)
    samples = sounds()
    samples[1, 1:] = torch.nan  # what stands behind a row's end is never read
    together, steps = net(samples, SIZES)
    assert together.shape == (13, 4, 5) and steps.tolist() == [13, 1, 8, 5]
    torch.testing.assert_close(together.exp().sum(2)[:, 0], torch.ones(13).double())
    for b, size in enumerate(SIZES.tolist()):
        alone, _ = net(samples[b : b + 1, :size], SIZES[b : b + 1])
        torch.testing.assert_close(alone[:, 0], together[: len(alone), b])
    with pytest.raises(AssertionError):  # what is compared does differ between rows
        torch.testing.assert_close(together[:5, 0], together[:5, 3])


@pytest.mark.parametrize(
    ("rnn", "stack"),
    [("sru", 1), ("sru", 3), *((rnn, 2) for rnn in get_args(Kind))],
)
def test_pieces_are_the_whole(rnn, stack):
    net = make(rnn, bidirectional=False, stack=stack)
    S = net.config.step_size
    assert 80 * stack == S
    samples = 10 * sounds(2, 12 * S)
    whole, _ = net(samples, torch.tensor([12 * S] * 2))
    for lengths in ([1] * 12, [5, 1, 6], [12]):
        state, found = None, []
        for piece in samples.split([n * S for n in lengths], 1):
            out, state = net.step(piece, state)
            found.append(out)
        torch.testing.assert_close(torch.cat(found), whole)
    fresh, _ = net.step(samples[:, 6 * S :])
    with pytest.raises(AssertionError):  # the state does matter
        torch.testing.assert_close(fresh, whole[6:])


def test_a_step_needs_whole_steps_of_one_direction():
    with pytest.raises(ValueError, match="step needs bidirectional=False"):
        make().step(sounds(1, 160))
    for N in (0, 100, 161):
        with pytest.raises(ValueError, match=rf"multiple of 160\], got \[1, {N}\]"):
            make(bidirectional=False).step(sounds(1, N))


def test_statistics_and_weights_are_saved_together():
    names = {name for name, _ in make().named_buffers()}
    assert {"standardized.mean", "standardized.deviation"} <= names & make().state_dict().keys()
    assert not {"features.window", "features.filters"} & make().state_dict().keys()


def test_every_parameter_learns():
    net = make().train()
    log, _ = net(sounds(), SIZES)
    (log[..., 1] * torch.rand(log.shape[:2])).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_masks_are_of_training_alone():
    net = make(mask_bands=4, mask_frames=6, dropout=0.0)
    x = torch.ones(4, 20, 10, dtype=torch.float64)
    masked = net._mask(x)
    bands = (masked == 0).all(1).sum(1)
    frames = (masked == 0).all(2).sum(1)
    assert bands.max() <= 4 * MASKS and frames.max() <= 6 * MASKS and (masked == 0).any()
    held, _ = net(sounds(), SIZES)
    again, _ = net(sounds(), SIZES)
    assert torch.equal(held, again)
    train, _ = net.train()(sounds(), SIZES)
    assert not torch.allclose(held, train)


def test_spans_have_every_length_and_place():
    found = spans(4000, 5, 2, torch.device("cpu"))
    kinds = {tuple(row) for row in found.tolist()}
    place = range(5)
    expected = {tuple(i in range(a, a + n) for i in place) for n in (0, 1, 2) for a in range(6 - n)}
    assert kinds == expected
    assert found.sum(1).double().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rnn": "cnn"}, "rnn must be one of sru, .*got 'cnn'"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"rate": 44_101}, "rate must be a multiple of 200"),
        ({"bands": 500}, "bands must be few enough"),
        ({"mask_bands": 41}, r"mask_bands must lie in \[0, 40\], got 41"),
        ({"rnn": "gru", "highway_bias": -1.0}, "highway_bias needs rnn='sru', got -1.0"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        RecognizerConfig(**fields)
