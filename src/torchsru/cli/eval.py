"""`torchsru eval RUN`: held-out numbers of the weights that a run gives, as a line of JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import PATHS, make_parser, parse
from torchsru.data import DataError
from torchsru.recipes.run import evaluate_run, open_run
from torchsru.train import RunError

LAYOUT = {
    "batch": "streams that the text is laid out in; the papers' numbers have 1",
    "unroll": "symbols per stream and step",
    "memory": "past positions that attention sees from every position",
    "beam": "hypotheses that a translator's search keeps, or prefixes that a recogniser's does",
}


def main(argv: Sequence[str]) -> int:
    """Evaluate and print; returns 0."""
    parser = make_parser("eval", "Numbers of a run over all that is held out of its data.")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--split", choices=("valid", "test"), help="which part (default: valid)")
    for name, about in LAYOUT.items():
        parser.add_argument(f"--{name}", type=int, help=f"{about} (default: the recipe's)")
    parser.add_argument(
        PATHS,
        nargs="+",
        type=str,
        metavar="PATH",
        help="other files and folders; all their text counts. Short: --data PATH ...",
    )
    parsed = parse(parser, argv)
    given = {f"eval_{name}": parsed[name] for name in LAYOUT if parsed[name] is not None}
    paths = tuple(parsed.data.paths or ())
    if paths and parsed.split:
        raise Refused(
            f"split must be left out beside --data, all of whose text counts; got {parsed.split!r}"
        )
    try:
        run = open_run(Path(parsed.run))
        found = evaluate_run(run, paths=paths, split=parsed.split or "valid", layout=given)
    except (DataError, RunError, ValueError) as error:
        raise Refused(str(error)) from error
    print(json.dumps(found))
    return 0
