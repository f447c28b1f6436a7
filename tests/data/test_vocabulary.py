import json
from itertools import accumulate

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from torchsru.data.vocabulary import (
    ByteVocabulary,
    CharacterVocabulary,
    WordVocabulary,
    byte_alphabet,
    from_json,
    learn_bytes,
    learn_characters,
    learn_subwords,
    learn_words,
)

TEXT = " = Ünïted € =\n\nthe cat , the dog\tand\u00a0the 猫 .\n" * 3
BLOCKS = [TEXT.encode()]
VOCABULARIES = {
    "bytes": ByteVocabulary(),
    "the text's bytes": learn_bytes(BLOCKS),
    "characters": learn_characters(BLOCKS),
    "words": learn_words(BLOCKS),
    "subwords": learn_subwords(BLOCKS, 280),
}
LOSSLESS = [name for name in VOCABULARIES if name != "words"]


@pytest.mark.parametrize("name", LOSSLESS)
def test_text_comes_back(name):
    vocabulary = VOCABULARIES[name]
    ids = vocabulary.to_ids(TEXT)
    assert ids.dtype == torch.int32 and ids.min() >= 0 and ids.max() < vocabulary.size
    assert vocabulary.decode(ids.tolist()) == TEXT.encode()
    assert vocabulary.encode(TEXT.encode()) == vocabulary.encode(TEXT) == ids.tolist()
    assert vocabulary.encode("") == [] and vocabulary.decode([]) == b""


@pytest.mark.parametrize("name", VOCABULARIES)
def test_pieces_join_to_the_whole(name):
    vocabulary = VOCABULARIES[name]
    ids = vocabulary.encode(TEXT)
    pieces = [vocabulary.decode([i]) for i in ids]
    assert all(pieces) and b"".join(pieces) == vocabulary.decode(ids)
    assert all(vocabulary.decode(ids).startswith(text) for text in accumulate(pieces))


@pytest.mark.parametrize("name", VOCABULARIES)
def test_json_brings_a_vocabulary_back(name):
    vocabulary = VOCABULARIES[name]
    again = from_json(json.loads(json.dumps(vocabulary.to_json())))
    for field in ("name", "unit", "size", "start", "unknown"):
        assert getattr(again, field) == getattr(vocabulary, field)
    assert again.encode(TEXT) == vocabulary.encode(TEXT)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_numbers_that_are_no_symbols_are_refused(name):
    vocabulary = VOCABULARIES[name]
    for wrong in (-1, vocabulary.size):
        with pytest.raises(ValueError, match=rf"must lie in \[0, {vocabulary.size}\), got {wrong}"):
            vocabulary.decode([wrong])


def test_what_stands_before_a_text():
    starts = {name: v.decode([v.start]) for name, v in VOCABULARIES.items()}
    assert starts.pop("bytes") == b"\0"
    assert set(starts.values()) == {b"\n"}
    assert CharacterVocabulary(" ab").start == 0 and ByteVocabulary(b"xy").start == 0


def test_the_symbols_of_a_text_are_those_that_occur_in_order():
    assert learn_bytes([b"cab", b"bd"]).symbols == b"abcd"
    assert learn_characters([b"cab", b"bd"], unknown=False).symbols == "abcd"
    assert learn_characters(["é".encode()]).symbols == "é\ufffd"


def test_words_as_the_papers_count_them():
    vocabulary = learn_words([b"b a <unk>\n\n", b"b c b\n"], always_unk=False)
    assert vocabulary.words == ["<eos>", "b", "a", "<unk>", "c"]  # frequent first, then first met
    assert vocabulary.encode("a b\n\nq\n") == [2, 1, 0, 0, 3, 0]
    assert vocabulary.decode([1, 2, 0, 4]) == b"b a \nc "


def test_words_are_limited_by_size_and_by_how_often_they_occur():
    blocks = [b"a a a b b c\n"]
    assert learn_words(blocks).words == ["<eos>", "<unk>", "a", "b", "c"]
    assert learn_words(blocks, always_unk=False).words == ["<eos>", "a", "b", "c"]
    assert learn_words(blocks, size=4).words == ["<eos>", "<unk>", "a", "b"]
    assert learn_words(blocks, least=3, always_unk=False).words == ["<eos>", "<unk>", "a"]
    assert learn_words([b"a <unk> <unk>\n"], size=3).words == ["<eos>", "<unk>", "a"]


def test_what_has_no_symbol_is_named_or_unknown():
    with pytest.raises(ValueError, match="byte 255 at 2 is not among the 3"):
        ByteVocabulary(b"abc").encode(b"ab\xff")
    with pytest.raises(ValueError, match="character 'é' at 1 is not among the 2"):
        CharacterVocabulary("ab").encode("aé")
    with pytest.raises(ValueError, match="word 'dog' at 2 is not among the 3"):
        WordVocabulary(["<eos>", "the", "a"], unk=None).encode("the a dog")
    known = learn_characters([b"ab"])
    assert known.encode("é") == [known.unknown] == [2]
    with pytest.raises(ValueError, match="not UTF-8: byte 0xff at 1"):
        known.encode(b"a\xff")


def test_half_a_surrogate_pair_is_no_text_of_subwords():
    with pytest.raises(ValueError, match="text must be UTF-8's: it holds half a surrogate pair"):
        VOCABULARIES["subwords"].to_ids("\udcff bad")


def test_bytes_of_a_command_line_come_back():
    typed = b"a\xff".decode("utf-8", "surrogateescape")
    assert ByteVocabulary().encode(typed) == [97, 255]


def test_the_byte_alphabet_is_the_librarys():
    assert sorted(byte_alphabet()) == sorted(ByteLevel.alphabet())
    for text in ("\0\t\n aé€猫", "\x7f\x80\xad"):
        ((shown, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        assert shown == "".join(byte_alphabet()[value] for value in text.encode())


def test_subwords_are_learned_within_their_size():
    learned = VOCABULARIES["subwords"]
    assert 256 < learned.size <= 280
    assert len(learned.encode(TEXT)) < len(TEXT.encode())
    assert learn_subwords(BLOCKS, 280).to_json() == learned.to_json()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (3, "expected a vocabulary of format 1, found 3"),
        ({"format": 2, "kind": "bytes"}, "expected a vocabulary of format 1"),
        ({"format": 1, "kind": "os.system"}, "kind must be one of bytes, .*got 'os.system'"),
        ({"format": 1, "kind": "bytes"}, "holds no bytes: KeyError"),
        ({"format": 1, "kind": "bytes", "symbols": [1, 1]}, "symbols must be different bytes"),
        ({"format": 1, "kind": "bytes", "symbols": [300]}, "holds no bytes: ValueError"),
        ({"format": 1, "kind": "characters", "symbols": "aa"}, "must be different characters"),
        (
            {"format": 1, "kind": "words", "words": ["a", "a"], "eos": "a", "unk": None},
            "words must differ, got 'a' twice",
        ),
        (
            {"format": 1, "kind": "words", "words": ["a"], "eos": "<eos>", "unk": None},
            "eos must be one of the words, got '<eos>'",
        ),
        ({"format": 1, "kind": "subwords", "tokenizer": {"x": 1}}, "holds no subwords"),
    ],
)
def test_other_json_is_refused(values, told):
    with pytest.raises(ValueError, match=told):
        from_json(values)
