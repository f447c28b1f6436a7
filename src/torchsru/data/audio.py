"""Sound files, read and written by the library soundfile: WAV, FLAC, Ogg, MP3, AIFF and others.

Samples   float32 [N] of one channel, full scale is 1
Rates     a file of another rate is refused, or brought to it by the library soxr
Errors    name the file: no sound, no samples, several channels, another rate, not finite
Check     tests/data/test_audio.py
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from torchsru.data.cache import is_quiet
from torchsru.data.texts import DataError, unreadable

T = TypeVar("T")


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


@contextmanager
def opened(stream: BinaryIO, name: str, rate: int, resample: bool) -> Iterator[Any]:
    """A soundfile.SoundFile whose header is as it must be. Raises DataError."""
    import soundfile

    try:
        with soundfile.SoundFile(stream) as sound:
            if sound.channels != 1:
                raise DataError(f"{name} must have one channel, got {sound.channels}")
            if not sound.frames:
                raise DataError(f"{name} holds no samples")
            if sound.samplerate != rate and not resample:
                raise DataError(
                    f"{name} must have {rate:,} samples per second, got {sound.samplerate:,}; "
                    "resample converts it"
                )
            yield sound
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless, by its suffix
        raise DataError(f"{name} can't be read as sound: {error}") from error


def write_audio(file: Path, samples: Tensor, rate: int) -> None:
    """Write samples [N] in 16 bits, in the format that the suffix names; what is above full scale
    is cut off there. Raises DataError naming the file."""
    import soundfile

    try:
        soundfile.write(str(file), samples.numpy(), rate, subtype="PCM_16")
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise DataError(f"{str(file)!r} can't be written as sound: {error}") from error


def encode_audio(samples: Tensor, rate: int) -> bytes:
    """The same as the content of a WAV file."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples.numpy(), rate, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def tracked(items: Sequence[T], doing: str) -> Iterable[T]:
    """The items, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = is_quiet() or not console.is_terminal
    return track(items, doing, console=console, transient=True, disable=hidden)
