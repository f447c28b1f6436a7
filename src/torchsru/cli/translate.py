"""`torchsru translate RUN FILE|-`: a translation of each line; works in a pipe."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.cli.classify import blocks_of
from torchsru.data import DataError
from torchsru.models.beam import Search
from torchsru.recipes.run import open_run
from torchsru.recipes.translation import TextTranslator, TranslationRecipe
from torchsru.train import RunError


def main(argv: Sequence[str]) -> int:
    """Translate and print; returns 0, also where the reader of a pipe has seen enough."""
    parser = make_parser("translate", "Translate the lines of a text; an empty line stays empty.")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "file", metavar="FILE", help="a sentence a line, UTF-8; -: standard input, as it comes"
    )
    parser.add_argument(
        "--beam", type=int, help="hypotheses that are kept; 1: greedy (default: the recipe's)"
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        metavar="ALPHA",
        help="0: short translations are preferred; more: longer ones (default: the recipe's)",
    )
    parser.add_argument(
        "--best", type=int, default=1, metavar="N", help="translations of each line, with --json"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each, with scores")
    parsed = parse(parser, argv)
    try:
        run = open_run(Path(parsed.run), TranslationRecipe)
        data = run.recipe.data
        if parsed.best > 1 and not parsed.json:
            raise Refused(f"best must be 1 without --json, got {parsed.best}")
        given = {"beam": parsed.beam, "length_penalty": parsed.length_penalty}
        usual = {"beam": data.eval_beam, "length_penalty": data.eval_length_penalty}
        usual |= {name: value for name, value in given.items() if value is not None}
        search = Search(**usual)
        if not 1 <= parsed.best <= search.beam:
            raise Refused(f"best must lie in [1, beam = {search.beam}], got {parsed.best}")
        search = replace(search, wanted=parsed.best)
        translator = TextTranslator(run)
        for line in translated(translator, blocks_of(parsed.file), search, parsed.json):
            print(line, flush=parsed.file == "-")
        sys.stdout.flush()
    except (DataError, RunError, ValueError) as error:
        raise Refused(str(error)) from error
    except BrokenPipeError:  # the reader has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def translated(
    translator: TextTranslator, blocks: Iterable[list[str]], search: Search, as_json: bool
) -> Iterator[str]:
    """What is printed of each line."""
    for block in blocks:
        for line, best in zip(block, translator.translate(block, search), strict=True):
            if as_json:
                rows = [
                    {"text": t.text, "score": t.score, "log_probability": t.log_probability}
                    for t in best
                ]
                yield json.dumps({"source": line, "translations": rows}, ensure_ascii=False)
            else:
                yield best[0].text
