"""`torchsru recipes`: list them, or show one field by field."""

from collections.abc import Sequence

from torchsru.cli import Refused
from torchsru.cli.arguments import field_docs, flat, make_parser, parse
from torchsru.recipes import RECIPES, find_recipes, get_recipe, to_json


def main(argv: Sequence[str]) -> int:
    """Print all recipes' names, or one recipe's fields; returns 0."""
    parser = make_parser("recipes", "List the recipes, or show one.")
    parser.add_argument("name", nargs="?", help="the recipe to show")
    name = parse(parser, argv).name
    if name is None:
        for known in find_recipes():
            print(f"{known:<32} {(RECIPES[known].__doc__ or '').splitlines()[0]}")
        return 0
    try:
        recipe = get_recipe(name)
    except ValueError as error:
        raise Refused(str(error)) from error
    docs = {
        f"{part}.{field}": text
        for part in to_json(recipe)
        for field, text in field_docs(type(getattr(recipe, part)))
    }
    for key, value in flat(to_json(recipe)):
        print(f"--{key:<24} {value!s:<12} {docs[key]}")
    return 0
