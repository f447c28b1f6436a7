import io
import math

import pytest
import torch
from tests.sounds import RATE, tone, write

from torchsru.data import DataError
from torchsru.data.audio import (
    audio_writer,
    check_audible,
    count_samples,
    decode_audio,
    encode_audio,
    read_audio,
    to_int16,
    write_audio,
)


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
        (lambda file: file.write_bytes(b""), "is empty"),
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


@pytest.mark.parametrize("suffix", ["ogg", "mp3", ""])
def test_a_format_of_other_samples_is_refused_before_it_is_opened(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    with pytest.raises(DataError, match=r"format of 16-bit samples \(wav, flac"):
        write_audio(file, torch.zeros(8), RATE)
    assert not file.exists()


def test_a_file_without_a_length_is_refused(tmp_path):
    """As an encoder leaves it that writes to a pipe: STREAMINFO states no samples."""
    file = tmp_path / "a.flac"
    write_audio(file, tone(440, 0.1), RATE)
    content = bytearray(file.read_bytes())
    assert content[4] & 127 == 0  # STREAMINFO; 36 bits of it count the samples
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    file.write_bytes(content)
    for act in (read_audio, count_samples):
        with pytest.raises(DataError, match=r"a\.flac' must state its length"):
            act(file, RATE)


def test_all_that_is_written_is_rounded_alike(tmp_path):
    samples = torch.tensor([0.4, 0.6, -0.4, -0.6, 1.4, 40_000.0, -40_000.0]) / 32768
    expected = [0, 1, 0, -1, 1, 32767, -32768]
    assert to_int16(samples).tolist() == expected
    for suffix in ("wav", "flac"):
        write_audio(tmp_path / f"a.{suffix}", samples, RATE)
        assert (read_audio(tmp_path / f"a.{suffix}", RATE) * 32768).tolist() == expected
    found = decode_audio(io.BytesIO(encode_audio(samples, RATE)), "a", RATE)
    assert (found * 32768).tolist() == expected


def test_what_was_written_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), audio_writer(tmp_path / "a.wav", RATE) as write_some:
        write_some(tone(440, 0.1))
        raise KeyboardInterrupt
    assert count_samples(tmp_path / "a.wav", RATE) == 800


def test_a_file_that_is_silent_as_a_whole_is_told_from_one_that_is_not(tmp_path):
    samples = torch.zeros(70_000)
    with pytest.raises(DataError, match=r"a\.wav' is silent"):
        check_audible(write(tmp_path / "a.wav", samples), RATE)
    samples[-1] = 2**-15
    check_audible(write(tmp_path / "b.wav", samples), RATE)
    samples[100] = math.nan
    with pytest.raises(DataError, match=r"c\.wav' holds samples that are not finite"):
        check_audible(write(tmp_path / "c.wav", samples, subtype="FLOAT"), RATE)
