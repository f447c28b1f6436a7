"""A missing oracle is a skip at a desk and a failure in CI."""

import pytest
from tests.oracles import require


def test_a_missing_package_fails_in_ci_only(monkeypatch):
    require("torch", "torch")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="the package no-such is not installed"):
        require("no_such_module", "no-such")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="the package no-such is not installed"):
        require("no_such_module", "no-such")
