"""Changes from outside that meet a session in a state other than the one in which they were asked for."""

from __future__ import annotations

from tests.engine.conftest import Lab, asking, kinds, log_of

from stateline.core import events as e
from stateline.testing.scripted import echo

DIALECT = "open-responses"


async def test_a_cancel_that_comes_after_the_end_of_its_turn_changes_nothing(lab: Lab) -> None:
    """The turn may end between a cancel's look at it and its being recorded."""
    lab.script(echo)
    async with lab.engine() as engine:
        accepted = await engine.submit(asking("go", background=True))
        assert (await engine.wait(accepted, DIALECT)).status == "completed"
        await engine.amend(accepted.session, e.CancelRequested(response_id=accepted.response_id))
        assert "CancelRequested" not in kinds(await log_of(engine, accepted.session))
        assert (await engine.response("default", accepted.response_id, DIALECT)).status == "completed"
