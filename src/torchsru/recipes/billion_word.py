"""Word models of Billion Word: SRU++ as published (Lei 2021, arXiv 2102.12459), for 8 GPUs.

Data     name the unpacked folder: torchsru train billion-word-srupp-base --data FOLDER
"""

import math
from dataclasses import replace

from torchsru.recipes.enwik8 import enwik8_srupp_base
from torchsru.recipes.language_model import LanguageModelRecipe


def billion_word_srupp_base() -> LanguageModelRecipe:
    """SRU++, 10 layers of 4096: 328M parameters. Published: perplexity 25.1."""
    recipe = enwik8_srupp_base()
    return replace(
        recipe,
        model=replace(
            recipe.model,
            width=4096,
            projection=1024,
            embedding=1024,
            cutoffs=(59_998, 159_998),
            tie=True,
            tie_projections=False,
            memory=64,
            dropout=0.05,
            attention_dropout=0.0,
            init_range=math.sqrt(3 / 4096),
        ),
        data=replace(
            recipe.data,
            source="billion-word",
            batch=8 * 128,
            unroll=64,
            eval_unroll=64,
            eval_memory=96,
        ),
        training=replace(recipe.training, lr=2e-4, steps=800_000),
    )


def billion_word_srupp_large() -> LanguageModelRecipe:
    """SRU++, 10 layers of 7616, attention in every fifth: 465M. Published: perplexity 23.5."""
    recipe, width = billion_word_srupp_base(), 7616
    return replace(
        recipe,
        model=replace(
            recipe.model,
            width=width,
            attention_every=5,
            dropout=0.1,
            init_range=math.sqrt(3 / width),
        ),
        data=replace(recipe.data, batch=8 * 192),
    )
