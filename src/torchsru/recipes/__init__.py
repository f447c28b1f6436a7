"""Named runs. The registry is closed: a name is a function here, never code from a file."""

from collections.abc import Callable
from difflib import get_close_matches

from torchsru.recipes import (
    billion_word,
    classification,
    denoising,
    enwik8,
    ptb,
    python_4m,
    python_bytes,
    reading,
    recognition,
    translation,
    wikitext103,
)
from torchsru.recipes.base import Recipe, from_json, to_json
from torchsru.recipes.language_model import LanguageModelRecipe

Make = Callable[[], Recipe]

NAMED: dict[str, Make] = {
    "python-bytes": python_bytes.python_bytes,
    "python-bytes-lstm": python_bytes.python_bytes_lstm,
    "enwik8-sru": enwik8.enwik8_sru,
    "enwik8-sru-47m": enwik8.enwik8_sru_47m,
    "enwik8-sru-49m": enwik8.enwik8_sru_49m,
    "enwik8-srupp-base": enwik8.enwik8_srupp_base,
    "enwik8-srupp-large": enwik8.enwik8_srupp_large,
    "enwik8-srupp-k5": enwik8.enwik8_srupp_k5,
    "enwik8-transformer-xl": enwik8.enwik8_transformer_xl,
    "wikitext-103-srupp-base": wikitext103.wikitext103_srupp_base,
    "wikitext-103-srupp-large": wikitext103.wikitext103_srupp_large,
    "billion-word-srupp-base": billion_word.billion_word_srupp_base,
    "billion-word-srupp-large": billion_word.billion_word_srupp_large,
    "ptb-sru": ptb.ptb_sru,
    **python_4m.RECIPES,
    **classification.RECIPES,
    **reading.RECIPES,
    **translation.RECIPES,
    **recognition.RECIPES,
    **denoising.RECIPES,
}


def _twin(make: Make) -> Make:
    def make_debug() -> Recipe:
        return make().debug()

    said = (make.__doc__ or "").splitlines()[0]
    make_debug.__doc__ = f"In seconds, small: {said}"
    return make_debug


#: Every recipe, and its twin for tests, its name with "_debug".
RECIPES: dict[str, Make] = NAMED | {f"{name}_debug": _twin(make) for name, make in NAMED.items()}


def find_recipes() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(RECIPES)


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError naming those that are spelled alike."""
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES) or ["python-bytes"]
        raise ValueError(
            f"recipe {name!r} is unknown; there is {', '.join(close)}, and what `torchsru recipes` "
            "lists"
        )
    return RECIPES[name]()


__all__ = [
    "NAMED",
    "RECIPES",
    "LanguageModelRecipe",
    "Recipe",
    "find_recipes",
    "from_json",
    "get_recipe",
    "to_json",
]
