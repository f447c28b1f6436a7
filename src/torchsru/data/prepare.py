"""Texts turned into symbols, once: built into the cache, mapped into memory from there.

    CACHE/text/HASH/train.bin, valid.bin, test.bin   symbols, in the narrowest type that holds them
                    train.ends                       where sentences end, if they are shuffled
                    vocabulary.json, counts.json
    HASH            of every text's content and of all that decides on its symbols
A text to evaluate on, in a vocabulary that is there, is all.bin and counts.json.
Check      tests/data/test_prepare.py
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from torchsru.data import published
from torchsru.data.cache import FACTS, is_quiet, prepared
from torchsru.data.config import TextData
from torchsru.data.corpus import Corpus, Counts, Side, byte_content, in_symbols, narrowest
from torchsru.data.published import PUBLISHED
from torchsru.data.texts import DataError, Text, Texts, check_utf8
from torchsru.data.vocabulary import (
    ByteVocabulary,
    Vocabulary,
    WordVocabulary,
    from_json,
    learn_bytes,
    learn_characters,
    learn_subwords,
    learn_words,
)

FORMAT = 3  # part of HASH: what another version prepared is prepared anew
SUBWORDS = 8192  # symbols, where the recipe names no number
VOCABULARY, COUNTS = "vocabulary.json", "counts.json"
ALL = "all"  # the side of a text that has no others


def kind_of(data: TextData) -> str:
    """The vocabulary that "auto" stands for."""
    if data.vocabulary != "auto":
        return data.vocabulary
    return PUBLISHED[data.source].vocabulary if data.source in PUBLISHED else "bytes"


def expected_symbols(data: TextData) -> int:
    """How many symbols the data will have, without reading them.

    Raises: ValueError if that depends on what they hold.
    """
    spec, kind = PUBLISHED.get(data.source), kind_of(data)
    if data.vocabulary_size:
        return data.vocabulary_size
    if spec and kind == spec.vocabulary and (size := spec.vocabulary_size or spec.about):
        return size
    if kind in ("bytes", "subwords"):
        return 256 if kind == "bytes" else SUBWORDS
    raise ValueError(f"how many {kind} the data have is known only once they are read")


def prepare(data: TextData, texts: Texts, name: str) -> Corpus:
    """These texts in symbols, from the cache; put there first if need be.

    Args:
        data: says in which symbols.
        texts: of each side, "train" and "valid" among them.
        name: for messages.

    Raises: DataError if a text can't be read, is not the published one, or holds what its
        vocabulary can't name; if the cache can't be written.
    """
    spec, kind = PUBLISHED.get(data.source), kind_of(data)
    word_list: Sequence[Text] = []
    if spec and kind == "words" and not data.vocabulary_size:
        word_list = published.find_word_list(data.source, data.paths)
    with Reading(name) as reading:
        settings = [FORMAT, data.source if spec else "", kind, data.vocabulary_size]
        key, sums = hashlib.sha256(json.dumps(settings).encode()), {}
        for side, parts in {**texts, "word list": word_list}.items():
            sums[side] = reading.sum(f"reading {side}", parts)
            key.update(side.encode() + sums[side])
        build = partial(_build, data, kind, texts, word_list, reading, sums)
        folder = prepared(key.hexdigest(), name, build)
    vocabulary = from_json(json.loads((folder / VOCABULARY).read_bytes()))
    sides = {side: _side(folder, side, vocabulary) for side in texts}
    if data.source in ("text", "packages") and kind == "bytes":
        content = byte_content([sums["train"], sums["valid"]])  # that of byte_corpus
    else:
        files = json.loads((folder / FACTS).read_bytes())["files"]
        del files[COUNTS]  # they follow from the rest
        content = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Corpus(name, vocabulary, sides, content, folder=folder)


def prepare_side(text: Text, vocabulary: Vocabulary) -> Side:
    """A text in a vocabulary that is there, from the cache; put there first if need be.

    Raises: DataError if it can't be read or holds what the vocabulary can't name; if the cache
        can't be written.
    """
    with Reading(text.where) as reading:
        sum_ = reading.sum("reading", [text])
        key = hashlib.sha256(json.dumps([FORMAT, vocabulary.to_json()]).encode() + sum_)

        def build(folder: Path) -> None:
            counts = Counts()
            with open(folder / f"{ALL}.bin", "wb") as file:
                blocks = reading.blocks(f"in {vocabulary.name}", [text], expected=sum_)
                for ids, so_far in in_symbols(blocks, vocabulary, text.where):
                    ids.numpy().tofile(file)
                    counts = so_far
            (folder / COUNTS).write_text(json.dumps({ALL: asdict(counts)}), encoding="utf-8")

        folder = prepared(key.hexdigest(), text.where, build)
    return _side(folder, ALL, vocabulary)


def _side(folder: Path, side: str, vocabulary: Vocabulary) -> Side:
    """A side of what is kept in a folder, mapped."""
    ids, ends = folder / f"{side}.bin", folder / f"{side}.ends"
    return Side(
        mapped(ids, narrowest(vocabulary.size)),
        Counts(**json.loads((folder / COUNTS).read_bytes())[side]),
        mapped(ends, torch.int64) if ends.exists() else None,
    )


def _build(
    data: TextData,
    kind: str,
    texts: Texts,
    word_list: Sequence[Text],
    reading: "Reading",
    sums: Mapping[str, bytes],
    folder: Path,
) -> None:
    """Write symbols, vocabulary and counts into a folder. Raises DataError."""
    spec = PUBLISHED.get(data.source)
    if spec and spec.md5:
        published.check_sum(data.source, texts)
    vocabulary = learn(data, kind, texts, word_list, reading)
    found = {}
    for side in reversed(texts):  # the long one last: the others tell sooner what is wrong
        counts, where = Counts(), texts[side][0].where
        with ExitStack() as stack:
            file = stack.enter_context(open(folder / f"{side}.bin", "wb"))
            ends = None
            if spec and spec.shuffled and kind != "subwords":  # of which one may hold a line's end
                ends = stack.enter_context(open(folder / f"{side}.ends", "wb"))
                line_end = vocabulary.encode("\n")[0]
            blocks = reading.blocks(f"{side} in {kind}", texts[side], kind, sums[side])
            for ids, counts in in_symbols(blocks, vocabulary, where):
                ids.numpy().tofile(file)
                if ends:
                    places = (ids == line_end).nonzero().flatten() + 1 + counts.tokens - len(ids)
                    places.numpy().tofile(ends)
        if not counts.tokens:
            raise DataError(f"{where!r} holds no {vocabulary.unit}s")
        if spec:
            published.check_words(data.source, side, texts[side], counts.words)
        found[side] = asdict(counts)
    if spec and kind == spec.vocabulary and not data.vocabulary_size and not word_list:
        published.check_vocabulary(data.source, texts["train"], vocabulary.size)
    (folder / VOCABULARY).write_text(json.dumps(vocabulary.to_json()), encoding="utf-8")
    (folder / COUNTS).write_text(json.dumps(found), encoding="utf-8")


def learn(
    data: TextData, kind: str, texts: Texts, word_list: Sequence[Text], reading: "Reading"
) -> Vocabulary:
    """The vocabulary of a corpus: published as such, or of its training text. Raises DataError."""
    spec = PUBLISHED.get(data.source)
    if spec and word_list:
        # not splitlines, which cuts at U+0085, U+2028 and others that stand inside words, too
        lines = b"".join(reading.blocks("word list", word_list, kind)).decode().split("\n")
        words = dict.fromkeys(line.split()[0] for line in lines if line.strip())
        try:
            vocabulary = WordVocabulary(list(words), spec.eos, spec.unk)
        except ValueError as error:
            raise DataError(f"{word_list[0].where!r}: {error}") from error
        published.check_word_list(data.source, word_list, vocabulary.size)
        return vocabulary
    if spec and spec.cuts and kind == spec.vocabulary:  # the papers' symbols: of the whole file
        everything = [text for side in texts.values() for text in side]
        blocks = reading.blocks(f"learning {kind}", everything)
        return learn_bytes(blocks) if kind == "bytes" else learn_characters(blocks, unknown=False)
    if kind == "bytes":
        return ByteVocabulary()
    blocks = reading.blocks(f"learning {kind}", texts["train"], kind)
    if kind == "characters":
        return learn_characters(blocks)
    if kind == "subwords":
        return learn_subwords(blocks, data.vocabulary_size or SUBWORDS)
    if spec and not data.vocabulary_size:
        return learn_words(
            blocks, least=spec.least, eos=spec.eos, unk=spec.unk, always_unk=spec.least > 1
        )
    return learn_words(blocks, size=data.vocabulary_size)


def mapped(file: Path, dtype: torch.dtype) -> Tensor:
    """A file's items, mapped into memory, [N]."""
    count = file.stat().st_size // dtype.itemsize
    return torch.from_file(str(file), shared=False, size=count, dtype=dtype)


class Reading:
    """Texts block by block, with a progress bar on a terminal."""

    def __init__(self, title: str, console: Console | None = None):
        console = console or Console(stderr=True)
        self._title = title
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=is_quiet() or not console.is_terminal,
        )

    def sum(self, doing: str, texts: Sequence[Text]) -> bytes:
        """SHA-256 of the texts. Raises DataError naming the one that can't be read."""
        sum_ = hashlib.sha256()
        for block in self.blocks(doing, texts):
            sum_.update(block)
        return sum_.digest()

    def blocks(
        self, doing: str, texts: Sequence[Text], kind: str = "bytes", expected: bytes = b""
    ) -> Iterator[bytes]:
        """All blocks of the texts.

        Args:
            doing: shown beside the bar.
            kind: of symbols. For all but bytes the text must be UTF-8; words and subwords need
                each text's last line to end.
            expected: what `sum` gave before.

        Raises: DataError naming the text that can't be read, or its first byte that is no UTF-8;
            after the last block, if what was read is not what was expected.
        """
        sum_ = hashlib.sha256()
        total = sum(text.size for text in texts)
        bar = self._progress.add_task(f"{self._title}: {doing}", total=total or None)
        try:
            for text in texts:
                at, block = 0, b""
                for block in text.blocks():
                    if kind != "bytes":
                        check_utf8(block, text.where, at)
                    if expected:
                        sum_.update(block)
                    yield block
                    at += len(block)
                    self._progress.update(bar, advance=len(block))
                if kind in ("words", "subwords") and block and not block.endswith(b"\n"):
                    yield b"\n"
            if expected and sum_.digest() != expected:
                raise DataError(f"{texts[0].where!r} or what follows it changed while it was read")
        finally:
            self._progress.remove_task(bar)

    def __enter__(self) -> "Reading":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
