"""Other packages: absent ones are told apart, present ones get tensors of the shapes they want."""

import sys
import types

import pytest
import torch

from torchsru.bench import peers
from torchsru.bench.cases import HGRN, LSTM, MAMBA, ORIGINAL, Shape
from torchsru.bench.peers import STATES, missing, recurrence

SHAPE = Shape(L=7, B=3, d=5)


@pytest.fixture(autouse=True)
def ask_anew():
    missing.cache_clear()
    yield
    missing.cache_clear()


def package(monkeypatch, module, **functions):
    """Put a made-up package in the place of a real one."""
    names = module.split(".")
    for i in range(1, len(names) + 1):
        made = types.ModuleType(".".join(names[:i]))
        made.__path__ = []
        monkeypatch.setitem(sys.modules, made.__name__, made)
    vars(made).update(functions)


@pytest.mark.parametrize(("name", "module"), [(HGRN, "fla"), (MAMBA, "mamba_ssm")])
def test_what_is_not_installed_is_said(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert missing(name) == "it is not installed"


def test_a_version_that_is_not_the_one_is_said(monkeypatch):
    monkeypatch.setattr(peers, "installed", lambda name: "3.0.0.dev6")
    assert "version 2.6.0 is asked for, 3.0.0.dev6" in missing(ORIGINAL)


def test_an_import_that_fails_leaves_its_reason(tmp_path, monkeypatch):
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("raise OSError('undefined symbol\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mamba_ssm", raising=False)
    assert missing(MAMBA) == "importing it failed: OSError: undefined symbol"


def test_what_is_no_peer_is_never_missing():
    assert missing(LSTM) is None


def test_hgrn_gets_values_and_log_gates(monkeypatch):
    def fused_recurrent_hgrn(x, g):  # c_t = e^g c_{t-1} + x, [B, L, D]
        c, out = torch.zeros_like(x[:, 0]), []
        for x_t, g_t in zip(x.unbind(1), g.unbind(1), strict=True):
            c = g_t.exp() * c + x_t
            out.append(c)
        return torch.stack(out, 1), None

    package(monkeypatch, "fla.ops.hgrn", fused_recurrent_hgrn=fused_recurrent_hgrn)
    assert missing(HGRN) is None
    function, tensors = recurrence(HGRN, SHAPE, torch.float32, "cpu")
    assert function(*tensors).shape == (3, 7, 5)
    assert (tensors[1] < 0).all()  # log of a gate


def test_mambas_scan_gets_channels_before_time(monkeypatch):
    def selective_scan_fn(u, delta, A, B, C, *, delta_softplus):
        assert u.shape == delta.shape == (3, 5, 7)
        assert A.shape == (5, STATES) and (A < 0).all() and A.dtype == torch.float32
        assert B.shape == C.shape == (3, STATES, 7)
        assert delta_softplus
        return u

    module = "mamba_ssm.ops.selective_scan_interface"
    package(monkeypatch, module, selective_scan_fn=selective_scan_fn)
    function, tensors = recurrence(MAMBA, SHAPE, torch.bfloat16, "cpu")
    assert function(*tensors).shape == (3, 5, 7)


def test_the_originals_kernel_gets_its_layout(monkeypatch):
    def elementwise_recurrence_gpu(u, x, v, b, c0, activation, d, bidirectional, skip, scale):
        assert (u.shape, x.shape, v.shape, b.shape) == ((7, 3, 15), (7, 3, 5), (10,), (10,))
        assert (c0.shape, activation, d, bidirectional, skip) == ((3, 5), 0, 5, False, True)
        assert scale.item() == pytest.approx(3**0.5)
        return [x, c0]

    package(monkeypatch, "sru.ops", elementwise_recurrence_gpu=elementwise_recurrence_gpu)
    function, tensors = recurrence(ORIGINAL, SHAPE, torch.float32, "cpu")
    assert function(*tensors).shape == (7, 3, 5)
