"""`torchsru classify RUN FILE|-`: a label and its probability for each line; works in a pipe."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.data import DataError
from torchsru.recipes.classification import ClassificationRecipe, TextClassifier
from torchsru.recipes.run import open_run
from torchsru.train import RunError

BLOCK = 64  # lines at once


def main(argv: Sequence[str]) -> int:
    """Label and print; returns 0, also where the reader of a pipe has seen enough."""
    parser = make_parser(
        "classify",
        "Label the lines of a text: label, probability and the line, parted by tabs; an empty line "
        "stays empty.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "file", metavar="FILE", help="a line for each text, UTF-8; -: standard input, as it comes"
    )
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON for each, with all probabilities"
    )
    parsed = parse(parser, argv)
    try:
        classifier = TextClassifier(open_run(Path(parsed.run), ClassificationRecipe))
        for line in labelled(classifier, blocks_of(parsed.file), parsed.json):
            print(line, flush=parsed.file == "-")
        sys.stdout.flush()
    except (DataError, RunError, ValueError) as error:
        raise Refused(str(error)) from error
    except BrokenPipeError:  # the reader has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def blocks_of(file: str) -> Iterator[list[str]]:
    """The lines of a file, BLOCK at a time; of standard input one at a time. Raises DataError."""
    if file == "-":
        for number, line in enumerate(sys.stdin.buffer, 1):
            yield [decoded(line, "standard input", number)]
        return
    try:
        with open(file, "rb") as stream:
            block = []
            for number, line in enumerate(stream, 1):
                block.append(decoded(line, repr(file), number))
                if len(block) == BLOCK:
                    yield block
                    block = []
            yield block
    except OSError as error:
        raise DataError(f"cannot read {file!r}: {error.strerror or error}") from error


def decoded(line: bytes, where: str, number: int) -> str:
    """A line without its end, the first without a byte order mark. Raises DataError unless it is
    UTF-8."""
    try:
        text = line.rstrip(b"\r\n").decode()
        return text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} line {number} is not UTF-8: byte {line[error.start]:#04x} at {error.start}"
        ) from error


def labelled(
    classifier: TextClassifier, blocks: Iterable[list[str]], as_json: bool
) -> Iterator[str]:
    """What is printed of each line."""
    names = classifier.names
    for block in blocks:
        texts = [line for line in block if line.strip()]
        found = iter(classifier.log_probabilities(texts).exp() if texts else ())
        for line in block:
            if not line.strip():
                yield ""
                continue
            probabilities = next(found).tolist()
            best = max(range(len(names)), key=probabilities.__getitem__)
            if as_json:
                about = dict(zip(names, probabilities, strict=True))
                row = {"label": names[best], "text": line, "probabilities": about}
                yield json.dumps(row, ensure_ascii=False)
            else:
                yield f"{names[best]}\t{probabilities[best]:.3f}\t{line}"
