"""Speech and what is said in it: spoken digits, Speech Commands, LibriSpeech, and one's own.

fsdd             Free Spoken Digit Dataset: {digit}_{speaker}_{index}.wav. Clips of one speaker are
                 strung into sequences, with pauses, at a level, over noise, all drawn from the
                 seed; one speaker is tested on, the next by name chooses the model: those two
                 parts are the same for every seed
speech-commands  WORD/*.wav, validation_list.txt, testing_list.txt (Warden 2018, arXiv 1804.03209)
librispeech      PART/SPEAKER/CHAPTER/*.trans.txt and .flac (Panayotov et al. 2015)
table            .csv, .tsv or .jsonl; columns audio (a path, from the table's folder) and text
Errors           name the file, and the line of a list; every file's header is read at the start
Check            tests/data/test_speech.py
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsru.data.audio import count_samples, read_audio
from torchsru.data.classification import lines_of, read_table
from torchsru.data.progress import tracked
from torchsru.data.texts import DataError, unreadable

Source = Literal["fsdd", "speech-commands", "librispeech", "table"]
Units = Literal["characters", "words"]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FSDD_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
AUDIO, TEXT = "audio", "text"  # columns of a table


@dataclass(frozen=True, kw_only=True)
class SpeechData:
    """Which speech a recogniser learns from, which it is judged on, in what batches."""

    source: Source = "table"
    """"fsdd", "speech-commands", "librispeech": the published sets; "table": .csv, .tsv or .jsonl
    files with the columns audio and text."""
    paths: tuple[str, ...] = ()
    """The folder of a published set; of "table" the files to train on."""
    test_paths: tuple[str, ...] = ()
    """table: files to test on; without them one utterance of ten is held out for it."""
    units: Units = "characters"
    """What the recogniser writes one by one: characters, or whole words, of which it then knows
    those that it was trained on."""
    resample: bool = False
    """Bring files of another rate to the model's, in place of refusing them."""
    speaker: str = "theo"
    """fsdd: who is tested on; the next one by name chooses the model."""
    digits: tuple[int, int] = (1, 7)
    """fsdd: fewest and most digits of a sequence."""
    pause_s: tuple[float, float] = (0.0, 0.4)
    """fsdd: shortest and longest pause, before, between and after the digits."""
    level_db: tuple[float, float] = (-45.0, -20.0)
    """fsdd: lowest and highest root mean square of a sequence's digits, full scale being 0."""
    noise_db: tuple[float, float] = (-100.0, -60.0)
    """fsdd: the same of white noise under each sequence; at -100 dB rounding to 16 bits is as loud:
    the pauses may be as silent as those of a file from which the noise was cut."""
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """fsdd: sequences to train on are played at one of these speeds, which changes their pitch too
    (Ko et al. 2015, "Audio augmentation for speech recognition")."""
    sequences: int = 1000
    """fsdd: sequences that are drawn for each pass."""
    heldout: int = 200
    """fsdd: sequences that are drawn to evaluate on."""
    parts: tuple[str, ...] = ("train-clean-100",)
    """librispeech: parts to train on."""
    valid_part: str = "dev-clean"
    """librispeech: the part that chooses the model."""
    test_part: str = "test-clean"
    """librispeech: the part that is tested on."""
    batch: int = 32
    """B, utterances per optimiser step, all devices together."""
    eval_batch: int = 32
    """Utterances per step of an evaluation."""
    eval_beam: int = 8
    """Prefixes that the search of `torchsru eval` keeps."""

    # what they hold is compared when a run goes on, not where it is
    locations: ClassVar[tuple[str, ...]] = ("paths", "test_paths")

    def __post_init__(self) -> None:
        for name, allowed in (("source", get_args(Source)), ("units", get_args(Units))):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name in ("sequences", "heldout", "batch", "eval_batch", "eval_beam"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, least, most in (
            ("digits", 1, 10**6),
            ("pause_s", 0, 3600),
            ("level_db", -120, 0),
            ("noise_db", -200, 0),
        ):
            found = getattr(self, name)
            if len(found) != 2 or not least <= found[0] <= found[1] <= most:
                raise ValueError(
                    f"{name} must be two numbers, the first not above the second, in "
                    f"[{least}, {most}], got {found}"
                )
        if not self.speeds or not all(0.1 <= speed <= 10 for speed in self.speeds):
            raise ValueError(f"speeds must lie in [0.1, 10], one at least, got {self.speeds}")
        if self.test_paths and self.source != "table":
            raise ValueError(
                f"test_paths must be empty for {self.source!r}, which has a test part of its own, "
                f"got {self.test_paths}"
            )


@dataclass(frozen=True)
class Utterance:
    """Sound, and the words in it."""

    text: str
    name: str
    """For errors: the file, or how it was drawn."""
    size: int
    """N, samples."""
    read: Callable[[], Tensor]
    """float32 [N]; raises DataError."""


@dataclass(frozen=True)
class Speech:
    """Utterances of each side."""

    train: Callable[[int], Sequence[Utterance]]
    """From the number of a pass to its utterances."""
    valid: Sequence[Utterance]
    test: Sequence[Utterance]
    content: str
    """Hash of what they follow from: of fsdd all samples, else names, lengths and texts."""
    said: Sequence[str]
    """Texts that hold all which may be said in any pass to train on."""

    def side(self, name: str) -> Sequence[Utterance]:
        """ "valid" or "test"."""
        return self.valid if name == "valid" else self.test


@dataclass(frozen=True)
class Alphabet:
    """What a recogniser writes; number 0 is CTC's blank, number i the symbol i - 1."""

    symbols: tuple[str, ...]
    units: Units

    @classmethod
    def of(cls, texts: Iterable[str], units: Units) -> "Alphabet":
        """All that occurs in the texts, sorted."""
        return cls(tuple(sorted({unit for text in texts for unit in cut(text, units)})), units)

    @property
    def size(self) -> int:
        """C, with the blank."""
        return len(self.symbols) + 1

    @cached_property
    def _places(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols, 1)}

    @property
    def joiner(self) -> str:
        """What stands between two symbols in a text."""
        return " " if self.units == "words" else ""

    def encode(self, text: str) -> Tensor:
        """The numbers of a text, int64 [U]. Raises ValueError naming a symbol that is unknown."""
        try:
            ids = [self._places[unit] for unit in cut(text, self.units)]
        except KeyError as error:
            raise ValueError(
                f"{error} is none of the {len(self.symbols)} {self.units} that are trained on"
            ) from error
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of numbers without blanks."""
        return self.joiner.join(self.symbols[i - 1] for i in ids)


def cut(text: str, units: Units) -> list[str]:
    """A text's characters or words."""
    return text.split() if units == "words" else list(text)


def load_speech(data: SpeechData, rate: int, seed: int) -> Speech:
    """Find, check and split. Raises DataError naming the file, and the line of a list.

    Args:
        rate: samples per second.
        seed: of what is drawn to train on.
    """
    if not data.paths:
        raise DataError(f"source {data.source!r} is not part of the package: name it with --data")
    if data.source == "table":
        return table_speech(data, rate)
    if len(data.paths) > 1:
        raise DataError(f"source {data.source!r} takes one folder, got {', '.join(data.paths)}")
    root = Path(data.paths[0])
    if not root.is_dir():
        raise DataError(f"{str(root)!r} must be the folder of {data.source}, and is none")
    match data.source:
        case "fsdd":
            return fsdd(root, data, rate, seed)
        case "speech-commands":
            return speech_commands(root, data, rate)
        case _:
            return librispeech(root, data, rate)


def fixed(sides: dict[str, list[Utterance]], where: str) -> Speech:
    """Speech whose passes are all the same. Raises DataError if a side is empty."""
    if empty := [side for side, found in sides.items() if not found]:
        raise DataError(f"{where} holds no utterances for {' and '.join(empty)}")
    whole = {
        side: [(u.name.rpartition("/")[2], u.size, u.text) for u in found]
        for side, found in sides.items()
    }
    content = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
    said = [u.text for u in sides["train"]]
    return Speech(lambda passed: sides["train"], sides["valid"], sides["test"], content, said)


def utterance(
    file: Path, text: str, data: SpeechData, rate: int, where: str | None = None
) -> Utterance:
    """A file and its words; `where` they were found: a list's line. Raises DataError."""
    try:
        size = count_samples(file, rate, resample=data.resample)
    except DataError as error:
        raise DataError(f"{where}: {error}" if where else str(error)) from error

    def read() -> Tensor:
        try:
            return read_audio(file, rate, resample=data.resample)
        except DataError as error:
            raise DataError(f"{where}: {error}" if where else str(error)) from error

    name = f"{where}: {file.as_posix()}" if where else file.as_posix()
    return Utterance(" ".join(text.split()), name, size, read)


def table_speech(data: SpeechData, rate: int) -> Speech:
    """The user's tables; what is held out is chosen by a fixed seed."""
    found = [u for path in data.paths for u in read_utterances(Path(path), data, rate)]
    where = ", ".join(data.paths)
    order = list(range(len(found)))
    random.Random("heldout").shuffle(order)
    tenth = max(1, len(found) // 10)
    held = {"valid": set(order[:tenth])}
    if not data.test_paths:
        held["test"] = set(order[tenth : 2 * tenth])
    outside = set().union(*held.values())
    sides = {"train": [u for i, u in enumerate(found) if i not in outside]}
    sides |= {side: [found[i] for i in sorted(places)] for side, places in held.items()}
    if data.test_paths:
        sides["test"] = [u for p in data.test_paths for u in read_utterances(Path(p), data, rate)]
    return fixed(sides, where)


def read_utterances(table: Path, data: SpeechData, rate: int) -> list[Utterance]:
    """The rows of a table of sound files and texts. Raises DataError."""
    return [
        utterance(table.parent / row.text, row.label, data, rate, row.where)
        for row in tracked(read_table(table, TEXT, AUDIO), f"{table}: checking files")
    ]


def speech_commands(root: Path, data: SpeechData, rate: int) -> Speech:
    """Speech Commands: the word is the folder; what two lists do not name is trained on."""
    files = sorted(root.glob("[!_]*/*.wav"))  # _background_noise_ is no word
    names = {f"{file.parent.name}/{file.name}" for file in files}
    listed: dict[str, str] = {}  # WORD/FILE: side
    for side, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        for number, line in enumerate(lines_of(root / name), 1):
            if not (entry := line.strip()):
                continue
            where = f"{str(root / name)!r} line {number}"
            if entry not in names:
                raise DataError(f"{where}: no file {entry!r}, as WORD/FILE.wav")
            if entry in listed:
                raise DataError(f"{where}: {entry!r} is listed before")
            listed[entry] = side
    sides: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    for file in tracked(files, "speech-commands: checking files"):
        word = file.parent.name
        side = listed.get(f"{word}/{file.name}", "train")
        sides[side].append(utterance(file, word, data, rate))
    return fixed(sides, str(root))


def librispeech(root: Path, data: SpeechData, rate: int) -> Speech:
    """LibriSpeech: the folder that holds the parts, or the one above; texts in lower case."""
    root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    named = {"train": data.parts, "valid": (data.valid_part,), "test": (data.test_part,)}
    sides: dict[str, list[Utterance]] = {side: [] for side in named}
    for side, parts in named.items():
        for part in parts:
            if not (root / part).is_dir():
                raise DataError(f"{str(root / part)!r} does not exist: a part of librispeech")
            chapters = sorted((root / part).glob("*/*/*.trans.txt"))
            for list_file in tracked(chapters, f"{part}: checking files"):
                sides[side] += read_chapter(list_file, data, rate)
    return fixed(sides, str(root))


def read_chapter(list_file: Path, data: SpeechData, rate: int) -> list[Utterance]:
    """The utterances of a chapter's .trans.txt. Raises DataError."""
    found = []
    for number, line in enumerate(lines_of(list_file), 1):
        name, _, text = line.strip().partition(" ")
        file = list_file.parent / f"{name}.flac"
        where = f"{str(list_file)!r} line {number}"
        if not text.strip():
            raise DataError(f"{where} must be a name and a text, got {line!r}")
        if not file.is_file():
            raise DataError(f"{where}: no file {file.name!r} beside it")
        found.append(utterance(file, text.lower(), data, rate, where))
    missing = {f.stem for f in list_file.parent.glob("*.flac")} - {Path(u.name).stem for u in found}
    if missing:
        raise DataError(f"{str(list_file)!r} has no text for {min(missing)}.flac")
    return found


@dataclass(frozen=True)
class Clip:
    """A spoken digit."""

    digit: int
    samples: Tensor
    name: str


def fsdd(root: Path, data: SpeechData, rate: int, seed: int) -> Speech:
    """Sequences of spoken digits; see the head of this file."""
    sides, content = fsdd_sides(root, data, rate)
    digits = [DIGITS[clip.digit] for clips in sides["train"] for clip in clips]
    return Speech(
        lambda passed: draw_sequences(
            sides["train"], data, rate, data.sequences, f"{seed}/{passed}", data.speeds
        ),
        draw_sequences(sides["valid"], data, rate, data.heldout, "valid"),
        draw_sequences(sides["test"], data, rate, data.heldout, "test"),
        content,
        digits if data.digits[1] == 1 else [" ".join(digits)],  # the blank is a character, too
    )


def fsdd_sides(root: Path, data: SpeechData, rate: int) -> tuple[dict[str, list[list[Clip]]], str]:
    """{side: the clips of each of its speakers}, and a hash of all. Raises DataError."""
    speakers, content = read_digits(root, rate, resample=data.resample)
    names = sorted(speakers)
    if len(names) < 3:
        raise DataError(
            f"{str(root)!r} must have three speakers at least, to train, choose and test on, got "
            f"{', '.join(names)}"
        )
    if data.speaker not in names:
        raise DataError(f"speaker must be one of {', '.join(names)}, got {data.speaker!r}")
    test = data.speaker
    valid = names[(names.index(test) + 1) % len(names)]
    rest = [speakers[name] for name in names if name not in (test, valid)]
    return {"train": rest, "valid": [speakers[valid]], "test": [speakers[test]]}, content


def read_digits(root: Path, rate: int, *, resample: bool) -> tuple[dict[str, list[Clip]], str]:
    """{speaker: clips} of the folder, or of "recordings" in it, and a hash of all. Raises
    DataError."""
    root = root / "recordings" if (root / "recordings").is_dir() else root
    try:
        files = sorted(file for file in root.iterdir() if file.suffix == ".wav")
    except OSError as error:
        raise unreadable(root, error) from error
    if not files:
        raise DataError(f"{str(root)!r} holds no .wav files")
    speakers: dict[str, list[Clip]] = {}
    sum_ = hashlib.sha256()
    for file in files:
        if not (parts := FSDD_NAME.fullmatch(file.name)):
            raise DataError(f"{str(file)!r} must be called DIGIT_SPEAKER_INDEX.wav")
        samples = read_audio(file, rate, resample=resample)
        if not samples.any():
            raise DataError(f"{str(file)!r} is silent")
        speakers.setdefault(parts[2], []).append(Clip(int(parts[1]), samples, file.name))
        sum_.update(file.name.encode())
        sum_.update(samples.numpy().tobytes())
    return speakers, sum_.hexdigest()


def draw_sequences(
    speakers: Sequence[Sequence[Clip]],
    data: SpeechData,
    rate: int,
    count: int,
    seed: str,
    speeds: Sequence[float] = (1.0,),
) -> list[Utterance]:
    """So many sequences of digits, each of one of the speakers, at one of the speeds."""
    draw, draw_noise = random.Random(seed), random.Random(f"noise of {seed}")
    found = []
    for i in range(count):
        clips = draw.choices(draw.choice(speakers), k=draw.randint(*data.digits))
        speed = draw.choice(speeds)
        pauses = [round(rate * draw.uniform(*data.pause_s)) for _ in range(len(clips) + 1)]
        found.append(
            Utterance(
                " ".join(DIGITS[clip.digit] for clip in clips),
                f"sequence {i} of {seed}: {', '.join(clip.name for clip in clips)}",
                sum(sped_size(clip.samples, speed) for clip in clips) + sum(pauses),
                partial(
                    string_together,
                    [clip.samples for clip in clips],
                    pauses,
                    speed=speed,
                    level_db=draw.uniform(*data.level_db),
                    noise_db=draw_noise.uniform(*data.noise_db),
                    seed=draw.getrandbits(63),
                ),
            )
        )
    return found


def string_together(
    clips: Sequence[Tensor],
    pauses: Sequence[int],
    *,
    speed: float = 1.0,
    level_db: float,
    noise_db: float,
    seed: int,
) -> Tensor:
    """Clips one after the other, pauses[i] samples before clip i and the last after all; together
    they have this root mean square, and white noise lies under them and the pauses.

    Returns: float32 [N].
    """
    clips = [sped(clip, speed) for clip in clips]
    parts = [torch.zeros(pauses[0])]
    for clip, pause in zip(clips, pauses[1:], strict=True):
        parts += [clip, torch.zeros(pause)]
    gain = amplitude(level_db) / torch.cat(clips).square().mean().sqrt()
    noise = torch.randn(sum(map(len, parts)), generator=torch.Generator().manual_seed(seed))
    return torch.cat(parts) * gain + amplitude(noise_db) * noise


def sped(samples: Tensor, speed: float) -> Tensor:
    """The same sound faster, 2.0: in half the time and an octave up."""
    if speed == 1:
        return samples
    import soxr

    size = sped_size(samples, speed)
    found = torch.from_numpy(soxr.resample(samples.numpy(), speed, 1.0))
    return F.pad(found, (0, max(0, size - len(found))))[:size]


def sped_size(samples: Tensor, speed: float) -> int:
    """How many samples that gives."""
    return max(1, round(len(samples) / speed))


def amplitude(db: float) -> float:
    """The root mean square of a level in dB below full scale."""
    return 10 ** (db / 20)
