import pytest

from torchsru.data import DataError, texts
from torchsru.data.texts import BytesText, FileText, JoinedText, content_of

LINES = b"".join(b"line %d\n" % i for i in range(50))


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
@pytest.mark.parametrize(
    ("content", "ends"),
    [(LINES, b"\n"), (LINES[:-3], b"\n"), (b"words in one long line " * 9, b" "), (b"x" * 99, b"")],
)
def test_blocks_are_the_text_and_end_where_they_may(tmp_path, monkeypatch, size, content, ends):
    monkeypatch.setattr(texts, "BLOCK_BYTES", size)
    (tmp_path / "text").write_bytes(content)
    for text in (FileText(tmp_path / "text"), BytesText("text", content)):
        blocks = list(text.blocks())
        assert b"".join(blocks) == content == b"".join(text.blocks())
        allowed = (ends,) if size >= 64 else (ends, b" ")  # a line longer than a block is cut
        assert all(block.endswith(allowed) for block in blocks[:-1]) and all(blocks)
        assert text.size == len(content)
    assert len(blocks) > 1 or size > 64 or not ends


@pytest.mark.parametrize(
    ("content", "cuts_words"),
    [
        ("\t".join(f"word{i}" for i in range(99)), False),
        ("\u3000".join("言葉" * (i % 3 + 1) for i in range(99)), False),
        ("語" * 199, True),
        ("x語é" * 99, True),
        ("x" * 2999, True),
    ],
)
def test_without_line_ends_and_blanks_blocks_are_bounded_and_cut_no_character(
    monkeypatch, content, cuts_words
):
    monkeypatch.setattr(texts, "BLOCK_BYTES", 16)
    monkeypatch.setattr(texts, "LONGEST", 64)
    blocks = list(BytesText("text", content.encode()).blocks())
    assert b"".join(blocks) == content.encode() and len(blocks) > len(content.encode()) // 80
    assert max(map(len, blocks)) <= 64 + 16
    assert "".join(block.decode() for block in blocks) == content  # none is cut
    words = [word for block in blocks for word in block.decode().split()]
    assert (words != content.split()) is cuts_words


def test_bytes_that_are_no_utf_8_are_bounded_too(monkeypatch):
    monkeypatch.setattr(texts, "BLOCK_BYTES", 16)
    monkeypatch.setattr(texts, "LONGEST", 64)
    for content in (b"\x80" * 999, b"\xff" * 999, bytes(range(128, 256)) * 9):
        blocks = list(BytesText("text", content).blocks())
        assert b"".join(blocks) == content and max(map(len, blocks)) <= 64 + 16


def test_a_line_of_up_to_the_longest_stays_whole(monkeypatch):
    """Where a text has breaks, it is cut at them alone."""
    monkeypatch.setattr(texts, "BLOCK_BYTES", 16)
    monkeypatch.setattr(texts, "LONGEST", 64)
    content = b"".join(b"x" * n + b"\n" for n in range(64))
    blocks = list(BytesText("text", content).blocks())
    assert b"".join(blocks) == content and all(block.endswith(b"\n") for block in blocks)


def test_how_a_text_comes_in_pieces_makes_no_difference(monkeypatch):
    monkeypatch.setattr(texts, "BLOCK_BYTES", 64)
    whole = list(texts.in_blocks([LINES]))
    assert len(whole) > 3 and max(map(len, whole)) <= 2 * 64
    assert list(texts.in_blocks(LINES[i : i + 1] for i in range(len(LINES)))) == whole


def test_a_part_of_a_file(tmp_path):
    (tmp_path / "text").write_bytes(LINES)
    part = FileText(tmp_path / "text", 5, 25)
    assert b"".join(part.blocks()) == LINES[5:25] and part.size == 20


@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_joined_texts_are_read_as_one(tmp_path, monkeypatch, size):
    monkeypatch.setattr(texts, "BLOCK_BYTES", size)
    (tmp_path / "text").write_bytes(b"0123\n56789")
    parts = [FileText(tmp_path / "text", 1, 9), BytesText("", b"\0"), BytesText("", b"\nabc")]
    whole, content = JoinedText("all", parts), b"123\n5678\0\nabc"
    assert whole.size == len(content) and content_of(whole) == content
    for start in range(len(content)):
        for stop in range(start, len(content) + 1):
            part = whole.part(start, stop)
            assert content_of(part) == content[start:stop] and part.size == stop - start
            assert whole.rfind(b"\n", start, stop) == content.rfind(b"\n", start, stop)


def test_files_that_are_gone_or_shrink_are_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read data file '.*gone': No such file"):
        list(FileText(tmp_path / "gone").blocks())
    (tmp_path / "text").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"text' ended 7 bytes before it should have"):
        list(FileText(tmp_path / "text", 0, 10).blocks())
