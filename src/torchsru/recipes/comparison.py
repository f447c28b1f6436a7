"""A language model's recipe with other kinds of layers in it, at as many parameters.

Width    the one field that is chosen: by bisection, of models without content (device "meta")
Dropped  what a kind does not take falls back to its default, and is told of
Check    tests/cli/test_compare.py
"""

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.models.language_model import OWN, REPLACED
from torchsru.recipes.base import from_json, to_json
from torchsru.recipes.language_model import LanguageModelRecipe

#: What is compared beside the recipe's own kind, where none are named.
DEFAULT = ("sru", "srupp", "lstm", "gru", "qrnn", "transformer-xl")
#: Widths are multiples of the first of these that comes as close as CLOSE: processors like them.
MULTIPLES = (8, 4, 2, 1)
CLOSE = 0.01  # of the parameters


def with_kind(recipe: LanguageModelRecipe, kind: str) -> tuple[dict[str, Any], list[str]]:
    """The recipe with layers of another kind, of the width it had.

    Returns: its fields, nested as `to_json` has them, and the names of those that were dropped.
    """
    values, defaults = to_json(recipe), LanguageModelConfig.__dataclass_fields__
    model, data, own = values["model"], values["data"], OWN.get(kind, ())
    foreign = {name for names in OWN.values() for name in names} - {*own}
    foreign |= {*REPLACED.get(kind, ())}
    dropped = [name for name in model if name in foreign and model[name] != defaults[name].default]
    model |= {name: defaults[name].default for name in foreign} | {"rnn": kind}
    if data["eval_memory"] and "memory" not in own:
        dropped.append("eval_memory")
        data["eval_memory"] = 0
    return values, dropped


def count_parameters(model: LanguageModelConfig, symbols: int) -> int:
    """Of a model with a vocabulary of so many symbols."""
    with torch.device("meta"):
        parameters = LanguageModel(model, symbols).parameters()
    return sum(p.numel() for p in parameters if p.requires_grad)


def nearest_width(model: Mapping[str, Any], symbols: int, parameters: int) -> int:
    """The width that brings a model nearest to so many parameters.

    Args:
        model: the fields of its config; the width there stays if it gives just as many.
        symbols: of the vocabulary.
        parameters: to come near to; more grow with the width.

    Raises: ValueError if the narrowest model has more, or if a field is refused.
    """

    @cache
    def count(width: int) -> int:
        # which adaptive_dropout is allowed may depend on the width, how many there are does not
        fields = {**model, "width": width, "adaptive_dropout": 0.0}
        return count_parameters(from_json(LanguageModelConfig, fields, "model"), symbols)

    def off(width: int) -> float:
        return abs(count(width) / parameters - 1)

    with suppress(ValueError):  # the kind may not take it
        if count(model["width"]) == parameters:
            return model["width"]
    unit = width_unit(model)
    narrowest = unit * -(-least_width(model) // unit)
    if (least := count(narrowest)) > parameters:
        raise ValueError(
            f"parameters must be at least {least:,} with the recipe's other fields, "
            f"got {parameters:,}"
        )
    tried = [narrowest]
    for multiple in MULTIPLES:
        step = math.lcm(unit, multiple)
        tried += around(parameters, range(step * -(-narrowest // step), sys.maxsize, step), count)
        if off(min(tried, key=off)) <= CLOSE:
            break
    return min(tried, key=off)


def around(wanted: int, widths: Sequence[int], count: Callable[[int], int]) -> Sequence[int]:
    """The last of the widths that has fewer parameters than wanted, and the next one."""
    end = 1
    while count(widths[end - 1]) < wanted:
        end *= 2
    above = bisect_left(widths, wanted, end // 2, end, key=count)
    return widths[max(0, above - 1) : above + 1]


def width_unit(model: Mapping[str, Any]) -> int:
    """What a kind's width must be a multiple of."""
    if model["rnn"] == "srupp" and not model["projection"]:
        return 4 * model["heads"]  # attention works in a quarter
    if model["rnn"] == "transformer-xl":
        return 2 if model["head_size"] else math.lcm(2, model["heads"])
    return 1


def least_width(model: Mapping[str, Any]) -> int:
    """What leaves a feature to the last of the embedding's clusters, where it is as wide."""
    return 1 if model["embedding"] else math.ceil(model["div_value"] ** len(model["cutoffs"]))
