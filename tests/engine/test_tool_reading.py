"""A tool's long output in the engine: kept once and whole, cut for the model, and read on in its own session."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.conftest import Lab, asking, kinds, log_of, texts
from tests.engine.tool_lab import CAREFUL, FREE, Ruled, box, call_of, calling, done, request_of, saying, tools

from stateline.core import events as e
from stateline.core.calls import ModelRequest
from stateline.core.hosted import READER
from stateline.core.items import Compaction, FunctionCallOutput, InputImage, InputText, McpCall
from stateline.core.limits import TOOL_OUTPUT_BYTES_MAX
from stateline.core.limits_tools import TOOL_OUTPUT_SHOWN_BYTES_MIN, TOOL_OUTPUTS_TURN_BYTES_MAX
from stateline.core.response import Response
from stateline.engine import Accepted, Engine, outputs
from stateline.engine.outputs import kept
from stateline.ports import Ownership
from stateline.testing.scripted import Answer, Asked, ModelAsked, Script, ScriptedCall, ScriptedModel

LEAST = TOOL_OUTPUT_SHOWN_BYTES_MIN
LONG = "".join(f"row {at}\n" for at in range(600))


def reading() -> Script:
    """A model that looks, then reads on from where the output was cut; ``read HANDLE`` reads that at once."""

    def script(asked: Asked, _: int) -> Answer:
        assert isinstance(asked, ModelAsked)
        offered = [tool.name for tool in asked.request.params.tools]
        if asked.tool_output is None and asked.user_text.startswith("read "):
            assert READER in offered
            return read(asked.user_text.removeprefix("read "), 0)
        if asked.user_text == "hello":
            return Answer(text="hi")
        if asked.tool_output is None:
            return Answer(calls=(ScriptedCall(name="payments-look", arguments="{}"),))
        cut = re.search(r"(\S+) reads them: handle (\S+), offset (\d+)\.\]", asked.tool_output)
        if cut is None:
            return Answer(text=f"It said: {asked.tool_output}")
        assert cut[1] in offered
        return read(cut[2], int(cut[3]))

    def read(handle: str, offset: int) -> Answer:
        arguments = json.dumps({"handle": handle, "offset": offset, "limit": 9})
        return Answer(calls=(ScriptedCall(name=READER, arguments=arguments),))

    return script


def outputs_of(response: Response) -> list[McpCall]:
    return [item for item in response.output if isinstance(item, McpCall)]


def sent(model: ScriptedModel, at: int = -1) -> ModelRequest:
    """A request that the model got."""
    asked = model.requests[at]
    assert isinstance(asked, ModelAsked)
    return asked.request


async def log(engine: Engine, accepted: Accepted) -> list[e.Event]:
    return await log_of(engine, accepted.session)


async def test_a_model_reads_on_in_an_output_that_is_recorded_once(lab: Lab) -> None:
    lab.script(reading())
    host, policy = tools(look=LONG), Ruled(read_output="deny")
    async with lab.engine(toolbox=box(host, policy, LEAST)) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,)))
        response = await engine.wait(accepted, "open-responses")
        look, read = outputs_of(response)
        # Whoever asks for the response gets it whole.
        assert look.output == LONG
        assert (read.server_label, read.name, read.status) == ("stateline", "read_output", "completed")
        assert read.output is not None
        place, _, piece = read.output.partition("\n")
        start = int(place.split()[1])
        assert piece == LONG[start : start + 9]
        assert texts(response.output)[-1] == f"It said: {read.output}"
        assert [each.tool for each in policy.asked] == ["look"], "no policy is asked about our own tool"
        events = await log(engine, accepted)
        assert sum(e.encode_body(event.body).count(b"row 300") for event in events) == 1
        dispatched = [event.body for event in events if isinstance(event.body, e.EffectDispatched)]
        assert [(body.call.tool, body.effect) for body in dispatched] == [("look", "read"), ("read_output", "read")]
        assert len(host.calls) == 1


async def test_no_person_is_asked_before_it_reads(lab: Lab) -> None:
    lab.script(reading())
    async with lab.engine(toolbox=box(tools(look=LONG), None, LEAST)) as engine:
        first = await done(engine, "go", servers=(CAREFUL,))
        said = saying(request_of(first))
        second = await done(engine, (said,), after=first.id, servers=(CAREFUL,))
        assert [item.name for item in outputs_of(second)] == ["look", "read_output"]
        assert texts(second.output)[-1].startswith("It said: [characters ")


async def test_a_reading_that_a_crash_has_cut_off_is_made_again(lab: Lab) -> None:
    lab.script(reading())
    async with lab.engine(toolbox=box(tools(look=LONG), None, LEAST), kill=True) as engine:
        append, lost = engine.store.append, asyncio.Event()

        async def appended(
            own: Ownership, expected_seq: int, events: Sequence[e.Event], *rest: Any, **more: Any
        ) -> int:
            if any(isinstance(event.body, e.EffectCommitted) and "characters" in event.body.output for event in events):
                lost.set()
                await asyncio.sleep(3600)
            return await append(own, expected_seq, events, *rest, **more)

        engine.store.append = appended
        accepted = await engine.submit(asking("go", servers=(FREE,), background=True))
        await lost.wait()
    host = tools()
    async with lab.engine(toolbox=box(host)) as engine:
        response = await engine.wait(accepted, "open-responses")
        assert texts(response.output)[-1].startswith("It said: [characters ")
        kinds_of = kinds(await log(engine, accepted))
        assert (kinds_of.count("TurnResumed"), kinds_of.count("EffectDispatched")) == (1, 2)
        assert not host.calls, "the tool itself is not called again"


async def told(engine: Engine, handle: str, **fields: Any) -> str:
    """What a turn is told that reads a handle."""
    response = await done(engine, f"read {handle}", servers=(FREE,), **fields)
    (read,) = outputs_of(response)
    return read.output or (read.error.content if read.error else "")


async def test_a_handle_is_known_in_its_own_session_and_in_forks_behind_it_alone(lab: Lab) -> None:
    lab.script(reading())
    here, nowhere = "[characters 0 to 9 of ", "No output has this handle here"
    async with lab.engine(toolbox=box(tools(look=LONG), None, LEAST)) as engine:
        first = await done(engine, "go", servers=(FREE,))
        handle = call_of(first).id
        second = await done(engine, "go", after=first.id, servers=(FREE,))
        later = call_of(second).id
        assert (await told(engine, handle, after=second.id)).startswith(here)
        # A fork shares what is before it, and nothing of the other branch.
        assert (await told(engine, handle, after=first.id)).startswith(here)
        assert (await told(engine, later, after=first.id)).startswith(nowhere)
        other = await done(engine, "go", servers=(FREE,), tenant="other")
        for tenant, own, foreign in (("default", first.id, call_of(other).id), ("other", other.id, handle)):
            assert (await told(engine, foreign, after=own, tenant=tenant)).startswith(nowhere)
            assert (await told(engine, "mcp_nothing", after=own, tenant=tenant)).startswith(nowhere)
    async with lab.engine(toolbox=box(tools(), None, LEAST)) as engine:
        assert (await told(engine, later, after=second.id)).startswith(here), "after a restart, too"


async def test_an_output_that_is_deleted_or_compacted_away_is_unknown(lab: Lab) -> None:
    model = lab.script(reading())
    async with lab.engine(toolbox=box(tools(look=LONG), None, LEAST)) as engine:
        created = await engine.create_conversation("default", (), {})
        session = created.id.removeprefix("conv_")
        handles = [call_of(await done(engine, "go", conversation=session, servers=(FREE,))).id for _ in range(2)]
        await engine.delete_item("default", session, handles[0])
        assert (await told(engine, handles[0], conversation=session)).startswith("No output has this handle here")
        assert (await told(engine, handles[1], conversation=session)).startswith("[characters 0 to 9 of ")
        await engine.add_items("default", session, (Compaction(id="", encrypted_content="summary:It looked."),))
        # What is cut is gone, and with it the tool.
        await done(engine, "hello", conversation=session, servers=(FREE,))
        assert READER not in [tool.name for tool in sent(model).params.tools]


@pytest.mark.parametrize("after", [False, True], ids=["in its own turn", "in a turn without tools"])
async def test_an_output_is_cut_the_same_in_every_turn(lab: Lab, after: bool) -> None:
    model = lab.script(reading())
    async with lab.engine(toolbox=box(tools(look=LONG), None, LEAST)) as engine:
        first = await done(engine, "go", servers=(FREE,))
        cut = next(item for item in sent(model, 1).items if isinstance(item, FunctionCallOutput))
        if after:
            await done(engine, "hello", after=first.id)
            assert not sent(model).params.tools
        assert cut in sent(model).items
        assert isinstance(cut.output, str)
        assert len(cut.output.encode()) <= LEAST


# -- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["look", "put", "refund"])
async def test_an_answer_past_the_bound_is_a_failure_of_a_tool_that_reads(lab: Lab, name: str) -> None:
    """Any other has done what it does, and must not be asked to do it again."""
    lab.script(calling(name))
    async with lab.engine(toolbox=box(tools(**{name: "x" * (TOOL_OUTPUT_BYTES_MAX + 1)}))) as engine:
        accepted = await engine.submit(asking("go", servers=(FREE,)))
        call = call_of(await engine.wait(accepted, "open-responses"))
        why = f"The answer had more than {TOOL_OUTPUT_BYTES_MAX} bytes, and was not kept."
        if name == "look":
            assert (call.status, call.error and call.error.content) == ("failed", why)
            (failed,) = [each.body for each in await log(engine, accepted) if isinstance(each.body, e.EffectFailed)]
            assert failed.code == "tool_answer_too_large"
        else:
            assert (call.status, call.output) == ("completed", f"[{why}]")


async def test_the_answers_of_one_turn_are_bounded_together(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "TOOL_OUTPUTS_TURN_BYTES_MAX", 2 * len(LONG))
    lab.script(calling("look", "look", "look"))
    async with lab.engine(toolbox=box(tools(look=LONG))) as engine:
        response = await done(engine, "go", servers=(FREE,))
        assert sorted(item.status for item in outputs_of(response)) == ["completed", "completed", "failed"]


def test_what_is_kept_of_an_answer() -> None:
    image = (InputImage(image_url="x" * TOOL_OUTPUT_BYTES_MAX),)
    assert kept("é", 0) == ("é", 2, "")
    assert kept("é", TOOL_OUTPUTS_TURN_BYTES_MAX - 2).size == 2
    assert "answers of one turn" in kept("é", TOOL_OUTPUTS_TURN_BYTES_MAX - 1).refused
    assert "and was not kept" in kept(image, 0).refused
    assert "no valid text" in kept((InputText(text="\ud800"),), 0).refused
