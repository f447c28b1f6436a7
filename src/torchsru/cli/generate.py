"""`torchsru generate RUN --prompt TEXT`: text, printed as it is drawn; works in a pipe."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import FINITE, WHOLE, make_parser, parse
from torchsru.models import LanguageModel
from torchsru.models.generate import Piece, Sampling, check_not_negative, generate_text
from torchsru.recipes.language_model import LanguageModelRecipe, load_model, load_vocabulary
from torchsru.recipes.run import Run, open_run
from torchsru.train import RunError
from torchsru.train.strategy import make_fabric


def main(argv: Sequence[str]) -> int:
    """Generate and print; returns 0, also where the reader of a pipe has seen enough."""
    parser = make_parser("generate", "Text that goes on after a prompt, printed as it is drawn.")
    parser.usage = "%(prog)s RUN [options]"  # in this order: --prompt takes every text after it
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--prompt",
        type=str,
        nargs="+",
        action="extend",
        metavar="TEXT",
        help="text to go on from; several, or --prompt again: a batch",
    )
    parser.add_argument(
        "--stdin",
        choices=["whole", "lines"],
        help="read the prompt from standard input: all of it, or one a line",
    )
    parser.add_argument(
        "--count",
        "--bytes",
        type=WHOLE,
        default=500,
        help="symbols to draw for each prompt, at most",
    )
    parser.add_argument("--temperature", type=FINITE, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-k", type=WHOLE, default=0, help="draw from the k likeliest; 0: all")
    parser.add_argument(
        "--top-p", type=FINITE, default=1.0, help="draw from the likeliest of this probability"
    )
    parser.add_argument(
        "--repetition-penalty", type=FINITE, default=1.0, help="above 1: less of what was there"
    )
    parser.add_argument(
        "--seed", type=WHOLE, default=0, help="same seed, same text; each next prompt has the next"
    )
    parser.add_argument(
        "--stop",
        type=str,
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="end before any of these; may be given again",
    )
    parser.add_argument(
        "--memory",
        type=WHOLE,
        help="past positions that attention sees (default: the recipe's for evaluation); 0: as in "
        "training",
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each prompt")
    try:
        parsed = parse(parser, argv)
    except Refused as error:
        if str(error).endswith("required: run"):
            raise Refused(
                "RUN is missing: it comes before --prompt and --stop, which take every text that "
                "follows them"
            ) from error
        raise
    if parsed.prompt and parsed.stdin:
        raise Refused("--prompt and --stdin can't both be given")
    prompts = (
        read_prompts(parsed.stdin) if parsed.stdin else [*map(os.fsencode, parsed.prompt or [""])]
    )
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that can't show a character shows "?"
        sys.stdout.reconfigure(errors="replace")
    try:
        run = open_run(Path(parsed.run), LanguageModelRecipe)
        pieces = generate_text(
            load_on_device(run, parsed.memory),
            load_vocabulary(run),
            prompts,
            parsed.count,
            sampling=Sampling(
                temperature=parsed.temperature,
                top_k=parsed.top_k,
                top_p=parsed.top_p,
                repetition_penalty=parsed.repetition_penalty,
                seed=parsed.seed,
            ),
            stop=parsed.stop,
            echo=not parsed.json,
        )
        for text in as_json(pieces, prompts) if parsed.json else in_order(pieces, len(prompts)):
            sys.stdout.write(text)
            sys.stdout.flush()
    except (RunError, ValueError) as error:
        raise Refused(str(error)) from error
    except BrokenPipeError:  # the reader has seen enough, as in `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def load_on_device(run: Run, memory: int | None) -> LanguageModel:
    """The run's model on its recipe's device, in the weights' own precision: mixed precision would
    convert all weights again at each symbol.

    Args:
        memory: positions that attention sees; 0: as in training; None: as in the recipe's
            evaluation.

    Raises: RunError; ValueError if memory is negative, or there is no attention.
    """
    model = load_model(run)
    if memory is None:
        memory = run.recipe.data.eval_memory
    check_not_negative("memory", memory)
    if memory:
        model.memory_length = memory
    make_fabric(run.recipe.training, alone=True).to_device(model)  # a module is moved in place
    return model


def read_prompts(how: str) -> list[bytes]:
    """The prompts on standard input. Raises Refused if there are none."""
    given = sys.stdin.buffer.read()
    prompts = given.splitlines() if how == "lines" else [given]
    if not prompts:
        raise Refused("--stdin lines found no line")
    return prompts


def in_order(pieces: Iterator[Piece], rows: int) -> Iterator[str]:
    """Each row's text, then a line end; the first row's as it comes, the others' in their turn."""
    waiting: list[list[str]] = [[] for _ in range(rows)]
    over = [False] * rows
    turn = 0
    for row, text, last in pieces:
        waiting[row].append(text)
        over[row] = last
        while turn < rows and (waiting[turn] or over[turn]):
            if text := "".join(waiting[turn]):
                yield text
            waiting[turn].clear()
            if not over[turn]:
                break
            yield "\n"
            turn += 1


def as_json(pieces: Iterator[Piece], prompts: Sequence[bytes]) -> Iterator[str]:
    """A line for each row as soon as it is over: its number, prompt and text."""
    texts = [""] * len(prompts)
    for row, text, last in pieces:
        texts[row] += text
        if last:
            prompt = prompts[row].decode("utf-8", "replace")
            line = {"row": row, "prompt": prompt, "text": texts[row]}
            yield json.dumps(line) + "\n"
