import hashlib
import tracemalloc

import pytest
import torch

from torchsru.data import ByteVocabulary, DataError, TextData, load_side, texts
from torchsru.data import cache as cache_module
from torchsru.data import corpus as corpus_module
from torchsru.data import files as module
from torchsru.data import load_corpus as load
from torchsru.data.texts import FileText, content_of


def load_corpus(paths=(), heldout=0.05):
    return load(TextData(paths=paths, heldout=heldout))


def as_bytes(side):
    return side.ids.to(torch.uint8).numpy().tobytes()


def test_python_sources_without_tests_and_a_part_held_out_by_file():
    corpus = load_corpus()
    whole = (module.Path(module.sysconfig.get_path("stdlib")) / "textwrap.py").read_bytes()
    assert corpus.train.ids.dtype == torch.uint8
    assert corpus.files > 300 and corpus.heldout_files > 10
    assert len(corpus.train.ids) > 5e6
    assert 0.02 < len(corpus.valid.ids) / len(corpus.train.ids) < 0.15
    text = as_bytes(corpus.train), as_bytes(corpus.valid)
    assert [whole in part for part in text].count(True) == 1  # in one part, never in both
    assert not any(b"class TestUnicodeDecode" in part for part in text)
    assert f"{len(corpus.valid.ids):,} held out" in str(corpus)


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
    for part, members in ((corpus.valid, held), (corpus.train, rest)):
        texts = sorted((b"<%03d>" % i for i in members), key=lambda t: hashlib.sha256(t).digest())
        assert as_bytes(part) == b"".join(text + b"\0" for text in texts)
    assert (corpus.files, corpus.heldout_files) == (100, 10)


@pytest.mark.parametrize("count", [50, 60])
def test_of_many_files_one_at_least_is_held_out(tmp_path, count):
    for i in range(count):
        (tmp_path / f"{i:03d}").write_text(f"<{i:03d}>")
    corpus = load_corpus((str(tmp_path),), heldout=0.005)
    assert as_bytes(corpus.valid) == b"<%03d>\0" % (count // 2)
    assert corpus.heldout_files == 1 and len(as_bytes(corpus.train)) == 6 * (count - 1)


def test_one_file_gives_its_last_part(tmp_path):
    (tmp_path / "text").write_bytes(bytes(range(200)))
    corpus = load_corpus((str(tmp_path / "text"),), heldout=0.25)
    assert as_bytes(corpus.train) == bytes(range(150))
    assert as_bytes(corpus.valid) == bytes(range(150, 200))
    assert corpus.heldout_files == 0


def test_files_named_one_by_one_are_kept_in_that_order(tmp_path):
    for name in "ba":
        (tmp_path / name).write_text(name * 4)
    corpus = load_corpus((str(tmp_path / "b"), str(tmp_path / "a")), heldout=0.2)
    assert as_bytes(corpus.train) + as_bytes(corpus.valid) == b"bbbb\0aaaa"


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
    sides = b"".join(hashlib.sha256(side).digest() for side in (b"01234567", b"89"))
    assert content(b"0123456789") == hashlib.sha256(sides).hexdigest()  # as in runs of before
    others = [content(b"0123456798"), content(b"1023456789"), content(b"0123456789", 0.3)]
    assert len({content(b"0123456789"), *others}) == 4


def test_a_text_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert as_bytes(load_side((str(tmp_path / "a"),), ByteVocabulary())) == b"x"
    for i in range(60):
        (tmp_path / f"{i}").write_text(f"<{i}>")
    text = as_bytes(load_side((str(tmp_path),), ByteVocabulary()))
    assert sorted(text.split(b"\0")) == sorted([b"", b"x", *(b"<%d>" % i for i in range(60))])


@pytest.fixture(params=["one file", "few files", "many files"])
def folder(tmp_path, request):
    """Files of 2 MiB in all."""
    count = {"one file": 1, "few files": 3, "many files": 64}[request.param]
    (tmp_path / "files").mkdir()
    line = bytes(range(33, 256)) + b"x" * 32 + b"\n"
    for i in range(count):
        (tmp_path / "files" / f"{i}").write_bytes((b"%d" % i + line) * (8192 // count))
    return str(tmp_path / "files")


def test_many_bytes_are_mapped_from_the_cache_and_are_the_same(folder, monkeypatch, cache):
    before, side = load_corpus((folder,)), load_side((folder,), ByteVocabulary())
    assert before.folder is None and not cache.exists()
    monkeypatch.setattr(corpus_module, "IN_MEMORY", 1 << 20)
    after, again = load_corpus((folder,)), load_side((folder,), ByteVocabulary())
    assert after.folder.parent == cache and len(list(cache.glob("*/all.bin"))) == 1
    assert after.content == before.content  # a run goes on, whatever the limit was
    assert (after.files, after.heldout_files) == (before.files, before.heldout_files)
    pairs = [(side, again)] + [(before.sides[name], after.sides[name]) for name in before.sides]
    for one, other in pairs:
        assert other.ids.dtype == torch.uint8 and torch.equal(one.ids, other.ids)
        assert (one.counts.tokens, one.counts.bytes) == (other.counts.tokens, other.counts.bytes)
    assert side.counts == again.counts
    for name, mapped in (("all", again), ("train", after.train)):
        (file,) = cache.glob(f"*/{name}.bin")
        with open(file, "r+b") as stream:  # under the map: it is no copy
            stream.write(b"\0")
        assert mapped.ids[0] == 0


def peak(load, *arguments):
    """The most bytes that Python holds at a time."""
    tracemalloc.start()
    try:
        load(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("folder", ["one file", "many files"], indirect=True)
def test_memory_is_bounded_whatever_the_size(folder, tmp_path, monkeypatch):
    for module_, name in ((texts, "BLOCK_BYTES"), (cache_module, "CHUNK")):
        monkeypatch.setattr(module_, name, 1 << 15)
    assert peak(load_corpus, (folder,)) > 1 << 21  # all of it is held
    (tmp_path / "small").write_text("what is imported is not counted")
    for limit, path in ((0, str(tmp_path / "small")), (1 << 20, folder)):
        monkeypatch.setattr(corpus_module, "IN_MEMORY", limit)
        most = peak(load_corpus, (path,)), peak(load_side, (path,), ByteVocabulary())
    assert max(most) < 1 << 20


def test_a_place_that_a_vocabulary_cannot_name_is_counted_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "BLOCK_BYTES", 8)
    (tmp_path / "text").write_bytes(b"ab\n" * 9 + b"c")
    with pytest.raises(DataError, match=r"text': byte 99 at 27 is not among the 3 of this text"):
        load_side((str(tmp_path / "text"),), ByteVocabulary(b"\nab"))


def test_what_is_written_behind_a_file_later_is_no_part_of_it(tmp_path):
    (tmp_path / "log").write_bytes(b"0123456789")
    files = module.read_files((str(tmp_path / "log"),))
    with open(tmp_path / "log", "ab") as file:
        file.write(b"more")
    train, held, _ = files.split(0.2, module.NUL)
    assert (content_of(train), content_of(held)) == (b"01234567", b"89")


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

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(texts, "open", refuse, raising=False)
    with pytest.raises(DataError, match=r"secret': Permission denied"):
        load_corpus((str(tmp_path),))


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(module.os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path}': Permission denied"):
        load_corpus((str(tmp_path),))


def test_a_file_or_its_copy_is_on_one_side_only(tmp_path):
    for i in range(120):
        (tmp_path / f"{i:03}.txt").write_bytes(b"%03d " % (i % 60) * 20)  # each text twice
    corpus = load_corpus((str(tmp_path), str(tmp_path / "002.txt"), str(tmp_path)), 0.1)
    held, train = (
        set(as_bytes(side).replace(b"\0", b" ").split()) for side in (corpus.valid, corpus.train)
    )
    assert corpus.files == 60 and len(held) == 6 and len(train) == 54 and not held & train


def test_an_empty_file_beside_others_is_named(tmp_path):
    (tmp_path / "full").write_bytes(b"words " * 9)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"data file '.*empty' is empty"):
        load_corpus((str(tmp_path / "full"), str(tmp_path / "empty")))


def test_installed_packages_come_with_the_standard_library(tmp_path, monkeypatch):
    site, stdlib = tmp_path / "stdlib" / "site-packages", tmp_path / "stdlib"
    for name, text in (
        ("a.py", "stdlib "),
        ("test/b.py", "its tests "),
        ("site-packages/pkg/c.py", "package "),
        ("site-packages/pkg/copy.py", "package "),
        ("site-packages/pkg/tests/d.py", "its tests "),
        ("site-packages/pkg/data.txt", "no source "),
    ):
        (stdlib / name).parent.mkdir(parents=True, exist_ok=True)
        (stdlib / name).write_text(text * 20)
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(stdlib))
    monkeypatch.setattr(module.site, "getsitepackages", lambda: [str(site), str(tmp_path / "no")])
    corpus = load(TextData(source="packages"))
    text = as_bytes(corpus.train) + as_bytes(corpus.valid)
    assert text == b"stdlib " * 20 + b"\0" + b"package " * 20
    assert corpus.files == 2 and "and packages" in corpus.name
    assert b"package" not in as_bytes(load(TextData()).train)


@pytest.mark.parametrize(
    ("text", "heldout", "held"), [("ab\ncd\nfé\n", 0.3, "fé\n"), ("ab cd é é", 0.2, "é")]
)
def test_symbols_that_are_not_bytes_are_not_cut(tmp_path, text, heldout, held):
    (tmp_path / "text").write_text(text)
    files = module.read_files((str(tmp_path / "text"),))
    for words in (False, True):
        assert content_of(files.split(heldout, b"\n", words)[1]) == held.encode()
    last = int(heldout * len(text.encode()))
    assert content_of(files.split(heldout, module.NUL)[1]) == text.encode()[-last:]


def test_a_line_end_far_before_the_cut_is_none_to_hold_out_from(tmp_path):
    text = "Title line\n" + "some words of one long line " * 4000
    (tmp_path / "text").write_text(text)
    corpus = load(TextData(paths=(str(tmp_path / "text"),), vocabulary="words"))
    train, held = corpus.train.counts.words, corpus.valid.counts.words
    assert 0.049 < held / (train + held) < 0.051
    assert train + held == len(text.split()) + 3  # line ends: no word was cut


@pytest.mark.parametrize(("before", "starts"), [(5, True), (6, False)])
@pytest.mark.parametrize("mark", [b"\n", b" "])
@pytest.mark.parametrize("block", [3, 1 << 22])
def test_the_part_held_out_grows_by_half_at_most(
    tmp_path, monkeypatch, before, starts, mark, block
):
    monkeypatch.setattr(texts, "BLOCK_BYTES", block)
    text = b"x" * (89 - before) + mark + b"y" * before + b"z" * 10
    held = files_of(tmp_path, text).split(0.1, b"\n")[1]
    assert content_of(held) == (b"y" * before if starts else b"") + b"z" * 10


def files_of(folder, content):
    (folder / "text").write_bytes(content)
    return module.Files("text", [FileText(folder / "text", 0, len(content))])


def test_without_line_ends_and_blanks_characters_stay_whole_and_words_name_the_reason(tmp_path):
    files = files_of(tmp_path, "日本語".encode() * 50)
    for heldout in (0.1, 0.103, 0.105):  # 45, 46, 47 bytes: each place in a character
        held = content_of(files.split(heldout, b"\n")[1]).decode()
        assert held == ("日本語" * 50)[-len(held) :] and 15 <= len(held) <= 16
    with pytest.raises(
        DataError,
        match=r"text can't be split: of 450 bytes the last 45 are to be held out, and the 23 "
        r"before them hold no line end and no blank",
    ):
        files.split(0.1, b"\n", words=True)


def test_the_librarys_copies_stay_and_those_among_packages_go(tmp_path, monkeypatch):
    """A file less moves every file behind it between what is trained on and what is held out."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.py").write_text("the same")
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(module.site, "getsitepackages", list)
    assert len(module.python_sources().texts) == 3
    assert len(module.python_sources(packages=True).texts) == 1
