"""Speech recognition: the recipe, its models, and what a run of one is used with.

RUN/alphabet.json  the symbols that the model writes
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsru.data.speech import (
    Alphabet,
    Speech,
    SpeechData,
    Utterance,
    load_speech,
    read_utterances,
)
from torchsru.data.texts import DataError
from torchsru.models.ctc import BLANK, collapse, greedy, log_add, prefix_beam
from torchsru.models.log_mel import LogMel
from torchsru.models.recognizer import Recognizer, RecognizerConfig
from torchsru.recipes.base import Prepared, Recipe, Run, described
from torchsru.train.config import Training
from torchsru.train.folder import RunError, read_json
from torchsru.train.recognition import Recognition, evaluate, steps_needed
from torchsru.train.strategy import make_fabric

ALPHABET = "alphabet.json"
MEASURED = 200  # utterances whose features are measured


@dataclass(frozen=True, kw_only=True)
class RecognitionRecipe(Recipe):
    """A speech recogniser: its shape, its data, its training."""

    model: RecognizerConfig
    data: SpeechData
    training: Training

    task: ClassVar[str] = "recognition"

    def prepare(self) -> Prepared:
        """Find and check the speech, and measure its features. Raises DataError."""
        data, model = self.data, self.model
        speech = load_speech(data, model.rate, self.training.seed)
        train = speech.train(0)
        alphabet = Alphabet.of(speech.said, data.units)
        for utterance in (*train, *speech.valid, *speech.test):
            check(utterance, alphabet, model, drawn=data.source == "fsdd")
        task = Recognition(
            speech,
            alphabet,
            batch=data.batch,
            eval_batch=data.eval_batch,
            seed=self.training.seed,
        )
        about = {"symbols": alphabet.symbols, "units": alphabet.units}
        return Prepared(
            task,
            partial(Recognizer, model, alphabet.size, *measure(speech, model)),
            {ALPHABET: json.dumps(about, ensure_ascii=False) + "\n"},
        )

    def evaluate(
        self, run: Run, *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Error rates of greedy decoding and, named beam_, of the search with so many prefixes, the
        loss, how many utterances they are of, and the seconds it took.

        Args:
            paths: tables of sound files and texts; see `SpeechData.source`.
            layout: eval_batch and eval_beam to use in place of the run's.
        """
        data = replace(self.data, **layout)
        recognizer = SpeechRecognizer(run)
        alphabet, rate = recognizer.alphabet, self.model.rate
        if paths:
            utterances = [u for path in paths for u in read_utterances(Path(path), data, rate)]
            for utterance in utterances:
                check(utterance, alphabet, self.model, drawn=False)
        else:
            speech = load_speech(data, rate, self.training.seed)
            run.check_content(recognizer.facts, speech.content, "tables")
            utterances = list(speech.side(split))
        started = time.perf_counter()
        decoders: dict[str, Callable[[Tensor], Sequence[int]]] = {
            "": greedy,
            "beam_": partial(best_prefix, beam=data.eval_beam),
        }
        found = evaluate(recognizer.model, utterances, alphabet, data.eval_batch, decoders)
        return {
            **found,
            "utterances": len(utterances),
            "seconds": time.perf_counter() - started,
        }

    def debug(self) -> "RecognitionRecipe":
        """The same layers and optimiser, small, on spoken digits; name their folder with --data."""
        model = replace(
            self.model,
            width=24,
            layers=2,
            dropout=0.0,
            rate=8000,
            bands=20,
            stack=4,
            mask_bands=0,
            mask_frames=0,
        )
        data = replace(
            self.data,
            source="fsdd",
            units="words",
            digits=(1, 3),
            pause_s=(0.0, 0.1),
            speeds=(1.0,),
            sequences=64,
            heldout=30,
            batch=8,
        )
        training = replace(
            self.training,
            lr=2e-2,
            steps=240 if self.model.bidirectional else 640,  # what hears no future learns later
            epochs=None,
            evaluations=3,
            checkpoints=2,
            log_every=10,
        )
        return replace(self, model=model, data=data, training=training)

    def next_command(self, run: str) -> str:
        """Evaluate on the test part, and write down a file."""
        return f"torchsru eval {run} --split test; torchsru transcribe {run} FILE"


def check(
    utterance: Utterance, alphabet: Alphabet, model: RecognizerConfig, *, drawn: bool
) -> None:
    """Raise DataError naming the utterance if its text holds an unknown symbol, or needs more steps
    than it has; a sequence that was drawn may be too fast."""
    try:
        symbols = alphabet.encode(utterance.text)
    except ValueError as error:
        raise DataError(f"{utterance.name}: {error}") from error
    steps, needed = -(-utterance.size // model.step_size), steps_needed(symbols)
    if steps < needed and not drawn:
        raise DataError(
            f"{utterance.name} must have {needed} steps of {model.step_size} samples at least for "
            f"{utterance.text!r}, got {steps}"
        )


@torch.no_grad()
def measure(speech: Speech, model: RecognizerConfig) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each band in the training data, [M] each."""
    train = speech.train(0)
    features = LogMel(model.rate, model.bands)
    found = []
    for utterance in train[:: -(-len(train) // MEASURED)]:
        samples = utterance.read()
        padding = (features.past, -len(samples) % features.hop)
        found.append(features(F.pad(samples, padding)[None])[0])
    all_TM = torch.cat(found).double()
    return all_TM.mean(0), all_TM.std(0, correction=0).clamp(min=1e-3)


def best_prefix(log_LC: Tensor, beam: int) -> tuple[int, ...]:
    """The most probable saying that the search finds; none of log probabilities that are not
    finite."""
    found = prefix_beam(log_LC, beam)
    return found[0][0] if found else ()


class SpeechRecognizer:
    """A run's model on sound.

    Args:
        run: of recognition.

    Raises: RunError if it has no weights yet, or can't be read.

    Attributes:
        rate: samples per second that it hears.
        alphabet: what it writes.
        facts: what the checkpoint says of the training.
    """

    def __init__(self, run: Run):
        config = run.recipe.model
        file = run.folder / ALPHABET
        about = read_json(file)
        try:
            self.alphabet = Alphabet(tuple(about["symbols"]), about["units"])
            self.model = Recognizer(config, self.alphabet.size)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{file} is damaged: {error!r}") from error
        self.rate = config.rate
        self.facts = run.load_weights(self.model)
        self.model.eval()
        make_fabric(run.recipe.training, alone=True).to_device(self.model)
        self.device = self.model.output.weight.device

    @torch.no_grad()
    def log_probabilities(self, samples: Tensor) -> Tensor:
        """Of each symbol in each step, [L, C] on the CPU, of samples [N]. Raises ValueError if N is
        0."""
        if samples.dim() != 1 or not len(samples):
            raise ValueError(f"samples must be [N], N >= 1, got {list(samples.shape)}")
        sizes = torch.tensor([len(samples)], device=self.device)
        log_LBC, _ = self.model(samples.to(self.device)[None], sizes)
        return log_LBC[:, 0].cpu()

    def transcribe(self, samples: Tensor) -> str:
        """What is said in samples [N], by greedy decoding."""
        return self.alphabet.decode(greedy(self.log_probabilities(samples))).strip()

    def search(self, samples: Tensor, beam: int) -> list[tuple[str, float]]:
        """Texts and their log probabilities, best first, by prefix beam search."""
        found: dict[str, float] = {}
        for ids, value in prefix_beam(self.log_probabilities(samples), beam):
            text = self.alphabet.decode(ids).strip()  # several sayings may be one text
            found[text] = log_add(found.get(text, -math.inf), value)
        return sorted(found.items(), key=lambda item: -item[1])

    def listen(self) -> "Listener":
        """Recognition of live sound. Raises ValueError if the model is bidirectional."""
        if self.model.config.bidirectional:
            raise ValueError(
                "live recognition needs a model with bidirectional false, as in the recipe "
                "digits-sru-streaming"
            )
        return Listener(self)


class Listener:
    """Live sound to text, as it comes: what pieces of any size give is what the whole gives.

    Args:
        recognizer: whose model runs forward only.

    Attributes:
        step_size: samples that a step takes; fed with fewer, it waits for more.
    """

    def __init__(self, recognizer: SpeechRecognizer):
        self.recognizer = recognizer
        self.step_size = recognizer.model.config.step_size
        self._rest = torch.zeros(0)
        self._state: Any = None
        self._last = BLANK
        self._wrote = False
        self._blanks = ""  # held back: a text ends without them

    def feed(self, samples: Tensor) -> str:
        """Hear samples [n]; returns the text that is new."""
        whole = torch.cat([self._rest, samples])
        ready = len(whole) // self.step_size * self.step_size
        self._rest = whole[ready:]
        return self._hear(whole[:ready]) if ready else ""

    def finish(self) -> str:
        """Hear what is left, filled up with zeros; returns the text that is new."""
        rest, self._rest = self._rest, torch.zeros(0)
        return self._hear(F.pad(rest, (0, self.step_size - len(rest)))) if len(rest) else ""

    @torch.no_grad()
    def _hear(self, samples: Tensor) -> str:
        by = self.recognizer
        log_LBC, self._state = by.model.step(samples.to(by.device)[None], self._state)
        path = log_LBC[:, 0].argmax(1).tolist()
        ids, self._last = collapse(path, self._last), path[-1]
        text = by.alphabet.decode(ids)
        if self._wrote and ids:
            text = self._blanks + by.alphabet.joiner + text
        elif not self._wrote:
            text = text.lstrip()
        if not ids:
            return ""
        new = text.rstrip()
        self._blanks = text[len(new) :] if self._wrote or new else ""
        self._wrote = self._wrote or bool(new)
        return new


STREAMING = RecognizerConfig(bidirectional=False, width=256, mask_bands=8, mask_frames=20)
#: name: what it is, and the model; about 650,000 parameters each
MODELS: dict[str, tuple[str, RecognizerConfig]] = {
    "sru": (
        "bidirectional SRU, 4 layers",
        RecognizerConfig(mask_bands=8, mask_frames=20),
    ),
    "lstm": (
        "bidirectional LSTM, 2 layers",
        RecognizerConfig(rnn="lstm", layers=2, mask_bands=8, mask_frames=20),
    ),
    "gru": (
        "bidirectional GRU, 2 layers",
        RecognizerConfig(rnn="gru", layers=2, width=152, mask_bands=8, mask_frames=20),
    ),
    "sru-streaming": ("SRU for live sound, 4 layers", STREAMING),
    "lstm-streaming": (
        "LSTM for live sound, 2 layers",
        replace(STREAMING, rnn="lstm", layers=2, width=224),
    ),
}


def _digits(model: RecognizerConfig) -> RecognitionRecipe:
    return RecognitionRecipe(
        model=model,
        # few at once: nothing is learnt before some hundreds of steps, by LSTM and GRU above all
        data=SpeechData(source="fsdd", units="words", batch=8),
        training=Training(
            lr=3e-3, epochs=12, keep="best", evaluations=12, checkpoints=4, precision="float32"
        ),
    )


def speech_commands_sru() -> RecognitionRecipe:
    """Bidirectional SRU over the 35 words of Speech Commands."""
    return RecognitionRecipe(
        model=RecognizerConfig(rate=16_000, mask_bands=8, mask_frames=20),
        data=SpeechData(source="speech-commands", units="words", batch=128, eval_batch=128),
        training=Training(lr=2e-3, epochs=30, keep="best", evaluations=30, checkpoints=30),
    )


def librispeech_sru() -> RecognitionRecipe:
    """Bidirectional SRU over LibriSpeech's 960 hours; needs a GPU."""
    return RecognitionRecipe(
        model=RecognizerConfig(
            width=512,
            layers=10,
            highway_bias=-2.0,
            rate=16_000,
            bands=80,
            stack=3,
            mask_bands=27,
            mask_frames=100,
        ),
        data=SpeechData(
            source="librispeech",
            parts=("train-clean-100", "train-clean-360", "train-other-500"),
        ),
        training=Training(lr=1e-3, epochs=50, keep="best", evaluations=50, checkpoints=50),
    )


RECIPES: dict[str, Callable[[], RecognitionRecipe]] = {
    **{
        f"digits-{name}": described(_digits, f"{said}, over sequences of spoken digits.", model)
        for name, (said, model) in MODELS.items()
    },
    "speech-commands-sru": speech_commands_sru,
    "librispeech-sru": librispeech_sru,
}
