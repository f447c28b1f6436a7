"""`torchsru data SOURCE [PATH ...]`: check and prepare a data set, and say what it holds."""

import typing
from collections.abc import Sequence
from dataclasses import fields

from torchsru.cli import Refused
from torchsru.cli.arguments import field_docs, make_parser, parse
from torchsru.data import DataError, TextData, load_corpus
from torchsru.data.config import Source
from torchsru.recipes.base import located

NOT_OF_TEXT = ("source", "paths")  # they are arguments; the rest of the layout is the recipe's
LAYOUT = ("unroll", "batch", "eval_tokens", "eval_batch", "eval_unroll", "eval_memory")


def main(argv: Sequence[str]) -> int:
    """Prepare and print; returns 0."""
    sources = typing.get_args(Source)
    parser = make_parser("data", "Check and prepare a data set; training does the same.")
    parser.add_argument("source", metavar="SOURCE", help=f"one of {', '.join(sources)}")
    parser.add_argument("path", metavar="PATH", nargs="*", help="files, folders or a hub name")
    hints, docs = typing.get_type_hints(TextData), dict(field_docs(TextData))
    options = [f for f in fields(TextData) if f.name not in (*NOT_OF_TEXT, *LAYOUT)]
    for field in options:
        parser.add_argument(
            f"--{field.name}", type=hints[field.name], default=field.default, help=docs[field.name]
        )
    parsed = parse(parser, argv)
    if parsed.source not in sources:
        raise Refused(f"source must be one of {', '.join(sources)}, got {parsed.source!r}")
    given = {field.name: parsed[field.name] for field in options}
    try:
        data = TextData(source=parsed.source, paths=tuple(parsed.path), **given)
        corpus = load_corpus(data if parsed.source == "hub" else located(data))
    except (DataError, ValueError) as error:
        raise Refused(str(error)) from error
    kind = corpus.vocabulary.name
    print(f"{corpus.name}: {corpus.vocabulary.size:,} different {kind}")
    for name, side in corpus.sides.items():
        numbers = {corpus.vocabulary.name: side.counts.tokens, "bytes": side.counts.bytes}
        if side.counts.words:
            numbers |= {"words": side.counts.words, "characters": side.counts.characters}
        if side.counts.unknown:
            numbers["unknown"] = side.counts.unknown
        print(f"{name:<6}" + "".join(f"  {count:>13,} {what}" for what, count in numbers.items()))
    if corpus.folder:
        print(f"kept in {corpus.folder}")
    return 0
