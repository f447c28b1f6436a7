"""Fields of recipes as options."""

import pytest

from torchsru.cli import Refused
from torchsru.cli.arguments import (
    add_recipe_options,
    kind_of,
    make_parser,
    options_of,
    parse,
    recipe_from,
)
from torchsru.recipes import get_recipe


def given(recipe, *words):
    parser = make_parser("train", "")
    add_recipe_options(parser, kind_of([recipe]))
    return recipe_from(get_recipe(recipe), parse(parser, words))


def test_a_field_of_several_values_takes_several_words():
    assert given("python-bytes", "--training.betas", "0.8", "0.9").training.betas == (0.8, 0.9)
    assert given("answer-sru-3", "--data.valid_paths", "a", "b").data.valid_paths == ("a", "b")
    assert given("answer-sru-3", "--data.valid_paths").data.valid_paths == ()
    assert given("denoise-sru", "--data.noises", "pink", "white").data.noises == ("pink", "white")
    assert given("digits-sru", "--data.level_db", "-40", "-2").data.level_db == (-40, -2)
    assert given("classify-cnn", "--model.widths", "2", "3").model.widths == (2, 3)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--training.betas", "0.8"], "betas"),
        (["--model.cutoffs", "ten"], "cutoffs"),
        (["--training.betas", "0.8", "0.9", "0.99"], "0.99"),
    ],
)
def test_too_few_or_wrong_values_are_refused(words, named):
    with pytest.raises(Refused, match=named):
        given("python-bytes", *words)


def test_steps_and_epochs_take_the_place_of_the_recipes_budget():
    budget = given("python-bytes", "--training.steps", "9").training
    assert (budget.steps, budget.epochs, budget.seconds) == (9, None, None)
    budget = given("classify-sru", "--training.epochs", "2", "--training.seconds", "5").training
    assert (budget.steps, budget.epochs, budget.seconds) == (None, 2, 5)
    budget = given("classify-sru", "--training.seconds", "5").training
    assert (budget.epochs, budget.seconds) == (get_recipe("classify-sru").training.epochs, 5)


def test_help_has_what_stands_below_each_field_inherited_ones_too():
    parser = make_parser("train", "")
    add_recipe_options(parser, kind_of(["digits-sru"]))
    said = " ".join(parser.format_help().split())
    assert "--model.rnn" in said and "Kind of layer" in said  # of the models of sound
    assert "recognition can go along with live sound" in said  # not the inherited field's


@pytest.mark.parametrize("name", ["enwik8-sru", "ptb-sru", "wikitext-103-srupp-base_debug"])
def test_a_recipe_is_written_as_options(name):
    base, recipe = get_recipe("python-bytes"), get_recipe(name)
    parser = make_parser("train", "")
    add_recipe_options(parser, type(base))
    assert recipe_from(base, parse(parser, options_of(recipe, base))) == recipe
    assert recipe_from(recipe, parse(parser, options_of(recipe, recipe))) == recipe


def test_data_is_short_for_paths_where_there_are_paths():
    assert given("python-bytes", "--data", "a", "b").data.paths == ("a", "b")
    with pytest.raises(Refused, match="unrecognized arguments: --data a"):
        parse(make_parser("bench", ""), ["--data", "a"])
