import hashlib

import pytest
import torch

from torchsru.data import ByteData, DataError, load_corpus, load_text
from torchsru.data import corpus as module


def as_bytes(tensor):
    return bytes(tensor.tolist())


def test_python_sources_without_tests_and_a_part_held_out_by_file():
    corpus = load_corpus()
    whole = (module.Path(module.sysconfig.get_path("stdlib")) / "textwrap.py").read_bytes()
    assert corpus.train.dtype == torch.uint8
    assert corpus.files > 300 and corpus.heldout_files > 10
    assert len(corpus.train) > 5e6
    assert 0.02 < len(corpus.heldout) / len(corpus.train) < 0.15
    text = corpus.train.numpy().tobytes(), corpus.heldout.numpy().tobytes()
    assert [whole in part for part in text].count(True) == 1  # in one part, never in both
    assert not any(b"class TestUnicodeDecode" in part for part in text)
    assert f"{len(corpus.heldout):,} held out" in str(corpus)


def test_many_files_are_split_in_sorted_order_and_read_by_the_hash_of_their_content(tmp_path):
    for i in range(100):
        folder = tmp_path / f"f{i // 10}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i:03d}").write_text(f"<{i:03d}>")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    corpus = load_corpus((str(tmp_path),), heldout=0.1)
    held = [i for i in range(100) if i % 10 == 5]
    rest = [i for i in range(100) if i not in held]
    for part, members in ((corpus.heldout, held), (corpus.train, rest)):
        texts = sorted((b"<%03d>" % i for i in members), key=lambda t: hashlib.sha256(t).digest())
        assert as_bytes(part) == b"".join(text + b"\0" for text in texts)
    assert (corpus.files, corpus.heldout_files) == (100, 10)


def test_one_file_gives_its_last_part(tmp_path):
    (tmp_path / "text").write_bytes(bytes(range(200)))
    corpus = load_corpus((str(tmp_path / "text"),), heldout=0.25)
    assert as_bytes(corpus.train) == bytes(range(150))
    assert as_bytes(corpus.heldout) == bytes(range(150, 200))
    assert corpus.heldout_files == 0


def test_files_named_one_by_one_are_kept_in_that_order(tmp_path):
    for name in "ba":
        (tmp_path / name).write_text(name * 4)
    corpus = load_corpus((str(tmp_path / "b"), str(tmp_path / "a")), heldout=0.2)
    assert as_bytes(torch.cat([corpus.train, corpus.heldout])) == b"bbbb\0aaaa"


def test_the_training_text_does_not_drift_from_folder_to_folder(tmp_path):
    for folder in "abcd":
        (tmp_path / folder).mkdir()
        for i in range(50):
            (tmp_path / folder / f"{i}").write_text(f"{folder}{i} ")
    corpus = load_corpus((str(tmp_path),), heldout=0.1)
    text = as_bytes(corpus.train)
    first, last = text[: len(text) // 4], text[-len(text) // 4 :]
    for folder in b"abcd":  # in sorted order the first quarter would be folder a's alone
        assert first.count(folder) >= 5 and last.count(folder) >= 5
    again = load_corpus((str(tmp_path),), heldout=0.1)
    assert as_bytes(again.train) == text and again.content == corpus.content


def test_content_tells_bytes_order_and_sides_apart(tmp_path):
    def content(text, heldout=0.2):
        (tmp_path / "text").write_bytes(text)
        return load_corpus((str(tmp_path / "text"),), heldout).content

    assert content(b"0123456789") == content(b"0123456789")
    others = [content(b"0123456798"), content(b"1023456789"), content(b"0123456789", 0.3)]
    assert len({content(b"0123456789"), *others}) == 4


def test_a_text_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert as_bytes(load_text((str(tmp_path / "a"),))) == b"x"
    for i in range(60):
        (tmp_path / f"{i}").write_text(f"<{i}>")
    text = as_bytes(load_text((str(tmp_path),)))
    assert sorted(text.split(b"\0")) == sorted([b"", b"x", *(b"<%d>" % i for i in range(60))])


def test_a_name_too_long_is_named():
    with pytest.raises(DataError, match=r"cannot read data path 'a{300}': File name too long"):
        load_corpus(("a" * 300,))


@pytest.mark.parametrize("kind", ["missing", "empty file", "empty folder", "dangling", "one byte"])
def test_bad_paths_are_named(tmp_path, kind):
    path = tmp_path / "data"
    if kind == "empty file":
        path.write_bytes(b"")
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "dangling":
        path.mkdir()
        (path / "link").symlink_to(tmp_path / "nowhere")
    elif kind == "one byte":
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=str(path)):
        load_corpus((str(path),))


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("abc")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module.Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"secret': Permission denied"):
        load_corpus((str(tmp_path),))


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(module.os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path}': Permission denied"):
        load_corpus((str(tmp_path),))


@pytest.mark.parametrize(
    ("field", "value"),
    [("heldout", 0.0), ("heldout", 0.6), ("unroll", 0), ("batch", 0), ("eval_bytes", -1)],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"{field} must .*got {value}"):
        ByteData(**{field: value})


def test_a_file_or_its_copy_is_on_one_side_only(tmp_path):
    for i in range(120):
        (tmp_path / f"{i:03}.txt").write_bytes(b"%03d " % (i % 60) * 20)  # each text twice
    corpus = load_corpus((str(tmp_path), str(tmp_path / "002.txt"), str(tmp_path)), 0.1)
    held, train = (
        set(part.numpy().tobytes().replace(b"\0", b" ").split())
        for part in (corpus.heldout, corpus.train)
    )
    assert corpus.files == 60 and len(held) == 6 and len(train) == 54 and not held & train


def test_an_empty_file_beside_others_is_named(tmp_path):
    (tmp_path / "full").write_bytes(b"words " * 9)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"data file '.*empty' is empty"):
        load_corpus((str(tmp_path / "full"), str(tmp_path / "empty")))
