"""Every denoiser's recipe, small, on words that are tones under white noise."""

import io
import json
from dataclasses import replace

import pytest
import torch
from tests.sounds import RATE, spoken, tone, write, write_digits

from torchsru.cli import main
from torchsru.cli.denoise import stream
from torchsru.data.audio import decode_audio, read_audio
from torchsru.recipes import from_json, get_recipe, to_json
from torchsru.recipes.denoising import RECIPES, DenoisingRecipe, SpeechCleaner
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train import RunError
from torchsru.train.denoising import si_sdr

NAME = "denoise-sru_debug"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("runs") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # conftest's fixture of each test comes later than this one
    train(NAME, make(NAME, digits), folder)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def clean():
    return torch.cat(
        [torch.zeros(500), *(0.15 * spoken(d, 3) for d in (4, 1, 9)), torch.zeros(333)]
    )


@pytest.fixture
def noisy(tmp_path, clean):
    noise = torch.randn(len(clean), generator=torch.manual_seed(0))
    return write(tmp_path / "noisy.wav", clean + clean.square().mean().sqrt() * noise)


def make(name, folder):
    recipe = get_recipe(name)
    return replace(recipe, data=replace(recipe.data, paths=(str(folder),)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns(tmp_path, digits, name):
    """Doing nothing is an improvement of 0 dB."""
    result = train(f"{name}_debug", make(f"{name}_debug", digits), tmp_path / "run")
    assert result["si_sdr_improvement_db"] >= 3
    found = evaluate_run(open_run(tmp_path / "run"), split="test")
    assert found["si_sdr_improvement_db"] >= 3 and found["mixtures"] == 12
    assert found["si_sdr_of_mixture_db"] == pytest.approx(2.5, abs=1)  # of -5, 0, 5 and 10
    assert found["improvement_at_snr_db"].keys() == {"-5.0", "0.0", "5.0", "10.0"}
    assert found["improvement_under"] == pytest.approx({"white": found["si_sdr_improvement_db"]})
    valid = evaluate_run(open_run(tmp_path / "run"), split="valid")
    assert valid["si_sdr_db"] == pytest.approx(result["si_sdr_db"], rel=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_json_brings_a_recipe_back(name):
    recipe = get_recipe(name)
    assert from_json(DenoisingRecipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_the_models_compared_are_of_alike_sizes():
    from torchsru.models import Denoiser

    sizes = {
        name: sum(p.numel() for p in Denoiser(get_recipe(name).model).parameters())
        for name in RECIPES
    }
    assert len(sizes) >= 4 and max(sizes.values()) < 1.15 * min(sizes.values()), sizes


def test_a_run_is_stopped_and_resumed(tmp_path, digits):
    recipe = make(NAME, digits)
    short = replace(recipe, training=replace(recipe.training, schedule="constant", steps=10))
    long = replace(short, training=replace(short.training, steps=20))
    train(NAME, long, tmp_path / "whole")
    train(NAME, short, tmp_path / "parts")
    train(NAME, long, tmp_path / "parts", resume=True)
    whole, parts = (open_run(tmp_path / name).result for name in ("whole", "parts"))
    assert parts["steps"] == 20
    assert parts["si_sdr_db"] == pytest.approx(whole["si_sdr_db"], rel=1e-3)


@pytest.mark.parametrize("size", [160, 37, 1000, 10**6])
def test_live_sound_is_cleaned_as_the_whole(trained, noisy, size):
    cleaner = SpeechCleaner(open_run(trained))
    samples = read_audio(noisy, RATE)
    live = cleaner.listen()
    found, heard = [], 0
    for piece in samples.split(size):
        found.append(live.feed(piece))
        heard += len(piece)
        late = heard - sum(map(len, found))
        assert 0 <= late <= cleaner.model.config.delay + live.hop
    found.append(live.finish())
    torch.testing.assert_close(torch.cat(found), cleaner.clean(samples), rtol=1e-4, atol=1e-5)
    assert len(live.finish()) == 0


def test_the_command_from_training_to_a_clean_file(
    tmp_path, digits, noisy, clean, capfdbinary, monkeypatch
):
    run = str(tmp_path / "run")
    noises = ["--data.noises", "white"]
    assert main(["train", NAME, "--data", str(digits), *noises, "--out", run]) == 0
    assert b"torchsru denoise" in capfdbinary.readouterr().out
    assert main(["eval", run, "--split", "test"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["si_sdr_improvement_db"] >= 3

    def gain(samples):
        before = si_sdr(clean[None], read_audio(noisy, RATE)[None])
        return (si_sdr(clean[None], samples[None]) - before).item()

    whole, streamed = tmp_path / "whole.wav", tmp_path / "streamed.wav"
    assert main(["denoise", run, str(noisy), str(whole)]) == 0
    assert len(read_audio(whole, RATE)) == len(clean) and gain(read_audio(whole, RATE)) >= 3
    assert main(["denoise", run, str(noisy), str(streamed), "--stream"]) == 0
    found = read_audio(streamed, RATE)
    assert (found - read_audio(whole, RATE)).abs().max() <= 2**-14  # 16 bits

    def say(content):
        monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": io.BytesIO(content)}))

    say(noisy.read_bytes())
    capfdbinary.readouterr()
    assert main(["denoise", run, "-", "-"]) == 0
    printed = io.BytesIO(capfdbinary.readouterr().out)
    assert torch.equal(decode_audio(printed, "printed", RATE), read_audio(whole, RATE))
    samples = (32768 * read_audio(noisy, RATE)).round().to(torch.int16).numpy()
    say(samples.astype("<i2").tobytes())
    assert main(["denoise", run, "-", "-", "--stream"]) == 0
    printed = torch.frombuffer(bytearray(capfdbinary.readouterr().out), dtype=torch.int16)
    assert (printed / 32768 - found).abs().max() <= 2**-14

    say(samples.astype("<i2").tobytes())
    assert main(["denoise", run, "-", str(streamed), "--stream"]) == 0
    assert torch.equal(read_audio(streamed, RATE), found)
    assert main(["denoise", run, str(streamed), str(streamed), "--stream"]) == 0  # over itself
    assert len(read_audio(streamed, RATE)) == len(clean)


def test_what_was_cleaned_stays_where_it_ends(tmp_path, trained, noisy, monkeypatch):
    """Ctrl-C in the middle of standard input."""
    content = (32768 * read_audio(noisy, RATE)).to(torch.int16).numpy().astype("<i2").tobytes()

    class Stopped(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= 4000:
                raise KeyboardInterrupt
            return super().read(size)

    monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": Stopped(content)}))
    cleaner = SpeechCleaner(open_run(trained))
    with pytest.raises(KeyboardInterrupt):
        stream(cleaner, "-", str(tmp_path / "out.wav"), False)
    kept = read_audio(tmp_path / "out.wav", RATE)
    assert 1700 <= len(kept) <= 2100 and kept.any()


def test_the_command_refuses_bad_input(tmp_path, trained, digits, noisy, capsys):
    run, out = str(trained), str(tmp_path / "out.wav")
    bad = write(tmp_path / "bad.wav", torch.zeros(0))
    assert main(["denoise", run, str(bad), out]) == 2
    assert "bad.wav' holds no samples" in capsys.readouterr().err
    wide = write(tmp_path / "wide.wav", tone(400, 0.2, rate=16_000), 16_000)
    assert main(["denoise", run, str(wide), out]) == 2
    assert "must have 8,000 samples per second, got 16,000" in capsys.readouterr().err
    assert not (tmp_path / "out.wav").exists()
    assert main(["denoise", run, str(wide), out, "--resample"]) == 0
    assert len(read_audio(tmp_path / "out.wav", RATE)) == 1600
    assert main(["denoise", run, str(noisy), str(tmp_path / "out.text")]) == 2
    assert "out.text' can't be written as sound" in capsys.readouterr().err
    for options in ([], ["--stream"]):
        nowhere = ["denoise", str(tmp_path / "no_run"), str(noisy), str(tmp_path / "out.mp3")]
        assert main(nowhere + options) == 2  # told before the run is opened
        assert "format of 16-bit samples (wav, flac" in capsys.readouterr().err
    assert main(["train", NAME, "--out", str(tmp_path / "none")]) == 2
    assert "name it with --data" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert main(["eval", run, "--data", str(digits)]) == 2
    assert "data must be left out" in capsys.readouterr().err
    assert main(["transcribe", run, str(noisy)]) == 2
    assert "must be a run of task recognition, got one of denoising" in capsys.readouterr().err


def test_a_model_of_both_directions_does_not_go_live(tmp_path, digits):
    recipe = make("denoise-sru-bidirectional_debug", digits)
    short = replace(recipe, training=replace(recipe.training, steps=2, evaluations=1))
    train("denoise-sru-bidirectional_debug", short, tmp_path / "run")
    cleaner = SpeechCleaner(open_run(tmp_path / "run"))
    with pytest.raises(ValueError, match="bidirectional false, as in the recipe denoise-sru"):
        cleaner.listen()
    with pytest.raises(ValueError, match="samples must be"):
        cleaner.clean(torch.zeros(0))


def test_other_data_than_a_run_was_trained_on_are_refused(tmp_path, trained):
    other = write_digits(tmp_path / "other")
    write(other / "0_ann_9.wav", spoken(0))
    run = replace(open_run(trained), recipe=make(NAME, other))
    with pytest.raises(RunError, match="was trained on other data than what is there now"):
        evaluate_run(run, split="test")
