"""Named runs. The registry is closed: a name is a function here, never code from a file."""

from collections.abc import Callable

from torchsru.recipes import python_bytes
from torchsru.recipes.base import LanguageModelRecipe, from_json, to_json

RECIPES: dict[str, Callable[[], LanguageModelRecipe]] = {
    "python-bytes": python_bytes.python_bytes,
    "python-bytes_debug": python_bytes.python_bytes_debug,
    "python-bytes-lstm": python_bytes.python_bytes_lstm,
    "python-bytes-lstm_debug": python_bytes.python_bytes_lstm_debug,
}


def find_recipes() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(RECIPES)


def get_recipe(name: str) -> LanguageModelRecipe:
    """The recipe of that name. Raises ValueError naming the known ones."""
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; known are {', '.join(find_recipes())}")
    return RECIPES[name]()


__all__ = ["RECIPES", "LanguageModelRecipe", "find_recipes", "from_json", "get_recipe", "to_json"]
