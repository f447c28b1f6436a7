import json
import sys

import pytest
import torch

from torchsru.train.checkpoint import RunError, load_checkpoint, restore, save_checkpoint


def make(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


STATE = [{"rnn": (torch.ones(2, 3), torch.zeros(1)), "history": torch.arange(4)[None]}, None]


def save(folder, step=3, seed=0, state=STATE):
    model, optimizer = make(seed)
    facts = {"step": step, "position": {"seconds": 0.1}}
    return save_checkpoint(folder, model=model, optimizer=optimizer, state=state, facts=facts)


def test_everything_comes_back(tmp_path):
    save(tmp_path)
    after = torch.rand(3)
    model, optimizer = make(seed=1)
    saved = load_checkpoint(tmp_path)
    restore(saved, model, optimizer)
    expected_model, expected_optimizer = make()
    torch.testing.assert_close(model.state_dict(), expected_model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        optimizer.state_dict()["state"], expected_optimizer.state_dict()["state"], rtol=0, atol=0
    )
    torch.testing.assert_close(saved.state[0], STATE[0], rtol=0, atol=0)
    assert isinstance(saved.state[0]["rnn"], tuple) and saved.state[1] is None
    restore(saved, model, optimizer)
    assert torch.equal(torch.rand(3), after)  # the random state, too
    assert saved.facts["position"] == {"seconds": 0.1}


def test_the_newest_alone_is_kept_and_nothing_temporary(tmp_path):
    save(tmp_path, step=9)
    save(tmp_path, step=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010"]
    assert load_checkpoint(tmp_path).facts["step"] == 10
    files = {path.name for path in (tmp_path / "step-000000010").iterdir()}
    assert files == {"model.safetensors", "training.safetensors", "training.json"}


def test_a_crash_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path, step=1)

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchsru.train.checkpoint.os.fsync", crash)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, step=2)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).facts["step"] == 1
    save(tmp_path, step=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003"]


@pytest.mark.parametrize("damage", ["cut", "missing", "not json", "pickle", "version"])
def test_damage_is_named(tmp_path, damage):
    folder = save(tmp_path)
    if damage == "cut":
        file = folder / "training.safetensors"
        file.write_bytes(file.read_bytes()[:-5])
    elif damage == "missing":
        (folder / "model.safetensors").unlink()
    elif damage == "not json":
        (folder / "training.json").write_text("{")
    elif damage == "pickle":
        torch.save(make()[0].state_dict(), folder / "model.safetensors")
    elif damage == "version":
        facts = json.loads((folder / "training.json").read_text())
        (folder / "training.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(RunError, match=str(folder)):
        load_checkpoint(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    save(tmp_path)
    model = torch.nn.Linear(4, 2)
    with pytest.raises(RunError, match=r"(?s)do not fit.*\[2, 3\].*\[2, 4\]"):
        restore(load_checkpoint(tmp_path), model, torch.optim.AdamW(model.parameters()))


def test_nothing_saved_yet(tmp_path):
    assert load_checkpoint(tmp_path / "nowhere") is None
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "shape",
    [
        ["collections.OrderedDict", []],
        {"fqn": "evil_module.evil_name"},
        [1, {"type": "evil_module"}, []],
        "evil_module",
        True,
        99,
        ["tuple", 5],
    ],
)
def test_a_shape_that_names_anything_is_refused_and_imports_nothing(tmp_path, shape, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    file = next(folder.iterdir()) / "training.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "state_shape": shape}))
    with pytest.raises(RunError, match="damaged or incomplete"):
        load_checkpoint(folder)
    assert "evil_module" not in sys.modules
