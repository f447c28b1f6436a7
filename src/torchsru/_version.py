"""The version, which pyproject.toml states."""

import importlib.metadata
import re
from pathlib import Path


def version() -> str:
    """Return the version of this copy; "unknown" for a copied folder without metadata."""
    # A checkout on PYTHONPATH speaks for itself, whatever is installed beside it.
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.exists():
        text = pyproject.read_text(encoding="utf-8")
        if match := re.search(r'^name = "torchsru"\nversion = "(.+)"$', text, re.MULTILINE):
            return match[1]
    try:
        return importlib.metadata.version("torchsru")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
