"""Byte models of enwik8: SRU's and SRU++'s as published, and Transformer-XL's.

Sources  SRU: Lei et al. 2018 (arXiv 1709.02755) and its training script; SRU++: Lei 2021 (arXiv
         2102.12459), tables 2 and 3, and scripts of the original's branch 3.0.0-dev, for 8 GPUs;
         Transformer-XL: Dai et al. 2019 (arXiv 1901.02860), the 41M model of its scripts
Data     name the unpacked file: torchsru train enwik8-srupp-base --data enwik8
"""

import math
from dataclasses import replace

from torchsru.data import TextData
from torchsru.models import LanguageModelConfig
from torchsru.recipes.language_model import LanguageModelRecipe
from torchsru.train.config import Training

SYMBOLS = 205
INIT_RANGE = math.sqrt(3 / SYMBOLS)  # of both scripts; Transformer-XL's own is none of this kind
TRAIN_BYTES = 90_000_000


def dropping(model: LanguageModelConfig, p: float) -> LanguageModelConfig:
    """With dropout where SRU's script has it: after the embedding, before the output, and between
    them on the state's way out, one mask for all time steps; nothing between layers."""
    return replace(model, embedding_dropout=p, state_dropout=p, output_dropout=p)


def enwik8_sru() -> LanguageModelRecipe:
    """SRU, 10 layers of 1152: 37M parameters."""
    width, warmup_steps, batch, unroll = 1152, 32_000, 128, 100
    return LanguageModelRecipe(
        model=dropping(
            LanguageModelConfig(
                rnn="sru",
                width=width,
                layers=10,
                embedding=SYMBOLS,
                highway_bias=-3.0,
                init_range=INIT_RANGE,
            ),
            0.2,
        ),
        data=TextData(
            source="enwik8", batch=batch, unroll=unroll, eval_unroll=unroll, eval_batch=1
        ),
        training=Training(
            optimizer="adam",
            betas=(0.9, 0.999),
            weight_decay=1e-7,
            clip=0.3,
            schedule="noam",
            lr=3 / math.sqrt(width * warmup_steps),  # the script's 3, as the peak it means
            warmup_steps=warmup_steps,
            steps=100 * TRAIN_BYTES // (batch * unroll),
            evaluations=100,
            checkpoints=100,
            log_every=100,
            devices="auto",
        ),
    )


def enwik8_sru_47m() -> LanguageModelRecipe:
    """SRU, 8 layers of 3056 with projections to 512: 47M parameters."""
    recipe, width = enwik8_sru(), 3056
    lr = 3 / math.sqrt(width * 32_000)
    return replace(
        recipe,
        model=dropping(replace(recipe.model, width=width, layers=8, projection=512), 0.3),
        training=replace(recipe.training, lr=lr),
    )


def enwik8_sru_49m() -> LanguageModelRecipe:
    """SRU, 12 layers of 2048 with projections to 512: 49M parameters. Published: 1.19 bits."""
    recipe, width, batch, unroll = enwik8_sru_47m(), 2048, 64, 256
    return replace(
        recipe,
        model=replace(recipe.model, width=width, layers=12, embedding=256),
        data=replace(recipe.data, batch=batch, unroll=unroll, eval_unroll=unroll),
        training=replace(
            recipe.training,
            lr=3 / math.sqrt(width * 32_000),
            steps=100 * TRAIN_BYTES // (batch * unroll),
        ),
    )


def enwik8_srupp_base() -> LanguageModelRecipe:
    """SRU++, 10 layers of 3072, attention in 768: 108M parameters. Published: 0.97."""
    return LanguageModelRecipe(
        model=LanguageModelConfig(
            rnn="srupp",
            width=3072,
            layers=10,
            projection=768,
            memory=1024,
            dropout=0.22,
            attention_dropout=0.22,
            init_range=INIT_RANGE,
        ),
        data=TextData(
            source="enwik8",
            batch=8 * 4,
            unroll=1024,
            eval_unroll=1024,
            eval_memory=3072,
            eval_batch=1,
        ),
        training=Training(
            optimizer="radam",
            betas=(0.9, 0.999),
            weight_decay=0.1,
            clip=1.0,
            schedule="srupp",
            lr=3e-4,
            warmup_steps=16_000,
            steps=400_000,
            evaluations=100,
            checkpoints=100,
            log_every=100,
            devices="auto",
        ),
    )


def enwik8_srupp_large() -> LanguageModelRecipe:
    """SRU++, 10 layers of 4096, attention in 1024: 191M parameters. Published: 0.96."""
    recipe = enwik8_srupp_base()
    return replace(
        recipe,
        model=replace(
            recipe.model, width=4096, projection=1024, dropout=0.32, attention_dropout=0.32
        ),
        data=replace(recipe.data, batch=8 * 8),
        training=replace(recipe.training, lr=4e-4),
    )


def enwik8_srupp_k5() -> LanguageModelRecipe:
    """enwik8-srupp-base with attention in every fifth layer alone: 98M. Published: 0.98."""
    recipe = enwik8_srupp_base()
    return replace(recipe, model=replace(recipe.model, attention_every=5))


def enwik8_transformer_xl() -> LanguageModelRecipe:
    """Transformer-XL, 12 layers of 512: 41M parameters. Published: 1.06.

    The published evaluation alone counts distances above 820 as 820; here training does, too.
    """
    return LanguageModelRecipe(
        model=LanguageModelConfig(
            rnn="transformer-xl",
            width=512,
            layers=12,
            heads=8,
            head_size=64,
            feedforward=2048,
            memory=512,
            clamp=820,
            dropout=0.1,
            tie=True,
        ),
        data=TextData(
            source="enwik8", batch=22, unroll=512, eval_unroll=80, eval_memory=2100, eval_batch=1
        ),
        training=Training(
            optimizer="adam",
            betas=(0.9, 0.999),
            clip=0.25,
            schedule="cosine",
            lr=2.5e-4,
            warmup=0.0,
            steps=400_000,
            evaluations=100,
            checkpoints=100,
            log_every=100,
        ),
    )
