"""The splits and symbols of published data sets, on small ones of the same shape."""

import hashlib
from dataclasses import replace

import pytest
import torch

from torchsru.data import DataError, TextData, load_corpus, published
from torchsru.data.published import PUBLISHED

WIKI = {
    "train": " = A = \n\n the cat the <unk> \n",
    "valid": " the A \n",
    "test": "\n the <unk> cat \n",
}


@pytest.fixture
def smaller(monkeypatch):
    """Make a published data set small: other sizes, all else as it is."""

    def change(name, **fields):
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], **fields))

    return change


def cut_in_three(folder, smaller, name, content):
    (folder / name).write_bytes(content)
    smaller(name, cuts=(8, 3, 3), md5=hashlib.md5(content).hexdigest())


def as_bytes(corpus, side):
    return corpus.vocabulary.decode(corpus.sides[side].ids.tolist())


def test_the_table_holds_the_papers_numbers():
    """FACTS: enwik8 and text8 90/5/5 MB, 205 bytes and a-z with the blank; the word counts and
    vocabularies of wikitext, Penn Treebank and Billion Word."""
    for name, symbols in (("enwik8", 205), ("text8", 27)):
        assert PUBLISHED[name].cuts == (90_000_000, 5_000_000, 5_000_000)
        assert PUBLISHED[name].vocabulary_size == symbols
    rounded = {"wikitext-2": (2, 33_278), "wikitext-103": (103, 267_735), "ptb": (1, 10_000)}
    for name, (millions, words) in rounded.items():
        assert round(PUBLISHED[name].tokens["train"] / 1e6) == millions
        assert PUBLISHED[name].vocabulary_size == words
    assert PUBLISHED["wikitext-2"].tokens["test"] == PUBLISHED["wikitext-103"].tokens["test"]
    assert [PUBLISHED["ptb"].tokens[s] // 1000 for s in published.SPLITS] == [929, 73, 82]
    billion = PUBLISHED["billion-word"]
    assert len(billion.files["train"]) == 99 and billion.files["valid"] == billion.files["test"]
    assert "heldout-00000-of-00050" in billion.files["test"][0][0] and billion.shuffled
    names = [name.rpartition("/")[2] for (name,) in billion.files["train"]]
    assert (names[0], names[-1]) == ("news.en-00001-of-00100", "news.en-00099-of-00100")
    sentences = 30_301_028  # the hub counts them, and 4 bytes each for where they start, not ends
    assert billion.bytes == {"train": 4_238_194_392 - 4 * sentences + sentences}
    assert billion.about == 793_471


@pytest.mark.parametrize("given", ["the file", "its folder"])
def test_enwik8_is_cut_at_its_places_in_the_bytes_of_all_of_it(tmp_path, smaller, given):
    content = b"abcabc\n\xe9ab\xffdbz"
    cut_in_three(tmp_path, smaller, "enwik8", content)
    smaller("enwik8", vocabulary_size=len(set(content)))
    path = tmp_path / "enwik8" if given == "the file" else tmp_path
    corpus = load_corpus(TextData(source="enwik8", paths=(str(path),)))
    assert corpus.vocabulary.symbols == bytes(sorted(set(content)))  # np.unique of the file
    assert [as_bytes(corpus, s) for s in published.SPLITS] == [b"abcabc\n\xe9", b"ab\xff", b"dbz"]
    assert corpus.vocabulary.decode([corpus.vocabulary.start]) == b"\n"
    assert [corpus.sides[s].counts.bytes for s in published.SPLITS] == [8, 3, 3]


def test_text8_is_in_characters(tmp_path, smaller):
    cut_in_three(tmp_path, smaller, "text8", b" a bc a d e fg")
    smaller("text8", vocabulary_size=8)
    corpus = load_corpus(TextData(source="text8", paths=(str(tmp_path),)))
    assert (corpus.vocabulary.name, corpus.vocabulary.symbols) == ("characters", " abcdefg")
    assert as_bytes(corpus, "test") == b" fg"


def test_words_keep_their_eos_unk_and_order(tmp_path, smaller):
    for split, text in WIKI.items():
        (tmp_path / f"wiki.{split}.tokens").write_text(text)
    smaller("wikitext-2", tokens={"train": 10, "valid": 3, "test": 5}, vocabulary_size=6)
    corpus = load_corpus(TextData(source="wikitext-2", paths=(str(tmp_path),)))
    assert corpus.vocabulary.words == ["<eos>", "=", "the", "A", "cat", "<unk>"]
    assert corpus.train.ids.tolist() == [1, 3, 1, 0, 0, 2, 4, 2, 5, 0]
    assert corpus.train.counts.words == corpus.train.counts.tokens == 10
    assert corpus.sides["test"].ids.tolist() == [0, 2, 5, 4, 0]
    assert corpus.sides["test"].counts.unknown == 1


@pytest.fixture
def ptb(tmp_path, smaller):
    folder = tmp_path / "simple-examples" / "data"
    folder.mkdir(parents=True)
    for split in published.SPLITS:
        (folder / f"ptb.{split}.txt").write_text(" a b <unk> \n b a \n")
    smaller("ptb", tokens=dict.fromkeys(published.SPLITS, 7), vocabulary_size=4)
    return folder


def test_the_folder_of_the_unpacked_archive_will_do(ptb, tmp_path):
    for path in (tmp_path, tmp_path / "simple-examples", ptb):
        corpus = load_corpus(TextData(source="ptb", paths=(str(path),)))
        assert corpus.vocabulary.words == ["<eos>", "a", "b", "<unk>"]
        assert corpus.valid.ids.tolist() == [1, 2, 3, 0, 2, 1, 0]


def test_other_symbols_of_a_published_text(ptb):
    for kind, size in (("bytes", 256), ("characters", 10), ("subwords", 256)):
        data = TextData(source="ptb", paths=(str(ptb),), vocabulary=kind, vocabulary_size=0)
        corpus = load_corpus(data)
        assert corpus.vocabulary.name == kind and corpus.vocabulary.size >= size
        assert as_bytes(corpus, "train") == b" a b <unk> \n b a \n"


def billion_shard(number):
    return f"training-monolingual.tokenized.shuffled/news.en-{number:05d}-of-00100"


@pytest.fixture
def billion(tmp_path, smaller):
    train = tmp_path / "training-monolingual.tokenized.shuffled"
    held = tmp_path / "heldout-monolingual.tokenized.shuffled"
    for folder in (train, held):
        folder.mkdir()
    for shard in range(1, 100):
        (tmp_path / billion_shard(shard)).write_text(f"w{shard} a b .\nc{shard} a .\n")
    (held / "news.en.heldout-00000-of-00050").write_text("a new b .\na .\n")
    size = sum(file.stat().st_size for file in train.iterdir())
    smaller("billion-word", tokens={"valid": 8, "test": 8}, bytes={"train": size}, about=6)
    return TextData(source="billion-word", paths=(str(tmp_path),))


def test_billion_word_has_sentences_in_an_order_of_their_own(billion):
    corpus = load_corpus(billion)
    assert corpus.vocabulary.words == ["<S>", "<UNK>", "a", ".", "b"]  # those met three times
    assert corpus.train.counts.tokens == 99 * 9 and len(corpus.train.ends) == 2 * 99
    assert corpus.train.ends.tolist()[:3] == [5, 9, 14] and corpus.train.ends[-1] == 99 * 9
    assert torch.equal(corpus.valid.ids, corpus.sides["test"].ids)
    assert corpus.valid.ids.tolist() == [2, 1, 4, 3, 0, 2, 3, 0]


@pytest.mark.parametrize("kind", ["bytes", "characters", "subwords"])
def test_sentences_of_other_symbols(billion, kind):
    corpus = load_corpus(replace(billion, vocabulary=kind))
    text = as_bytes(corpus, "train")
    if kind == "subwords":  # a line's end may be a part of one: the text's order stays
        assert corpus.train.ends is None and text.count(b"\n") == 2 * 99
    else:
        ends = [i + 1 for i, byte in enumerate(text) if byte == ord("\n")]
        assert corpus.train.ends.tolist() == ends and len(ends) == 2 * 99 and ends[-1] == len(text)


def test_a_truncated_shard_is_named_before_anything_is_read(billion, tmp_path, cache):
    """In a sentence, or between two."""

    def told():
        with pytest.raises(DataError) as error:
            load_corpus(billion)
        assert PUBLISHED["billion-word"].url in str(error.value) and not cache.exists()
        return str(error.value)

    shard = tmp_path / billion_shard(42)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3])
    assert f"{str(shard)!r} is truncated: it holds {len(whole) - 3} bytes, and its last" in told()
    shard.write_bytes(whole[: whole.index(b"\n") + 1])
    total = sum(PUBLISHED["billion-word"].bytes.values())
    what = f"{str(shard)!r} or another of the 99 files of train is truncated, or another version: "
    assert (
        f"{what}together they hold {total - 8:,} bytes, expected {total:,}; this one has 10, "
        "about 17 are usual; " in told()
    )
    shard.write_bytes(whole * 2)
    assert f"{str(shard)!r} or another of the 99 files of train is another version: " in told()
    shard.unlink()
    assert "lacks training-monolingual.tokenized.shuffled/news.en-00042-of-00100" in told()
    shard.touch()
    assert f"{str(shard)!r} is empty" in told()
    shard.write_bytes(whole)
    held = tmp_path / PUBLISHED["billion-word"].files["valid"][0][0]
    held.write_bytes(held.read_bytes()[:-1])
    assert f"{str(held)!r} is truncated" in told()


def test_a_truncated_list_of_words_is_named(billion, tmp_path, smaller, cache):
    (tmp_path / "1b_word_vocab.txt").write_text("<S> 9\n<UNK> 9\na 3\n")
    smaller("billion-word", about=104)
    told = (
        r"1b_word_vocab.txt' is truncated, or another one: it holds 3 different words, "
        r"expected 104, give or take 100"
    )
    with pytest.raises(DataError, match=told):
        load_corpus(billion)
    assert not any(path.is_dir() for path in cache.iterdir())
    smaller("billion-word", about=103)
    assert load_corpus(billion).vocabulary.size == 3


def test_billion_words_list_of_words_is_used_if_it_is_there(billion, tmp_path):
    before = load_corpus(billion)
    (tmp_path / "1b_word_vocab.txt").write_text("<S> 9\n</S> 9\n<UNK> 9\na 3\nw5 1\n. 1\n")
    corpus = load_corpus(billion)
    assert corpus.vocabulary.words == ["<S>", "</S>", "<UNK>", "a", "w5", "."]
    assert corpus.valid.ids.tolist() == [3, 2, 2, 5, 0, 3, 5, 0]
    assert corpus.content != before.content
    (tmp_path / "1b_word_vocab.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"1b_word_vocab.txt': eos must be one of the words, got"):
        load_corpus(billion)


def test_a_list_of_words_is_cut_at_line_ends_alone_and_its_first_of_equals_stays(billion, tmp_path):
    """str.splitlines also cuts at these; what stands behind them would be a word of its own."""
    marks = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    odd = "".join(f"a{i}{mark}z{i}\n" for i, mark in enumerate(marks))
    (tmp_path / "1b_word_vocab.txt").write_text(f"<S>\n<UNK>\nw5\r\n{odd}a 3\nw5 1\n\n", "utf-8")
    expected = ["<S>", "<UNK>", "w5", *(f"a{i}" for i in range(len(marks))), "a"]
    assert load_corpus(billion).vocabulary.words == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_missing_is_named_with_where_it_is_to_be_had(tmp_path, name):
    def told(*paths):
        with pytest.raises(DataError) as error:
            load_corpus(TextData(source=name, paths=paths))
        assert PUBLISHED[name].url in str(error.value) and str(error.value).startswith(name)
        return str(error.value)

    assert "needs one path" in told()
    assert f"{str(tmp_path / 'gone')!r} does not exist" in told(str(tmp_path / "gone"))
    lacking = told(str(tmp_path))
    assert f"{str(tmp_path)!r} lacks" in lacking
    first = next(iter(PUBLISHED[name].files.values()))[0][0]
    assert first in lacking
    (tmp_path / first).parent.mkdir(exist_ok=True)
    (tmp_path / first).touch()
    if not PUBLISHED[name].cuts:
        assert f"{first}' is empty" in told(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"abcabcabcabca", "is truncated: it holds 13 bytes, expected 14 with md5 "),
        (b"abcabcabcabcabc", "is another file: it holds 15 bytes, expected 14"),
        (b"abcabcabcabcax", "is another file: its md5 is .*, expected "),
    ],
)
def test_a_truncated_or_other_file_is_named(tmp_path, cache, smaller, content, why):
    cut_in_three(tmp_path, smaller, "enwik8", b"abcabcabcabcab")
    (tmp_path / "enwik8").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"enwik8: '.*/enwik8' {why}.*; unpack it from http://matt"
    ):
        load_corpus(TextData(source="enwik8", paths=(str(tmp_path),)))
    assert not cache.exists() or not any(path.is_dir() for path in cache.iterdir())


def test_a_file_with_another_number_of_words_is_named(ptb, cache):
    file = ptb / "ptb.valid.txt"
    file.write_text(" a b <unk> \n")
    told = (
        r"ptb: '.*ptb.valid.txt' is truncated, or another version: it holds 4 words.*, expected 7"
    )
    with pytest.raises(DataError, match=told):
        load_corpus(TextData(source="ptb", paths=(str(ptb),)))
    assert not any(path.is_dir() for path in cache.iterdir())
    file.write_text(" a b <unk> \n b a \n a \n")
    with pytest.raises(DataError, match=r"is another version: it holds 9 words"):
        load_corpus(TextData(source="ptb", paths=(str(ptb),)))


def test_another_number_of_different_words_is_named(ptb, smaller):
    smaller("ptb", vocabulary_size=5)
    with pytest.raises(DataError, match=r"ptb.train.txt' has 4 different words, expected 5"):
        load_corpus(TextData(source="ptb", paths=(str(ptb),)))
