"""Sound files, read and written by the library soundfile: WAV, FLAC, Ogg, MP3, AIFF and others.

Samples   float32 [N] of one channel, full scale is 1
Rates     a file of another rate is refused, or brought to it by the library soxr
Written   in 16 bits, rounded to the nearest; what is above full scale is cut off there
Errors    name the file: no sound, no samples, several channels, another rate, not finite
Check     tests/data/test_audio.py
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from torchsru.data.texts import DataError, unreadable

T = TypeVar("T")
QUIET = 1e-8  # a sample that is no larger is silent: a tenth of the smallest one of 24 bits
UNKNOWN = 1 << 62  # frames of a file that does not state its length: the library's largest number


def read_audio(file: Path, rate: int, *, resample: bool = False) -> Tensor:
    """The samples of a file, float32 [N], N >= 1.

    Args:
        rate: samples per second.
        resample: bring a file of another rate to this one.

    Raises: DataError naming the file.
    """
    try:
        with open(file, "rb") as stream:
            return decode_audio(stream, repr(str(file)), rate, resample=resample)
    except OSError as error:
        raise unreadable(file, error) from error


def decode_audio(stream: BinaryIO, name: str, rate: int, *, resample: bool = False) -> Tensor:
    """The same of an open file that can seek; `name` stands in errors."""
    with opened(stream, name, rate, resample) as sound:
        found = sound.read(dtype="float32")
        if len(found) < sound.frames:
            raise DataError(f"{name} is truncated: {len(found):,} of {sound.frames:,} samples")
        had = sound.samplerate
    if had != rate:
        import soxr

        found = soxr.resample(found, had, rate)
        if not len(found):
            raise DataError(f"{name} is too short: no sample at {rate:,} per second")
    samples = torch.from_numpy(found)
    if not samples.isfinite().all():
        raise DataError(f"{name} holds samples that are not finite")
    return samples


def count_samples(file: Path, rate: int, *, resample: bool = False) -> int:
    """How many samples `read_audio` gives, from the file's header. Raises DataError."""
    try:
        with (
            open(file, "rb") as stream,
            opened(stream, repr(str(file)), rate, resample) as sound,
        ):
            return max(1, round(sound.frames * rate / sound.samplerate))
    except OSError as error:
        raise unreadable(file, error) from error


def check_audible(file: Path, rate: int, *, resample: bool = False) -> None:
    """Raise DataError if the whole file is silent, or not finite where its first sound should be,
    as far as which it is read."""
    try:
        with (
            open(file, "rb") as stream,
            opened(stream, repr(str(file)), rate, resample) as sound,
        ):
            for block in sound.blocks(1 << 16):
                if not torch.from_numpy(block).isfinite().all():
                    raise DataError(f"{str(file)!r} holds samples that are not finite")
                if (abs(block) > QUIET).any():
                    return
            raise DataError(f"{str(file)!r} is silent")
    except OSError as error:
        raise unreadable(file, error) from error


def is_silent(samples: Tensor) -> bool:
    """Whether there is no sound in it."""
    return not bool((samples.abs() > QUIET).any())


@contextmanager
def opened(stream: BinaryIO, name: str, rate: int, resample: bool) -> Iterator[Any]:
    """A soundfile.SoundFile whose header is as it must be. Raises DataError."""
    import soundfile

    if not stream.read(1):
        raise DataError(f"{name} is empty")
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as sound:
            if sound.channels != 1:
                raise DataError(f"{name} must have one channel, got {sound.channels}")
            if not sound.frames:
                raise DataError(f"{name} holds no samples")
            if sound.frames >= UNKNOWN:
                raise DataError(f"{name} must state its length, as a stream that was cut does not")
            if sound.samplerate != rate and not resample:
                raise DataError(
                    f"{name} must have {rate:,} samples per second, got {sound.samplerate:,}; "
                    "resample converts it"
                )
            yield sound
    except TypeError as error:  # headerless, by its suffix
        raise DataError(f"{name} can't be read as sound: it states no rate") from error
    except soundfile.SoundFileError as error:
        said = getattr(error, "error_string", error)  # without the stream's address in memory
        raise DataError(f"{name} can't be read as sound: {said}") from error


def to_int16(samples: Tensor) -> Tensor:
    """Samples in 16 bits; what is above full scale is cut off there."""
    return (samples * 32768).round().clamp(-32768, 32767).to(torch.int16)


def check_format(file: Path) -> None:
    """Raise DataError if the suffix names no format that sound of 16 bits is written in."""
    import soundfile

    name = file.suffix[1:].upper()
    if not name or not soundfile.check_format(name, "PCM_16"):
        raise DataError(
            f"{str(file)!r} can't be written as sound: its suffix must name a format of 16-bit "
            f"samples (wav, flac, aiff, au, caf), got {file.suffix!r}"
        )


@contextmanager
def audio_writer(file: Path, rate: int) -> Iterator[Callable[[Tensor], None]]:
    """What appends samples [n] to a new file, in 16 bits and the format that the suffix names;
    what was written stays where the block is left by an error. Raises DataError naming the file."""
    import soundfile

    check_format(file)
    try:
        with soundfile.SoundFile(str(file), "w", rate, 1, "PCM_16") as sound:
            yield lambda samples: sound.write(to_int16(samples).numpy())
    except soundfile.SoundFileError as error:
        raise DataError(f"{str(file)!r} can't be written as sound: {error}") from error


def write_audio(file: Path, samples: Tensor, rate: int) -> None:
    """Write samples [N] so. Raises DataError naming the file."""
    with audio_writer(file, rate) as write:
        write(samples)


def encode_audio(samples: Tensor, rate: int) -> bytes:
    """The same as the content of a WAV file."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, to_int16(samples).numpy(), rate, format="WAV", subtype="PCM_16")
    return stream.getvalue()
