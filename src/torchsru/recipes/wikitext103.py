"""Word models of WikiText-103: SRU++ as published (Lei 2021, arXiv 2102.12459), for 8 GPUs.

Data     name the unpacked folder: torchsru train wikitext-103-srupp-base --data wikitext-103
"""

import math
from dataclasses import replace

from torchsru.recipes.enwik8 import enwik8_srupp_base
from torchsru.recipes.language_model import LanguageModelRecipe


def wikitext103_srupp_base() -> LanguageModelRecipe:
    """SRU++, 10 layers of 3072, adaptive and tied: 148M parameters. Published: perplexity 18.3."""
    recipe = enwik8_srupp_base()
    return replace(
        recipe,
        model=replace(
            recipe.model,
            embedding=1024,
            cutoffs=(19_997, 39_997, 199_997),
            tie=True,
            memory=768,
            dropout=0.15,
            attention_dropout=0.15,
            adaptive_dropout=0.15,
            init_range=math.sqrt(3 / 3072),
        ),
        data=replace(
            recipe.data,
            source="wikitext-103",
            batch=8 * 8,
            unroll=768,
            eval_unroll=768,
            eval_memory=2560,
        ),
    )


def wikitext103_srupp_large() -> LanguageModelRecipe:
    """SRU++, 10 layers of 4096: 232M parameters. Published: perplexity 17.4."""
    recipe = wikitext103_srupp_base()
    return replace(
        recipe,
        model=replace(
            recipe.model,
            width=4096,
            projection=1024,
            memory=1024,
            dropout=0.2,
            attention_dropout=0.2,
            adaptive_dropout=0.2,
            init_range=math.sqrt(3 / 4096),
        ),
        data=replace(recipe.data, unroll=1024, eval_unroll=1024),
    )
