"""Translation: the recipe, the papers' models and small ones, and what a run of one is used with.

Sources  Transformer base: Vaswani et al. 2017 (arXiv 1706.03762), section 5 and table 3; SRU in its
         feed-forward sub-layers: Lei et al. 2018 (arXiv 1709.02755), table 3, whose sizes are those
         of 32,000 subwords and two tables of embeddings; batches and rates are those of the former
RUN/subwords.model  the vocabulary, a file of the package sentencepiece
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torchsru.data.cache import tell
from torchsru.data.parallel import MODEL, Subwords, TranslationData, load_parallel, read_pairs
from torchsru.data.texts import DataError
from torchsru.models.beam import Hypothesis, Search
from torchsru.models.translator import Translator, TranslatorConfig
from torchsru.recipes.base import Prepared, Recipe, Run, described
from torchsru.train.config import Training
from torchsru.train.folder import RunError, naming
from torchsru.train.strategy import make_fabric
from torchsru.train.translation import Translation, nats_of, scores_of, side_of, translate


@dataclass(frozen=True, kw_only=True)
class TranslationRecipe(Recipe):
    """A translator: its shape, its data, its training."""

    model: TranslatorConfig
    data: TranslationData
    training: Training

    task: ClassVar[str] = "translation"

    def prepare(self) -> Prepared:
        """Read the pairs, in subwords. Raises DataError."""
        found = load_parallel(self.data)
        task = Translation(
            found.side("train"),
            found.side("valid"),
            found.texts("valid"),
            found.subwords,
            content=found.content,
            batch=self.data.batch,
            eval_batch=self.data.eval_batch,
            longest=self.data.longest,
            eval_sentences=self.data.eval_sentences,
            label_smoothing=self.model.label_smoothing,
            seed=self.training.seed,
        )
        if task.dropped:
            tell(
                f"{task.dropped:,} of {len(task.train.source):,} pairs are not trained on: a side "
                f"has more than {min(self.data.longest, self.data.batch)} subwords"
            )
        make = partial(Translator, self.model, found.subwords.size)
        return Prepared(task, make, {MODEL: found.subwords.model})

    def evaluate(
        self, run: Run, *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """BLEU and chrF of what the search finds, nats per subword, how many sentences and
        subwords they are of, the seconds that the search took and its subwords per second.

        Args:
            paths: two files, of the language to translate from and of the other.
            layout: eval_batch and eval_beam to use in place of the run's.
        """
        data = replace(self.data, **layout)
        translator = TextTranslator(run)
        if paths:
            if len(paths) != 2:
                raise DataError(f"--data takes two files, one of each language, got {paths}")
            pairs = read_pairs(Path(paths[0]), Path(paths[1]), skip_empty=data.skip_empty)
            texts, references = map(list, zip(*pairs, strict=True))
        else:
            corpus = load_parallel(data)
            run.check_content(translator.facts, corpus.content)
            corpus.side(split)
            texts, references = corpus.texts(split)
        started = time.perf_counter()
        found = translator.translate(
            texts,
            Search(beam=data.eval_beam, length_penalty=data.eval_length_penalty),
            data.eval_batch,
            "translating",
        )
        seconds = time.perf_counter() - started
        scores = scores_of([best[0].text for best in found], references)
        subwords = sum(best[0].subwords for best in found)
        side = side_of(translator.subwords, texts, references)
        return {
            "bleu": scores["bleu"],
            "chrf": scores["chrf"],
            "nats": nats_of(translator.model, side, data.eval_batch),
            "sentences": len(texts),
            "subwords": subwords,
            "beam": data.eval_beam,
            "seconds": seconds,
            "subwords_per_second": subwords / seconds,
            "signature": scores["signature"],
        }

    def debug(self) -> "TranslationRecipe":
        """The same layers, optimiser and schedule, small; name two files with --data."""
        training = self.training
        return replace(
            self,
            model=replace(
                self.model,
                width=32,
                heads=2,
                encoder_layers=1,
                decoder_layers=1,
                inner=64,
                dropout=0.0,
                attention_dropout=0.0,
                inner_dropout=0.0,
            ),
            data=replace(
                self.data,
                source="files",
                vocabulary_size=200,
                batch=256,
                eval_sentences=40,
                eval_beam=2,
            ),
            training=replace(
                training,
                lr=1e-2,
                steps=160,
                epochs=None,
                warmup_steps=None if training.warmup_steps is None else 20,
                devices=1,
                evaluations=1,
                checkpoints=4,
                average=min(training.average, 2),
                log_every=10,
                precision="float32",
            ),
        )

    def next_command(self, run: str) -> str:
        """Evaluate, and translate lines."""
        return f"torchsru eval {run}; torchsru translate {run} FILE"


class Translated(NamedTuple):
    """A translation as text, with its score, its log probability in nats, and its subwords, the
    end counted."""

    text: str
    score: float
    log_probability: float
    subwords: int


class TextTranslator:
    """A run's model on texts.

    Args:
        run: of translation.

    Raises: RunError if it has no weights yet, or can't be read.

    Attributes:
        subwords: its vocabulary.
        facts: what the checkpoint says of the training.
    """

    def __init__(self, run: Run):
        file = run.folder / MODEL
        with naming(file, "read"):
            content = file.read_bytes()
        try:
            self.subwords = Subwords(content)
        except ValueError as error:
            raise RunError(f"{file} is damaged: {error}") from error
        self.run = run
        model = Translator(run.recipe.model, self.subwords.size)
        self.facts = run.load_weights(model)
        self.model = make_fabric(run.recipe.training, alone=True).setup(model.eval())

    def translate(
        self,
        texts: Sequence[str],
        search: Search | None = None,
        batch: int | None = None,
        doing: str = "",
    ) -> list[list[Translated]]:
        """Of each text the translations wanted, the best first.

        Args:
            texts: a sentence each; of one without a word the translation is empty.
            search: how; the recipe's if None.
            batch: subwords at once; the recipe's if None.
            doing: shown beside a progress bar; without it there is none.
        """
        data = self.run.recipe.data
        if search is None:
            search = Search(beam=data.eval_beam, length_penalty=data.eval_length_penalty)
        ids = self.subwords.encode(texts)
        some = [line for line in ids if line]
        found = iter(translate(self.model, some, search, batch or data.eval_batch, doing))
        return [
            [self._as_text(h) for h in next(found)] if line else [Translated("", 0.0, 0.0, 0)]
            for line in ids
        ]

    def _as_text(self, found: Hypothesis) -> Translated:
        text = self.subwords.decode(found.ids)
        return Translated(text, found.score, found.log_probability, len(found.ids) + 1)


BASE_WIDTH, BASE_WARMUP = 512, 4_000


def _wmt14(said: str, layers: int, **model: Any) -> tuple[str, TranslationRecipe]:
    """Of a Transformer's base size, on WMT14."""
    return said, TranslationRecipe(
        model=TranslatorConfig(
            width=BASE_WIDTH,
            encoder_layers=layers,
            decoder_layers=layers,
            inner_dropout=0.1,
            attention_dropout=0.1,
            tied="output",
            **model,
        ),
        data=TranslationData(
            source="wmt14",
            skip_empty=True,
            vocabulary_size=32_000,
            batch=25_000,
            eval_batch=16_000,
            eval_beam=4,
        ),
        training=Training(
            optimizer="adam",
            betas=(0.9, 0.98),
            clip=None,
            schedule="noam",
            lr=(BASE_WIDTH * BASE_WARMUP) ** -0.5,  # the peak of eq. 3
            warmup_steps=BASE_WARMUP,
            steps=100_000,
            evaluations=50,
            checkpoints=100,
            average=5,
            log_every=100,
            devices="auto",
        ),
    )


def _multi30k(said: str, layers: int, inner: int, **model: Any) -> tuple[str, TranslationRecipe]:
    """Of 1.9 million parameters, on Multi30k."""
    return said, TranslationRecipe(
        model=TranslatorConfig(
            width=128,
            heads=4,
            encoder_layers=layers,
            decoder_layers=layers,
            inner=inner,
            dropout=0.2,
            **model,
        ),
        data=TranslationData(source="multi30k"),
        training=Training(
            lr=3e-3,
            betas=(0.9, 0.98),
            epochs=10,
            warmup=0.1,
            keep="best",
            evaluations=5,
            checkpoints=4,
            precision="float32",
        ),
    )


#: name: what it is, and the recipe
MADE: dict[str, tuple[str, TranslationRecipe]] = {
    "wmt14-en-de-transformer": _wmt14("Transformer base, 6 layers, on WMT14 en-de: 76M", 6),
    "wmt14-en-de-sru-4": _wmt14(
        "Transformer with SRU in its feed-forward sub-layers, 4 layers, on WMT14 en-de: 79M",
        4,
        position_wise="sru",
    ),
    "wmt14-en-de-sru-5": _wmt14(
        "Transformer with SRU in its feed-forward sub-layers, 5 layers, on WMT14 en-de: 90M",
        5,
        position_wise="sru",
    ),
    "wmt14-en-de-ssru": _wmt14(
        "Transformer base with SSRU in place of the decoder's self-attention, on WMT14 en-de: 73M",
        6,
        autoregression="ssru",
    ),
    "multi30k-transformer": _multi30k("Transformer, 3 layers, on Multi30k", 3, 512),
    "multi30k-sru": _multi30k(
        "Transformer with SRU in its feed-forward sub-layers, 2 layers, on Multi30k",
        2,
        480,
        position_wise="sru",
    ),
    "multi30k-ssru": _multi30k(
        "Transformer with SSRU in place of the decoder's self-attention, 3 layers, on Multi30k",
        3,
        576,
        autoregression="ssru",
    ),
}


def _made(name: str) -> TranslationRecipe:
    return MADE[name][1]


RECIPES = {name: described(_made, f"{said}.", name) for name, (said, _) in MADE.items()}
