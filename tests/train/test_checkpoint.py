import errno
import gc
import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

import torchsru
from torchsru.train import RunError
from torchsru.train import checkpoint as checkpoint_module
from torchsru.train.checkpoint import (
    check_newest,
    load_checkpoint,
    load_weights,
    restore,
    save_checkpoint,
    summary,
)

MAPS = Path("/proc/self/maps")  # what is mapped into memory; of Linux alone


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


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_what_shares_memory_comes_back_under_each_name(tmp_path):
    """Tied weights; a state that names one tensor twice, and a part of it."""

    def tied(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5))
        model[1].weight = model[0].weight
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        model(torch.arange(5)).square().sum().backward()
        optimizer.step()
        return model, optimizer

    (model, optimizer), (other, other_optimizer) = tied(0), tied(1)
    one = torch.rand(2, 3)
    state = [one, (one, one[1:]), torch.zeros(0), torch.zeros(0)]
    save_checkpoint(tmp_path, model=model, optimizer=optimizer, state=state, facts={"step": 3})
    saved = load_checkpoint(tmp_path)
    restore(saved, other, other_optimizer)
    same = partial(torch.testing.assert_close, rtol=0, atol=0)
    same(other.state_dict(), model.state_dict())
    same(other_optimizer.state_dict()["state"], optimizer.state_dict()["state"])
    same(saved.state, state)
    assert other[1].weight is other[0].weight


def test_the_newest_two_are_kept_and_nothing_temporary(tmp_path):
    for step in (8, 9, 10):
        save(tmp_path, step=step)
    assert names(tmp_path) == ["step-000000009", "step-000000010"]
    assert load_checkpoint(tmp_path).facts["step"] == 10
    files = {path.name for path in (tmp_path / "step-000000010").iterdir()}
    assert files == {"model.safetensors", "training.safetensors", "training.json"}


def test_the_newest_is_the_largest_step_not_the_last_name(tmp_path):
    save(tmp_path, step=999_999_998)
    save(tmp_path, step=999_999_999)
    (tmp_path / "step-000000007.bak").mkdir()
    (tmp_path / "notes.txt").touch()
    save(tmp_path, step=1_000_000_000)
    assert load_checkpoint(tmp_path).facts["step"] == 1_000_000_000
    kept = {"step-999999999", "step-1000000000"}
    assert {*names(tmp_path)} == {*kept, "step-000000007.bak", "notes.txt"}


def test_the_mean_of_the_newest_weights(tmp_path):
    models = []
    for step in range(1, 5):
        model, optimizer = make(seed=step)
        facts = {"step": step}
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, state=None, facts=facts, kept=3)
        models.append(model)
    assert len(names(tmp_path)) == 3
    for average, used in ((1, models[3:]), (2, models[2:]), (3, models[1:]), (9, models[1:])):
        model, _ = make()
        assert load_weights(tmp_path, model, average)["step"] == 4
        mean = sum(m.weight.double() for m in used) / len(used)
        torch.testing.assert_close(model.weight, mean.float())
    file = tmp_path / "step-000000002" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"step-000000002.*is damaged"):
        load_weights(tmp_path, make()[0], 3)
    load_weights(tmp_path, make()[0], 2)  # which does not read it


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_leaves_the_old_one_and_nothing_half_written(
    tmp_path, monkeypatch, call, number
):
    save(tmp_path, step=1)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    place = {
        "fsync": "torchsru.train.folder.os.fsync",
        "mkdir": "torchsru.train.folder.Path.mkdir",
        "rename": "torchsru.train.folder.Path.rename",
        "open": "builtins.open",
    }[call]
    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        with pytest.raises(RunError, match=f"step-000000002 can't be .*{os.strerror(number)}"):
            save(tmp_path, step=2)
    assert names(tmp_path) == ["step-000000001"]
    assert load_checkpoint(tmp_path).facts["step"] == 1
    save(tmp_path, step=3)
    assert names(tmp_path) == ["step-000000001", "step-000000003"]


@pytest.mark.parametrize("left", ["temporary", "older", "half removed", "older and temporary"])
def test_what_a_kill_leaves_is_passed_over_and_cleaned(tmp_path, left):
    """Killed while writing; between rename and removal; while removing the older one."""
    save(tmp_path, step=1)
    save(tmp_path, step=2)
    if "older" in left:
        shutil.copytree(tmp_path / "step-000000001", tmp_path / "step-000000000")
    for name, wanted in ((".step-000000003.new", "temporary"), (".step-000000000.new", "half")):
        if wanted in left:
            (tmp_path / name).mkdir()
            (tmp_path / name / "model.safetensors").write_bytes(b"cut sh")
    assert load_checkpoint(tmp_path).facts["step"] == 2
    save(tmp_path, step=3)
    assert names(tmp_path) == ["step-000000002", "step-000000003"]
    assert load_checkpoint(tmp_path).facts["step"] == 3


def test_saving_again_at_the_same_step_cleans_as_well(tmp_path):
    save(tmp_path, step=1)
    save(tmp_path, step=2)
    shutil.copytree(tmp_path / "step-000000001", tmp_path / "step-000000000")
    save(tmp_path, step=2)
    assert names(tmp_path) == ["step-000000001", "step-000000002"]


def test_a_checkpoint_replaced_while_it_is_read_is_no_damage(tmp_path, monkeypatch):
    """`generate` on a run that still trains."""
    save(tmp_path, step=1)
    honest = checkpoint_module.read_facts

    def replaced(path):
        monkeypatch.setattr(checkpoint_module, "read_facts", honest)
        if path.name == "step-000000001":
            save(tmp_path, step=2)
            save(tmp_path, step=3)
        return honest(path)

    monkeypatch.setattr(checkpoint_module, "read_facts", replaced)
    assert load_checkpoint(tmp_path).facts["step"] == 3


def test_an_older_one_removed_while_the_mean_is_read_is_no_damage(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step=step, seed=step)
    honest = checkpoint_module.put_weights

    def replaced(weights, model, path):
        monkeypatch.setattr(checkpoint_module, "put_weights", honest)
        save(tmp_path, step=3, seed=3)  # and the first one goes
        honest(weights, model, path)

    monkeypatch.setattr(checkpoint_module, "put_weights", replaced)
    model, _ = make()
    assert load_weights(tmp_path, model, 2)["step"] == 3
    mean = sum(make(seed=step)[0].weight.double() for step in (2, 3)) / 2
    torch.testing.assert_close(model.weight, mean.float())


def test_one_saved_out_of_turn_has_no_part_in_the_mean_and_goes_first(tmp_path):
    def save_extra(step, extra):
        model, optimizer = make(seed=step)
        facts = {"step": step, "extra": extra}
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, state=None, facts=facts)

    save_extra(1, True)
    load_weights(tmp_path, model := make()[0], 2)  # there is nothing else
    assert torch.equal(model.weight, make(seed=1)[0].weight)
    for step, extra in ((2, False), (3, False), (4, True)):
        save_extra(step, extra)
    assert names(tmp_path) == [f"step-{n:09d}" for n in (2, 3, 4)]
    assert load_checkpoint(tmp_path).facts["step"] == 4
    assert load_weights(tmp_path, model, 2)["step"] == 3
    mean = sum(make(seed=step)[0].weight.double() for step in (2, 3)) / 2
    torch.testing.assert_close(model.weight, mean.float())
    save_extra(5, False)
    assert names(tmp_path) == [f"step-{n:09d}" for n in (3, 5)]


def rewrite(folder, **changes):
    """Change training.json, as another program would write it."""
    file = folder / "training.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def replace_tensors(folder, name, content):
    """Put another file in, with a training.json that vouches for it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "training.json").read_text())["files"]
    rewrite(folder, files={**files, name: summary(content)})


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "one bit", "a folder"])
def test_damage_is_named(tmp_path, name, damage):
    folder = save(tmp_path)
    file, content = folder / name, (folder / name).read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:-5])
    elif damage == "empty":
        file.touch()
    elif damage == "one bit":
        place = len(content) - 1
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]))
    elif damage == "a folder":
        file.mkdir()
    with pytest.raises(RunError) as error:
        load_checkpoint(tmp_path)
    told = str(error.value)
    assert str(file) in told
    if damage in ("missing", "a folder"):
        assert "can't be read" in told
    else:
        assert "is damaged" in told and "found" in told and "expected" in told
    assert len(told) < 600 and "Traceback" not in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 99, "torchsru": "9.0"}, "found format 99, written by torchsru '9.0'; expected"),
        ({"format": None}, f"found format None.*expected .* torchsru {torchsru.__version__} reads"),
        ({"step": 4}, "step-000000003 is damaged: found step 4"),
        ({"files": []}, "expected None"),
    ],
)
def test_another_version_and_foreign_facts_are_named(tmp_path, changes, told):
    rewrite(save(tmp_path), **changes)
    with pytest.raises(RunError, match=told):
        load_checkpoint(tmp_path)


def test_a_list_instead_of_facts_is_named(tmp_path):
    (save(tmp_path) / "training.json").write_text("[1]")
    with pytest.raises(RunError, match="expected a table, found list"):
        load_checkpoint(tmp_path)


def test_a_foreign_file_that_is_vouched_for_is_named(tmp_path):
    replace_tensors(save(tmp_path), "model.safetensors", b"GIF89a")
    with pytest.raises(RunError, match=r"model\.safetensors is no safetensors file"):
        load_checkpoint(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    folder = save(tmp_path)
    model = torch.nn.Linear(4, 2)
    told = rf"{folder} do not fit the recipe: weight: found \[2, 3\] float32, "
    for load in (
        lambda: load_weights(tmp_path, model),
        lambda: restore(load_checkpoint(tmp_path), model, torch.optim.AdamW(model.parameters())),
    ):
        with pytest.raises(RunError, match=told + r"expected \[2, 4\] float32$"):
            load()
    with pytest.raises(RunError, match=r"float32, expected \[2, 3\] float64; 1 more differ"):
        load_weights(tmp_path, torch.nn.Linear(3, 2).double())
    with pytest.raises(RunError, match=r"found nothing, expected \[2, 3\] float32; 3 more differ"):
        load_weights(tmp_path, torch.nn.Sequential(torch.nn.Linear(3, 2)))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("optimizer.1.exp_avg", None, r"1\.exp_avg: found nothing, expected \[2\]"),
        ("optimizer.0.exp_avg", torch.zeros(3, 2), r"found \[3, 2\] float32, expected \[2, 3\]"),
        ("optimizer.7.step", torch.zeros(()), r"7\.step: found \[\] float32, expected nothing"),
        ("random.cpu", None, "no random state of this torch .*found {}, expected cpu"),
        ("random.cpu", torch.zeros(5), r"found {'cpu': '\[5\] float32'}, expected cpu"),
    ],
)
def test_an_optimiser_or_a_random_state_that_does_not_fit_is_named(tmp_path, key, value, told):
    folder = save(tmp_path)
    tensors = {**load_file(folder / "training.safetensors"), key: value}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    replace_tensors(folder, "training.safetensors", to_safetensors(tensors))
    with pytest.raises(RunError, match=told):
        restore(load_checkpoint(tmp_path), *make())


def test_weights_alone_need_no_optimiser(tmp_path):
    folder = save(tmp_path)
    (folder / "training.safetensors").unlink()
    model = make(seed=1)[0]
    assert load_weights(tmp_path, model)["step"] == 3
    torch.testing.assert_close(model.state_dict(), make()[0].state_dict(), rtol=0, atol=0)
    assert load_weights(tmp_path / "nowhere", model) is None


def test_sums_are_computed_where_they_have_not_been(tmp_path):
    """Of several processes one has checked for all."""
    file = save(tmp_path) / "training.safetensors"
    check_newest(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for look in (check_newest, load_checkpoint):
        with pytest.raises(RunError, match=r"training\.safetensors is damaged"):
            look(tmp_path)
    assert load_checkpoint(tmp_path, checked=True).facts["step"] == 3
    check_newest(tmp_path / "nowhere")


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not say what is mapped")
def test_a_checkpoint_is_mapped_and_nothing_that_is_restored_holds_on_to_it(tmp_path):
    folder, (model, optimizer) = save(tmp_path), make(seed=1)
    saved = load_checkpoint(tmp_path)
    assert str(folder) in MAPS.read_text()
    restore(saved, model, optimizer)
    del saved
    gc.collect()
    assert str(folder) not in MAPS.read_text()


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
    with pytest.raises(RunError, match="damaged: state_shape"):
        load_checkpoint(folder)
    assert "evil_module" not in sys.modules
