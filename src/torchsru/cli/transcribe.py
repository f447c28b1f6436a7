"""`torchsru transcribe RUN FILE...|-`: what is said in sound files, or live on standard input."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.cli.sound import pieces_of, samples_of
from torchsru.data import DataError
from torchsru.recipes.recognition import RecognitionRecipe, SpeechRecognizer
from torchsru.recipes.run import open_run
from torchsru.train import RunError


def main(argv: Sequence[str]) -> int:
    """Recognise and print; returns 0, also where the reader of a pipe has seen enough."""
    parser = make_parser(
        "transcribe", "Write down what is said: each file and its text, parted by a tab."
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="+",
        help="sound files of one channel: WAV, FLAC, Ogg, MP3; -: one on standard input",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="print the text alone, as it is heard, in steps of the model's; standard input then "
        "is 16-bit little-endian samples without a header, at the model's rate, as arecord -t raw "
        "-f S16_LE writes them",
    )
    parser.add_argument(
        "--beam", type=int, metavar="N", help="search with so many prefixes (default: greedy)"
    )
    parser.add_argument(
        "--resample", action="store_true", help="bring files of another rate to the model's"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="a line of JSON for each file; with --beam also what else it may be",
    )
    parsed = parse(parser, argv)
    if parsed.stream and (parsed.json or parsed.beam is not None or len(parsed.file) > 1):
        raise Refused("stream takes one file, without --beam and --json")
    try:
        recognizer = SpeechRecognizer(open_run(Path(parsed.run), RecognitionRecipe))
        if parsed.stream:
            stream(recognizer, parsed.file[0], parsed.resample)
        else:
            for file in parsed.file:
                samples = samples_of(file, recognizer.rate, parsed.resample)
                print(line_of(recognizer, file, samples, parsed.beam, parsed.json))
        sys.stdout.flush()
    except (DataError, RunError, ValueError) as error:
        raise Refused(str(error)) from error
    except BrokenPipeError:  # the reader has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def line_of(
    recognizer: SpeechRecognizer, file: str, samples: Tensor, beam: int | None, as_json: bool
) -> str:
    """What is printed of a file."""
    found = recognizer.search(samples, beam) if beam is not None else []
    text = found[0][0] if found else recognizer.transcribe(samples)
    if not as_json:
        return f"{file}\t{text}"
    row = {"file": file, "text": text, "seconds": len(samples) / recognizer.rate}
    if found:
        row["alternatives"] = [{"text": t, "log_probability": value} for t, value in found]
    return json.dumps(row, ensure_ascii=False)


def stream(recognizer: SpeechRecognizer, file: str, resample: bool) -> None:
    """Print the text of live sound piece by piece. Raises DataError."""
    listener = recognizer.listen()
    for piece in pieces_of(file, recognizer.rate, resample, listener.step_size):
        print(listener.feed(piece), end="", flush=True)
    print(listener.finish())
