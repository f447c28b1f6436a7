import math

import pytest
import torch
from tests.sounds import RATE, tone, write, write_digits

from torchsru.data import DataError
from torchsru.data.noise import DenoisingData, load_mixtures, make_noise, part_of


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("fsdd"))


def load(path, seed=0, **fields):
    fields = {"source": "fsdd", "sequences": 24, "heldout": 12, "batch": 4, **fields}
    return load_mixtures(DenoisingData(paths=(str(path),), **fields), RATE, seed)


def level(pair):
    noise = pair.noisy - pair.clean
    return 10 * math.log10(pair.clean.square().sum() / noise.square().sum())


def test_mixtures_have_the_level_that_they_state(digits):
    mixtures = load(digits)
    for found in (mixtures.train(0), mixtures.valid, mixtures.test):
        for mixture in found:
            pair = mixture.read()
            assert pair.noisy.shape == pair.clean.shape == (mixture.size,)
            assert level(pair) == pytest.approx(mixture.snr_db, abs=0.05)
    train = mixtures.train(0)
    assert len(train) == 24 and {m.noise for m in train} == {"white", "pink", "speakers"}
    assert all(-5 <= m.snr_db <= 10 for m in train)
    grid = {(m.noise, m.snr_db) for m in mixtures.test}
    assert grid == {(n, s) for n in ("white", "pink", "speakers") for s in (-5.0, 0.0, 5.0, 10.0)}


def test_passes_and_seeds_draw_anew_and_held_out_mixtures_stay(digits):
    a, b = load(digits), load(digits, seed=1)
    first = a.train(0)[0].read()
    assert torch.equal(first.noisy, load(digits).train(0)[0].read().noisy)
    for other in (a.train(1)[0], b.train(0)[0]):
        assert not torch.equal(first.noisy, other.read().noisy)
    for x, y in zip(a.test, b.test, strict=True):
        assert torch.equal(x.read().noisy, y.read().noisy)
    assert not torch.equal(a.test[0].read().clean, a.valid[0].read().clean)


def test_noises_are_what_they_are_called():
    size = 1 << 16
    white, pink = (make_noise(kind, size, seed=0) for kind in ("white", "pink"))
    for samples, slope in ((white, 0.0), (pink, -1.0)):
        power = torch.fft.rfft(samples).abs().square()
        octaves = [power[2**k : 2 ** (k + 1)].mean().log2().item() for k in range(6, 15)]
        fitted = (octaves[-1] - octaves[0]) / 8
        assert fitted == pytest.approx(slope, abs=0.1)
    loud, faint = tone(300, 0.1, 0.5), tone(500, 0.1, 0.01)
    both = make_noise("speakers", 1600, seed=0, voices=[lambda: loud, lambda: faint])
    expected = loud / loud.square().mean().sqrt() + faint / faint.square().mean().sqrt()
    torch.testing.assert_close(both, torch.cat([expected, expected]))  # repeated: twice as long
    ramp = torch.arange(100.0)
    part = make_noise("file", 40, seed=0, file=lambda: ramp)
    torch.testing.assert_close(part - part[0], torch.arange(40.0))
    assert make_noise("file", 250, seed=0, file=lambda: ramp).tolist() == (
        ramp.tolist() * 2 + ramp[:50].tolist()
    )


def test_competing_speakers_are_others_of_the_training_part(digits):
    """A voice here is a pitch 2 % from the next: the noise is made of none of the held-out ones."""
    mixtures = load(digits, noises=("speakers",), voices=1, digits=(1, 1), pause_s=(0.0, 0.0))
    pitches = {
        round(250 * 1.27**d * (1 + 0.02 * (s - 1)), 1): s for d in range(10) for s in range(4)
    }

    def speaker_of(samples):
        spectrum = torch.fft.rfft(samples, 1 << 16).abs()
        found = spectrum.argmax().item() * RATE / (1 << 16)
        return pitches[min(pitches, key=lambda p: abs(p - found))]

    for mixture in mixtures.train(0):
        pair = mixture.read()
        target, other = speaker_of(pair.clean), speaker_of(pair.noisy - pair.clean)
        assert {target, other} == {1, 2}  # ann chooses, theo is tested on
    for mixture in mixtures.test:
        pair = mixture.read()
        assert speaker_of(pair.clean) == 3 and speaker_of(pair.noisy - pair.clean) in (1, 2)


def test_files_of_ones_own(tmp_path):
    for i in range(12):
        write(tmp_path / "speech" / f"{i}.wav", tone(200 + 50 * i, 0.5))
    write(tmp_path / "noise" / "hum.wav", tone(50, 0.2))
    fields = {
        "source": "files",
        "noises": ("file", "speakers"),
        "noise_paths": (str(tmp_path / "noise"),),
        "seconds": 0.25,
    }
    mixtures = load(tmp_path / "speech", **fields)
    assert [len(m) for m in (mixtures.train(0), mixtures.valid, mixtures.test)] == [10, 12, 12]
    held = [load(tmp_path / "speech", **fields, heldout=n).test for n in (1, 5)]
    assert [len(m) for m in held] == [1, 5]
    grid = {(m.noise, m.snr_db) for m in mixtures.test}
    assert len(grid) == 8  # each level with each noise
    for mixture in (*mixtures.train(0), *mixtures.valid, *mixtures.test):
        pair = mixture.read()
        assert len(pair.clean) == mixture.size == 2000
        assert level(pair) == pytest.approx(mixture.snr_db, abs=0.05)
    parts = [load(tmp_path / "speech", **fields).train(p)[0].read().clean for p in (0, 1)]
    assert not torch.equal(*parts)  # another part of the file in another pass
    write(tmp_path / "noise" / "none.wav", torch.zeros(0))
    with pytest.raises(DataError, match=r"none\.wav' holds no samples"):
        load(tmp_path / "speech", **fields)
    write(tmp_path / "noise" / "none.wav", torch.zeros(9))
    with pytest.raises(DataError, match=r"none\.wav' is silent"):
        load(tmp_path / "speech", **fields)
    with pytest.raises(DataError, match="must hold 4 files of speech at least, got 2"):
        load(tmp_path / "noise", source="files")


@pytest.mark.parametrize("recordings", [3, 4, 20])
def test_recorded_noise_is_held_out_as_speech_is(tmp_path, recordings):
    """Each recording has a pitch of its own; fewer than four are heard on all sides."""
    pitches = [1000 + 100 * i for i in range(recordings)]
    for i, pitch in enumerate(pitches):
        write(tmp_path / "noise" / f"{i}.wav", tone(pitch, 0.3))
    for i in range(40):
        write(tmp_path / "speech" / f"{i}.wav", tone(300, 0.2))
    mixtures = load(
        tmp_path / "speech",
        source="files",
        noises=("file",),
        noise_paths=(str(tmp_path / "noise"),),
        heldout=60,
    )

    def heard(side):
        found = set()
        for mixture in side:
            noisy, clean = mixture.read()
            peak = torch.fft.rfft(noisy - clean).abs().argmax().item() * RATE / mixture.size
            found.add(min(pitches, key=lambda pitch: abs(pitch - peak)))
        return found

    train = heard([m for passed in range(4) for m in mixtures.train(passed)])
    valid, test = heard(mixtures.valid), heard(mixtures.test)
    if recordings == 3:
        assert train == valid == test == set(pitches)
    else:
        tenth = max(1, recordings // 10)
        assert len(valid) == len(test) == tenth
        assert train == set(pitches) - valid - test and not valid & test


def test_silent_stretches_are_passed_over(tmp_path):
    """Nine tenths of each recording are digital silence."""
    for i in range(8):
        silence = torch.zeros(3600)
        write(tmp_path / "speech" / f"{i}.wav", torch.cat([silence, tone(300, 0.1), silence]))
    write(tmp_path / "hum.wav", torch.cat([torch.zeros(7200), tone(50, 0.1)]))
    fields = {
        "source": "files",
        "noises": ("file", "speakers"),
        "noise_paths": (str(tmp_path / "hum.wav"),),
        "seconds": 0.1,
    }
    mixtures = load(tmp_path / "speech", **fields)
    for mixture in (*mixtures.train(0), *mixtures.train(1), *mixtures.test):
        pair = mixture.read()
        assert len(pair.clean) == mixture.size == 800
        assert level(pair) == pytest.approx(mixture.snr_db, abs=0.1)
    write(tmp_path / "speech" / "8.wav", torch.zeros(4000))
    with pytest.raises(DataError, match=r"8\.wav' is silent"):
        load(tmp_path / "speech", **fields)


def test_the_nearest_sound_behind_a_silence_is_taken():
    samples = torch.zeros(100)
    samples[20], samples[70] = 0.2, 0.7
    for start, held, begins in ((15, 0.2, 15), (30, 0.7, 65), (80, 0.7, 65), (0, 0.2, 15)):
        part = part_of(samples, 10, start)
        assert torch.equal(part, samples[begins : begins + 10])
        assert part.max().item() == pytest.approx(held)
    assert part_of(torch.zeros(100), 10, 3).tolist() == [0.0] * 10


def test_one_speaker_has_no_competitor(tmp_path):
    for speaker in ("ann", "bob", "cid"):
        write(tmp_path / f"1_{speaker}_0.wav", tone(300, 0.1))
    with pytest.raises(DataError, match=r"'speakers' needs two speakers at least.* leaves 1"):
        load(tmp_path, speaker="cid")
    assert load(tmp_path, speaker="cid", noises=("white",)).test


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"source": "voicebank"}, "source must be one of fsdd, files, got 'voicebank'"),
        ({"noises": ("brown",)}, "noises must be some of white, .*got"),
        ({"noises": ()}, "noises must be some of"),
        ({"noises": ("file",)}, "noise_paths must name files if, and only if"),
        ({"noise_paths": ("a",)}, "noise_paths must name files if, and only if"),
        ({"snr_db": (5.0,)}, "snr_db must be the lowest, then the highest"),
        ({"digits": ()}, "digits must be two numbers"),
        ({"snr_db": (5.0, 0.0)}, "snr_db must be the lowest, then the highest"),
        ({"eval_snr_db": ()}, r"eval_snr_db must lie in \[-100, 100\], one at least"),
        ({"digits": (2, 1)}, "digits must be two numbers"),
        ({"seconds": 0.0}, r"seconds must lie in \(0, 3600\], got 0.0"),
        ({"voices": 0}, "voices must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        DenoisingData(**fields)
    with pytest.raises(DataError, match="name it with --data"):
        load_mixtures(DenoisingData(), RATE, 0)
