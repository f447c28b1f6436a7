"""`torchsru convert CHECKPOINT`: weights saved by the package `sru`, as a `torchsru.SRU` or, of
SRU++, a `torchsru.SRUpp`.

OUT/model.safetensors   the weights, in our layout
    sru.json            the module's name and arguments, and eps of its layer norms
"""

import inspect
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.compat import SRU
from torchsru.compat.checkpoints import DROPPED, REFUSED, RENAMED
from torchsru.compat.convert import convert_to_files
from torchsru.compat.srupp import ARGUMENTS
from torchsru.train.folder import RunError, write_folder

MAGIC = (b"PK", b"\x80")  # what files of torch.save start with: a zip, a pickle
DESCRIPTION = (
    "Convert a checkpoint of the package sru, 2.0 to 3.0-dev, given the arguments that its SRU or "
    "SRUpp was made with. The result is compared with the original before anything is written."
)


def main(argv: Sequence[str]) -> int:
    """Convert, check, write; returns 0."""
    parser = make_parser("convert", DESCRIPTION)
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="torch.save'd state dict, or .safetensors"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--prefix", default="", help="of the SRU's keys in a larger model: encoder.rnn."
    )
    parser.add_argument(
        "--kwargs", type=dict, default={}, help="the arguments as JSON, in any version's names"
    )
    for name, kind in argument_types().items():
        parser.add_argument(f"--{name}", type=kind, default=None, help="the argument of this name")
    parsed = parse(parser, argv)
    arguments = dict(parsed.kwargs)
    for name in argument_types():
        if (value := parsed[name]) is not None:
            if name in arguments:
                raise Refused(f"{name} must be given once, got it in --kwargs too")
            arguments[name] = value
    out = Path(parsed.out)
    if out.exists():
        raise Refused(f"{out} is there already; name another --out")

    tensors = read_tensors(Path(parsed.checkpoint))
    try:
        files, off = convert_to_files(tensors, parsed.prefix, arguments)
        write_folder(out, files)
    except (RunError, ValueError) as error:
        raise Refused(str(error)) from error
    print(
        f"saved in {out}; it differs by {off:.1e} of the largest value from the original's layout\n"
        f"next: rnn = torchsru.compat.load({str(out)!r})"
    )
    return 0


def argument_types() -> dict[str, Any]:
    """The options that name arguments of the original's constructor, and their types."""
    kinds: dict[str, Any] = {
        name: float if parameter.default is None else type(parameter.default)
        for name, parameter in inspect.signature(SRU).parameters.items()
        if name != "custom_m"
    }
    kinds |= {"input_size": int, "hidden_size": int, "projection_size": int | list[int]}
    kinds |= {old: kinds[new] for old, new in RENAMED.items() if old == "n_proj"}
    kinds |= {name: int if value is None else type(value) for name, value in ARGUMENTS.items()
              if name not in kinds}  # fmt: skip
    removed = [name for name in REFUSED if name.startswith("use_")]
    return kinds | {name: bool for name in (*DROPPED, *removed)}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their dotted names; a pickle that holds code never runs.

    Raises: Refused naming the file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            if not file.read(2).startswith(MAGIC):
                raise ValueError(
                    "it starts like no file of torch.save (one of safetensors ends in .safetensors)"
                )
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Refused(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes end in whatever their reading meets
        why = reason(error)
        if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in why:
            raise Refused(
                f"{path} holds more than tensors, and code in a pickle is not run; save "
                f"model.state_dict() alone: {why}"
            ) from error
        raise Refused(f"{path} is no checkpoint, or damaged: {why}") from error
    if not isinstance(found, Mapping):
        raise Refused(f"{path} must hold a state dict, got {type(found).__name__}")
    return dict(flatten(found))


def reason(error: Exception) -> str:
    """An error's first sentence; the unpickler's own, without torch.load's advice around it."""
    inner = error.__context__ if isinstance(error, pickle.UnpicklingError) else None
    return str(inner or error).partition(". ")[0]


def flatten(tables: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of nested tables; what is no tensor is left out."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value
