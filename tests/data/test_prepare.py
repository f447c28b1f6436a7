import io

import pytest
import torch
from rich.console import Console

from torchsru.data import (
    ByteVocabulary,
    DataError,
    TextData,
    corpus,
    load_corpus,
    load_side,
    texts,
)
from torchsru.data.corpus import narrowest
from torchsru.data.prepare import Reading, prepare, prepare_side
from torchsru.data.texts import BytesText

TEXT = "".join(f"line {i} of the text, {'é' * (i % 3)}\n" for i in range(200))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    return str(tmp_path / "text")


@pytest.mark.parametrize("kind", ["characters", "words", "subwords"])
def test_a_text_in_any_symbols_comes_back_from_the_cache(text, kind):
    size = {"subwords": 300}.get(kind, 0)
    corpus = load_corpus(TextData(paths=(text,), vocabulary=kind, vocabulary_size=size))
    train, valid = (
        corpus.vocabulary.decode(corpus.sides[side].ids.tolist()).decode()
        for side in ("train", "valid")
    )
    if kind == "words":
        assert train + valid != TEXT  # the numbers of the last lines are new, blanks are normal
        assert train.split() == TEXT.split()[: len(train.split())]
    else:
        assert train + valid == TEXT
    for side, part in (("train", train), ("valid", valid)):
        counts = corpus.sides[side].counts
        assert counts.tokens == len(corpus.sides[side].ids)
        assert counts.words == len(part.split()) + part.count("\n")
        if kind != "words":
            assert (counts.bytes, counts.characters) == (len(part.encode()), len(part))
    assert "held out (the last part)" in str(corpus) and corpus.files == 1


def test_symbols_are_kept_in_the_narrowest_type_and_mapped(text):
    corpus = load_corpus(TextData(paths=(text,), vocabulary="subwords", vocabulary_size=300))
    assert corpus.train.ids.dtype == torch.int16
    assert (corpus.folder / "train.bin").stat().st_size == 2 * len(corpus.train.ids)
    assert [narrowest(n) for n in (256, 257, 2**15, 2**15 + 1)] == [
        *(torch.uint8, torch.int16, torch.int16, torch.int32)
    ]
    with open(corpus.folder / "train.bin", "r+b") as file:  # under the map: it is no copy
        file.write(b"\x07\x01")
    assert corpus.train.ids[0] == 0x107


def test_what_the_training_text_lacks_is_unknown(tmp_path):
    (tmp_path / "text").write_text("a b\n" * 20 + "c é\n")
    data = TextData(paths=(str(tmp_path / "text"),), vocabulary="words")
    words = load_corpus(data)
    assert words.vocabulary.words == ["<eos>", "<unk>", "a", "b"]
    assert words.valid.ids.tolist()[-3:] == [1, 1, 0] and words.valid.counts.unknown == 2


def test_a_text_that_is_no_utf_8_is_named_with_the_place(tmp_path):
    (tmp_path / "text").write_bytes(b"line\n" * 20 + b"\xff\n")
    for kind in ("characters", "words", "subwords"):
        with pytest.raises(DataError, match=r"text' is not UTF-8: byte 0xff at 100; .*'bytes'"):
            load_corpus(TextData(paths=(str(tmp_path / "text"),), vocabulary=kind))
    assert len(load_corpus(TextData(paths=(str(tmp_path / "text"),))).train.ids) > 80


def test_a_vocabulary_names_other_files(text, tmp_path):
    vocabulary = load_corpus(TextData(paths=(text,), vocabulary="words")).vocabulary
    (tmp_path / "other").write_text("of line\n\nof dog")
    side = load_side((str(tmp_path / "other"),), vocabulary)
    assert vocabulary.decode(side.ids.tolist()) == b"of line \n\nof <unk> \n"
    assert (side.counts.tokens, side.counts.words, side.counts.unknown) == (7, 7, 1)
    (tmp_path / "other").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"other' is not UTF-8: byte 0xff at 0"):
        load_side((str(tmp_path / "other"),), vocabulary)


def test_a_side_of_any_symbols_is_the_same_in_memory_and_mapped(text, tmp_path, monkeypatch, cache):
    other = TEXT[5:-1] + " no line end"
    (tmp_path / "other").write_text(other)
    for kind, size in (("characters", 0), ("words", 0), ("subwords", 300)):
        data = TextData(paths=(text,), vocabulary=kind, vocabulary_size=size)
        vocabulary = load_corpus(data).vocabulary
        expected = vocabulary.encode(other + ("\n" if kind == "words" else ""))
        with monkeypatch.context() as patched:
            patched.setattr(texts, "BLOCK_BYTES", 100)
            inside = load_side((str(tmp_path / "other"),), vocabulary)
            patched.setattr(corpus, "IN_MEMORY", 0)
            for _ in range(2):
                mapped = load_side((str(tmp_path / "other"),), vocabulary)
                assert mapped.ids.tolist() == inside.ids.tolist() == expected
                assert mapped.counts == inside.counts and mapped.counts.tokens == len(expected)
    assert len(list(cache.glob("*/all.bin"))) == 3


class Changing:
    """A text that is another one when it is read again."""

    where, size = "a log", 0
    reads = 0

    def blocks(self):
        self.reads += 1
        yield b"line %d\n" % self.reads


def test_a_text_that_changes_while_it_is_read_is_named_and_not_kept(cache):
    whole = [BytesText("a", b"line 1\n")]
    for sides in ({"train": whole, "valid": [Changing()]}, {"train": [Changing()], "valid": whole}):
        with pytest.raises(DataError, match="'a log' or what follows it changed while it was read"):
            prepare(TextData(paths=("a",)), sides, "a set")
    with pytest.raises(DataError, match="'a log' or what follows it changed while it was read"):
        prepare_side(Changing(), ByteVocabulary())
    assert not any(path.is_dir() for path in cache.iterdir())


def test_each_text_ends_its_last_line():
    with Reading("a set", Console(file=io.StringIO())) as reading:
        texts = [BytesText("a", b"x y"), BytesText("b", b"z\n"), BytesText("c", b"")]
        assert b"".join(reading.blocks("", texts, "words")) == b"x y\nz\n"
        assert b"".join(reading.blocks("", texts, "bytes")) == b"x yz\n"


def test_progress_is_shown_on_a_terminal_by_one_process(monkeypatch):
    for terminal, rank in ((True, "0"), (False, "0"), (True, "1")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=120)
        with Reading("a set", console) as reading:
            for _ in reading.blocks("reading train", [BytesText("a", b"x\n" * 500)]):
                reading._progress.refresh()
        shown = "a set: reading train" in screen.getvalue()
        assert shown is (terminal and rank == "0")
