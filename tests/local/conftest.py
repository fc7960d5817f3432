"""Tests with the real model: they run where it is in the cache already, and download nothing."""

from __future__ import annotations

import os

import pytest

from stateline.models.local.fetch import find_model
from stateline.models.local.llama import available

# Looked for while this file is imported, because tests run without the user's STATELINE_ variables.
MODEL = find_model()
MODEL_DIR = os.environ.get("STATELINE_MODEL_DIR")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None
    if not available():
        reason = "llama.cpp is not installed (stateline[local])"
    elif MODEL is None:
        reason = "the local model has not been fetched (make demo does)"
    for item in items:
        if "tests/local/" in item.path.as_posix():
            item.add_marker(pytest.mark.local_model)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _the_models_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    if MODEL_DIR is not None:
        monkeypatch.setenv("STATELINE_MODEL_DIR", MODEL_DIR)
