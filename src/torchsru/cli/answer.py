"""`torchsru answer RUN --context FILE`: answers, slices of the text itself; works in a pipe."""

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.cli.classify import decoded
from torchsru.data import DataError
from torchsru.data.files import read
from torchsru.data.squad import Cut
from torchsru.recipes.reading import Found, ReadingRecipe, TextReader
from torchsru.recipes.run import open_run
from torchsru.train import RunError

PROMPT = "question: "


def main(argv: Sequence[str]) -> int:
    """Answer and print; returns 0, also where the reader of a pipe has seen enough."""
    parser = make_parser(
        "answer",
        "Answer questions on a text: the answer, its probability, and where it stands, in "
        "characters, parted by tabs; line ends in an answer are printed as blanks. An empty line "
        "stays empty.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--context", metavar="FILE", required=True, help="the text, UTF-8")
    parser.add_argument(
        "--question",
        metavar="TEXT",
        help="what is asked; without it, each line of standard input is a question",
    )
    parser.add_argument("--top", type=int, default=1, metavar="N", help="answers to each question")
    parser.add_argument(
        "--json",
        action="store_true",
        help="a line of JSON for each question, answers as they stand",
    )
    parsed = parse(parser, argv)
    if parsed.top < 1:
        raise Refused(f"top must be at least 1, got {parsed.top}")
    try:
        reader = TextReader(open_run(Path(parsed.run), ReadingRecipe))
        context = reader.cut(text_of(Path(parsed.context)))
        for question in questions(parsed.question):
            for line in answered(reader, context, question, parsed.top, parsed.json):
                print(line, flush=True)
    except (DataError, RunError, ValueError) as error:
        raise Refused(str(error)) from error
    except BrokenPipeError:  # the reader has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def text_of(file: Path) -> str:
    """A file's text, line ends as they are; a byte order mark as a blank, so that all else stands
    where it does in the file. Raises DataError unless it is UTF-8."""
    content = read(file)
    try:
        text = content.decode()
        return f" {text[1:]}" if text.startswith("\ufeff") else text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{str(file)!r} is not UTF-8: byte {content[error.start]:#04x} at {error.start:,}"
        ) from error


def questions(given: str | None) -> Iterator[str]:
    """The one that was given, or the lines of standard input, as they come."""
    if given is not None:
        if not given.strip():
            raise ValueError(f"question must hold a word at least, got {given!r}")
        yield given
        return
    prompt = PROMPT if sys.stdin.isatty() else ""
    for number in itertools.count(1):
        print(prompt, end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.buffer.readline()):
            return
        yield decoded(line, "standard input", number)


def answered(
    reader: TextReader, context: Cut, question: str, top: int, as_json: bool
) -> Iterator[str]:
    """What is printed of a question."""
    if not question.strip():
        yield ""
        return
    (found,) = reader.answer(context, [question], top)
    if as_json:
        rows = [answer._asdict() for answer in found]
        yield json.dumps({"question": question, "answers": rows}, ensure_ascii=False)
    else:
        yield from map(line_of, found)


def line_of(found: Found) -> str:
    """An answer on one line."""
    text = " ".join(found.text.split())
    return f"{text}\t{found.probability:.3f}\t{found.start}:{found.end}"
