"""A local folder in the hub's format; nothing is asked of the network."""

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from torchsru.data import DataError, TextData, load_corpus

CARD = """---
configs:
- config_name: raw
  data_files:
  - {split: train, path: raw/train-*}
  - {split: validation, path: raw/validation-*}
  - {split: test, path: raw/test-*}
- config_name: one
  data_files:
  - {split: train, path: raw/train-*}
- config_name: none
  data_files:
  - {split: test, path: raw/test-*}
---
"""
ROWS = {
    "train": [" = A = \n", "", "the cat\n"] * 10,
    "validation": [" = B = \n", None, "a\nb"],
    "test": ["the end"],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "set"
    (folder / "raw").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for split, rows in ROWS.items():
        table = pyarrow.table({"text": rows, "label": list(range(len(rows)))})
        pyarrow.parquet.write_table(table, folder / "raw" / f"{split}-00000-of-00001.parquet")

    def load(config="raw", **fields):
        paths = fields.pop("paths", (str(folder),))
        return load_corpus(TextData(source="hub", paths=paths, hub_config=config, **fields))

    return load


def text(corpus, side):
    return corpus.vocabulary.decode(corpus.sides[side].ids.tolist()).decode()


def test_its_splits_are_taken_and_rows_are_lines(hub):
    corpus = hub()
    assert text(corpus, "train") == " = A = \n\nthe cat\n" * 10
    assert text(corpus, "valid") == " = B = \n\na\nb\n" and text(corpus, "test") == "the end\n"
    assert hub(vocabulary="words").vocabulary.words[:3] == ["<eos>", "<unk>", "="]


def test_without_a_split_to_validate_on_the_last_rows_are_held_out(hub):
    corpus = hub("one", heldout=0.1)
    assert text(corpus, "train") == " = A = \n\nthe cat\n" * 9
    assert text(corpus, "valid") == " = A = \n\nthe cat\n" and "test" not in corpus.sides


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"config": "other"}, r"set' can't be loaded: .*'other' not found. Available: .*raw"),
        ({"hub_column": "label"}, "has no text in column 'label'; its columns are text, label"),
        ({"hub_column": "body"}, "has no text in column 'body'"),
        ({"config": "none"}, "has no split 'train'; its splits are test"),
        ({"paths": ()}, "hub needs one data set, its name or a folder"),
    ],
)
def test_what_is_wrong_is_named(hub, fields, told):
    with pytest.raises(DataError, match=told):
        hub(**fields)


def test_a_file_without_rows_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"set' can't be loaded: "):
        load_corpus(TextData(source="hub", paths=(str(tmp_path / "set"),)))


def test_its_column_needs_a_hub_set():
    with pytest.raises(ValueError, match="hub_column needs source 'hub', got 'body'"):
        TextData(source="text", hub_column="body")


def test_a_name_that_cannot_be_had_is_told(hub, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'no/such'\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    told = "hub data set 'no/such' can't be loaded: Couldn't reach 'no/such' on the Hub"
    with pytest.raises(DataError, match=told):
        hub(paths=("no/such",))
