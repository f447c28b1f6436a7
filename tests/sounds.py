"""Sound that tests make: a word is a tone."""

import math
from pathlib import Path

import soundfile
import torch

RATE = 8000


def tone(pitch_hz: float, seconds: float, level: float = 0.3, rate: int = RATE) -> torch.Tensor:
    """A tone that swells and fades, float32."""
    t = torch.arange(round(seconds * rate)) / rate
    return level * torch.sin(2 * math.pi * pitch_hz * t) * torch.sin(math.pi * t / seconds)


def write(file: Path, samples: torch.Tensor, rate: int = RATE, **options) -> Path:
    """A sound file, its folders too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(file), samples.numpy(), rate, **options)
    return file


def spoken(digit: int, speaker: int = 0, copy: int = 0, rate: int = RATE) -> torch.Tensor:
    """A digit: its pitch says which, give or take what the speaker's voice does."""
    pitch = 250 * 1.27**digit * (1 + 0.02 * (speaker - 1))
    return tone(pitch, 0.16 + 0.02 * copy, 0.1 * (speaker + 1), rate)


def write_digits(folder: Path) -> Path:
    """A folder like the Free Spoken Digit Dataset's: four speakers, each digit twice."""
    for digit in range(10):
        for i, speaker in enumerate(("ann", "bob", "cid", "theo")):
            for copy in range(2):
                write(folder / f"{digit}_{speaker}_{copy}.wav", spoken(digit, i, copy))
    return folder
