"""`torchsru recipes`: list them, or show one field by field."""

from collections.abc import Sequence

from torchsru.cli import Refused
from torchsru.cli.arguments import field_docs, flat, make_parser, parse
from torchsru.recipes import NAMED, get_recipe, to_json
from torchsru.recipes.tasks import TASKS


def main(argv: Sequence[str]) -> int:
    """Print all recipes' names by task, or one recipe's fields; returns 0."""
    parser = make_parser("recipes", "List the recipes, or show one.")
    parser.add_argument("name", nargs="?", help="the recipe to show")
    name = parse(parser, argv).name
    if name is None:
        for task in TASKS:
            print(f"{task}:")
            for known in (known for known in NAMED if get_recipe(known).task == task):
                print(f"  {known:<26} {(NAMED[known].__doc__ or '').splitlines()[0]}")
        print("Each has a twin for tests, NAME_debug, which is small and trained in seconds.")
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
