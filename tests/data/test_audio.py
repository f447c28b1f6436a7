import math

import pytest
import torch
from tests.sounds import RATE, tone, write

from torchsru.data import DataError
from torchsru.data.audio import count_samples, read_audio, write_audio


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
def test_samples_come_back_from_a_file(tmp_path, suffix):
    samples = tone(440, 0.1)
    file = tmp_path / f"a.{suffix}"
    write_audio(file, samples, RATE)
    found = read_audio(file, RATE)
    assert found.dtype == torch.float32 and count_samples(file, RATE) == len(found) == 800
    assert (found - samples).abs().max() <= 2**-15  # 16 bits


def test_what_is_above_full_scale_is_cut_off(tmp_path):
    write_audio(tmp_path / "a.wav", torch.tensor([0.5, 3.0, -3.0]), RATE)
    assert read_audio(tmp_path / "a.wav", RATE).tolist() == pytest.approx([0.5, 1, -1], abs=1e-4)


@pytest.mark.parametrize("rate", [16_000, 11_025, 4_000])
def test_another_rate_is_refused_or_converted(tmp_path, rate):
    file = write(tmp_path / "a.wav", tone(440, 0.5, rate=rate), rate)
    for act in (read_audio, count_samples):
        with pytest.raises(DataError, match=rf"a\.wav' must have 8,000 samples .*, got {rate:,}"):
            act(file, RATE)
    found = read_audio(file, RATE, resample=True)
    assert abs(len(found) - 4000) <= 1 and abs(count_samples(file, RATE, resample=True) - 4000) <= 1
    expected = tone(440, 0.5)[: len(found)]
    assert (found[: len(expected)] - expected).abs().max() < 0.01
    other = tone(441, 0.5)[: len(found)]
    assert (found[: len(other)] - other).abs().max() > 0.1  # such a bar tells two pitches apart


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda file: file.write_text("hello"), "can't be read as sound"),
        (lambda file: file.write_bytes(b""), "can't be read as sound"),
        (lambda file: write(file, torch.zeros(0)), "holds no samples"),
        (lambda file: write(file, torch.zeros(80, 2)), "must have one channel, got 2"),
        (
            lambda file: write(file, torch.tensor([0.0, math.nan]), subtype="FLOAT"),
            "holds samples that are not finite",
        ),
        (lambda file: file.mkdir(), "Is a directory"),
        (lambda file: None, "No such file"),
    ],
)
def test_bad_files_are_named(tmp_path, make, told):
    file = tmp_path / "a.wav"
    make(file)
    with pytest.raises(DataError, match=rf"a\.wav'.*{told}"):
        read_audio(file, RATE)


def test_a_truncated_file_is_refused(tmp_path):
    file = tmp_path / "a.flac"
    write_audio(file, tone(440, 1) + 0.01 * torch.randn(RATE), RATE)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a\.flac'"):
        read_audio(file, RATE)


def test_an_unknown_suffix_can_not_be_written(tmp_path):
    with pytest.raises(DataError, match=r"a\.text' can't be written as sound"):
        write_audio(tmp_path / "a.text", torch.zeros(8), RATE)
