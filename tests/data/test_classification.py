import json
from pathlib import Path

import pytest

from torchsru.data import DataError
from torchsru.data.classification import (
    PUBLISHED,
    ClassificationData,
    Published,
    load_labelled,
    read_lines,
    read_table,
)

NEL = "\x85"


def pairs(found):
    """Without where they stand."""
    return [(item.label, item.text) for item in found]


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def lines(count, labels="01"):
    return "".join(f"{labels[i % len(labels)]} sentence number {i}\n" for i in range(count))


def load(file, source="lines", **fields):
    return load_labelled(ClassificationData(source=source, paths=(str(file),), **fields))


def test_published_lines_are_read_as_they_were_written(tmp_path):
    """Latin-1 with characters that Python takes for line ends; and line ends of every kind."""
    content = f"0 caf\xe9 {NEL} noir \n1 plain\r\n".encode("latin-1")
    found = read_lines(write(tmp_path / "a", content))
    assert found[1].where.endswith("a' line 2")
    assert pairs(found) == [
        ("0", f"caf\xe9 {NEL} noir"),
        ("1", "plain"),
    ]
    tabbed = read_lines(write(tmp_path / "c", "good\ta fine film\n"))
    assert pairs(tabbed) == [("good", "a fine film")]
    utf8 = "\ufeff0 caf\xe9\n1 plain"  # a byte order mark, and no line end
    assert pairs(read_lines(write(tmp_path / "b", utf8))) == [("0", "caf\xe9"), ("1", "plain")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("0 a\n\n1 b\n", "line 2 is empty"),
        ("0 a\n1\n", "line 2 has a label, '1', and no sentence"),
        ("", "is empty"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, told):
    with pytest.raises(DataError, match=f"set' {told}"):
        read_lines(write(tmp_path / "set", content))


def test_tables_of_every_form_hold_the_same(tmp_path):
    expected = [("good", 'a "fine", film'), ("bad", "a\nbore")]
    comma = 'id,label,text\n1,good,"a ""fine"", film"\n2,bad,"a\nbore"\n'
    rows = [{"label": label, "text": text, "id": 3} for label, text in expected]
    json_lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in (("a.csv", comma), ("a.JSONL", json_lines)):
        found = read_table(write(tmp_path / name, content), "label", "text")
        assert pairs(found) == expected, name
        line = 2 if name == "a.JSONL" else 4  # where the row ends
        assert found[1].where == f"{str(tmp_path / name)!r} line {line}"


def test_quotation_marks_of_a_tsv_are_characters(tmp_path):
    table = 'text\tlabel\n"it was" fine\tgood\n"a, 5" bore\tbad\n"ok"\tgood\n'
    found = read_table(write(tmp_path / "a.tsv", table), "label", "text")
    expected = [("good", '"it was" fine'), ("bad", '"a, 5" bore'), ("good", '"ok"')]
    assert pairs(found) == expected
    assert found[1].where == f"{str(tmp_path / 'a.tsv')!r} line 3"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "label,text\n0,a\n1\n", "line 3 must have as many cells as the first line, 2, "),
        ("a.csv", "label,text\n0,a\n\n1,b\n", "line 3 must have as many cells .* 2, got 0"),
        ("a.csv", "label,text\n0,a,b\n", "line 2 must have as many .* 2, got 3"),
        ("a.csv", "label,words\n0,a\n", "line 2 has no column 'text'; it has label, words"),
        ("a.csv", 'label,text\n0,"a\n', "line 2: unexpected end of data"),
        ("a.csv", "label,text\n0, \n", "line 2: column 'text' is empty"),
        ("a.jsonl", '{"label": 0, "text": "a"}\n{"label": 0,', "line 2 is no JSON"),
        ("a.jsonl", "[1]\n", "line 1 must be a JSON object"),
        ("a.jsonl", '{"label": 0, "text": "a\\ud800"}\n', "line 1: column 'text' must be Unicode"),
        ("a.jsonl", '{"label": "\\udfff", "text": "a"}\n', "line 1: column 'label' must be Unic"),
        ("a.tsv", "label\ttext\n0\ta\tb\n", "line 2 must have as many .* 2, got 3"),
        ("a.jsonl", '{"label": null, "text": "a"}\n', "line 1: column 'label' is empty"),
        ("a.csv", "label,text\n", "holds no rows"),
        ("a.txt", "0,a\n", r"must end in \.csv, \.tsv or \.jsonl"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, content, told):
    with pytest.raises(DataError, match=told):
        read_table(write(tmp_path / name, content), "label", "text")


def test_folds_are_disjoint_and_whole_and_each_sentence_is_tested_once(tmp_path):
    file = write(tmp_path / "set", lines(47))
    whole = sorted(read_lines(file))
    folds = [load(file, folds=5, fold=fold).sides for fold in range(5)]
    for sides, following in zip(folds, folds[1:] + folds[:1], strict=True):
        assert sorted(item for side in sides.values() for item in side) == whole
        assert sides["valid"] == following["test"]
    assert sorted(item for sides in folds for item in sides["test"]) == whole


def test_a_test_part_of_its_own_is_left_alone(tmp_path):
    train, test = write(tmp_path / "train", lines(40)), write(tmp_path / "test", lines(7))
    sides = load(train, test_paths=(str(test),), folds=4).sides
    assert sides["test"] == read_lines(test)
    assert len(sides["valid"]) == 10
    assert sorted(sides["train"] + sides["valid"]) == sorted(read_lines(train))


@pytest.fixture
def small_sets(monkeypatch):
    """The published sets, smaller by a factor of 100."""
    small = {
        name: Published(
            about.files, {side: count // 100 for side, count in about.counts.items()}, about.labels
        )
        for name, about in PUBLISHED.items()
    }
    monkeypatch.setattr("torchsru.data.classification.PUBLISHED", small)
    return small


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_found_in_their_files(tmp_path, small_sets, name):
    about = small_sets[name]
    labels = "".join(about.labels)
    for side, file in about.files.items():
        write(tmp_path / file, lines(about.counts[side], labels))
    found = load(tmp_path, name)
    assert found.labels == tuple(about.labels) and found.names == tuple(about.labels.values())
    assert sum(map(len, found.sides.values())) == sum(about.counts.values())
    for side in about.counts.keys() & {"valid", "test"}:
        assert found.sides[side] == read_lines(tmp_path / about.files[side])
    if len(about.files) == 1:
        assert load(tmp_path / about.files["all"], name) == found


def test_phrases_are_trained_on_and_nothing_else(tmp_path, small_sets):
    about = small_sets["sst"]
    for side, file in about.files.items():
        write(tmp_path / file, lines(about.counts[side]))
    with pytest.raises(DataError, match=r"stsa\.binary\.phrases\.train' does not exist"):
        load(tmp_path, "sst", phrases=True)
    write(tmp_path / "stsa.binary.phrases.train", lines(3))
    with pytest.raises(DataError, match=r"phrases\.train' is cut short: expected"):
        load(tmp_path, "sst", phrases=True)
    write(tmp_path / "stsa.binary.phrases.train", lines(199) + "2 neither\n")
    with pytest.raises(DataError, match="line 200: label must be one of sst's, 0, 1, got '2'"):
        load(tmp_path, "sst", phrases=True)
    write(tmp_path / "stsa.binary.phrases.train", lines(200))
    plain, phrases = load(tmp_path, "sst"), load(tmp_path, "sst", phrases=True)
    assert len(phrases.sides["train"]) == 200
    assert phrases.sides["test"] == plain.sides["test"]
    assert phrases.content != plain.content


def test_lines_of_a_label_alone_count_but_are_left_out(tmp_path, small_sets):
    """The published CR has four of them; in one's own file they are an error."""
    file = write(tmp_path / "custrev.all", lines(35) + "0  \n1 \n")
    assert sum(map(len, load(file, "cr").sides.values())) == 35
    with pytest.raises(DataError, match="line 36 has a label, '0', and no sentence"):
        load(file)


def test_wrong_and_missing_files_are_named(tmp_path, small_sets):
    with pytest.raises(DataError, match=r"rt-polarity\.all' does not exist; mr consists of"):
        load(tmp_path, "mr")
    write(tmp_path / "rt-polarity.all", lines(105))
    with pytest.raises(DataError, match="is not mr as published: expected 106 lines, found 105"):
        load(tmp_path, "mr")
    write(tmp_path / "rt-polarity.all", lines(106, "012"))
    with pytest.raises(DataError, match=r"line 3: label must be one of mr's, 0, 1, got '2'"):
        load(tmp_path, "mr")
    with pytest.raises(DataError, match="source 'mr' is not part of the package"):
        load_labelled(ClassificationData(source="mr"))


def test_sets_that_can_not_be_learned_are_refused(tmp_path):
    with pytest.raises(DataError, match="must hold two labels at least to train on, got '0'"):
        load(write(tmp_path / "a", lines(40, "0")))
    with pytest.raises(DataError, match="holds too few sentences: none is left for valid"):
        load(write(tmp_path / "a", lines(3)), folds=10, fold=2)
    train, test = write(tmp_path / "a", lines(40)), write(tmp_path / "b", "2 other\n")
    with pytest.raises(DataError, match=r"b' line 1: label must be one of .*, 0, 1, got '2'"):
        load(train, test_paths=(str(test),))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"fold": 10}, "fold must be below folds = 10, got 10"),
        ({"folds": 2}, "folds must be at least 3, got 2"),
        ({"phrases": True}, "phrases needs source sst or sst-fine, got 'lines'"),
        ({"source": "cr", "test_paths": ("a",)}, "test_paths must be empty for 'cr'"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        ClassificationData(**fields)


def test_the_default_counts_are_those_of_the_files_that_were_published():
    """Kim 2014, table 1, and the files themselves."""
    assert {name: sum(about.counts.values()) for name, about in PUBLISHED.items()} == {
        "cr": 3775,
        "subj": 10000,
        "mr": 10662,
        "mpqa": 10606,
        "trec": 5952,
        "sst": 9613,
        "sst-fine": 11855,
    }
    assert Path(PUBLISHED["mr"].files["all"]).suffix == ".all"
