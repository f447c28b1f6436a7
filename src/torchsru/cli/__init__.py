"""The command `torchsru`.

Exit codes: 0 done; 1 the loss is not finite any more; 2 bad input (one line on stderr); 130
stopped by Ctrl-C. `doctor` and `bench --help` need only torch; training needs torchsru[train].
"""

import importlib
import os
import re
import sys
from collections.abc import Sequence

import torchsru

COMMANDS = {  # name: what it does; the module torchsru.cli.NAME has main(argv) -> exit code
    "doctor": "what runs on this machine, and why the rest does not",
    "recipes": "list the recipes, or show one",
    "train": "train a recipe",
    "compare": "train a recipe with other kinds of layers, at as many parameters",
    "estimate": "parameters, memory, FLOPs and hours of a recipe, before it is trained",
    "eval": "held-out numbers of a trained run",
    "data": "check and prepare a data set, and say what it holds",
    "generate": "text from a trained run, as it is drawn",
    "classify": "labels of lines, with probabilities, from a trained run",
    "answer": "answers to questions on a text, from a trained run",
    "translate": "translations of lines from a trained run",
    "transcribe": "what is said in sound files, or live, by a trained run",
    "denoise": "speech without its noise, of a sound file or live, by a trained run",
    "convert": "a checkpoint of the package sru, as a torchsru.SRU",
    "demo": "SRU and nn.LSTM trained side by side: a table, curves, a sample",
    "bench": "check, then time the layer on this machine",
}
TRAIN_EXTRA = {
    *("filelock", "jsonargparse", "lightning", "lightning_utilities", "matplotlib", "numpy"),
    *("platformdirs", "rich", "safetensors", "tensorboard"),
}
EXTRAS = {
    **dict.fromkeys(TRAIN_EXTRA, "train"),
    **dict.fromkeys(("rapidfuzz", "soundfile", "soxr"), "speech"),
    **dict.fromkeys(("sacrebleu", "sentencepiece"), "translate"),
    **{"datasets": "hub", "tokenizers": "subwords"},
}


class Refused(Exception):
    """Bad input: the message is printed on one line and the exit code is 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's own); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.stdin is None:  # closed, as by `<&-`: there is nothing in it
        sys.stdin = open(os.devnull)  # noqa: SIM115  for as long as the process lives
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(torchsru.__version__)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        return refuse(f"command {name!r} is unknown; commands are {', '.join(COMMANDS)}")
    try:
        if name == "bench":
            return importlib.import_module("torchsru.bench").main(rest) or 0
        return importlib.import_module(f"torchsru.cli.{name}").main(rest)
    except Refused as error:
        return refuse(str(error))
    except ModuleNotFoundError as error:
        if not (extra := EXTRAS.get((error.name or "").partition(".")[0])):
            raise
        return refuse(f"{name} needs {error.name}: pip install 'torchsru[{extra}]'")
    except OSError as error:
        where = f"{error.filename} can't be written or read: " if error.filename else ""
        return refuse(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("torchsru: stopped", file=sys.stderr)
        return 130


def refuse(why: str) -> int:
    """Say why on one line of stderr; returns the exit code."""
    print("torchsru: " + re.sub(r"\s*[\r\n]+\s*", " ", why.strip()), file=sys.stderr)
    return 2


def usage() -> str:
    """What `torchsru --help` prints."""
    rows = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
    return (
        f"torchsru {torchsru.__version__}: the Simple Recurrent Unit for PyTorch\n\n"
        f"usage: torchsru COMMAND [ARGUMENTS]\n\n{rows}\n\n"
        "torchsru COMMAND --help shows a command's arguments."
    )
