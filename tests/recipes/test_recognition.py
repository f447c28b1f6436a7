"""Every recogniser's recipe, small, on words that are tones."""

import io
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.sounds import RATE, spoken, tone, write, write_digits
from torch.nn import functional as F

from torchsru.cli import main
from torchsru.data import DataError
from torchsru.data.audio import read_audio
from torchsru.data.speech import Alphabet
from torchsru.recipes import from_json, get_recipe, to_json
from torchsru.recipes.recognition import RECIPES, RecognitionRecipe, SpeechRecognizer
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train import RunError

NAME = "digits-sru-streaming_debug"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """A run for live sound."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # conftest's fixture of each test comes later than this one
    train(NAME, make(NAME, digits), folder)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def phrase(tmp_path):
    """ "four one nine", 0.4 s of silence around."""
    silence = torch.zeros(800)
    parts = [p for d in (4, 1, 9) for p in (silence, spoken(d, 1))] + [silence]
    noise = 3e-4 * torch.randn(800 * 4 + 3 * 1280, generator=torch.manual_seed(0))
    return write(tmp_path / "phrase.wav", torch.cat(parts) + noise)


def make(name, folder, **data):
    recipe = get_recipe(name)
    return replace(recipe, data=replace(recipe.data, paths=(str(folder),), **data))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns(tmp_path, digits, name):
    """Writing nothing, or what an untrained model writes, is an error rate of 1 or more."""
    result = train(f"{name}_debug", make(f"{name}_debug", digits), tmp_path / "run")
    assert result["wer"] <= 0.6
    found = evaluate_run(open_run(tmp_path / "run"), split="test")
    assert found["wer"] <= 0.6 and found["beam_wer"] <= 0.6 and found["utterances"] == 30
    valid = evaluate_run(open_run(tmp_path / "run"), split="valid")
    assert valid["wer"] == pytest.approx(result["wer"])  # the weights of the best evaluation


@pytest.mark.parametrize("name", RECIPES)
def test_json_brings_a_recipe_back(name):
    recipe = get_recipe(name)
    assert from_json(RecognitionRecipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_the_models_compared_are_of_alike_sizes():
    from torchsru.models import Recognizer

    sizes = {
        name: sum(p.numel() for p in Recognizer(get_recipe(name).model, 17).parameters())
        for name in RECIPES
        if name.startswith("digits-")
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
    assert parts["steps"] == 20 and parts["nats"] == pytest.approx(whole["nats"], rel=1e-4)
    with pytest.raises(RunError, match=r"data\.speaker was 'theo' in .*, got 'ann'"):
        other = replace(long, data=replace(long.data, speaker="ann"))
        train(NAME, other, tmp_path / "parts", resume=True)


def test_words_between_digital_silence_are_heard(trained, tmp_path):
    """As in a file from which the noise was cut: no sample of a pause is anything but 0."""
    silence = torch.zeros(800)
    parts = [p for d in (4, 1, 9) for p in (silence, spoken(d, 1))] + [silence]
    samples = read_audio(write(tmp_path / "a.wav", torch.cat(parts)), RATE)
    assert not samples[:800].any()
    assert SpeechRecognizer(open_run(trained)).transcribe(samples) == "four one nine"


@pytest.mark.parametrize("size", [160, 37, 1000, 10**6])
def test_live_sound_gives_the_same_text(trained, phrase, size):
    """In pieces of 20 ms and of any other size."""
    recognizer = SpeechRecognizer(open_run(trained))
    samples = read_audio(phrase, RATE)
    listener = recognizer.listen()
    heard = [listener.feed(piece) for piece in samples.split(size)] + [listener.finish()]
    assert "".join(heard) == recognizer.transcribe(samples) == "four one nine"
    if size < 1000:
        assert sum(map(bool, heard)) == 3  # each word comes when it was heard


SAYINGS = ["__a_b__", "_", "_ab", "ab__", "_a__b", "", "__", "a_", "a_______b"]


@pytest.mark.parametrize("said", SAYINGS)
@pytest.mark.parametrize("size", [1, 3, 20])
def test_blanks_around_a_text_are_none_of_it(said, size):
    """A stand-in for the model: a step a sample, which is its symbol's number."""
    alphabet = Alphabet((" ", "a", "b"), "characters")

    class Told:
        config = SimpleNamespace(step_size=1, bidirectional=False)

        def step(self, samples, state):
            return F.one_hot(samples.long(), 4).float().log().transpose(0, 1), None

        def __call__(self, samples, sizes):
            return self.step(samples, None)[0], sizes

    recognizer = object.__new__(SpeechRecognizer)
    recognizer.alphabet, recognizer.model = alphabet, Told()
    recognizer.device = torch.device("cpu")
    text = said.replace("_", " ")
    path = [i for s in text for i in (" ab".index(s) + 1, 0)] or [0]
    samples = torch.tensor(path).float()
    listener = recognizer.listen()
    heard = [listener.feed(piece) for piece in samples.split(size)] + [listener.finish()]
    assert "".join(heard) == recognizer.transcribe(samples) == text.strip()


def test_sayings_of_one_text_are_one_alternative(monkeypatch):
    recognizer = object.__new__(SpeechRecognizer)
    recognizer.alphabet = Alphabet((" ", "a", "b"), "characters")
    # in one step: blank 0.1, " " 0.3, "a" 0.35, "b" 0.25
    log_LC = torch.tensor([[0.1, 0.3, 0.35, 0.25]]).log()
    monkeypatch.setattr(SpeechRecognizer, "log_probabilities", lambda self, samples: log_LC)
    texts = {text: math.exp(value) for text, value in recognizer.search(torch.zeros(1), 9)}
    assert texts == pytest.approx({"": 0.4, "a": 0.35, "b": 0.25})
    assert list(texts) == ["", "a", "b"]


def test_the_command_from_training_to_text(tmp_path, digits, phrase, capsys, monkeypatch):
    run = str(tmp_path / "run")
    assert main(["train", NAME, "--data", str(digits), "--out", run]) == 0
    assert "torchsru transcribe" in capsys.readouterr().out
    assert main(["eval", run, "--split", "test"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["wer"] <= 0.6
    assert main(["eval", run, "--split", "test", "--beam", "1"]) == 0
    narrow = json.loads(capsys.readouterr().out)
    assert narrow["wer"] == found["wer"] and narrow["beam_wer"] <= 0.6
    assert main(["eval", run, "--beam", "0"]) == 2
    assert "eval_beam must be at least 1, got 0" in capsys.readouterr().err
    assert main(["transcribe", run, str(phrase), str(phrase)]) == 0
    assert capsys.readouterr().out == f"{phrase}\tfour one nine\n" * 2
    assert main(["transcribe", run, str(phrase), "--stream"]) == 0
    assert capsys.readouterr().out == "four one nine\n"

    def say(content):
        monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": io.BytesIO(content)}))

    say(phrase.read_bytes())
    assert main(["transcribe", run, "-", "--json", "--beam", "4"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["file"] == "-" and row["text"] == "four one nine" and row["seconds"] == 0.88
    assert len(row["alternatives"]) == 4
    samples = (32767 * read_audio(phrase, RATE)).round().to(torch.int16).numpy()
    say(samples.astype("<i2").tobytes())
    assert main(["transcribe", run, "-", "--stream"]) == 0
    assert capsys.readouterr().out == "four one nine\n"
    assert main(["transcribe", run, "-", "--stream", "--resample"]) == 2
    assert "resample must be left out beside --stream" in capsys.readouterr().err
    for content, told in (
        (phrase.read_bytes(), "must be samples without a header beside --stream"),
        (b"", "holds no samples"),
        (b"abc", "ends inside a sample of 16 bits"),
    ):
        say(content)
        assert main(["transcribe", run, "-", "--stream"]) == 2
        assert f"standard input {told}" in capsys.readouterr().err


def test_the_command_refuses_bad_input(tmp_path, trained, digits, phrase, capsys):
    run = str(trained)
    for content, told in ((torch.zeros(0), "holds no samples"), (torch.zeros(8, 2), "one channel")):
        file = write(tmp_path / "bad.wav", content)
        assert main(["transcribe", run, str(phrase), str(file)]) == 2
        assert told in (error := capsys.readouterr().err) and "bad.wav" in error
    wide = write(tmp_path / "wide.wav", tone(400, 0.2, rate=16_000), 16_000)
    assert main(["transcribe", run, str(wide)]) == 2
    assert "must have 8,000 samples per second, got 16,000" in capsys.readouterr().err
    assert main(["transcribe", run, str(wide), "--resample"]) == 0
    assert main(["transcribe", run, str(phrase), str(phrase), "--stream"]) == 2
    assert "stream takes one file" in capsys.readouterr().err
    assert main(["transcribe", run, str(phrase), "--beam", "0"]) == 2
    assert "beam must be at least 1, got 0" in capsys.readouterr().err
    assert main(["train", NAME, "--out", str(tmp_path / "none")]) == 2
    assert "name it with --data" in capsys.readouterr().err and not (tmp_path / "none").exists()
    assert main(["classify", run, str(phrase)]) == 2
    assert "must be a run of task classification" in capsys.readouterr().err


def test_a_model_of_both_directions_does_not_go_live(tmp_path, digits):
    recipe = make("digits-gru_debug", digits)
    short = replace(recipe, training=replace(recipe.training, steps=2, evaluations=1))
    train("digits-gru_debug", short, tmp_path / "run")
    with pytest.raises(ValueError, match="bidirectional false, as in the recipe digits-sru-strea"):
        SpeechRecognizer(open_run(tmp_path / "run")).listen()


def test_tables_are_trained_and_evaluated_on(tmp_path):
    rows = []
    for i in range(40):
        write(tmp_path / f"{i}.wav", spoken(i % 10))
        rows.append(json.dumps({"audio": f"{i}.wav", "text": "abcdefghij"[i % 10]}) + "\n")
    table = tmp_path / "all.jsonl"
    table.write_text("".join(rows))
    recipe = make("digits-sru_debug", table, source="table", units="characters")
    train("own", replace(recipe, training=replace(recipe.training, steps=60)), tmp_path / "run")
    run = open_run(tmp_path / "run")
    found = evaluate_run(run, paths=(str(table),))
    assert found["utterances"] == 40 and found["wer"] <= 0.3
    rows[3] = json.dumps({"audio": "3.wav", "text": "abcabc"}) + "\n"
    table.write_text("".join(rows))
    with pytest.raises(
        DataError, match=r"line 4: .*3\.wav must have 6 steps of 320 samples.*, got 4"
    ):
        evaluate_run(run, paths=(str(table),))
    table.write_text(json.dumps({"audio": "3.wav", "text": "abz"}) + "\n")
    with pytest.raises(DataError, match=r"line 1: .*3\.wav: 'z' is none of the 10 characters"):
        evaluate_run(run, paths=(str(table),))


def test_other_data_than_a_run_was_trained_on_are_refused(tmp_path, trained):
    run = open_run(trained)
    other = write_digits(tmp_path / "other")
    write(other / "0_ann_9.wav", spoken(0))
    moved = replace(run, recipe=make(NAME, other))
    with pytest.raises(RunError, match="was trained on other data than what is there now"):
        moved.recipe.evaluate(moved, paths=(), split="test", layout={})
    with pytest.raises(ValueError, match="samples must be"):
        SpeechRecognizer(run).transcribe(torch.zeros(0))
