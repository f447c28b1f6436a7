"""Generation: symbols drawn one after the other, text as soon as it is certain.

L steps read at once, B rows of a batch, V symbols.

Cost     the state is carried and the text is not read again: constant a symbol for recurrences,
         bounded by the memory for attention
Batch    prompts are read side by side, the shorter ones padded under a mask that leaves the state
         alone; a row that is done leaves the batch
Seeds    row i draws from seed + i, whatever else is in the batch
Modes    every module is in evaluation mode while a step is computed, and as it was in between
Check    tests/models/test_generate.py
"""

import codecs
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from torchsru.models.language_model import LanguageModel
from torchsru.nn.state import reorder

READ_AT_ONCE = 256  # steps of a prompt; does not change the result, bounds the memory
SEEDS = 2**63  # torch takes twice as many, so that seed + row is one of them too


class Vocabulary(Protocol):
    """Symbols and the bytes that they stand for: decode(a + b) = decode(a) + decode(b).

    torchsru.data.vocabulary has bytes, characters, words and subwords.
    """

    @property
    def size(self) -> int:
        """V."""

    @property
    def start(self) -> int:
        """The symbol that stands before a text."""

    def encode(self, text: bytes | str) -> Iterable[int]:
        """Raises ValueError if the text holds what has no symbol."""

    def decode(self, ids: Iterable[int]) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a symbol is drawn from the scores, in this order."""

    repetition_penalty: float = 1.0
    """Scores of symbols that the row has had, counted from the mean of all, are divided by it,
    negative ones multiplied; see `penalise`."""
    temperature: float = 1.0
    """Scores are divided by it; 0 takes the likeliest symbol."""
    top_k: int = 0
    """Draw from the k likeliest, also where others are as likely as the last; 0: from all."""
    top_p: float = 1.0
    """Of those, from the likeliest that together have this probability, at least one (Holtzman et
    al. 2020, arXiv 1904.09751)."""
    seed: int = 0
    """Same seed, same text; less than 2^63."""

    def __post_init__(self) -> None:
        check_not_negative("temperature", self.temperature)
        for name in ("top_k", "seed"):
            check_integer(name, getattr(self, name))
            check_not_negative(name, getattr(self, name))
        if self.seed >= SEEDS:
            raise ValueError(f"seed must be less than 2^63, got {self.seed}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty must be positive and finite, got {self.repetition_penalty}"
            )


class Piece(NamedTuple):
    """Text of a row of the batch, and whether it was the row's last."""

    row: int
    text: str
    last: bool


def generate_text(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompts: Sequence[bytes | str],
    count: int,
    *,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    echo: bool = False,
) -> Iterator[Piece]:
    """Yield text that follows each prompt, as soon as it is certain.

    A character is certain when its last byte is drawn (bytes that are no UTF-8 become U+FFFD), and
    when it can't be the beginning of a stop string any more.

    Args:
        model: scores the vocabulary's symbols.
        prompts: one for each row; an empty one starts a text.
        count: symbols to draw for each row, at most.
        sampling: default: `Sampling()`.
        stop: a row ends before the first of these that comes whole, and does not show it. Prompts
            may hold them.
        echo: yield the prompts as well.

    Raises: ValueError if the vocabulary is of another size, a prompt can't be written in it, or a
        number is out of range; TypeError if prompts or stop is one text, or count is no integer.
        Nothing is computed before the first piece is asked for; ValueError then if the model's
        scores are not finite.
    """
    if vocabulary.size != model.vocabulary_size:
        raise ValueError(
            f"vocabulary must have the model's {model.vocabulary_size} symbols, "
            f"got {vocabulary.size}"
        )
    for name, texts in (("prompts", prompts), ("stop", stop)):
        if isinstance(texts, (str, bytes)):
            raise TypeError(f"{name} must be a sequence of texts, got one text {texts!r}")
    if not all(stop):
        raise ValueError("stop strings must not be empty")
    given = [[int(symbol) for symbol in vocabulary.encode(prompt)] for prompt in prompts]
    started = [symbols or [vocabulary.start] for symbols in given]
    drawn = Generation(model, started, count, sampling=sampling)
    return _texts(drawn, vocabulary, given, count, stop, echo)


def _texts(
    drawn: "Generation",
    vocabulary: Vocabulary,
    given: Sequence[Sequence[int]],
    count: int,
    stop: Sequence[str],
    echo: bool,
) -> Iterator[Piece]:
    readers = [codecs.getincrementaldecoder("utf-8")("replace") for _ in given]
    endings = [UntilStop(stop) for _ in given]
    left = [count] * len(given)
    for row, (prompt, reader) in enumerate(zip(given, readers, strict=True)):
        # bytes that begin a character wait in the reader for what is drawn
        text = reader.decode(vocabulary.decode(prompt), final=count == 0)
        if echo or count == 0:
            yield Piece(row, text if echo else "", count == 0)
    for row, symbol in drawn:
        left[row] -= 1
        over = left[row] == 0
        text = endings[row].feed(readers[row].decode(vocabulary.decode([symbol]), over), over)
        stopped = endings[row].found and not over
        if text or over or stopped:
            yield Piece(row, text, over or stopped)
        if stopped:
            drawn.stop(row)


class UntilStop:
    """Text up to the first stop string; what may become one is held back.

    Attributes:
        found: a stop string came whole; nothing is given out after it.
    """

    def __init__(self, stops: Sequence[str]):
        self.stops = stops
        self.found = False
        self.held = ""

    def feed(self, text: str, final: bool = False) -> str:
        """More text -> what is certain of it; `final`: no more will come."""
        if self.found:
            return ""
        text = self.held + text
        places = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if places:
            self.found, self.held = True, ""
            return text[: min(places)]
        cut = len(text) if final else len(text) - self._open(text)
        self.held = text[cut:]
        return text[:cut]

    def _open(self, text: str) -> int:
        """How many characters at the end are the beginning of a stop string."""
        for length in range(min(len(text), max(map(len, self.stops), default=1) - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return length
        return 0


class Generation:
    """Symbols that follow each prompt: iterate over (row, symbol), each as soon as it is drawn.

    Args:
        model: computes in evaluation mode; each of its modules has its own mode again whenever a
            symbol is given out.
        prompts: symbols, at least one for each row; of any lengths.
        count: symbols to draw for each row.
        sampling: default: `Sampling()`.

    Raises: ValueError if a prompt is empty or holds no symbol of the model, or count is negative;
        TypeError if count is no integer. Nothing is computed before the first symbol is asked for;
        ValueError then if the model's scores are not finite.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        count: int,
        *,
        sampling: Sampling | None = None,
    ):
        check_integer("count", count)
        check_not_negative("count", count)
        V = model.vocabulary_size
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompts[{row}] must hold at least one symbol")
            for symbol in prompt:
                if not 0 <= symbol < V:
                    raise ValueError(f"prompts[{row}] must hold symbols in [0, {V}), got {symbol}")
        self._stopped: set[int] = set()
        self._drawn = self._draw(model, prompts, count, sampling or Sampling())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self._drawn

    def stop(self, row: int) -> None:
        """Draw no more for this row."""
        self._stopped.add(row)

    @torch.inference_mode()
    def _draw(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        count: int,
        sampling: Sampling,
    ) -> Iterator[tuple[int, int]]:
        if count == 0 or not prompts:
            return
        device = next(model.parameters()).device
        random = [torch.Generator().manual_seed(sampling.seed + i) for i in range(len(prompts))]
        seen = None
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(len(prompts), model.vocabulary_size, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                seen[row, torch.tensor(prompt)] = True
        rows = list(range(len(prompts)))  # of the batch
        with evaluating(model):
            h_BD, state = read(model, prompts, device)
            scores_BV = model.scores(h_BD).cpu()
        for left in range(count - 1, -1, -1):
            symbols = []
            for row, scores_V in zip(rows, scores_BV, strict=True):
                had = None if seen is None else seen[row]
                symbols.append(draw(scores_V, sampling, random[row], had))
                if had is not None:
                    had[symbols[-1]] = True
            yield from zip(rows, symbols, strict=True)
            on = [i for i, row in enumerate(rows) if row not in self._stopped]
            if not on or not left:
                return
            if len(on) < len(rows):
                state = reorder(state, torch.tensor(on))
            rows, symbols = ([part[i] for i in on] for part in (rows, symbols))
            with evaluating(model):
                h_1BD, state = model.hidden(torch.tensor([symbols], device=device), state)
                scores_BV = model.scores(h_1BD[0]).cpu()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has the mode that it had, frozen ones too."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, mode in before:
            module.training = mode


def read(
    model: LanguageModel, prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Any]:
    """The prompts, side by side: what `scores` takes after each one's last symbol [B, D], state."""
    ends: list[Any] = [None] * len(prompts)
    state = None
    for start in range(0, max(map(len, prompts)), READ_AT_ONCE):
        parts = [prompt[start : start + READ_AT_ONCE] for prompt in prompts]
        L = max(map(len, parts))
        x_LB = torch.tensor([[*part, *[0] * (L - len(part))] for part in parts]).T.contiguous()
        mask_LB = torch.arange(L)[:, None] >= torch.tensor([len(part) for part in parts])
        mask = mask_LB.to(device) if mask_LB.any() else None
        h_LBD, state = model.hidden(x_LB.to(device), state, mask)
        for row, part in enumerate(parts):
            if part:
                ends[row] = h_LBD[len(part) - 1, row]
    return torch.stack(ends), state


def draw(
    scores: Tensor, sampling: Sampling, random: torch.Generator, seen: Tensor | None = None
) -> int:
    """Draw an index of scores [V], computed in float64; seen: bool [V], what the penalty is for.

    A score of -inf is never drawn. Raises ValueError unless the highest is finite.
    """
    scores = scores.double()
    if not (highest := scores.max()).isfinite():
        raise ValueError(
            "the model's scores must be finite to draw from, got "
            f"{'NaN' if highest.isnan() else f'a highest of {highest}'}: did its training diverge?"
        )
    if seen is not None:
        scores = penalise(scores, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores = (scores - scores.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        likeliest = scores.topk(sampling.top_k)
        scores = torch.full_like(scores, -math.inf).index_copy(
            0, likeliest.indices, likeliest.values
        )
    p = scores.softmax(-1)
    if sampling.top_p < 1:
        falling, places = p.sort(descending=True)
        before = falling.cumsum(-1) - falling
        p = p.index_fill(0, places[before >= sampling.top_p], 0)
    return int(torch.multinomial(p, 1, generator=random))


def penalise(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Lower the scores of symbols that were there already.

    Keskar et al. 2019 (arXiv 1909.05858, section 4.1) divide a logit by the penalty; with negative
    ones multiplied, as is usual since, none rises. Which is negative depends on a constant that no
    probability depends on: all log-probabilities are. So scores count from their mean here, and
    what is drawn depends on the probabilities alone, whatever the model's output. The mean of
    logits is near 0 at the start, and a softmax's gradient, which sums to 0, does not move it.

    Args:
        scores: [V] float64: logits or log-probabilities; not all of them -inf.
        seen: [V] bool.
        penalty: above 1 it lowers, below it raises.

    Returns: [V]; scores of symbols not seen are moved by the mean alone, -inf stays.
    """
    possible, largest = scores.isfinite(), torch.finfo(scores.dtype).max
    scores = scores - scores[possible].mean()
    lower = torch.where(scores > 0, scores / penalty, scores * penalty)
    return torch.where(seen & possible, lower.clamp(-largest, largest), scores)


def check_integer(name: str, value: object) -> None:
    """Raise TypeError unless it is an int."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless it is 0 or more, and finite."""
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
    if not value < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")
