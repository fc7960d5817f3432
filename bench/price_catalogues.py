"""The public price catalogues, as their packages on PyPI carry them, for comparisons and for the shipped book.

`genai_prices` is imported where it is installed (`uv run --with genai-prices==…`); LiteLLM's JSON is taken out of its
wheel, since nothing else of that package is needed.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

LITELLM = "1.109.1"
GENAI_PRICES = "0.2.3"
_LITELLM_FILE = "litellm/model_prices_and_context_window_backup.json"


def litellm_file(folder: Path) -> Path:
    """LiteLLM's catalogue in a folder, downloaded into it where it is not there."""
    target = folder / f"litellm-{LITELLM}.json"
    if not target.exists():
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", scratch, f"litellm=={LITELLM}"]
            subprocess.run(command, check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                target.write_bytes(archive.read(_LITELLM_FILE))
    return target


def read_json(path: Path) -> Any:
    """A catalogue with its fractions as they are written."""
    return json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)


def genai_prices() -> list[dict[str, Any]]:
    """The data of the installed genai-prices, in the form of its `data.json`."""
    data: Any = importlib.import_module("genai_prices.data")
    return [_plain(each) for each in data.providers]


def _plain(value: object) -> Any:
    if isinstance(value, Decimal | str | int | bool) or value is None:
        return value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("list[object]", value)]
    # Dataclasses, and the prices of a model, which are a plain object; `or_` is `or` in the file.
    fields = cast("dict[str, object]", value if isinstance(value, dict) else vars(value))
    return {key.rstrip("_"): _plain(each) for key, each in fields.items() if each is not None and key[0] != "_"}
