"""Vocabularies: from text to numbers and back.

    bytes        a symbol each byte value, all 256 or those of a text
    characters   a symbol each character (code point) of the training text
    words        a symbol each word; a line end is <eos>, what is not known is <unk>
    subwords     byte-level BPE, learned from the training text by the package tokenizers

Text       UTF-8 bytes on both sides, so that what is generated can be printed piece by piece:
           decode(a + b) = decode(a) + decode(b)
Lossless   bytes, characters and subwords; words keep neither runs of blanks nor unknown words
Saved      as JSON, which names no code
Check      tests/data/test_vocabulary.py
"""

import json
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

FORMAT = 1  # of the JSON
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # a character that the vocabulary lacks


class Vocabulary(ABC):
    """What every kind has."""

    name: str
    """"bytes", "characters", "words" or "subwords"."""
    unit: str
    """One symbol's name, in the singular."""
    unknown: int = -1
    """The symbol of all that has none of its own; -1: there is no such symbol."""

    @property
    @abstractmethod
    def size(self) -> int:
        """V: how many symbols there are."""

    @property
    @abstractmethod
    def start(self) -> int:
        """The symbol that stands before a text."""

    @abstractmethod
    def to_ids(self, text: bytes | str, before: int = 0) -> Tensor:
        """int32 [N]. Raises ValueError if the text holds what the vocabulary can't name, and where:
        `before` symbols stand before it."""

    def encode(self, text: bytes | str) -> list[int]:
        """The same as a list."""
        return self.to_ids(text).tolist()

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> bytes:
        """The text of these symbols. Raises ValueError if one is no symbol."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` reads it back."""


class ByteVocabulary(Vocabulary):
    """Byte values.

    Args:
        symbols: those that have a symbol, in their order; each once.
    """

    name, unit = "bytes", "byte"

    def __init__(self, symbols: bytes = bytes(range(256))):
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"symbols must be different bytes, at least one, got {symbols!r}")
        self.symbols = symbols
        self._ids = torch.full((256,), -1, dtype=torch.int32)
        self._ids[torch.tensor(list(symbols))] = torch.arange(len(symbols), dtype=torch.int32)

    @property
    def size(self) -> int:
        return len(self.symbols)

    @property
    def start(self) -> int:
        """NUL, which stands between files; a line end where there is no NUL."""
        return max(0, self.symbols.find(b"\0" if 0 in self.symbols else b"\n"))

    def to_ids(self, text: bytes | str, before: int = 0) -> Tensor:
        text = as_bytes(text)
        ids = self._ids[as_tensor(text).long()]
        if len(text) and ids.min() < 0:
            at = int((ids < 0).int().argmax())
            raise ValueError(
                f"byte {text[at]} at {before + at:,} is not among the {self.size} of this text"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        return bytes(self.symbols[known(i, self.size)] for i in ids)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.name, "symbols": list(self.symbols)}


class CharacterVocabulary(Vocabulary):
    """Characters; U+FFFD, if it is among them, stands for all that are not."""

    name, unit = "characters", "character"

    def __init__(self, symbols: str):
        if not symbols or len(set(symbols)) != len(symbols):
            raise ValueError(f"symbols must be different characters, got {symbols[:20]!r}")
        self.symbols = symbols
        self.unknown = symbols.find(REPLACEMENT)
        places = torch.tensor([ord(symbol) for symbol in symbols])
        self._ids = torch.full((0x110000,), self.unknown, dtype=torch.int32)
        self._ids[places] = torch.arange(len(symbols), dtype=torch.int32)

    @property
    def size(self) -> int:
        return len(self.symbols)

    @property
    def start(self) -> int:
        """A line end; a space where there is none; else the first symbol."""
        return max(0, self.symbols.find("\n" if "\n" in self.symbols else " "))

    def to_ids(self, text: bytes | str, before: int = 0) -> Tensor:
        text = as_text(text)
        points = as_tensor(text.encode("utf-32-le", "surrogatepass"), torch.int32)
        ids = self._ids[points.long()]
        if text and ids.min() < 0:
            at = int((ids < 0).int().argmax())
            raise ValueError(
                f"character {text[at]!r} at {before + at:,} is not among the {self.size} known"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        return "".join(self.symbols[known(i, self.size)] for i in ids).encode()

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.name, "symbols": self.symbols}


class WordVocabulary(Vocabulary):
    """Words between blanks. A line end is the symbol `eos`.

    Args:
        words: the symbols, `eos` among them, each once.
        eos: the line end's symbol.
        unk: stands for unknown words; None: there is no such symbol, and they are refused.
    """

    name, unit = "words", "word"

    def __init__(self, words: Sequence[str], eos: str = "<eos>", unk: str | None = "<unk>"):
        self.words, self.eos, self.unk = list(words), eos, unk
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words must differ, got {twice!r} twice")
        for name, symbol in (("eos", eos), ("unk", unk)):
            if symbol is not None and symbol not in self._ids:
                raise ValueError(f"{name} must be one of the words, got {symbol!r}")
        self.unknown = -1 if unk is None else self._ids[unk]

    @property
    def size(self) -> int:
        return len(self.words)

    @property
    def start(self) -> int:
        return self._ids[self.eos]

    def to_ids(self, text: bytes | str, before: int = 0) -> Tensor:
        words = as_text(text).replace("\n", f" {self.eos} ").split()
        found = array("i", [self._ids.get(word, self.unknown) for word in words])
        ids = as_tensor(found.tobytes(), torch.int32)
        if words and ids.min() < 0:
            at = int((ids < 0).int().argmax())
            raise ValueError(
                f"word {words[at]!r} at {before + at:,} is not among the {self.size} known"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._piece(known(i, self.size)) for i in ids)

    def _piece(self, symbol: int) -> bytes:
        word = self.words[symbol]
        return b"\n" if word == self.eos else word.encode() + b" "

    def to_json(self) -> dict[str, Any]:
        kept = {"words": self.words, "eos": self.eos, "unk": self.unk}
        return {"format": FORMAT, "kind": self.name, **kept}


class SubwordVocabulary(Vocabulary):
    """Byte-level BPE, of the package tokenizers. Each line is cut by itself.

    Args:
        tokenizer: its JSON, as `tokenizers.Tokenizer.to_str` writes it.
    """

    name, unit = "subwords", "subword"

    def __init__(self, tokenizer: str):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._json = tokenizer
        values = {symbol: bytes([value]) for value, symbol in enumerate(byte_alphabet())}
        size = self._tokenizer.get_vocab_size()
        tokens = [self._tokenizer.id_to_token(i) or "" for i in range(size)]
        self._pieces = [b"".join(values[symbol] for symbol in token) for token in tokens]

    @property
    def size(self) -> int:
        return len(self._pieces)

    @cached_property
    def start(self) -> int:
        """A line end."""
        return self._pieces.index(b"\n")

    def to_ids(self, text: bytes | str, before: int = 0) -> Tensor:
        lines = as_text(text).splitlines(keepends=True)
        found = array("i")
        try:
            for encoded in self._tokenizer.encode_batch_fast(lines):
                found.extend(encoded.ids)
        except TypeError as error:
            raise ValueError("text must be UTF-8's: it holds half a surrogate pair") from error
        return as_tensor(found.tobytes(), torch.int32)

    def decode(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._pieces[known(i, self.size)] for i in ids)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "kind": self.name, "tokenizer": json.loads(self._json)}


def learn_characters(blocks: Iterable[bytes], unknown: bool = True) -> CharacterVocabulary:
    """The characters of a text in the order of their code points, and U+FFFD if `unknown`."""
    found = {REPLACEMENT} if unknown else set()
    for block in blocks:
        found.update(as_text(block))
    return CharacterVocabulary("".join(sorted(found)))


def learn_bytes(blocks: Iterable[bytes]) -> ByteVocabulary:
    """The byte values of a text, in their order."""
    found: set[int] = set()
    for block in blocks:
        found.update(block)
    return ByteVocabulary(bytes(sorted(found)))


def learn_words(
    blocks: Iterable[bytes],
    *,
    size: int = 0,
    least: int = 1,
    eos: str = "<eos>",
    unk: str = "<unk>",
    always_unk: bool = True,
) -> WordVocabulary:
    """The words of a text, the most frequent first (of equals the first met), after eos.

    Args:
        size: the most symbols there may be; 0: no limit.
        least: how often a word must occur.
        always_unk: add `unk` also where the text does not hold it and no word is left out.
    """
    counts: Counter[str] = Counter()
    for block in blocks:
        counts.update(as_text(block).split())
    del counts[eos]
    ranked = [word for word, _ in counts.most_common()]
    rest = [word for word in ranked if counts[word] >= least and word != unk]
    kept = {unk, *(rest[: max(0, size - 2)] if size else rest)}
    words = [word for word in ranked if word in kept]
    if unk not in words and (always_unk or len(words) < len(ranked)):
        words.insert(0, unk)
    return WordVocabulary([eos, *words], eos, unk if unk in words else None)


def learn_subwords(blocks: Iterable[bytes], size: int) -> SubwordVocabulary:
    """Byte-level BPE with `size` symbols at most: the 256 bytes and the merges learned."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    lines = (line for block in blocks for line in as_text(block).splitlines(keepends=True))
    tokenizer.train_from_iterator(lines, trainer)
    return SubwordVocabulary(tokenizer.to_str())


def from_json(values: Any) -> Vocabulary:
    """The vocabulary that `to_json` described. Raises ValueError if it is none."""
    makers: dict[str, tuple[Callable[..., Vocabulary], tuple[str, ...]]] = {
        "bytes": (lambda symbols: ByteVocabulary(bytes(symbols)), ("symbols",)),
        "characters": (CharacterVocabulary, ("symbols",)),
        "words": (WordVocabulary, ("words", "eos", "unk")),
        "subwords": (lambda tokenizer: SubwordVocabulary(json.dumps(tokenizer)), ("tokenizer",)),
    }
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"expected a vocabulary of format {FORMAT}, found {str(values)[:60]}")
    if values.get("kind") not in makers:
        raise ValueError(f"kind must be one of {', '.join(makers)}, got {values.get('kind')!r}")
    maker, names = makers[values["kind"]]
    try:
        return maker(*(values[name] for name in names))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of tokenizers too, which raises bare Exception
        raise ValueError(
            f"it holds no {values['kind']}: {type(error).__name__}: {error}"
        ) from error


def byte_alphabet() -> list[str]:
    """The character that stands for each byte value in a byte-level tokenizer's JSON.

    Printable ones stand for themselves, the others follow from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(value if value in printable else next(others)) for value in range(256)]


def known(symbol: int, size: int) -> int:
    """The symbol itself. Raises ValueError if there are not that many."""
    if not 0 <= symbol < size:
        raise ValueError(f"symbol must lie in [0, {size}), got {symbol}")
    return symbol


def as_bytes(text: bytes | str) -> bytes:
    """A str as UTF-8; what a command line could not decode comes back as it was typed."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def as_text(text: bytes | str) -> str:
    """UTF-8 decoded. Raises ValueError saying where it is none."""
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start:,}; "
            "the vocabulary 'bytes' takes any file"
        ) from error


def as_tensor(content: bytes, dtype: torch.dtype = torch.uint8) -> Tensor:
    """The items of a buffer, copied, [N]."""
    return (
        torch.frombuffer(bytearray(content), dtype=dtype)
        if content
        else torch.empty(0, dtype=dtype)
    )
