"""Debug twins: the code of a recipe in seconds, on the sources of the Python that runs."""

from dataclasses import replace

from torchsru.recipes.base import LanguageModelRecipe

#: What learns in sixty steps; RAdam hardly adapts so early.
RATES = {"sgd": 1.0, "radam": 5e-2}


def smaller(dropout: float | None) -> float | None:
    """What leaves a small model something to learn."""
    return None if dropout is None else min(dropout, 0.1)


def debug(recipe: LanguageModelRecipe) -> LanguageModelRecipe:
    """The same layers, optimiser and schedule: a small model, few steps, bytes."""
    model, training = recipe.model, recipe.training
    attends = model.rnn in ("srupp", "transformer-xl")
    return replace(
        recipe,
        model=replace(
            model,
            width=32,
            layers=2,
            embedding=min(model.embedding, 16),
            cutoffs=(32, 96) if model.cutoffs else (),
            projection=min(model.projection, 8),
            head_size=min(model.head_size, 8),
            feedforward=min(model.feedforward, 64),
            heads=min(model.heads, 2),
            memory=32 if attends else model.memory,
            attention_every=min(model.attention_every, 2),
            attention_last=None if model.attention_last is None else 1,
            dropout=min(model.dropout, 0.1),
            output_dropout=smaller(model.output_dropout),
            embedding_dropout=smaller(model.embedding_dropout),
            state_dropout=min(model.state_dropout, 0.1),
            input_dropout=min(model.input_dropout, 0.1),
        ),
        data=replace(
            recipe.data,
            source="text",
            unroll=16,
            batch=4,
            eval_tokens=2048,
            eval_batch=32,
            eval_unroll=256,
            eval_memory=min(recipe.data.eval_memory, 64),
        ),
        training=replace(
            training,
            lr=RATES.get(training.optimizer, 1e-2),
            steps=60,
            seconds=None,
            warmup_steps=None if training.warmup_steps is None else 12,
            devices=1,
            evaluations=2,
            log_every=10,
            checkpoints=2,
        ),
    )
