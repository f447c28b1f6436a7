"""Sound on the command line: files, and samples on standard input."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchsru.data import DataError
from torchsru.data.audio import decode_audio, read_audio, to_int16

STDIN = "standard input"


def samples_of(file: str, rate: int, resample: bool) -> Tensor:
    """The samples of a file, or of the one on standard input. Raises DataError."""
    if file == "-":
        whole = io.BytesIO(sys.stdin.buffer.read())
        return decode_audio(whole, STDIN, rate, resample=resample)
    return read_audio(Path(file), rate, resample=resample)


def pieces_of(file: str, rate: int, resample: bool, size: int) -> Iterator[Tensor]:
    """The samples of a file in pieces; of standard input, samples of 16 bits without a header as
    they come. Raises DataError."""
    if file != "-":
        yield from read_audio(Path(file), rate, resample=resample).split(size)
        return
    if resample:
        raise DataError(
            f"resample must be left out beside --stream on {STDIN}, whose samples state no rate: "
            f"send {rate:,} per second"
        )
    first = True
    while piece := sys.stdin.buffer.read(2 * size):
        if first and piece[:4] in (b"RIFF", b"fLaC", b"OggS"):
            raise DataError(
                f"{STDIN} must be samples without a header beside --stream, got a file that starts "
                f"with {piece[:4].decode()}"
            )
        if len(piece) % 2:
            raise DataError(f"{STDIN} ends inside a sample of 16 bits")
        first = False
        yield torch.from_numpy(np.frombuffer(piece, "<i2").astype(np.float32) / 32768)
    if first:
        raise DataError(f"{STDIN} holds no samples")


def raw(samples: Tensor) -> bytes:
    """Samples in 16 bits, little-endian."""
    return to_int16(samples).numpy().astype("<i2").tobytes()
