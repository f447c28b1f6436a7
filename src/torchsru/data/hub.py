"""A text data set of the Hugging Face hub, by name or as a local folder in the hub's format.

Needs torchsru[hub]. The package datasets downloads and keeps it, in its own cache; with
HF_HUB_OFFLINE=1 it looks there alone. A row is a line or a document: it ends with one line end.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torchsru.data.config import TextData
from torchsru.data.published import SPLITS
from torchsru.data.texts import DataError, Texts, in_blocks

SIDES = {"train": "train", "validation": "valid", "valid": "valid", "dev": "valid", "test": "test"}
ROWS = 1000


@dataclass(frozen=True)
class HubText:
    """A column of one split."""

    where: str
    rows: Any
    column: str

    @property
    def size(self) -> int:
        return 0

    def blocks(self) -> Iterator[bytes]:
        return in_blocks(self._reads())

    def _reads(self) -> Iterator[bytes]:
        for part in self.rows.iter(batch_size=ROWS):
            rows = (text or "" for text in part[self.column])  # null is an empty line
            yield "".join(row if row.endswith("\n") else row + "\n" for row in rows).encode()


def find_on_hub(data: TextData) -> Texts:
    """The texts of each side: the data set's own splits; without one to validate on, the last
    rows of "train" are held out.

    Raises: DataError naming the data set and what was wrong.
    """
    if len(data.paths) != 1:
        raise DataError(
            "hub needs one data set, its name or a folder in the hub's format: name it (to train: "
            f"with --data); got {', '.join(data.paths) or 'none'}"
        )
    import datasets  # type: ignore[import-untyped]

    (name,) = data.paths
    was_shown = datasets.utils.logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, name=data.hub_config or None)
    # of an empty file the package raises StopIteration
    except (
        *(OSError, ValueError, RuntimeError, StopIteration),
        datasets.exceptions.DatasetsError,
    ) as error:
        said = " ".join(str(error).split()) or "a file of it is empty"
        raise DataError(f"hub data set {name!r} can't be loaded: {said}") from error
    finally:
        if was_shown:
            datasets.enable_progress_bars()
    sides = {SIDES[split]: rows for split, rows in found.items() if split in SIDES}
    if "train" not in sides:
        raise DataError(
            f"hub data set {name!r} has no split 'train'; its splits are {', '.join(found)}"
        )
    if "valid" not in sides:
        rows = sides["train"]
        cut = len(rows) - max(1, math.floor(data.heldout * len(rows)))
        sides["train"], sides["valid"] = rows.select(range(cut)), rows.select(range(cut, len(rows)))
    texts: Texts = {}
    for side in sorted(sides, key=SPLITS.index):
        rows = sides[side]
        feature = rows.features.get(data.hub_column)
        if getattr(feature, "dtype", None) not in ("string", "large_string"):
            raise DataError(
                f"hub data set {name!r} has no text in column {data.hub_column!r}; its columns are "
                f"{', '.join(rows.column_names)}: name one with hub_column"
            )
        texts[side] = [HubText(f"{name}, {side}", rows, data.hub_column)]
    return texts
