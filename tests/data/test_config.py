import pytest

from torchsru.data import TextData


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heldout", 0.0),
        ("heldout", 0.6),
        ("unroll", 0),
        ("batch", 0),
        ("vocabulary_size", -1),
        ("eval_tokens", -1),
        ("eval_batch", 0),
        ("eval_unroll", 0),
        ("eval_memory", -1),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"{field} must .*got {value}"):
        TextData(**{field: value})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"vocabulary": "subwords", "vocabulary_size": 255}, "at least 256, got 255"),
        ({"vocabulary": "words", "vocabulary_size": 2}, "at least 3, got 2"),
        (
            {"vocabulary": "characters", "vocabulary_size": 9},
            "vocabulary_size needs .*, got 9",
        ),
        ({"source": "packages", "paths": ("a",)}, "paths must be empty for source 'packages'"),
        ({"source": "enwik8", "vocabulary": "words"}, "vocabulary of enwik8 must be bytes"),
        ({"hub_config": "x"}, "hub_config needs source 'hub', got 'x'"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        TextData(**fields)
