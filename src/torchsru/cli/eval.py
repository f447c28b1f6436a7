"""`torchsru eval RUN`: held-out numbers of the newest weights, as a line of JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import PATHS, make_parser, parse
from torchsru.data import DataError
from torchsru.recipes.run import evaluate_run, open_run
from torchsru.train import RunError


def main(argv: Sequence[str]) -> int:
    """Evaluate and print; returns 0."""
    parser = make_parser("eval", "Bits per byte of a run over all its held-out bytes.")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        PATHS,
        nargs="+",
        type=str,
        metavar="PATH",
        help="other files and folders; all their bytes count. Short: --data PATH ...",
    )
    parsed = parse(parser, argv)
    try:
        found = evaluate_run(open_run(Path(parsed.run)), paths=tuple(parsed.data.paths or ()))
    except (DataError, RunError) as error:
        raise Refused(str(error)) from error
    print(json.dumps(found))
    return 0
