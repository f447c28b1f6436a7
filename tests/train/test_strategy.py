from functools import partial

import pytest
import torch
from torch import nn

from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.train import RunError, Training, strategy
from torchsru.train.strategy import blocks, check_compiler, make_fabric, prepare, shards

SMALL = LanguageModelConfig(rnn="sru", width=16, layers=3, dropout=0.2)


def test_blocks_are_the_layers_of_the_stack():
    model = LanguageModel(SMALL)
    assert blocks(model) == list(model.rnn.layers)
    model = LanguageModel(LanguageModelConfig(rnn="lstm", width=16, layers=2))
    assert blocks(model) == [model.embedding, model.rnn, model.output]  # no stack: its parts


def test_tables_and_what_is_shared_are_no_blocks():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = nn.ModuleList([nn.Embedding(4, 3)])
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(3, 4)), nn.Sequential()])
            self.inner = nn.Sequential(nn.ModuleList([nn.GRUCell(3, 3)]))

    model = Tied()
    assert blocks(model) == [model.layers[0], model.inner[0][0]]
    model.layers[0][0].weight = model.tables[0].weight
    assert blocks(model) == [model.inner[0][0]]


def test_parts_that_others_call_are_gathered_apart():
    class Layer(nn.Module):
        called_apart = ("keys",)

        def __init__(self):
            super().__init__()
            self.keys, self.values = nn.Linear(2, 2), nn.Linear(2, 2)

    model = nn.Sequential(nn.ModuleList([Layer(), nn.GRUCell(2, 2)]), nn.Linear(2, 2))
    layer, cell = model[0]
    assert shards(model) == [layer.keys, layer, cell, model]


def saved_bytes(model):
    """What a training step keeps for its backward pass, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, _ = model(torch.randint(256, (64, 8)))
    logits.sum().backward()
    return sum(size for size, _ in kept.values())


def test_activation_checkpointing_keeps_less_and_evaluation_is_as_before():
    torch.manual_seed(0)
    plain, saving = LanguageModel(SMALL), LanguageModel(SMALL)
    saving.load_state_dict(plain.state_dict())
    prepare(saving, Training(steps=1, activation_checkpointing=True), "cpu", False)
    assert saved_bytes(saving) < 0.6 * saved_bytes(plain)
    assert saving.state_dict().keys() == plain.state_dict().keys()
    x = torch.randint(256, (8, 2))
    with torch.no_grad():
        torch.testing.assert_close(saving.eval()(x), plain.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "told"), [("cpu", "nothing-here"), ("cuda", "gcc or clang or cc")]
)
def test_compile_names_the_compiler_it_lacks(monkeypatch, tmp_path, kind, told):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "nothing-here -O2")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RunError, match=f"training.compile needs a compiler .*found no {told}"):
        check_compiler(kind)
    prepare(LanguageModel(SMALL), Training(steps=1), kind, False)  # not asked for: not missed


def test_a_compiled_model_trains_as_the_plain_one(monkeypatch):
    """All of torch.compile but its C++, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(strategy, "check_compiler", lambda kind: None)
    torch.manual_seed(0)
    config = LanguageModelConfig(rnn="sru", width=16, layers=1)
    plain, compiled = LanguageModel(config), LanguageModel(config)
    compiled.load_state_dict(plain.state_dict())
    prepare(compiled, Training(steps=1, compile=True), "cpu", False)
    x = torch.randint(256, (8, 2))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for model in (plain, compiled):
        model(x)[0].square().mean().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    compiled.eval()(x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("asked", ["bfloat16", "float16"])
def test_a_state_that_is_carried_on_is_not_rounded(asked):
    fabric = make_fabric(Training(steps=1, device="cpu", precision=asked))
    bare = LanguageModel(LanguageModelConfig(rnn="sru", width=8, layers=1)).eval()
    given = []
    bare.rnn.register_forward_pre_hook(lambda module, args: given.append(args))
    model = fabric.setup_module(bare)
    x = torch.randint(256, (5, 2), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, state = model(x)
        model(x, state)
    assert scores.dtype == torch.float32 or scores.dtype == getattr(torch, asked)
    carried = given[1][1]
    assert carried.dtype == torch.float32 and torch.equal(carried, state)
    assert not torch.equal(carried, carried.to(getattr(torch, asked)).float())  # it would show


@pytest.mark.parametrize(
    ("asked", "name"),
    [("float32", "32-true"), ("bfloat16", "bf16-mixed"), ("float16", "16-mixed")],
)
def test_precisions(asked, name):
    precision = make_fabric(Training(steps=1, device="cpu", precision=asked)).strategy.precision
    assert precision.precision == name
    assert (getattr(precision, "scaler", None) is not None) == (asked == "float16")
