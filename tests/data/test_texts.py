import pytest

from torchsru.data import DataError, texts
from torchsru.data.texts import BytesText, FileText

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


def test_a_part_of_a_file(tmp_path):
    (tmp_path / "text").write_bytes(LINES)
    part = FileText(tmp_path / "text", 5, 25)
    assert b"".join(part.blocks()) == LINES[5:25] and part.size == 20


def test_files_that_are_gone_or_shrink_are_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read data file '.*gone': No such file"):
        list(FileText(tmp_path / "gone").blocks())
    (tmp_path / "text").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"text' ended 7 bytes before it should have"):
        list(FileText(tmp_path / "text", 0, 10).blocks())
