"""`torchsru denoise RUN IN OUT`: speech without its noise, of a sound file or live."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.cli.sound import pieces_of, raw, samples_of
from torchsru.data import DataError
from torchsru.data.audio import audio_writer, check_format, encode_audio, write_audio
from torchsru.recipes.denoising import DenoisingRecipe, SpeechCleaner
from torchsru.recipes.run import open_run
from torchsru.train import RunError

RAW = "16-bit little-endian samples without a header, at the model's rate"


def main(argv: Sequence[str]) -> int:
    """Clean and write; returns 0, also where the reader of a pipe has heard enough."""
    parser = make_parser("denoise", "Take the noise out of a sound file, or of live sound.")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "source", metavar="IN", help="a sound file of one channel: WAV, FLAC, Ogg, MP3; -: stdin"
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        help="the file to write, as long and at the model's rate, 16 bits, in the format of its "
        "suffix: wav, flac, aiff, au, caf; -: a WAV file on stdout",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help=f"clean the sound as it comes; stdin and stdout are then {RAW}, as arecord and aplay "
        "-t raw -f S16_LE take them; a file is written as it goes, and stays where Ctrl-C ends it",
    )
    parser.add_argument(
        "--resample", action="store_true", help="bring a file of another rate to the model's"
    )
    parsed = parse(parser, argv)
    source, target = parsed.source, parsed.target
    try:
        if target != "-":
            check_format(Path(target))
        cleaner = SpeechCleaner(open_run(Path(parsed.run), DenoisingRecipe))
        if parsed.stream:
            stream(cleaner, source, target, parsed.resample)
            return 0
        output = cleaner.clean(samples_of(source, cleaner.rate, parsed.resample))
        if target == "-":
            sys.stdout.buffer.write(encode_audio(output, cleaner.rate))
            sys.stdout.buffer.flush()
        else:
            write_audio(Path(target), output, cleaner.rate)
    except (DataError, RunError, ValueError) as error:
        raise Refused(str(error)) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def stream(cleaner: SpeechCleaner, source: str, target: str, resample: bool) -> None:
    """Clean piece by piece. Raises DataError."""
    live = cleaner.listen()
    pieces = pieces_of(source, cleaner.rate, resample, live.hop)
    if target == "-":
        for piece in pieces:
            sys.stdout.buffer.write(raw(live.feed(piece)))
            sys.stdout.buffer.flush()
        sys.stdout.buffer.write(raw(live.finish()))
        sys.stdout.buffer.flush()
        return
    first = next(pieces)  # of a file that can be read, which may be the one to write
    with audio_writer(Path(target), cleaner.rate) as write:
        write(live.feed(first))
        for piece in pieces:
            write(live.feed(piece))
        write(live.finish())
