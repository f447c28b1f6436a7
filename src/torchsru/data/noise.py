"""Speech under noise at known levels: what a denoiser learns from.

Speech   fsdd: sequences of spoken digits, as torchsru.data.speech draws them, a speaker held out;
         files: sound files of one's own, a tenth of them held out twice
Noise    white; pink, whose power falls as 1 / frequency; speakers: others of those that are trained
         on, all at once; file: a part of a recording, of four or more a tenth of them held out
         twice. Drawn from the seed
Level    10 log10 of the speech's energy over the noise's, in dB, over the whole mixture
Silence  where a part that was drawn holds no sound, the nearest that does takes its place; a file
         that is silent as a whole is refused
Errors   name the file
Check    tests/data/test_noise.py
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from torchsru.data.audio import (
    QUIET,
    check_audible,
    count_samples,
    is_silent,
    read_audio,
)
from torchsru.data.files import files_of
from torchsru.data.progress import tracked
from torchsru.data.speech import SpeechData, Utterance, draw_sequences, fsdd_sides
from torchsru.data.texts import DataError

Source = Literal["fsdd", "files"]
Noise = Literal["white", "pink", "speakers", "file"]
T = TypeVar("T")
FEWEST = 4  # files of which some are held out
SILENT = -200.0  # dB: no noise under the sequences themselves


@dataclass(frozen=True, kw_only=True)
class DenoisingData:
    """Which speech under which noise a denoiser learns from and is judged on, in what batches."""

    source: Source = "files"
    """"fsdd": sequences of spoken digits; "files": sound files of clean speech."""
    paths: tuple[str, ...] = ()
    """The folder of fsdd; files and folders of clean speech."""
    noise_paths: tuple[str, ...] = ()
    """Files and folders of recorded noise, for the noise "file"; of four or more, those that are
    evaluated on are not trained on."""
    noises: tuple[Noise, ...] = ("white", "pink", "speakers")
    """Noises, each as often as the others: "white", "pink", "speakers", "file"."""
    voices: int = 3
    """Competing speakers of the noise "speakers", or as many as there are."""
    snr_db: tuple[float, float] = (-5.0, 10.0)
    """Lowest and highest level of speech over noise to train on."""
    eval_snr_db: tuple[float, ...] = (-5.0, 0.0, 5.0, 10.0)
    """Levels to evaluate on, each with each noise in turn."""
    seconds: float = 4.0
    """files: longest part of a file that is a mixture."""
    resample: bool = False
    """Bring files of another rate to the model's, in place of refusing them."""
    speaker: str = "theo"
    """fsdd: who is tested on; the next one by name chooses the model."""
    digits: tuple[int, int] = (1, 4)
    """fsdd: fewest and most digits of a sequence."""
    pause_s: tuple[float, float] = (0.0, 0.3)
    """fsdd: shortest and longest pause, before, between and after the digits."""
    level_db: tuple[float, float] = (-35.0, -20.0)
    """fsdd: lowest and highest root mean square of a sequence's digits, full scale being 0."""
    sequences: int = 500
    """fsdd: mixtures that are drawn for each pass."""
    heldout: int = 120
    """Mixtures that are drawn to evaluate on; of files each is as often in them as the others."""
    batch: int = 16
    """B, mixtures per optimiser step, all devices together."""
    eval_batch: int = 16
    """Mixtures per step of an evaluation."""

    # what they hold is compared when a run goes on, not where it is
    locations: ClassVar[tuple[str, ...]] = ("paths", "noise_paths")

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(
                f"source must be one of {', '.join(get_args(Source))}, got {self.source!r}"
            )
        if not self.noises or set(self.noises) - set(get_args(Noise)):
            raise ValueError(
                f"noises must be some of {', '.join(get_args(Noise))}, got {self.noises}"
            )
        for name in ("voices", "sequences", "heldout", "batch", "eval_batch"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds must lie in (0, 3600], got {self.seconds}")
        for name in ("snr_db", "eval_snr_db"):
            levels = getattr(self, name)
            if not levels or not all(-100 <= level <= 100 for level in levels):
                raise ValueError(f"{name} must lie in [-100, 100], one at least, got {levels}")
        if len(self.snr_db) != 2 or self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db must be the lowest, then the highest, got {self.snr_db}")
        if ("file" in self.noises) != bool(self.noise_paths):
            raise ValueError(
                f"noise_paths must name files if, and only if, noises holds 'file': got "
                f"{self.noise_paths} beside {self.noises}"
            )
        _ = self.speech  # raises naming the field

    @property
    def speech(self) -> SpeechData:
        """What the sequences of digits are drawn by."""
        return SpeechData(
            source="fsdd",
            resample=self.resample,
            speaker=self.speaker,
            digits=self.digits,
            pause_s=self.pause_s,
            level_db=self.level_db,
            noise_db=(SILENT, SILENT),
        )


class Pair(NamedTuple):
    """A mixture and the speech in it, float32 [N] each."""

    noisy: Tensor
    clean: Tensor


@dataclass(frozen=True)
class Mixture:
    """Speech under noise."""

    noise: str
    """Which one of `DenoisingData.noises`."""
    snr_db: float
    """Level of speech over noise."""
    size: int
    """N, samples."""
    read: Callable[[], Pair]
    """Raises DataError."""


@dataclass(frozen=True)
class Mixtures:
    """Mixtures of each side."""

    train: Callable[[int], Sequence[Mixture]]
    """From the number of a pass to its mixtures."""
    valid: Sequence[Mixture]
    test: Sequence[Mixture]
    content: str
    """Hash of what they follow from: of fsdd all samples, of other files names and lengths."""

    def side(self, name: str) -> Sequence[Mixture]:
        """ "valid" or "test"."""
        return self.valid if name == "valid" else self.test


#: Someone who can be asked to speak: from a seed to an utterance.
Voice = Callable[[str], Utterance]


def load_mixtures(data: DenoisingData, rate: int, seed: int) -> Mixtures:
    """Find and check speech and noise. Raises DataError naming the file.

    Args:
        rate: samples per second.
        seed: of what is drawn to train on.
    """
    if not data.paths:
        raise DataError(f"source {data.source!r} is not part of the package: name it with --data")
    sides, content = digit_voices(data, rate) if data.source == "fsdd" else file_voices(data, rate)
    found = [file for path in data.noise_paths for file in files_of(Path(path))]
    sizes = sizes_of(found, rate, data.resample)
    content += json.dumps([(file.name, size) for file, size in zip(found, sizes, strict=True)])
    recordings = [partial(read_sound, file, rate, data.resample) for file in found]
    enough = len(recordings) >= FEWEST
    noise_files = hold_out(recordings) if enough else dict.fromkeys(sides, recordings)
    others = sides["train"]
    if "speakers" in data.noises and len(others) < 2:
        raise DataError(
            f"the noise 'speakers' needs two speakers at least to train on, and "
            f"{', '.join(data.paths)} leaves {len(others)}"
        )

    def draw(side: str, name: str) -> list[Mixture]:
        voices, rng = sides[side], random.Random(name)
        if data.source == "fsdd":
            count = data.sequences if side == "train" else data.heldout
            voices = [rng.choice(voices) for _ in range(count)]
        elif side != "train":
            rounds = -(-data.heldout // len(voices))
            turns = [rng.sample(voices, len(voices)) for _ in range(rounds)]
            voices = [voice for turn in turns for voice in turn][: data.heldout]
        found = []
        for i, voice in enumerate(voices):
            if side == "train":
                noise, level = rng.choice(data.noises), rng.uniform(*data.snr_db)
            else:
                at, which = divmod(i, len(data.noises))
                noise = data.noises[which]
                level = data.eval_snr_db[at % len(data.eval_snr_db)]
            clean = voice(f"{name}/{i}")
            talking: list[Voice] = []
            if noise == "speakers":  # one more than needed, in case that the speaker is among them
                drawn = rng.sample(others, min(data.voices + 1, len(others)))
                talking = [other for other in drawn if other is not voice][: data.voices]
            make = partial(
                make_noise,
                noise,
                clean.size,
                seed=rng.getrandbits(63),
                voices=[v(f"{name}/{i}/{k}").read for k, v in enumerate(talking)],
                file=rng.choice(noise_files[side]) if noise == "file" else None,
            )
            found.append(Mixture(noise, level, clean.size, partial(mix, clean, make, level)))
        return found

    return Mixtures(
        lambda passed: draw("train", f"{seed}/{passed}"),
        draw("valid", "valid"),
        draw("test", "test"),
        hashlib.sha256(content.encode()).hexdigest(),
    )


def digit_voices(data: DenoisingData, rate: int) -> tuple[dict[str, list[Voice]], str]:
    """{side: its speakers} of fsdd, and a hash. Raises DataError."""
    if len(data.paths) > 1:
        raise DataError(f"source 'fsdd' takes one folder, got {', '.join(data.paths)}")
    sides, content = fsdd_sides(Path(data.paths[0]), data.speech, rate)

    def voice_of(clips: list) -> Voice:
        return lambda seed: draw_sequences([clips], data.speech, rate, 1, seed)[0]

    return {side: [voice_of(clips) for clips in found] for side, found in sides.items()}, content


def file_voices(data: DenoisingData, rate: int) -> tuple[dict[str, list[Voice]], str]:
    """{side: its files}, which are chosen by a fixed seed, and a hash. Raises DataError."""
    files = [file for path in data.paths for file in files_of(Path(path))]
    if len(files) < FEWEST:
        raise DataError(
            f"{', '.join(data.paths)} must hold {FEWEST} files of speech at least, got {len(files)}"
        )
    most = round(data.seconds * rate)
    sizes = sizes_of(files, rate, data.resample)

    def voice_of(file: Path, size: int) -> Voice:
        def speak(seed: str) -> Utterance:
            share = random.Random(seed).random()
            read = partial(read_part, file, rate, data.resample, most, share)
            return Utterance("", str(file), min(size, most), read)

        return speak

    voices = [voice_of(file, size) for file, size in zip(files, sizes, strict=True)]
    return hold_out(voices), json.dumps(
        [(f.name, size) for f, size in zip(files, sizes, strict=True)]
    )


def hold_out(items: Sequence[T]) -> dict[str, list[T]]:
    """{side: its items}: a tenth of them, one at least, for each that is evaluated on; by a fixed
    seed."""
    mixed = random.Random("heldout").sample(items, len(items))
    tenth = max(1, len(mixed) // 10)
    return {"valid": mixed[:tenth], "test": mixed[tenth : 2 * tenth], "train": mixed[2 * tenth :]}


def read_part(file: Path, rate: int, resample: bool, most: int, share: float) -> Tensor:
    """At most so many samples of a file, float32, not all of them silent; `share`: where, 0 at its
    start, 1 at its end. Raises DataError."""
    samples = read_sound(file, rate, resample)
    return part_of(samples, most, round(share * max(0, len(samples) - most)))


def read_sound(file: Path, rate: int, resample: bool) -> Tensor:
    """The samples of a file. Raises DataError if all are silent."""
    samples = read_audio(file, rate, resample=resample)
    if is_silent(samples):
        raise DataError(f"{str(file)!r} is silent")
    return samples


def sizes_of(files: Sequence[Path], rate: int, resample: bool) -> list[int]:
    """Samples of each file. Raises DataError naming one that is silent as a whole."""
    found = []
    for file in tracked(files, "checking files"):
        found.append(count_samples(file, rate, resample=resample))
        check_audible(file, rate, resample=resample)
    return found


def part_of(samples: Tensor, most: int, start: int) -> Tensor:
    """At most so many samples from `start` on; if all of those are silent, as many around the next
    sound behind them, or the last one there is."""
    part = samples[start : start + most]
    if not is_silent(part) or is_silent(samples):
        return part
    sounds = (samples.abs() > QUIET).nonzero()[:, 0]
    at = int(sounds[min(int((sounds < start).sum()), len(sounds) - 1)])
    start = max(0, min(at - most // 2, len(samples) - most))
    return samples[start : start + most]


def mix(clean: Utterance, make: Callable[[], Tensor], snr_db: float) -> Pair:
    """The speech, and the speech with the noise at this level. Raises DataError if either is
    silent."""
    speech, noise = clean.read(), make()
    noise = noise[: len(speech)]  # a converted file may have a sample less than was expected
    speech = speech[: len(noise)]
    for what, energy in (("speech", speech.square().sum()), ("noise", noise.square().sum())):
        if not energy:
            under = "under " if what == "noise" else ""
            raise DataError(f"the {what} of a mixture is silent: {under}{clean.name}")
    ratio = (speech.square().sum() / noise.square().sum()).sqrt()
    return Pair(speech + 10 ** (-snr_db / 20) * ratio * noise, speech)


def make_noise(
    kind: str,
    size: int,
    *,
    seed: int,
    voices: Sequence[Callable[[], Tensor]] = (),
    file: Callable[[], Tensor] | None = None,
) -> Tensor:
    """Noise of any level, float32 [size].

    Args:
        kind: one of `DenoisingData.noises`.
        voices: speakers: who talks, all equally loud.
        file: file: the recording; a part of it is taken, and one that is short is repeated.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "file" and file is not None:
        found = file()
        last = max(1, len(found) - size + 1)
        start = int(torch.randint(last, (), generator=generator))
        return repeated(part_of(found, size, start), size)
    if kind == "speakers":
        together = [repeated(part_of(voice(), size, 0), size) for voice in voices]
        return torch.stack([t / t.square().mean().sqrt().clamp(min=1e-9) for t in together]).sum(0)
    white = torch.randn(size, generator=generator)
    if kind == "white":
        return white
    spectrum = torch.fft.rfft(white)
    spectrum[1:] /= torch.arange(1, len(spectrum)).sqrt()
    return torch.fft.irfft(spectrum, size)


def repeated(samples: Tensor, size: int) -> Tensor:
    """The first `size` samples of the sound, again and again."""
    return samples.repeat(-(-size // len(samples)))[:size]
