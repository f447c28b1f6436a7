import gzip

import pytest
import torch

from torchsru.data import DataError
from torchsru.data.parallel import (
    END,
    MODEL,
    PUBLISHED,
    UNKNOWN,
    Published,
    Subwords,
    TranslationData,
    build,
    learn_subwords,
    load_parallel,
    read_lines,
    read_pairs,
    unmarked,
)

ENGLISH = ["two dogs run", "a cat sleeps", "the old man reads", "a girl eats"] * 15
GERMAN = ["zwei hunde rennen", "eine katze schläft", "der alte mann liest", "ein mädchen isst"] * 15


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))


def write(file, lines, packed=False):
    content = "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(gzip.compress(content) if packed else content)
    return str(file)


@pytest.fixture
def paths(tmp_path):
    return write(tmp_path / "en", ENGLISH), write(tmp_path / "de", GERMAN)


def load(paths, **fields):
    return load_parallel(TranslationData(paths=tuple(paths), vocabulary_size=80, **fields))


def texts_of(found, side):
    return [
        [found.subwords.decode(lines[i].tolist()) for i in range(len(lines))]
        for lines in found.side(side)
    ]


def test_lines_are_read_plain_and_packed(tmp_path):
    """A byte order mark, line ends of both kinds, a character that Python takes for a line end, no
    line end at the end."""
    content = "\ufeffone \r\ntwo \x85 words\nthree".encode()
    expected = ["one", "two \x85 words", "three"]
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(gzip.compress(content))  # by its content, not by its name
    assert list(read_lines(tmp_path / "a")) == list(read_lines(tmp_path / "b")) == expected


def test_damaged_files_are_named_with_their_line(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(DataError, match="a' line 2 is not UTF-8: byte 0xef at 2"):
        list(read_lines(file))
    whole = gzip.compress("".join(f"line {i * i}\n" for i in range(5000)).encode())
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a' is damaged after line \d+"):
        list(read_lines(file))
    with pytest.raises(DataError, match="nowhere"):
        list(read_lines(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        (["a", "b"], ["c"], "de' ends before line 2, .*en' has 2 lines"),
        (["a"], ["c", "d", "e"], "en' ends before line 2, .*de' has 3 lines"),
        (["a", ""], ["c", "d"], "en' line 2 is empty; data.skip_empty true leaves"),
        (["a", "b"], ["c", " "], "de' line 2 is empty"),
        ([], [], "en' holds no sentences"),
    ],
)
def test_sides_that_do_not_fit_are_named(tmp_path, source, target, told):
    write(tmp_path / "en", source), write(tmp_path / "de", target)
    with pytest.raises(DataError, match=told):
        list(read_pairs(tmp_path / "en", tmp_path / "de"))


def test_empty_lines_are_left_out_as_pairs(tmp_path):
    write(tmp_path / "en", ["a", "", "c", "d"]), write(tmp_path / "de", ["x", "y", "", "z"])
    found = list(read_pairs(tmp_path / "en", tmp_path / "de", skip_empty=True))
    assert found == [["a", "x"], ["d", "z"]]


def test_what_was_prepared_is_what_was_written(tmp_path, paths):
    valid = (write(tmp_path / "v.en", ["a dog sleeps"]), write(tmp_path / "v.de", ["ein hund"]))
    found = load(paths, valid_paths=valid)
    assert texts_of(found, "train") == [ENGLISH, GERMAN]
    assert texts_of(found, "valid") == [["a dog sleeps"], ["ein hund"]]
    assert found.texts("valid") == (["a dog sleeps"], ["ein hund"])
    assert found.subwords.size == 80
    with pytest.raises(DataError, match="no 'test' part"):
        found.side("test")


def test_pairs_are_held_out_of_training(paths):
    found = load(paths, heldout=4)
    (train, _), (valid, translated) = texts_of(found, "train"), texts_of(found, "valid")
    assert found.texts("valid") == (valid, translated)
    assert len(valid) == 4 and len(train) == 56
    assert valid == ENGLISH[::15] and translated == GERMAN[::15]
    assert train == [line for i, line in enumerate(ENGLISH) if i % 15]
    assert len(texts_of(load(paths), "valid")[0]) == 6  # a tenth at most


def test_the_vocabulary_is_learned_once(paths, monkeypatch):
    first = load(paths)
    with monkeypatch.context() as patched:
        patched.setattr("torchsru.data.parallel.build", lambda *_: pytest.fail("built again"))
        again = load(paths)
        assert again.content == first.content
        assert load(paths, batch=64, longest=20).content == first.content  # not part of the content
    (first.folder / MODEL).write_bytes(b"damaged")
    assert load(paths).subwords.size == 80  # built again
    assert load(paths, heldout=3).content != first.content


def test_another_vocabulary_is_other_content(paths, monkeypatch, tmp_path):
    """Of the same files: a run that was trained with one does not go on with the other."""
    first = load(paths)
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "elsewhere"))
    assert load(paths).content == first.content
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "third"))
    monkeypatch.setattr(
        "torchsru.data.parallel.learn_subwords",
        lambda texts, size, where: learn_subwords(sorted(texts)[5:], size, where),
    )
    other = load(paths)
    assert other.subwords.size == first.subwords.size
    assert other.content != first.content


def test_nothing_is_left_of_a_build_that_failed(tmp_path, paths, monkeypatch):
    def fail(data, files, folder):
        build(data, files, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("torchsru.data.parallel.build", fail)
        load(paths)
    assert not any(p.is_dir() for p in (tmp_path / "cache" / "text").iterdir())
    assert load(paths).subwords.size == 80


def test_files_that_change_while_they_are_read_are_told_of(tmp_path, paths, monkeypatch):
    def append(data, files, folder):
        build(data, files, folder)
        for path in paths:
            with open(path, "a") as file:
                file.write("more\n")

    with monkeypatch.context() as patched, pytest.raises(DataError, match="changed while they"):
        patched.setattr("torchsru.data.parallel.build", append)
        load(paths)
    assert len(load(paths).side("train").source) == 55  # of 61, six of them held out


def test_subwords_are_of_both_languages_and_bring_the_text_back(paths):
    words = Subwords(learn_subwords(ENGLISH + GERMAN, 80, "here"))
    for text in ("two cats", "der mann schläft", "ein hund liest"):
        (ids,) = words.encode([text])
        assert words.decode(ids) == text and END not in ids
    assert UNKNOWN in words.encode(["Ω"])[0]
    with pytest.raises(ValueError, match=r"subword must lie in \[0, 80\), got 80"):
        words.decode([5, 80])
    with pytest.raises(ValueError, match="expected a model of sentencepiece"):
        Subwords(b"something else")


@pytest.mark.parametrize("size", [60, 40])
def test_a_sample_is_of_both_languages(tmp_path, monkeypatch, size):
    """Every second pair of these, or every third; the languages have no letter in common."""
    monkeypatch.setattr("torchsru.data.parallel.SAMPLE", size)
    greek = ["δύο σκύλοι τρέχουν", "μια γάτα κοιμάται", "ο γέρος διαβάζει"] * 20
    paths = write(tmp_path / "a", ENGLISH), write(tmp_path / "b", greek)
    found = load(paths, heldout=4).side("train")
    assert UNKNOWN not in found.source.ids and UNKNOWN not in found.target.ids


def test_a_long_sentence_is_learned_from():
    long = "abcdefgh " * 600  # sentencepiece leaves out what is longer than 4,192 bytes
    words = Subwords(learn_subwords(["xyz xyz", long], 40, "here"))
    assert words.decode(words.encode(["abc hgf"])[0]) == "abc hgf"


def test_a_small_text_has_fewer_subwords_and_characters_must_fit():
    assert 30 < Subwords(learn_subwords(ENGLISH, 4000, "here")).size < 100
    with pytest.raises(DataError, match=r"vocabulary_size must be at least \d\d, .*'here', got 8"):
        learn_subwords(ENGLISH, 8, "here")


@pytest.fixture
def small_set(tmp_path, monkeypatch):
    """Multi30k, smaller."""
    about = Published(PUBLISHED["multi30k"].files, {"train": 60, "valid": 2, "test": 3})
    monkeypatch.setitem(PUBLISHED, "multi30k", about)
    folder = tmp_path / "set"
    folder.mkdir()
    for side, stem in about.files.items():
        count = about.counts[side]
        write(folder / f"{stem}.en.gz", ENGLISH[:count], packed=True)
        write(folder / f"{stem}.de", GERMAN[:count])
    return folder


def test_a_published_set_is_found_in_its_folder(small_set):
    found = load([str(small_set)], source="multi30k")
    assert found.texts("test") == (ENGLISH[:3], GERMAN[:3])
    back = load([str(small_set)], source="multi30k", languages=("de", "en"))
    assert back.texts("valid") == (GERMAN[:2], ENGLISH[:2])
    (small_set / "val.de").unlink()
    with pytest.raises(DataError, match=r"val\.de' does not exist, nor with \.gz; multi30k"):
        load([str(small_set)], source="multi30k")


def test_marks_of_the_published_files_are_undone():
    assert unmarked("a rich ##AT##-##AT## text &apos;s &amp; so") == "a rich-text 's & so"
    assert unmarked("one &#10; line&NewLine;still") == "one line still"


def test_another_set_is_not_the_published_one(small_set):
    for language in ("en.gz", "de"):
        (small_set / f"val.{language}").unlink()
        write(small_set / f"val.{language}", ["one", "two", "three"])
    with pytest.raises(DataError, match="is not multi30k as published: expected 2 pairs, found 3"):
        load([str(small_set)], source="multi30k")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"paths": ()}, "source 'files' is not part of the package: name it with --data"),
        ({"paths": ("a",)}, "source 'files' takes two files, one of each language, got a"),
        ({"paths": ("a", "b"), "source": "wmt14"}, "takes one folder, got a, b; data.source files"),
        ({"paths": ("a", "b")}, "cannot read data file 'a'"),
    ],
)
def test_wrong_paths_are_named(fields, told):
    with pytest.raises(DataError, match=told):
        load_parallel(TranslationData(**fields))


def test_too_few_sentences_to_hold_any_out_are_refused(tmp_path):
    few = write(tmp_path / "a", ENGLISH[:9]), write(tmp_path / "b", GERMAN[:9])
    with pytest.raises(DataError, match=r"must hold 10 sentences at least, .*got 9"):
        load(few)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"batch": 1}, "batch must be at least 2, got 1"),
        ({"eval_length_penalty": -0.5}, r"eval_length_penalty must lie in \[0, 10\], got -0.5"),
        ({"eval_length_penalty": 10.5}, r"eval_length_penalty must lie in \[0, 10\], got 10.5"),
        ({"languages": ("en", "en")}, "languages must be two, got"),
        ({"valid_paths": ("a",)}, "valid_paths must be two files, got"),
        ({"source": "wmt14", "test_paths": ("a", "b")}, "test_paths must be empty for 'wmt14'"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        TranslationData(**fields)


def test_subwords_are_kept_in_a_narrow_type(paths):
    assert load(paths).side("train").source.ids.dtype == torch.uint8
