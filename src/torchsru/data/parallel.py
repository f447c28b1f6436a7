"""Sentences in two languages: published sets and one's own, in subwords that both share.

Files      two, a sentence a line: line n of one translates line n of the other; plain or gzipped,
           UTF-8; only "\\n" ends a line
Subwords   byte-pair encoding (Sennrich et al. 2016) of both languages together, learned from the
           training part by the package sentencepiece
Prepared   once, and kept in the cache, mapped into memory from there:
               CACHE/text/HASH/subwords.model            the vocabulary, sentencepiece's own file
                               SIDE.source, SIDE.target  subwords of all sentences, end to end
                               SIDE.source.lengths, ...  how many each sentence has, int32
                               SIDE.source.txt, ...      the sentences; not of the training part
Errors     name the file and the line, before anything is built
Check      tests/data/test_parallel.py
"""

import gzip
import hashlib
import html
import json
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from itertools import islice, zip_longest
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from torchsru.data.cache import is_quiet, prepared, summary
from torchsru.data.prepare import mapped, narrowest
from torchsru.data.texts import DataError, unreadable

FORMAT = 4  # part of HASH
MODEL = "subwords.model"
LANGUAGES = ("source", "target")
PAD, START, END, UNKNOWN = 0, 1, 2, 3  # symbols that stand for no text
COVERAGE = 0.9999  # part of all characters that are learned; what is rarer is unknown
SAMPLE = 4_000_000  # sentences that the subwords are learned from, at most
MAX_BYTES = 4192  # of a sentence, sentencepiece's own default
BLOCK = 10_000  # sentences cut into subwords at once
PREPARED = ("source", "heldout", "skip_empty", "vocabulary_size")  # what HASH follows from
LENGTHS = torch.int32


class Published(NamedTuple):
    """A published set: its files' names up to the language, and how many pairs they hold, where
    that is known."""

    files: dict[str, str]
    counts: dict[str, int]


PUBLISHED = {
    "multi30k": Published(
        {"train": "train", "valid": "val", "test": "test_2016_flickr"},
        {"train": 29_000, "valid": 1_014, "test": 1_000},
    ),
    "wmt14": Published({"train": "train", "valid": "newstest2013", "test": "newstest2014"}, {}),
}


@dataclass(frozen=True, kw_only=True)
class TranslationData:
    """Which sentences a translator learns from and is judged on, in what symbols and batches."""

    source: Literal["files", "multi30k", "wmt14"] = "files"
    """"files": two files, the language to translate from first; "multi30k" (task 1, raw), "wmt14"
    (English and German as Stanford published them): a folder of such files, plain or .gz."""
    paths: tuple[str, ...] = ()
    """The two files to train on; of a published set its folder."""
    valid_paths: tuple[str, ...] = ()
    """files: two more to judge by; without them `heldout` pairs are taken from the others."""
    test_paths: tuple[str, ...] = ()
    """files: two more that `eval --split test` is of; they too are read before training."""
    languages: tuple[str, str] = ("en", "de")
    """multi30k, wmt14: what to translate from and to: the files' endings."""
    heldout: int = 1000
    """files: pairs held out of training where there are no valid_paths; a tenth of all at most."""
    skip_empty: bool = False
    """Leave out pairs of which a side is empty, in place of refusing them."""
    vocabulary_size: int = 4000
    """V, subwords of both languages together; a small text may have fewer."""
    longest: int = 250
    """Subwords of a sentence, its end included; pairs with a longer side are not trained on."""
    batch: int = 2048
    """Subwords of either side per optimiser step, padding included, all devices together."""
    eval_batch: int = 4096
    """The same of an evaluation; a search counts each of its hypotheses."""
    eval_sentences: int = 500
    """Held-out sentences that are translated, greedily, at each evaluation of the training."""
    eval_beam: int = 5
    """Hypotheses that the search of `eval` and `translate` keeps of each sentence; 1: greedy."""
    eval_length_penalty: float = 0.6
    """Its alpha: a hypothesis of n subwords is worth its log probability / ((5 + n) / 6)^alpha."""

    # what they hold is compared when a run goes on, not where it is
    locations: ClassVar[tuple[str, ...]] = ("paths", "valid_paths", "test_paths")

    def __post_init__(self) -> None:
        for name, least in (
            ("heldout", 1),
            ("vocabulary_size", 8),
            ("longest", 2),
            ("batch", 2),
            ("eval_batch", 1),
            ("eval_sentences", 1),
            ("eval_beam", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= self.eval_length_penalty <= 10:
            raise ValueError(
                f"eval_length_penalty must lie in [0, 10], got {self.eval_length_penalty}"
            )
        if len(set(self.languages)) != 2:
            raise ValueError(f"languages must be two, got {self.languages}")
        for name in ("valid_paths", "test_paths"):
            if (value := getattr(self, name)) and (self.source != "files" or len(value) != 2):
                rule = "two files" if self.source == "files" else f"empty for {self.source!r}"
                raise ValueError(f"{name} must be {rule}, got {value}")


class Lines:
    """Sentences of one language in subwords, end to end.

    Args:
        ids: [sum of lengths], any integer type; it may be mapped from a file.
        lengths: [N] subwords of each sentence.
    """

    def __init__(self, ids: Tensor, lengths: Tensor):
        self.ids, self.lengths = ids, lengths
        self.stops = lengths.cumsum(0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Tensor:
        """Sentence i, int64."""
        stop = int(self.stops[i])
        return self.ids[stop - int(self.lengths[i]) : stop].long()


class Side(NamedTuple):
    """Sentence i of one language translates sentence i of the other."""

    source: Lines
    target: Lines


class Subwords:
    """Pieces of words, and four symbols that stand for no text: PAD, START, END, UNKNOWN.

    Args:
        model: sentencepiece's own file.

    Raises: ValueError if it is none, or has other symbols.
    """

    def __init__(self, model: bytes):
        from sentencepiece import SentencePieceProcessor

        self.model = model
        try:
            p = self._processor = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"expected a model of sentencepiece: {error}") from error
        found = (p.pad_id(), p.bos_id(), p.eos_id(), p.unk_id())
        if found != (PAD, START, END, UNKNOWN):
            raise ValueError(
                f"its symbols of padding, start, end and what is unknown must be "
                f"{(PAD, START, END, UNKNOWN)}, found {found}"
            )

    @property
    def size(self) -> int:
        """V."""
        return self._processor.get_piece_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The subwords of each text, without an end."""
        return self._processor.encode(list(texts), out_type=int) if texts else []

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these subwords. Raises ValueError if one is no subword."""
        if ids and not 0 <= min(ids) <= max(ids) < self.size:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise ValueError(f"subword must lie in [0, {self.size}), got {wrong}")
        return self._processor.decode(list(ids))


class ParallelText:
    """A prepared set.

    Args:
        folder: of the cache.
        content: hash of all that is in it.
    """

    def __init__(self, folder: Path, content: str):
        self.folder, self.content = folder, content

    @cached_property
    def subwords(self) -> Subwords:
        """The vocabulary."""
        return Subwords((self.folder / MODEL).read_bytes())

    def side(self, name: str) -> Side:
        """ "train", "valid" or "test". Raises DataError if there is none of that name."""
        if not (self.folder / f"{name}.source").exists():
            raise DataError(f"the data have no {name!r} part: name its two files")
        dtype = narrowest(self.subwords.size)
        return Side(
            *(
                Lines(mapped(file, dtype), mapped(file.with_name(f"{file.name}.lengths"), LENGTHS))
                for file in (self.folder / f"{name}.{language}" for language in LANGUAGES)
            )
        )

    def texts(self, name: str) -> tuple[list[str], list[str]]:
        """The sentences of "valid" or "test", of both languages."""
        source, target = (
            (self.folder / f"{name}.{language}.txt").read_bytes().decode().split("\n")[:-1]
            for language in LANGUAGES
        )
        return source, target


def load_parallel(data: TranslationData) -> ParallelText:
    """The data, from the cache; prepared first if need be.

    Raises: DataError naming the file, and the line where there is one.
    """
    files = files_of(data)
    content, name = key_of(data, files), " and ".join(map(str, files["train"]))

    def build_whole(folder: Path) -> None:
        build(data, files, folder)
        if key_of(data, files) != content:
            raise DataError(f"{name}, or the files to judge by, changed while they were read")

    folder = prepared(content, name, build_whole)
    try:
        subwords = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    except OSError as error:
        raise unreadable(folder / MODEL, error) from error
    # the same files may give other subwords elsewhere, by another version of sentencepiece
    return ParallelText(folder, hashlib.sha256(f"{content} {subwords}".encode()).hexdigest())


def key_of(data: TranslationData, files: dict[str, tuple[Path, Path]]) -> str:
    """Hash of the files, and of the fields that what is made of them follows from."""
    settings = {name: value for name, value in asdict(data).items() if name in PREPARED}
    key = hashlib.sha256(json.dumps([FORMAT, settings]).encode())
    for side, pair in files.items():
        for file in pair:
            try:
                key.update(f"\n{side} {summary(file)}".encode())
            except OSError as error:
                raise unreadable(file, error) from error
    return key.hexdigest()


def files_of(data: TranslationData) -> dict[str, tuple[Path, Path]]:
    """The two files of each side. Raises DataError if one is missing."""
    if not data.paths:
        raise DataError(f"source {data.source!r} is not part of the package: name it with --data")
    if data.source != "files":
        if len(data.paths) != 1 or not Path(data.paths[0]).is_dir():
            raise DataError(
                f"source {data.source!r} takes one folder, got {', '.join(data.paths)}; "
                "data.source files takes two files"
            )
        folder, about = Path(data.paths[0]), PUBLISHED[data.source]
        return {
            side: (
                published_file(data.source, folder, f"{stem}.{data.languages[0]}"),
                published_file(data.source, folder, f"{stem}.{data.languages[1]}"),
            )
            for side, stem in about.files.items()
        }
    named = {"train": data.paths, "valid": data.valid_paths, "test": data.test_paths}
    if len(data.paths) != 2:
        raise DataError(
            f"source 'files' takes two files, one of each language, got {', '.join(data.paths)}"
        )
    return {side: (Path(pair[0]), Path(pair[1])) for side, pair in named.items() if pair}


def published_file(source: str, folder: Path, name: str) -> Path:
    """A file of a published set, plain or gzipped."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    stems = ", ".join(PUBLISHED[source].files.values())
    raise DataError(
        f"{str(folder / name)!r} does not exist, nor with .gz; {source} consists of {stems}, each "
        "in both languages"
    )


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a file, plain or gzipped, without blanks around them.

    Raises: DataError naming the file, and the line that is not UTF-8.
    """
    number = 0
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(open(file, "rb"))
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            stream: Iterable[bytes] = stack.enter_context(gzip.open(raw)) if packed else raw
            for number, line in enumerate(stream, 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{str(file)!r} line {number} is not UTF-8: byte "
                        f"{line[error.start]:#04x} at {error.start}"
                    ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{str(file)!r} is damaged after line {number}: {error}") from error
    except OSError as error:
        raise unreadable(file, error) from error


def read_pairs(source: Path, target: Path, *, skip_empty: bool = False) -> Iterator[list[str]]:
    """[sentence, its translation] of each line of two files.

    Raises: DataError naming file and line: an empty one, unless skipped; one that the other file
        does not have.
    """
    files = (source, target)
    readers = [read_lines(file) for file in files]
    found = False
    for number, pair in enumerate(zip_longest(*readers), 1):
        if None in pair:
            short = pair.index(None)
            there = number + sum(1 for _ in readers[1 - short])
            raise DataError(
                f"{str(files[short])!r} ends before line {number:,}, {str(files[1 - short])!r} has "
                f"{there:,} lines: line n of one must translate line n of the other"
            )
        if "" not in pair:
            found = True
            yield list(pair)
        elif not skip_empty:
            raise DataError(
                f"{str(files[pair.index('')])!r} line {number:,} is empty; "
                "data.skip_empty true leaves such pairs out"
            )
    if not found:
        raise DataError(f"{str(source)!r} holds no sentences")


def unmarked(text: str) -> str:
    """A sentence of Stanford's WMT14 files without their marks of joined words and entities, in
    one line; words stay parted from punctuation."""
    return " ".join(html.unescape(text.replace(" ##AT##-##AT## ", "-")).split())


def build(data: TranslationData, files: dict[str, tuple[Path, Path]], folder: Path) -> None:
    """Read everything, learn the subwords and write the files of a folder of the cache."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=is_quiet() or not console.is_terminal,
    ) as progress:

        def pairs_of(side: str, doing: str) -> Iterator[list[str]]:
            bar = progress.add_task(f"{side}: {doing}", total=counts.get(side))
            for pair in read_pairs(*files[side], skip_empty=data.skip_empty):
                yield [unmarked(text) for text in pair] if data.source == "wmt14" else pair
                progress.advance(bar)
            progress.remove_task(bar)

        counts: dict[str, int] = {}
        for side in reversed(files):  # the long one last: the others tell sooner what is wrong
            counts[side] = sum(1 for _ in pairs_of(side, "reading"))
        expected = PUBLISHED[data.source].counts if data.source in PUBLISHED else {}
        for side, count in expected.items():
            if counts[side] != count:
                raise DataError(
                    f"{str(files[side][0])!r} is not {data.source} as published: expected "
                    f"{count:,} pairs, found {counts[side]:,}; source 'files' takes any"
                )
        every = 0  # so many-th pairs are held out of training
        if "valid" not in files:
            if not (heldout := min(data.heldout, counts["train"] // 10)):
                raise DataError(
                    f"{str(files['train'][0])!r} must hold 10 sentences at least, so that one can "
                    f"be held out of training, got {counts['train']}"
                )
            every = -(-counts["train"] // heldout)

        def split(doing: str, wanted: str) -> Iterator[list[str]]:
            side = "train" if wanted == "valid" and every else wanted
            for i, pair in enumerate(pairs_of(side, doing)):
                if side != "train" or not every or (i % every == 0) == (wanted == "valid"):
                    yield pair

        step = -(-counts["train"] * len(LANGUAGES) // SAMPLE)
        pairs = islice(split("learning subwords", "train"), 0, None, step)
        sample = (text for pair in pairs for text in pair)  # of both languages alike
        bar = progress.add_task("learning subwords", total=None)
        model = learn_subwords(sample, data.vocabulary_size, str(files["train"][0]))
        progress.remove_task(bar)
        subwords = Subwords(model)
        (folder / MODEL).write_bytes(model)
        for side in dict.fromkeys(("valid", *files)):
            write_side(folder, side, split("in subwords", side), subwords)


def write_side(folder: Path, side: str, pairs: Iterator[list[str]], subwords: Subwords) -> None:
    """Write the files of a side."""
    dtype = narrowest(subwords.size)
    with ExitStack() as stack:

        def create(name: str) -> BytesIO:
            return stack.enter_context(open(folder / name, "wb"))  # type: ignore[return-value]

        ids = [create(f"{side}.{language}") for language in LANGUAGES]
        lengths = [create(f"{side}.{language}.lengths") for language in LANGUAGES]
        kept = [] if side == "train" else [create(f"{side}.{name}.txt") for name in LANGUAGES]
        while block := list(islice(pairs, BLOCK)):
            for i in range(len(LANGUAGES)):
                texts = [pair[i] for pair in block]
                found = subwords.encode(texts)
                flat = torch.tensor([symbol for line in found for symbol in line], dtype=dtype)
                ids[i].write(flat.numpy().tobytes())
                lengths[i].write(array("i", map(len, found)).tobytes())
                if kept:
                    kept[i].write("".join(f"{text}\n" for text in texts).encode())


def learn_subwords(texts: Iterable[str], size: int, where: str) -> bytes:
    """Byte-pair encoding with `size` symbols, or as many as there are; sentencepiece's own file.

    Raises: DataError if the characters alone are more.
    """
    from sentencepiece import SentencePieceTrainer

    texts = list(texts)
    longest = max((len(text.encode()) for text in texts), default=0)

    def learn(size: int) -> bytes:
        out = BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=out,
            model_type="bpe",
            vocab_size=size,
            character_coverage=COVERAGE,
            pad_id=PAD,
            bos_id=START,
            eos_id=END,
            unk_id=UNKNOWN,
            max_sentence_length=max(MAX_BYTES, longest),  # what is longer it would leave out
            minloglevel=2,
        )
        return out.getvalue()

    try:
        return learn(size)
    except RuntimeError as error:
        if most := re.search(r"too high \(\d+\).*<= (\d+)", str(error)):
            return learn(int(most[1]))
        if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            raise DataError(
                f"vocabulary_size must be at least {least[1]}, the characters of {where!r}, got "
                f"{size}"
            ) from error
        raise DataError(f"sentencepiece can't learn subwords from {where!r}: {error}") from error
