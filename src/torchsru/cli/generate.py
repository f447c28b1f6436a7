"""`torchsru generate RUN --prompt TEXT`: text, printed as it is drawn; works in a pipe."""

import codecs
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.recipes.run import load_model, open_run
from torchsru.train import RunError


def main(argv: Sequence[str]) -> int:
    """Generate and print; returns 0."""
    parser = make_parser("generate", "Text that goes on after a prompt, printed as it is drawn.")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--prompt", type=str, default="", help="text to go on from")
    parser.add_argument("--bytes", type=int, default=500, help="how many to draw")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text")
    parsed = parse(parser, argv)
    prompt = os.fsencode(parsed.prompt)
    try:
        model = load_model(open_run(Path(parsed.run)))
        drawn = model.generate(
            prompt,
            parsed.bytes,
            temperature=parsed.temperature,
            top_k=parsed.top_k,
            seed=parsed.seed,
        )
    except (RunError, ValueError) as error:
        raise Refused(str(error)) from error
    try:
        for text in decode(chain(prompt, drawn)):
            sys.stdout.write(text)
            sys.stdout.flush()
        print()
    except BrokenPipeError:  # the reader has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def decode(drawn: Iterable[int]) -> Iterable[str]:
    """Characters, each as soon as its last byte is drawn; bytes that are no UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for byte in drawn:
        if text := decoder.decode(bytes([byte])):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
