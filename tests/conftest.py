"""What every test shares."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from stateline.testing.postgres_server import NoPostgres, PostgresServer, postgres_server

# A loaded machine is slow, not wrong: no verdict may hang on how long an example took. In CI the
# examples are the same in every run; a failure there is then the change's own.
settings.register_profile(
    "stateline",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    print_blob=True,
)
settings.load_profile("stateline")

# The design's own material lies beside the checkout; a clean clone does not have it.
SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of specifications and recordings beside the checkout, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("../shared, with the specifications and recordings, is not here")
    return SHARED


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A PostgreSQL server for the whole run, or a skip."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except NoPostgres as error:
            pytest.skip(f"no PostgreSQL here: {error}")
        yield server


@pytest.fixture(autouse=True)
def _no_settings_of_the_person_running_the_tests(  # pyright: ignore[reportUnusedFunction]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith(("STATELINE_", "OPENAI_"))]:
        monkeypatch.delenv(name)
