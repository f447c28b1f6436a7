"""Word model of Penn Treebank: SRU as in the paper's first version (arXiv 1709.02755v1).

Data     name the unpacked folder: torchsru train ptb-sru --data simple-examples/data
"""

import math

from torchsru.data import TextData
from torchsru.models import LanguageModelConfig
from torchsru.recipes.language_model import LanguageModelRecipe
from torchsru.train.config import Training

TRAIN_WORDS = 929_589


def ptb_sru() -> LanguageModelRecipe:
    """SRU, 6 layers of 910, tied: 24M parameters. Published: perplexity 60.3.

    Where the first version differs, this is today's SRU: its gates read the state.
    """
    batch, unroll, epochs, falls_from = 32, 35, 300, 175
    return LanguageModelRecipe(
        model=LanguageModelConfig(
            rnn="sru",
            width=910,
            layers=6,
            tie=True,
            rescale=False,
            highway_bias=-3.0,
            embedding_dropout=0.7,
            output_dropout=0.7,
            state_dropout=0.2,
            input_dropout=0.2,
            init_range=math.sqrt(3 / 910),
        ),
        data=TextData(source="ptb", batch=batch, unroll=unroll, eval_unroll=unroll, eval_batch=1),
        training=Training(
            optimizer="sgd",
            # the script's loss is a sum over the steps of a segment, ours a mean; and its decay of
            # the weights is no part of the gradient
            lr=1.0 * unroll,
            weight_decay=1e-5 / unroll,
            clip=5.0 / unroll,
            schedule="exponential",
            warmup=0.0,
            decay_from=falls_from / epochs,
            decay_to=0.98 ** (epochs - falls_from),
            steps=epochs * TRAIN_WORDS // (batch * unroll),
            evaluations=epochs,
            checkpoints=epochs,
            log_every=100,
        ),
    )
