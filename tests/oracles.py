"""Packages from PyPI that tests compare with."""

import importlib.util
import os

import pytest


def require(module: str, package: str) -> None:
    """Skip the test where the package is not installed; in CI (CI=true) that is a failure."""
    if importlib.util.find_spec(module) is None:
        why = f"the package {package} is not installed: make build"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
