"""The check before the clock can fail."""

from dataclasses import replace

import pytest
import torch

import torchsru
from torchsru.bench import variants
from torchsru.bench.cases import Shape
from torchsru.bench.check import CheckError, check_layer, check_op
from torchsru.bench.networks import Network
from torchsru.ops import backends

TINY = Shape(L=5, B=3, d=8)
SHAPES = [TINY, replace(TINY, layers=2, bidirectional=True, input_size=12)]


def make_sru(shape, dtype):
    sizes = (shape.features, shape.d, shape.layers)
    return torchsru.SRU(*sizes, bidirectional=shape.bidirectional).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_layer_passes(shape, dtype):
    sru = make_sru(shape, dtype)
    check_layer(sru, sru, shape, dtype)


@pytest.mark.parametrize("backend", [name for name, why in backends().items() if why is None])
def test_backends_pass(backend):
    check_op(backend, TINY, torch.float32)


class OffByOne(torch.nn.Module):
    """A layer that forgets the scale of its highway."""

    def __init__(self, sru):
        super().__init__()
        self.layers = sru.layers

    def forward(self, x):
        layer = self.layers[0]
        u = layer.transform(x).unflatten(-1, (3, -1))
        return torchsru.ops.sru_recurrence(u, x, layer.weight_c, layer.bias)


def test_a_wrong_layer_is_refused():
    sru = make_sru(TINY, torch.float32)
    with pytest.raises(CheckError, match=r"float32: h is .* roundings off"):
        check_layer(OffByOne(sru), sru, TINY, torch.float32)


def test_a_gradient_that_is_wrong_alone_is_refused():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.clone()

        @staticmethod
        def backward(ctx, g):
            return 1.01 * g

    sru = make_sru(TINY, torch.float32)

    class Wrong(torchsru.SRU):
        def forward(self, x):
            h, c = super().forward(x)
            return Doubled.apply(h), c

    wrong = Wrong(TINY.features, TINY.d)
    with pytest.raises(CheckError, match="dx is"):
        check_layer(wrong, sru, TINY, torch.float32)


def test_a_wrong_backend_is_refused(monkeypatch):
    def wrong(u, *rest, backend, contractive):
        return 1.001 * u[:, :, 0], None

    monkeypatch.setattr("torchsru.bench.check.sru_recurrence", wrong)
    with pytest.raises(CheckError, match="backend 'auto'"):
        check_op("auto", TINY, torch.float32)


def test_nan_is_refused():
    sru = make_sru(TINY, torch.float32)
    with torch.no_grad():
        sru.layers[0].bias[0, 0] = float("nan")
    with pytest.raises(CheckError, match="nan"):
        check_layer(sru, sru, TINY, torch.float32)


@pytest.mark.parametrize("contractive", [False, True])
def test_a_backend_is_checked_over_as_many_steps_as_asked(contractive, monkeypatch):
    seen = []

    def watched(u, *rest, **options):
        seen.append((u.shape[0], options["contractive"]))
        return torchsru.ops.sru_recurrence(u, *rest, **options)

    monkeypatch.setattr("torchsru.bench.check.sru_recurrence", watched)
    long = replace(TINY, L=40)
    check_op("torch", long, torch.float32, contractive=contractive, steps=33)
    check_op("torch", long, torch.float32, contractive=contractive)
    assert {length for length, _ in seen} == {33, 16}
    assert {found for _, found in seen} == {contractive}


def test_what_is_refused_is_not_timed(in_process, monkeypatch, tmp_path, capsys):
    from torchsru.bench import command

    def refuse(*args):
        raise CheckError("h is 99 roundings off")

    monkeypatch.setattr(variants, "check_layer", refuse)
    monkeypatch.setattr(Network, "output", None)  # nothing may run
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr("torchsru.bench.command.FLOORS", ())  # no ceilings first
    code = command.main(["run", "--case", "inference: L=32 *", "--out", str(out)])
    assert code == 1
    assert "refused" in capsys.readouterr().out
    assert out.read_text() == ""
