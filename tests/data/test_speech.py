import math
import shutil

import pytest
import torch
from tests.sounds import RATE, spoken, tone, write, write_digits

from torchsru.data import DataError
from torchsru.data.speech import (
    DIGITS,
    Alphabet,
    SpeechData,
    load_speech,
    sped,
    sped_size,
    string_together,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("fsdd") / "recordings")


def load(path, source="fsdd", seed=0, **fields):
    fields = {"sequences": 20, "heldout": 10, **fields}
    return load_speech(SpeechData(source=source, paths=(str(path),), **fields), RATE, seed)


def rms(samples):
    return samples.square().mean().sqrt().item()


def test_digits_are_strung_as_they_were_drawn():
    clips = [tone(300, 0.1), tone(500, 0.2)]
    found = string_together(clips, [80, 0, 160], level_db=-20, noise_db=-200, seed=0)
    assert len(found) == 80 + 800 + 1600 + 160
    said = found[80:-160]
    assert rms(said) == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(said / said.abs().max(), torch.cat(clips) / torch.cat(clips).max())
    assert found[:80].abs().max() < 1e-9
    noisy = string_together(clips, [8000, 0, 0], level_db=-20, noise_db=-40, seed=0)
    assert rms(noisy[:8000]) == pytest.approx(0.01, rel=0.05)
    again = string_together(clips, [8000, 0, 0], level_db=-20, noise_db=-40, seed=1)
    assert not torch.equal(noisy, again)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1, 2.0])
def test_a_faster_sound_is_shorter_and_higher(speed):
    found = sped(tone(400, 0.5), speed)
    expected = tone(400 * speed, 0.5 / speed)
    assert len(found) == len(expected) == sped_size(tone(400, 0.5), speed)
    assert (found - expected).abs().max() < 0.02
    other = tone(410 * speed, 0.5 / speed)
    assert (found - other).abs().max() > 0.2  # such a bar tells two pitches apart


def test_each_side_has_speakers_of_its_own(digits):
    speech = load(digits, speaker="bob")
    names = {"train": speech.train(0), "valid": speech.valid, "test": speech.test}
    speakers = {side: {u.name.split("_")[1] for u in found} for side, found in names.items()}
    assert speakers == {"train": {"ann", "theo"}, "valid": {"cid"}, "test": {"bob"}}
    assert [len(found) for found in names.values()] == [20, 10, 10]
    for found in names.values():
        for u in found:
            samples = u.read()
            assert len(samples) == u.size and 1 <= len(u.text.split()) <= 7
            assert 1e-4 < rms(samples) <= 0.1  # -20 dB; pauses make it less
    assert load(digits.parent, speaker="bob").content == speech.content  # recordings/ in it


def test_what_is_said_is_what_is_heard(digits):
    """Each drawn digit is a clip of it, in order."""
    speech = load(digits, pause_s=(0.0, 0.0), noise_db=(-200.0, -200.0), speeds=(1.0,))
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for u in speech.train(0):
        clips = [name.removesuffix(".wav") for name in u.name.rpartition(": ")[2].split(", ")]
        assert [words[int(clip[0])] for clip in clips] == u.text.split()
        speaker = ["ann", "bob", "cid", "theo"].index(clips[0].split("_")[1])
        whole = torch.cat([spoken(int(c[0]), speaker, int(c[-1])) for c in clips])
        torch.testing.assert_close(u.read() / rms(u.read()), whole / rms(whole), atol=0.01, rtol=0)


def test_passes_and_seeds_draw_anew_and_held_out_sequences_stay(digits):
    a, b = load(digits), load(digits, seed=1)
    texts = [u.text for u in a.train(0)]
    assert texts == [u.text for u in load(digits).train(0)]
    assert torch.equal(a.train(0)[3].read(), load(digits).train(0)[3].read())
    assert texts != [u.text for u in a.train(1)] and texts != [u.text for u in b.train(0)]
    assert [u.text for u in a.valid] == [u.text for u in b.valid]
    assert torch.equal(a.test[0].read(), b.test[0].read())


def test_bad_folders_of_digits_are_named(tmp_path, digits):
    with pytest.raises(DataError, match="speaker must be one of ann, bob, cid, theo, got 'eve'"):
        load(digits, speaker="eve")
    digits = shutil.copytree(digits, tmp_path / "copy")
    write(digits / "3_ann_9.wav", torch.zeros(100))
    with pytest.raises(DataError, match=r"3_ann_9\.wav' is silent"):
        load(digits)
    (digits / "3_ann_9.wav").rename(digits / "three.wav")
    with pytest.raises(DataError, match=r"three\.wav' must be called DIGIT_SPEAKER_INDEX\.wav"):
        load(digits)
    with pytest.raises(DataError, match="must be the folder of fsdd, and is none"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.wav files"):
        load(tmp_path / "empty")
    write(tmp_path / "few" / "1_ann_0.wav", tone(300, 0.1))
    with pytest.raises(DataError, match=r"must have three speakers at least.*got ann"):
        load(tmp_path / "few")


@pytest.fixture
def commands(tmp_path):
    root = tmp_path / "commands"
    for word in ("yes", "no"):
        for i in range(4):
            write(root / word / f"{i}_nohash_0.wav", tone(300, 0.1))
    write(root / "_background_noise_" / "hum.wav", tone(50, 0.1))
    (root / "validation_list.txt").write_text("yes/1_nohash_0.wav\nno/0_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/2_nohash_0.wav\n")
    return root


def test_speech_commands(commands):
    speech = load(commands, "speech-commands")

    def said(found):
        return [(u.text, u.name[-14:]) for u in found]

    assert said(speech.valid) == [("no", "0_nohash_0.wav"), ("yes", "1_nohash_0.wav")]
    assert said(speech.test) == [("yes", "2_nohash_0.wav")]
    assert [u.text for u in speech.train(5)] == ["no"] * 3 + ["yes"] * 2
    (commands / "testing_list.txt").write_text("yes/2_nohash_0.wav\nyes/9_nohash_0.wav\n")
    with pytest.raises(DataError, match=r"testing_list\.txt' line 2: no file 'yes/9_nohash_0\.wav"):
        load(commands, "speech-commands")
    list_file = commands / "testing_list.txt"
    list_file.write_text("yes/2_nohash_0.wav\n\n \n")
    assert len(load(commands, "speech-commands").test) == 1
    for line in ("./yes/3_nohash_0.wav", "yes//3_nohash_0.wav", "_background_noise_/hum.wav", "no"):
        list_file.write_text(line + "\n")
        with pytest.raises(DataError, match=r"testing_list\.txt' line 1: no file"):
            load(commands, "speech-commands")
    for line in ("yes/2_nohash_0.wav", "yes/1_nohash_0.wav"):  # here, and in the other list
        list_file.write_text(f"yes/2_nohash_0.wav\n{line}\n")
        with pytest.raises(DataError, match=r"testing_list\.txt' line 2: .* is listed before"):
            load(commands, "speech-commands")
    list_file.unlink()
    with pytest.raises(DataError, match=r"cannot read data file .*testing_list\.txt"):
        load(commands, "speech-commands")


@pytest.fixture
def books(tmp_path):
    for part, speaker in (("train-clean-100", 19), ("dev-clean", 84), ("test-clean", 61)):
        folder = tmp_path / "LibriSpeech" / part / str(speaker) / "198"
        for i in range(2):
            write(folder / f"{speaker}-198-000{i}.flac", tone(300, 0.1 + 0.1 * i))
        lines = [f"{speaker}-198-000{i} IT'S {speaker}\n" for i in range(2)]
        (folder / f"{speaker}-198.trans.txt").write_text("".join(lines))
    return tmp_path


def test_librispeech(books):
    speech = load(books, "librispeech")
    assert [(u.text, u.size) for u in speech.train(0)] == [("it's 19", 800), ("it's 19", 1600)]
    assert [u.text for u in speech.valid] == ["it's 84"] * 2
    assert [len(u.read()) for u in speech.test] == [800, 1600]
    assert load(books / "LibriSpeech", "librispeech").content == speech.content
    with pytest.raises(DataError, match=r"dev-other' does not exist"):
        load(books, "librispeech", valid_part="dev-other")
    chapter = books / "LibriSpeech" / "dev-clean" / "84" / "198"
    lines = (chapter / "84-198.trans.txt").read_text().splitlines()
    for wrong, told in (
        (lines[:1], r"has no text for 84-198-0001\.flac"),
        ([*lines, "84-198-0002 MORE"], r"line 3: no file '84-198-0002\.flac' beside it"),
        ([lines[0], "84-198-0001"], "line 2 must be a name and a text"),
    ):
        (chapter / "84-198.trans.txt").write_text("\n".join(wrong) + "\n")
        with pytest.raises(DataError, match=rf"84-198\.trans\.txt' {told}"):
            load(books, "librispeech")


def test_tables_of_ones_own(tmp_path):
    rows = ["audio\ttext"]
    for i in range(20):
        write(tmp_path / "sound" / f"{i}.wav", tone(300, 0.1))
        rows.append(f"sound/{i}.wav\tword  {i}")
    table = tmp_path / "all.tsv"
    table.write_text("\n".join(rows) + "\n")
    speech = load(table, "table")
    sides = [speech.train(0), speech.valid, speech.test]
    assert [len(found) for found in sides] == [16, 2, 2]
    assert sorted(u.text for found in sides for u in found) == sorted(
        f"word {i}" for i in range(20)
    )
    tested = load(table, "table", test_paths=(str(table),))
    assert [len(tested.train(0)), len(tested.valid), len(tested.test)] == [18, 2, 20]
    write(tmp_path / "sound" / "8.wav", torch.tensor([0.1, math.nan]), subtype="FLOAT")
    broken = next(u for u in load(table, "table", test_paths=(str(table),)).test if "8." in u.name)
    with pytest.raises(DataError, match=r"all\.tsv' line 10: .*8\.wav' holds samples that are not"):
        broken.read()
    (tmp_path / "sound" / "7.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"all\.tsv' line 9: .*7\.wav' is empty"):
        load(table, "table")
    table.write_text("audio\tsaid\na\tb\n")
    with pytest.raises(DataError, match="line 2 has no column 'text'"):
        load(table, "table")


@pytest.mark.parametrize(("most", "blank"), [(1, set()), (3, {" "})])
def test_every_digit_may_be_said_though_a_pass_lacks_some(digits, most, blank):
    speech = load(digits, sequences=2, digits=(1, most))
    assert len({w for u in speech.train(0) for w in u.text.split()}) < 10
    assert set(Alphabet.of(speech.said, "words").symbols) == set(DIGITS)
    letters = Alphabet.of(speech.said, "characters")
    assert set(letters.symbols) == set("".join(DIGITS)) | blank
    for passed in range(30):
        for u in speech.train(passed):
            letters.encode(u.text)


def test_alphabets():
    letters = Alphabet.of(["one", "two"], "characters")
    assert letters.symbols == tuple("enotw") and letters.size == 6
    assert letters.decode(letters.encode("two one".replace(" ", "")).tolist()) == "twoone"
    words = Alphabet.of(["one two", "two"], "words")
    assert words.encode("two two one").tolist() == [2, 2, 1]
    assert words.decode([2, 2, 1]) == "two two one"
    with pytest.raises(ValueError, match="'six' is none of the 2 words"):
        words.encode("one six")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"source": "timit"}, "source must be one of fsdd"),
        ({"digits": (3, 2)}, r"digits must be two numbers, the first not above the second"),
        ({"pause_s": (-1.0, 2.0)}, r"pause_s must be two numbers.* got \(-1.0, 2.0\)"),
        ({"digits": ()}, r"digits must be two numbers.* got \(\)"),
        ({"level_db": (-9.0,)}, r"level_db must be two numbers.* got \(-9.0,\)"),
        ({"noise_db": (-60.0, 3.0)}, r"noise_db must be two numbers.*\[-200, 0\], got"),
        ({"speeds": ()}, r"speeds must lie in \[0.1, 10\], one at least, got \(\)"),
        ({"eval_beam": 0}, "eval_beam must be at least 1, got 0"),
        ({"source": "fsdd", "test_paths": ("a",)}, "test_paths must be empty for 'fsdd'"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        SpeechData(**fields)
    with pytest.raises(DataError, match="name it with --data"):
        load_speech(SpeechData(), RATE, 0)
