"""What a language model reads: the numbers of a data set that no model and no training own."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Source = Literal[
    "text",
    "packages",
    "enwik8",
    "text8",
    "wikitext-2",
    "wikitext-103",
    "billion-word",
    "ptb",
    "hub",
]
VocabularyName = Literal["auto", "bytes", "characters", "words", "subwords"]


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Which text a model learns from, in which symbols, laid out how in batches."""

    source: Source = "text"
    """"text": files and folders, or the sources of the Python that runs; "packages": those of all
    installed packages too; "hub": a data set of the Hugging Face hub; else a published one."""
    paths: tuple[str, ...] = ()
    """Files and folders; the published data set's one; the hub's name or its local folder."""
    vocabulary: VocabularyName = "auto"
    """Symbols that are predicted; "auto": bytes, or what the papers use for a published one."""
    vocabulary_size: int = 0
    """Most symbols of words or subwords; 0: all words, 8,192 subwords."""
    hub_config: str = ""
    """Configuration of the hub's data set; empty: its only one."""
    hub_column: str = "text"
    """Column of the hub's data set that holds the text."""
    heldout: float = 0.05
    """Part that is never trained on, where the source has no split, 0 < heldout <= 0.5."""
    unroll: int = 128
    """L, symbols per step of truncated back-propagation; the state is carried on."""
    batch: int = 32
    """B, streams per optimiser step, all devices together."""
    eval_tokens: int = 262144
    """Held-out symbols used by each evaluation in training, the same ones each time; 0: all."""
    eval_batch: int = 64
    """Streams that the held-out text is laid out in; the papers' final numbers have 1."""
    eval_unroll: int = 256
    """Symbols per stream and step of an evaluation."""
    eval_memory: int = 0
    """Past positions that attention sees from every position of an evaluation; 0: the model's."""

    # what they hold is compared when a run goes on, not where it is
    locations: ClassVar[tuple[str, ...]] = ("paths",)
    inside: ClassVar[tuple[str, ...]] = ("text", "packages")  # sources that need no path
    renamed: ClassVar[dict[str, str]] = {"eval_bytes": "eval_tokens"}  # in runs of before

    def __post_init__(self) -> None:
        if not 0 < self.heldout <= 0.5:
            raise ValueError(f"heldout must lie in (0, 0.5], got {self.heldout}")
        for name, least in (
            ("vocabulary_size", 0),
            ("unroll", 1),
            ("batch", 1),
            ("eval_tokens", 0),
            ("eval_batch", 1),
            ("eval_unroll", 1),
            ("eval_memory", 0),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if size := self.vocabulary_size:
            if self.vocabulary not in ("words", "subwords"):
                raise ValueError(
                    f"vocabulary_size needs the vocabulary words or subwords, got {size} with "
                    f"{self.vocabulary!r}"
                )
            least = 256 if self.vocabulary == "subwords" else 3  # all bytes; <eos>, <unk>, a word
            if size < least:
                raise ValueError(
                    f"vocabulary_size of {self.vocabulary} must be at least {least}, got {size}"
                )
        if self.source == "packages" and self.paths:
            raise ValueError(f"paths must be empty for source 'packages', got {self.paths}")
        if self.source == "enwik8" and self.vocabulary not in ("auto", "bytes"):
            raise ValueError(
                f"vocabulary of enwik8 must be bytes, got {self.vocabulary!r}; "
                "source 'text' reads the file in other symbols"
            )
        if self.source != "hub" and self.hub_config:
            raise ValueError(f"hub_config needs source 'hub', got {self.hub_config!r}")
        column = type(self).__dataclass_fields__["hub_column"].default
        if self.source != "hub" and self.hub_column != column:
            raise ValueError(f"hub_column needs source 'hub', got {self.hub_column!r}")
