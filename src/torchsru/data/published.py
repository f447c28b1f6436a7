"""Published data sets: which files, which split, which symbols, and what they must hold.

    enwik8         first 100 MB of an English Wikipedia dump: 90 / 5 / 5 million bytes, the byte
                   values that occur as symbols
    text8          the same cleaned to a-z and blank, split alike, characters
    wikitext-2     Merity et al. 2016 (arXiv 1609.07843), words; a line end is <eos>
    wikitext-103   the same, fifty times larger; its valid and test are those of wikitext-2
    ptb            Penn Treebank as Mikolov et al. 2010 prepared it, words
    billion-word   Chelba et al. 2013 (arXiv 1312.3005), sentences in a new order each pass; valid
                   and test are both the first of the 50 held-out shards, as papers report it

Nothing is downloaded: `find` takes the path of what the user fetched, and its errors say from
where. Sizes are those of the papers; counts of words include one <eos> a line. How many words
Billion Word's training text has depends on what parts them; its bytes do not.
Check      tests/data/test_published.py
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torchsru.data.texts import DataError, FileText, Text, Texts, content_of, size_of

SPLITS = ("train", "valid", "test")
WORD_LIST_SLACK = 100  # the papers differ by one or two in which marks they count as words


@dataclass(frozen=True, kw_only=True)
class Published:
    """What makes a data set that one."""

    url: str
    vocabulary: Literal["bytes", "characters", "words"]
    files: dict[str, tuple[tuple[str, ...], ...]]
    """{split: its files in order, each under any of these names}."""
    folders: tuple[str, ...] = ()
    """Where in the unpacked archive they may lie."""
    cuts: tuple[int, ...] = ()
    """Bytes of train, valid and test of one file that holds all three."""
    md5: str = ""
    """Of that file."""
    tokens: dict[str, int] = field(default_factory=dict)
    """{split: its words}."""
    bytes: dict[str, int] = field(default_factory=dict)
    """{split: the bytes of all its files}."""
    vocabulary_size: int = 0
    """Symbols of the papers' vocabulary; 0: not known."""
    about: int = 0
    """About as many, for estimates; the word list has as many, but for WORD_LIST_SLACK."""
    eos: str = "<eos>"
    unk: str = "<unk>"
    word_list: str = ""
    """A file beside the data with the vocabulary, a word a line."""
    least: int = 1
    """Without that file: how often a word must occur."""
    shuffled: bool = False
    """Lines stand alone: each pass has them in a new order. Every file's last one has an end."""


def _wikitext() -> dict[str, tuple[tuple[str, ...], ...]]:
    return {split: ((f"wiki.{split}.tokens", f"{split}.txt"),) for split in SPLITS}


_BILLION_TRAIN = tuple(
    (f"training-monolingual.tokenized.shuffled/news.en-{n:05d}-of-00100",) for n in range(1, 100)
)
_BILLION_HELD = (("heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050",),)

PUBLISHED: dict[str, Published] = {
    "enwik8": Published(
        url="http://mattmahoney.net/dc/enwik8.zip",
        vocabulary="bytes",
        files={"all": (("enwik8",),)},
        cuts=(90_000_000, 5_000_000, 5_000_000),
        md5="a1fa5ffddb56f4953e226637dabbb36a",
        vocabulary_size=205,
    ),
    "text8": Published(
        url="http://mattmahoney.net/dc/text8.zip",
        vocabulary="characters",
        files={"all": (("text8",),)},
        cuts=(90_000_000, 5_000_000, 5_000_000),
        md5="3bea1919949baf155f99411df5fada7e",
        vocabulary_size=27,
    ),
    "wikitext-2": Published(
        url="https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip "
        "or the hub's Salesforce/wikitext, wikitext-2-v1",
        vocabulary="words",
        files=_wikitext(),
        folders=("wikitext-2",),
        tokens={"train": 2_088_628, "valid": 217_646, "test": 245_569},
        vocabulary_size=33_278,
    ),
    "wikitext-103": Published(
        url="https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip "
        "or the hub's Salesforce/wikitext, wikitext-103-v1",
        vocabulary="words",
        files=_wikitext(),
        folders=("wikitext-103",),
        tokens={"train": 103_227_021, "valid": 217_646, "test": 245_569},
        vocabulary_size=267_735,
    ),
    "ptb": Published(
        url="https://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
        vocabulary="words",
        files={split: ((f"ptb.{split}.txt", f"{split}.txt"),) for split in SPLITS},
        folders=("data", "simple-examples/data"),
        tokens={"train": 929_589, "valid": 73_760, "test": 82_430},
        vocabulary_size=10_000,
    ),
    "billion-word": Published(
        url="http://www.statmt.org/lm-benchmark/"
        "1-billion-word-language-modeling-benchmark-r13output.tar.gz",
        vocabulary="words",
        files={"train": _BILLION_TRAIN, "valid": _BILLION_HELD, "test": _BILLION_HELD},
        folders=("1-billion-word-language-modeling-benchmark-r13output",),
        tokens={"valid": 159_658, "test": 159_658},
        bytes={"train": 4_147_291_308},  # in 30,301,028 sentences; the hub's lm1b holds the same
        about=793_471,
        eos="<S>",
        unk="<UNK>",
        word_list="1b_word_vocab.txt",
        least=3,
        shuffled=True,
    ),
}


def find(name: str, paths: tuple[str, ...]) -> Texts:
    """The texts of each side of a data set.

    Args:
        name: one of PUBLISHED.
        paths: one path: its file, or the folder that its archive was unpacked into.

    Raises: DataError naming what is missing, truncated or too long, what was expected, and where
        it can be had.
    """
    data = PUBLISHED[name]
    if len(paths) != 1:
        raise DataError(
            f"{name} needs one path, of what was unpacked from {data.url}: name it (to train: with "
            f"--data), or let TORCHSRU_DATA name the folder that holds it as {name!r}; got "
            f"{', '.join(paths) or 'none'}"
        )
    path = Path(paths[0])
    if not data.cuts:
        files = {
            split: [FileText(_file(name, path, names)) for names in wanted]
            for split, wanted in data.files.items()
        }
        for split, parts in files.items():
            if data.shuffled:
                check_line_ends(name, parts)
            check_bytes(name, split, parts)
        return dict(files)
    (names,) = data.files["all"]
    file = path if path.is_file() else _file(name, path, names)
    expected, found = sum(data.cuts), size_of(file)
    if found != expected:
        what = "truncated" if found < expected else "another file"
        raise DataError(
            f"{name}: {str(file)!r} is {what}: it holds {found:,} bytes, expected {expected:,} "
            f"with md5 {data.md5}; unpack it from {data.url}"
        )
    texts: Texts = {}
    start = 0
    for split, size in zip(SPLITS, data.cuts, strict=True):
        texts[split] = [FileText(file, start, start + size)]
        start += size
    return texts


def find_word_list(name: str, paths: tuple[str, ...]) -> Sequence[Text]:
    """The file with the data set's vocabulary, if it has one and it is there."""
    data, path = PUBLISHED[name], Path(*paths)
    folders = [path, *(path / folder for folder in data.folders)]
    files = [folder / data.word_list for folder in folders if data.word_list]
    return [FileText(file) for file in files if file.is_file()][:1]


def check_line_ends(name: str, texts: Sequence[FileText]) -> None:
    """Raise DataError naming the first file that stops in the middle of a line."""
    for text in texts:
        size = text.size
        if content_of(text.part(size - 1, size)) != b"\n":
            raise DataError(
                f"{name}: {text.where!r} is truncated: it holds {size:,} bytes, and its last line "
                f"has no end; unpack it from {PUBLISHED[name].url}"
            )


def check_bytes(name: str, split: str, texts: Sequence[Text]) -> None:
    """Raise DataError unless a side's files together are as long as published.

    It names the one that is furthest from the others' mean on the side where bytes lack or are
    too many: the sentences were dealt to the files at random, so that they hardly differ.
    """
    data = PUBLISHED[name]
    sizes = {text.where: text.size for text in texts}
    found = sum(sizes.values())
    expected = data.bytes.get(split, found)
    if found != expected:
        odd = (min if found < expected else max)(sizes, key=lambda where: sizes[where])
        what = "truncated, or another version" if found < expected else "another version"
        raise DataError(
            f"{name}: {odd!r} or another of the {len(sizes)} files of {split} is {what}: together "
            f"they hold {found:,} bytes, expected {expected:,}; this one has {sizes[odd]:,}, about "
            f"{expected // len(sizes):,} are usual; unpack them from {data.url}"
        )


def check_word_list(name: str, texts: Sequence[Text], found: int) -> None:
    """Raise DataError unless the list of words is about as long as published."""
    data = PUBLISHED[name]
    if abs(found - data.about) > WORD_LIST_SLACK:
        what = "truncated, or another one" if found < data.about else "another one"
        raise DataError(
            f"{name}: {texts[0].where!r} is {what}: it holds {found:,} different words, expected "
            f"{data.about:,}, give or take {WORD_LIST_SLACK}; without it, words that occur "
            f"{data.least} times are used"
        )


def check_sum(name: str, texts: Texts) -> None:
    """Raise DataError unless the sides together are the published file."""
    data, sum_ = PUBLISHED[name], hashlib.md5(usedforsecurity=False)
    for split in SPLITS:
        for text in texts[split]:
            for block in text.blocks():
                sum_.update(block)
    if sum_.hexdigest() != data.md5:
        raise DataError(
            f"{name}: {texts['train'][0].where!r} is another file: its md5 is "
            f"{sum_.hexdigest()}, expected {data.md5}; unpack it from {data.url}"
        )


def check_words(name: str, split: str, texts: Sequence[Text], found: int) -> None:
    """Raise DataError unless a side holds as many words, line ends among them, as published."""
    data = PUBLISHED[name]
    expected = data.tokens.get(split, found)
    if found != expected:
        what = "truncated, or another version" if found < expected else "another version"
        raise DataError(
            f"{name}: {texts[0].where!r} is {what}: it holds {found:,} words and line ends, "
            f"expected {expected:,}; get it from {data.url}"
        )


def check_vocabulary(name: str, texts: Sequence[Text], found: int) -> None:
    """Raise DataError unless the vocabulary is as large as the papers'."""
    data = PUBLISHED[name]
    if data.vocabulary_size and found != data.vocabulary_size:
        raise DataError(
            f"{name}: {texts[0].where!r} has {found:,} different {data.vocabulary}, "
            f"expected {data.vocabulary_size:,}; get it from {data.url}"
        )


def _file(name: str, path: Path, names: tuple[str, ...]) -> Path:
    data = PUBLISHED[name]
    for folder in (path, *(path / folder for folder in data.folders)):
        for file in (folder / one for one in names):
            if file.is_file():
                if size_of(file) == 0:
                    raise DataError(f"{name}: {str(file)!r} is empty; get it from {data.url}")
                return file
    what = "does not exist" if not path.exists() else f"lacks {' or '.join(names)}"
    raise DataError(f"{name}: {str(path)!r} {what}; unpack it from {data.url}, and name its folder")
