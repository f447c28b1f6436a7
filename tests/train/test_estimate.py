"""Estimates against what is measured: PyTorch's profiler for memory, its counter on real steps."""

import json
from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.nn.state import detach
from torchsru.train import Training
from torchsru.train.config import Optimizer
from torchsru.train.estimate import AVERAGES, MORE_FLOPS, estimate, tensors_of
from torchsru.train.optimizer import make_optimizer
from torchsru.train.strategy import blocks, prepare

L, B, D, LAYERS = 64, 8, 32, 3
CASES = {
    "sru": (LanguageModelConfig(rnn="sru", width=D, layers=LAYERS), Training(steps=1)),
    "checkpointing": (
        LanguageModelConfig(rnn="sru", width=D, layers=LAYERS, dropout=0.1),
        Training(steps=1, activation_checkpointing=True),
    ),
    "bfloat16": (
        LanguageModelConfig(rnn="sru", width=D, layers=LAYERS, projection=8),
        Training(steps=1, precision="bfloat16", optimizer="adam"),
    ),
    "qrnn, sgd": (
        LanguageModelConfig(rnn="qrnn", width=D, layers=LAYERS),
        Training(steps=1, optimizer="sgd"),
    ),
    "srupp, memory full": (
        LanguageModelConfig(rnn="srupp", width=D, layers=LAYERS, memory=L),
        Training(steps=1, optimizer="adamax"),
    ),
    "srupp, bfloat16": (
        LanguageModelConfig(rnn="srupp", width=D, layers=LAYERS, memory=L, dropout=0.1),
        Training(steps=1, precision="bfloat16"),
    ),
    "transformer-xl": (
        LanguageModelConfig(rnn="transformer-xl", width=D, layers=LAYERS, memory=L, heads=4),
        Training(steps=1),
    ),
}


def loss(model, state, rows=B):
    x = torch.zeros(L, rows, dtype=torch.int64)
    logits, state = model(x, state)
    return cross_entropy(logits.flatten(0, 1), x.flatten()), state


def estimated(config, training, rows=B, devices=1):
    return estimate(
        partial(LanguageModel, config),
        partial(loss, rows=rows),
        training,
        precision="float32" if training.precision == "auto" else training.precision,
        devices=devices,
    )


class Real:
    """The same step, computed."""

    def __init__(self, config, training):
        self.half = training.precision == "bfloat16"
        self.model = LanguageModel(config)
        prepare(self.model, training, "cpu", False)
        self.optimizer = make_optimizer(training, self.model)
        self.state = None
        self.step()  # from here on there are gradients, averages and a state

    def step(self):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
            value, self.state = loss(self.model, self.state)
        self.state = detach(self.state)
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def test_every_optimiser_is_known():
    assert AVERAGES.keys() == set(get_args(Optimizer))


@pytest.mark.parametrize("name", CASES)
def test_memory_is_what_the_profiler_measures(name, tmp_path):
    config, training = CASES[name]
    found, real = estimated(config, training), Real(config, training)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        real.step()
    measured.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    held = peak = 0
    for event in events:
        if event["name"] == "[memory]":
            held += event["args"]["Bytes"]
            peak = max(peak, held)
    averages = sum(
        t.numel() * t.element_size()
        for values in real.optimizer.state.values()
        for key, t in values.items()
        if key != "step"
    )
    assert found.optimizer_bytes == averages
    leaves = tensors_of(real.state)
    assert found.state_bytes == sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    within = 0.05 if name.startswith("srupp") else 0.03  # attention's own temporaries
    assert found.activations_bytes == pytest.approx(peak, rel=within)


@pytest.mark.parametrize("name", CASES)
def test_flops_are_what_the_counter_counts_in_a_real_step(name):
    config, training = CASES[name]
    found, real = estimated(config, training), Real(config, training)
    with FlopCounterMode(display=False, custom_mapping=MORE_FLOPS) as counted:
        real.step()
    assert found.step_flops == counted.get_total_flops()
    assert found.parameters == sum(p.numel() for p in real.model.parameters())


def test_flops_of_sru_are_six_a_weight_and_symbol():
    config, training = CASES["sru"]
    model = LanguageModel(config)
    matrices = sum(p.numel() for m in model.rnn.layers for p in m.transform.parameters())
    matrices += model.output.weight.numel()
    assert estimated(config, training).step_flops == 6 * matrices * L * B


def test_flops_of_lstm_are_six_a_weight_and_symbol():
    """The counter does not know oneDNN's LSTM."""
    config = LanguageModelConfig(rnn="lstm", width=D, layers=LAYERS)
    model = LanguageModel(config)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    matrices -= model.embedding.weight.numel()
    assert estimated(config, Training(steps=1)).step_flops == 6 * matrices * L * B


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.key = nn.Parameter(torch.randn(16))

    def forward(self, x):
        return scaled_dot_product_attention(x, x * self.key, x * self.key, is_causal=True)


def test_flops_of_attention_are_counted_whatever_the_kernel():
    """Two products forward, five backward: the scores are computed again. E features, S steps."""
    rows, heads, S, E = 2, 3, 24, 16

    def attend(model, state):
        return model(torch.randn(rows, heads, S, E)).sum(), None

    found = estimate(Attention, attend, Training(steps=1), precision="float32", devices=1)
    assert found.step_flops == 7 * 2 * rows * heads * S * S * E


def test_parts_devices_and_shards():
    config, training = CASES["sru"]
    whole = estimated(config, training)
    halves = estimated(config, replace(training, accumulate=2), rows=B // 2)
    assert halves.step_flops == whole.step_flops
    assert halves.activations_bytes < 0.6 * whole.activations_bytes
    assert halves.state_bytes == whole.state_bytes
    ddp = estimated(config, training, rows=B // 4, devices=4)
    fsdp = estimated(config, replace(training, strategy="fsdp"), rows=B // 4, devices=4)
    assert ddp.step_flops == fsdp.step_flops == whole.step_flops
    assert ddp.weights_bytes == whole.weights_bytes == 4 * fsdp.weights_bytes
    assert ddp.optimizer_bytes == 2 * ddp.gradients_bytes == 4 * fsdp.optimizer_bytes
    model = LanguageModel(config)
    rest = sum(p.numel() for p in (*model.embedding.parameters(), *model.output.parameters()))
    assert rest > max(sum(p.numel() for p in block.parameters()) for block in blocks(model))
    assert fsdp.activations_bytes - ddp.activations_bytes == 2 * 4 * rest
    parts = (fsdp.weights_bytes, fsdp.gradients_bytes, fsdp.optimizer_bytes, fsdp.state_bytes)
    assert fsdp.peak_bytes == sum(parts) + fsdp.activations_bytes


def test_checkpointing_trades_memory_for_a_third_more_work():
    config, training = CASES["checkpointing"]
    plain = estimated(config, replace(training, activation_checkpointing=False))
    saving = estimated(config, training)
    assert saving.activations_bytes < 0.8 * plain.activations_bytes
    model = LanguageModel(config)
    output = 6 * model.output.weight.numel() * L * B
    assert saving.step_flops - output == (plain.step_flops - output) * 4 // 3


def test_nothing_of_its_size_is_allocated():
    config = LanguageModelConfig(rnn="sru", width=20_000, layers=4)
    assert estimated(config, Training(steps=1)).weights_bytes > 19e9
