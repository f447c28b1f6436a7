"""The version, which pyproject.toml states."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _read_version() -> str:
    # A checkout on PYTHONPATH speaks for itself, whatever is installed beside it.
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.exists():
        text = pyproject.read_text(encoding="utf-8")
        if match := re.search(r'^name = "torchsru"\nversion = "(.+)"$', text, re.MULTILINE):
            return match[1]
    try:
        return version("torchsru")
    except PackageNotFoundError:
        return "unknown"  # copied into a folder, without its metadata


__version__ = _read_version()
