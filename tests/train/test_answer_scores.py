"""Cases worked by hand after the definition of SQuAD 1.1's official script."""

import pytest

from torchsru.train.answer_scores import exact_match, f1, normal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat,\tsat on A mat.", "cat sat on mat"),
        ("An apple-pie", "applepie"),  # what a hyphen parts is joined
        ("a.m.", "am"),  # punctuation goes first, so no article is left
        ("the-cat", "thecat"),
        ("theatre", "theatre"),
        ("“The” cat…", "“ ” cat…"),  # only ASCII punctuation goes, and a word ends at any other
        ("the–a 5½", "– 5½"),
        ("L’Été\u00a0the", "l’été"),  # a no-break space is a blank
        ("ΣΟΦΟΣ the", "σοφος"),
        ("$1,000", "1000"),
        ("The", ""),
    ],
)
def test_normal_form(text, expected):
    assert normal(text) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "right", "overlap"),
    [
        ("the Denver Broncos", ["Denver Broncos."], 1, 1),
        ("Broncos", ["Denver Broncos", "the Broncos!"], 1, 1),  # the best of them
        ("Denver Broncos team", ["Denver Broncos"], 0, 0.8),  # 2/3 and 2/2
        ("in 1843 in London", ["1843 London London in"], 0, 0.75),  # words counted: 3 of 4 and 4
        ("London", ["Paris"], 0, 0),
        ("“Denver”", ["Denver"], 0, 0),  # other punctuation stays
        ("the", ["a"], 1, 0),  # no words: equal, but without an F1
        ("", ["Paris", "Rome"], 0, 0),
    ],
)
def test_scores(answer, gold, right, overlap):
    assert exact_match(answer, gold) == right
    assert f1(answer, gold) == pytest.approx(overlap, abs=1e-12)
