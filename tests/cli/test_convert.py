"""`torchsru convert`: what it reads, writes and refuses."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import torchsru.compat
import torchsru.train.folder
from torchsru.cli import main

SAVED = torch.load(
    Path(__file__).parents[1] / "compat" / "checkpoints.pt", weights_only=True
)  # by versions of sru
CASE = SAVED["2.1.7"][0]  # with a layer norm of its own formula
KWARGS = json.dumps(CASE["arguments"])


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(CASE["state_dict"], path)
    return path


def refused(capsys, *argv):
    """The one line that a refused command prints."""
    assert main(["convert", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("torchsru: ")
    return err


def assert_computes_the_same(folder):
    h, _ = torchsru.compat.load(folder)(CASE["x"], CASE["c0"])
    torch.testing.assert_close(h, CASE["h"], rtol=1e-5, atol=1e-5)


def test_writes_a_layer_that_computes_the_same(checkpoint, tmp_path, capsys):
    out = tmp_path / "new" / "here"
    assert main(["convert", str(checkpoint), "--kwargs", KWARGS, "--out", str(out)]) == 0
    assert f"torchsru.compat.load({str(out)!r})" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["model.safetensors", "sru.json"]
    about = json.loads((out / "sru.json").read_text())
    assert about["arguments"]["layer_norm"] == "post"
    assert_computes_the_same(out)


def test_arguments_one_by_one(checkpoint, tmp_path, capsys):
    argv = ["convert", str(checkpoint), "--out", str(tmp_path / "out")]
    argv += ["--input_size", "4", "--hidden_size=3", "--layer_norm", "true", "--rescale", "true"]
    assert main([*argv, "--kwargs", '{"num_layers": 2}']) == 0
    assert_computes_the_same(tmp_path / "out")


@pytest.mark.parametrize("case", [c for cases in SAVED.values() for c in cases], ids=str)
def test_every_versions_checkpoint(case, tmp_path):
    torch.save(case["state_dict"], tmp_path / "old.pt")
    argv = ["convert", str(tmp_path / "old.pt"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--kwargs", json.dumps(case["arguments"])]) == 0
    h, _ = torchsru.compat.load(tmp_path / "out")(case["x"])
    original = torchsru.compat.from_state_dict(case["state_dict"], **case["arguments"])
    torch.testing.assert_close(h, original.eval()(case["x"])[0], rtol=1e-5, atol=1e-5)


def test_nested_legacy_and_safetensors(tmp_path, capsys):
    inside = {f"encoder.rnn.{name}": t for name, t in CASE["state_dict"].items()}
    paths = [tmp_path / "nested.pt", tmp_path / "legacy.pt", tmp_path / "model.safetensors"]
    torch.save({"model": inside, "step": 3, "name": "x"}, paths[0])
    torch.save(inside, paths[1], _use_new_zipfile_serialization=False)
    save_file(inside, paths[2])
    for path, prefix in zip(
        paths, ["model.encoder.rnn.", "encoder.rnn.", "encoder.rnn."], strict=True
    ):
        argv = [path, "--kwargs", KWARGS, "--out", path.with_suffix("")]
        assert f"prefix must be one of ['{prefix}'], got ''" in refused(capsys, *argv)
        assert main(["convert", *map(str, argv), "--prefix", prefix]) == 0
        capsys.readouterr()
        assert_computes_the_same(path.with_suffix(""))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_malicious_pickle_never_runs(tmp_path, capsys, zipped):
    path, trap = tmp_path / "old.pt", tmp_path / "trap"
    state = {**CASE["state_dict"], "extra": Malicious(trap)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    error = refused(capsys, path, "--kwargs", KWARGS, "--out", tmp_path / "out")
    assert f"{path} holds more than tensors" in error
    assert not trap.exists() and not (tmp_path / "out").exists()
    torch.load(path, weights_only=False)  # it would have run
    assert trap.exists()


@pytest.mark.parametrize(
    "content", [b"plain text", b"checkpoint\nof\na model\n", b".", b"0", b"{}", b"K", b"P"]
)
def test_what_torch_did_not_save_holds_no_code(tmp_path, capsys, content):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    error = refused(capsys, path, "--kwargs", KWARGS, "--out", tmp_path / "out")
    assert f"{path} is no checkpoint, or damaged: it starts like no file of torch.save" in error


def test_a_damaged_pickle_is_not_said_to_hold_code(tmp_path, capsys):
    path = tmp_path / "file.pt"
    torch.save(CASE["state_dict"], path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for damaged in (content[:2], content[:40], content[:-40], b"\x80\x02\xff" + content[3:]):
        path.write_bytes(damaged)
        error = refused(capsys, path, "--kwargs", KWARGS, "--out", tmp_path / "out")
        assert f"{path} is no checkpoint, or damaged" in error


@pytest.mark.parametrize(
    ("name", "t", "named"),
    [
        ("rnn_lst.0.transform_module.1.weight", torch.ones(9, 2), "transform_module.0.weight must"),
        ("rnn_lst.0.gain", torch.ones(2), "rnn_lst.0.gain must be [12] beside rnn_lst.0.weight"),
        ("rnn_lst.1.scale_x", torch.ones(2), "size mismatch for rnn_lst.1.scale_x"),
    ],
)
def test_damage_inside_is_one_line(tmp_path, capsys, name, t, named):
    path = tmp_path / "file.pt"
    torch.save(CASE["state_dict"] | {name: t}, path)
    rest = ["--kwargs", json.dumps({"input_size": 4, "hidden_size": 3, "layer_norm": True})]
    assert named in refused(capsys, path, *rest, "--out", tmp_path / "out")


def test_what_is_no_state_dict_is_refused(tmp_path, capsys, checkpoint):
    rest = ["--kwargs", KWARGS, "--out", tmp_path / "out"]
    path = tmp_path / "file.pt"
    torch.save(torchsru.compat.SRU(4, 3), path)
    assert "holds more than tensors, and code in a pickle is not run" in refused(
        capsys, path, *rest
    )
    path.write_bytes(pickle.dumps(3, protocol=2))
    assert str(path) in refused(capsys, path, *rest)
    path.write_bytes(checkpoint.read_bytes()[:1000])
    assert f"{path} is no checkpoint, or damaged" in refused(capsys, path, *rest)
    path.write_bytes(b"")
    assert f"{path} is no checkpoint, or damaged" in refused(capsys, path, *rest)
    torch.save([torch.ones(1)], path)
    assert f"{path} must hold a state dict, got list" in refused(capsys, path, *rest)
    assert "nowhere.pt can't be read: No such file" in refused(capsys, "nowhere.pt", *rest)
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"12345678901234567890")
    assert f"{path} is no checkpoint, or damaged" in refused(capsys, path, *rest)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "input_size must be given"),
        (["--kwargs", "[4]"], "kwargs"),
        (["--kwargs", '{"hidden": 3}'], "input_size must be given"),
        (["--kwargs", KWARGS, "--hidden_size", "3"], "hidden_size must be given once"),
        (["--kwargs", KWARGS, "--use_relu", "true"], "use_relu must be off, got True"),
        (["--kwargs", KWARGS, "--use_selu", "true"], "use_selu must be off, got True"),
        (["--kwargs", KWARGS, "--bidirectional", "maybe"], "bidirectional"),
        (["--kwargs", KWARGS.replace("3", "5")], "does not fit the arguments"),
        (["--kwargs", KWARGS, "--hiden_size", "3"], "hiden_size"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    checkpoint, tmp_path, capsys, argv, named
):
    before = sorted(tmp_path.iterdir())
    assert named in refused(capsys, checkpoint, "--out", tmp_path / "out", *argv)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten_or_left_half_written(checkpoint, tmp_path, capsys, monkeypatch):
    argv, out = [checkpoint, "--kwargs", KWARGS], tmp_path / "out"
    assert "arguments are required: out" in refused(capsys, *argv)
    out.mkdir()
    assert "out is there already; name another --out" in refused(capsys, *argv, "--out", out)
    out.rmdir()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchsru.train.folder.os, "fsync", full)
    assert f"{out} can't be written: No space left" in refused(capsys, *argv, "--out", out)
    assert list(tmp_path.iterdir()) == [checkpoint]
