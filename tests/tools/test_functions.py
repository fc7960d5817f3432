"""Functions of the operator's own as tools: what they offer, are given, answer, and how they fail."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from stateline.core.errors import BadRequest, NotFound
from stateline.core.limits_tools import FUNCTION_OUTPUT_BYTES_MAX, FUNCTION_SECRETS_MAX, TOOL_FUNCTIONS_MAX
from stateline.core.secrets import Secret
from stateline.core.tools import Tool, ToolCall, ToolError, ToolResult
from stateline.tools import Context, ToolFailure, tool
from stateline.tools.authoring import offer_of
from stateline.tools.functions import Functions, FunctionsInvalid, check_secrets, load

SECRET = "sk-planted-in-a-message"


class Line(msgspec.Struct):
    sku: str
    count: int = 1


@tool(effect="read")
def greet(name: Annotated[str, Meta(description="Whom.")], times: int = 1) -> str:
    """Greet somebody
    politely.

    More for those who read the source.
    """
    return f"hello {name}" * times


@tool(effect="idempotent", name="place-order", description="Order.")
async def order(lines: list[Line], context: Context, tags: list[str] = []) -> dict[str, Any]:  # noqa: B006
    tags.append("seen")
    return {"lines": len(lines), "key": context.key, "for": context.principal, "agent": context.agent, "tags": tags}


@tool()
def explode(kind: str) -> str:
    if kind == "said":
        raise ToolFailure("Nothing was done: no stock.")
    raise ValueError(SECRET)


@tool(effect="read")
async def explode_reading() -> str:
    raise TimeoutError(SECRET)


def host_of(*functions: Any, at_once: int = 4, timeout_s: float = 20) -> Functions:
    offers = [offer for each in functions if (offer := offer_of(each)) is not None]
    return Functions({each.tool.name: each for each in offers}, at_once=at_once, timeout_s=timeout_s)


@pytest.fixture
async def host() -> AsyncGenerator[Functions]:
    made = host_of(greet, order, explode, explode_reading)
    yield made
    await made.close()


def call(name: str, /, timeout_s: float = 20, **arguments: Any) -> ToolCall:
    return ToolCall(
        tool=name,
        arguments=msgspec.json.encode(arguments).decode(),
        key="s/1/2",
        tenant="default",
        session="s",
        principal="ada",
        agent="helper",
        timeout_s=timeout_s,
    )


async def test_what_is_offered_comes_from_the_function(host: Functions) -> None:
    offered = {each.name: each for each in await host.tools()}
    assert offered["greet"] == Tool(
        name="greet",
        description="Greet somebody politely.",
        parameters={
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Whom."},
                "times": {"type": "integer", "default": 1},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
        effect="read",
    )
    placing = offered["place-order"]
    assert (placing.description, placing.effect) == ("Order.", "idempotent")
    assert placing.parameters is not None
    assert set(placing.parameters["properties"]) == {"lines", "tags"}
    assert list(placing.parameters["$defs"]) == ["Line"]
    assert offered["explode"].effect == "unsafe"


async def test_plain_and_async_functions_answer(host: Functions) -> None:
    assert await host.call(call("greet", name="Ada")) == ToolResult(output="hello Ada")
    placed = await host.call(call("place-order", lines=[{"sku": "a"}]))
    expected = {"lines": 1, "key": "s/1/2", "for": "ada", "agent": "helper", "tags": ["seen"]}
    assert msgspec.json.decode(str(placed.output)) == expected
    again = await host.call(call("place-order", lines=[]))
    assert msgspec.json.decode(str(again.output))["tags"] == ["seen"]
    assert greet("Bob") == "hello Bob"


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("greet", "{}", "missing required field `name`"),
        ("greet", '{"name": 1}', "`$.name`"),
        ("greet", '{"name": "a", "context": {}}', "unknown field `context`"),
        ("place-order", '{"lines": [{"sku": "a"}, {"sku": 2}]}', "`$.lines[1].sku`"),
        ("greet", "not json", "do not fit"),
        ("nothing", "{}", "no tool 'nothing'"),
    ],
)
async def test_arguments_that_do_not_fit_name_the_field(host: Functions, name: str, arguments: str, words: str) -> None:
    result = await host.call(msgspec.structs.replace(call(name), arguments=arguments))
    assert result.failed
    assert words in str(result.output)


async def test_a_failure_in_the_authors_words_reaches_the_model(host: Functions) -> None:
    assert await host.call(call("explode", kind="said")) == ToolResult(
        output="Nothing was done: no stock.", failed=True
    )


async def test_what_an_unsafe_function_raises_leaves_its_outcome_unknown_and_tells_nobody(
    host: Functions, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ToolError) as raised:
        await host.call(call("explode", kind="hard"))
    assert (raised.value.code, raised.value.sent) == ("tool_failed", True)
    assert SECRET not in raised.value.message + caplog.text
    assert raised.value.__cause__ is None
    assert "ValueError at " in caplog.text
    assert "test_functions.py:" in caplog.text


async def test_what_a_reading_function_raises_is_an_answer_without_its_words(host: Functions) -> None:
    result = await host.call(call("explode_reading"))
    assert result.failed
    assert str(result.output) == "The tool failed (TimeoutError). The operator's log says where."


async def test_an_async_function_is_cancelled_past_its_time() -> None:
    ended = asyncio.Event()

    @tool(timeout_s=0.05)
    async def hang() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()

    host = host_of(hang)
    with pytest.raises(ToolError) as raised:
        await host.call(call("hang"))
    assert (raised.value.code, raised.value.sent, ended.is_set()) == ("tool_timeout", True, True)
    await host.close()


async def test_a_thread_past_its_time_keeps_its_place_until_it_returns() -> None:
    go = threading.Event()

    @tool(effect="read")
    def hang() -> str:
        go.wait(60)
        return "late"

    host = host_of(hang, greet, at_once=1)
    with pytest.raises(ToolError) as raised:
        await host.call(call("hang", timeout_s=0.05))
    assert (raised.value.code, raised.value.sent) == ("tool_timeout", True)
    with pytest.raises(ToolError) as raised:
        await host.call(call("greet", timeout_s=0.05, name="a"))
    assert (raised.value.code, raised.value.sent, raised.value.retryable) == ("tool_busy", False, True)
    go.set()
    assert (await host.call(call("greet", name="a"))).output == "hello a"
    await host.close()


async def test_no_more_run_at_once_than_may() -> None:
    running = most = 0

    @tool(effect="read")
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    host = host_of(count, at_once=3)
    await asyncio.gather(*(host.call(call("count")) for _ in range(20)))
    assert most == 3
    await host.close()


async def test_cancelling_a_call_frees_its_place() -> None:
    @tool()
    async def hang() -> None:
        await asyncio.sleep(1000)

    host = host_of(hang, greet, at_once=1)
    waiting = asyncio.create_task(host.call(call("hang")))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert (await host.call(call("greet", name="a"))).output == "hello a"
    await host.close()


async def test_a_look_up_answers_by_the_key_and_its_failure_proves_nothing() -> None:
    made = {"s/1/2": "paid"}

    async def find(context: Context) -> str | None:
        return made[context.key] if context.tenant == "default" else None

    @tool(look_up=find)
    def pay() -> str:
        return "paid"

    host = host_of(pay, greet)
    assert await host.look_up(call("pay")) == ToolResult(output="paid")
    assert await host.look_up(msgspec.structs.replace(call("pay"), tenant="b")) is None
    made.clear()
    assert await host.look_up(call("pay")) is None
    assert await host.look_up(call("greet", name="a")) is None
    assert await host.look_up(call("nothing")) is None
    await host.close()


async def test_an_answer_past_its_bound_is_cut_off_with_a_note() -> None:
    @tool(effect="read")
    def long(more: int) -> str:
        return "x" * (FUNCTION_OUTPUT_BYTES_MAX + more)

    host = host_of(long)
    assert len((await host.call(call("long", more=0))).output) == FUNCTION_OUTPUT_BYTES_MAX
    cut = str((await host.call(call("long", more=1))).output)
    assert cut.endswith(f"x\n[cut off: it had {FUNCTION_OUTPUT_BYTES_MAX + 1} bytes]")
    await host.close()


@pytest.mark.parametrize("name", ["has space", "a" * 65, "dot.ted", "<lambda>"])
def test_a_name_that_models_cannot_call_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="cannot be the name"):
        tool(name=name)(lambda: None)


def test_a_parameter_that_no_name_fills_is_refused() -> None:
    def star(*args: str) -> None: ...
    def kinds(x: threading.Lock) -> None: ...

    for function in (star, kinds):
        with pytest.raises(TypeError, match=f"tool '{function.__name__}'"):
            tool()(function)


# -- loading ---------------------------------------------------------------------------------------------

_PACKAGE = """
from stateline.tools import tool
@tool(effect="read")
def one() -> str: return "1"
@tool(effect="read")
def two() -> str: return "2"
several = [one, two]
nothing = 5
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A package that is installed for the test alone, with entry points."""
    name = f"shop_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(_PACKAGE)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('no database')")
    (tmp_path / f"{name}_other.py").write_text(_PACKAGE)
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[stateline.tools]\n{name}-all = {name}\n{name}-one = {name}:one\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    return name


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("{}:one", ["one"]), ("{}:several", ["one", "two"]), ("{}-all", ["one", "two"]), ("{}-one", ["one"])],
)
def test_functions_load_by_entry_point_or_by_place(package: str, spec: str, expected: list[str]) -> None:
    assert list(load([spec.format(package)])) == expected


def test_nothing_loads_by_itself(package: str) -> None:
    assert load([]) == {}
    assert package not in sys.modules


def test_one_function_named_twice_is_one_tool(package: str) -> None:
    assert list(load([f"{package}:one", f"{package}-all"])) == ["one", "two"]


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["{}:nothing"], "has no tool"),
        (["{}:absent"], "cannot be loaded: AttributeError"),
        (["{}_broken:x"], "cannot be loaded: RuntimeError: no database"),
        (["{}_absent:x"], "cannot be loaded: ModuleNotFoundError"),
        (["nobody-has-this"], "no installed package announces"),
        (["{}:one", "{}_other:one"], 'another tool named "one"'),
    ],
)
def test_a_name_that_leads_to_no_tool_is_refused(package: str, specs: list[str], words: str) -> None:
    with pytest.raises(FunctionsInvalid) as raised:
        load([spec.format(package) for spec in specs])
    assert words in raised.value.message
    assert (raised.value.code, raised.value.blame) == ("tool_functions_invalid", "operator")


def test_there_are_no_more_functions_than_may_be(package: str, tmp_path: Path) -> None:
    (tmp_path / f"{package}_many.py").write_text(
        "from stateline.tools import tool\ndef f(): ...\n"
        f"many = [tool(name=f't{{i}}')(lambda: None) for i in range({TOOL_FUNCTIONS_MAX + 1})]"
    )
    with pytest.raises(FunctionsInvalid, match="of at most"):
        load([f"{package}_many:many"])


def test_importing_the_authors_part_is_light() -> None:
    heavy = ("asyncio", "ssl", "aiohttp", "stateline.tools.sandbox")
    code = f"import sys, stateline.tools; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- secrets of the vault ----------------------------------------------------------------------------

PLANTED = "fn-planted-5b1e77c0"


class Stored:
    """A vault with one secret of one tenant."""

    def __init__(self) -> None:
        self.value = PLANTED

    async def open(self, tenant: str, name: str) -> Secret:
        if (tenant, name) != ("default", "pay"):
            raise NotFound(f"There is no secret {name!r}.", code="secret_not_found")
        return Secret(self.value)


charged: list[str] = []


@tool(effect="read", secrets=["pay"])
def charge(how: str, context: Context) -> str:
    value = context.secret("pay").reveal()
    charged.append(value)
    if how == "says no":
        raise ToolFailure(f"refused with {value}")
    if how == "breaks":
        raise ToolError(f"broke with {value}", sent=True)
    if how == "raises":
        raise ValueError(value)
    if how == "asks for more":
        return context.secret("other").reveal()
    return f"{how} {value} {context!r}"


@tool(effect="read", secrets=["pay"])
async def charge_result(context: Context) -> ToolResult:
    return ToolResult(output=f'"{context.secret("pay").reveal()}"', failed=True)


def charging() -> tuple[Functions, Stored]:
    offers = {each.tool.name: each for each in map(offer_of, (charge, charge_result)) if each is not None}
    stored = Stored()
    return Functions(offers, at_once=2, timeout_s=20, vault=stored), stored


async def test_a_function_has_the_secrets_that_it_declares_and_its_answer_is_cleared_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    host, stored = charging()
    answer = str((await host.call(call("charge", how="done"))).output)
    assert answer.startswith("done [secret pay] Context(")
    assert charged[-1] == PLANTED
    assert (await host.call(call("charge", how="says no"))).output == "refused with [secret pay]"
    with pytest.raises(ToolError, match=r"broke with \[secret pay\]"):
        await host.call(call("charge", how="breaks"))
    assert PLANTED not in str((await host.call(call("charge", how="raises"))).output)
    assert "LookupError" in str((await host.call(call("charge", how="asks for more"))).output)
    assert await host.call(call("charge_result")) == ToolResult(output='"[secret pay]"', failed=True)
    stored.value = "fn-planted-the-next"
    await host.call(call("charge", how="again"))
    assert charged[-1] == "fn-planted-the-next"
    await host.close()
    assert PLANTED not in caplog.text


async def test_a_function_is_not_begun_for_a_tenant_without_its_secret() -> None:
    host, _ = charging()
    before = len(charged)
    with pytest.raises(ToolError, match="vault:pay is not in the vault for the tenant other") as error:
        await host.call(msgspec.structs.replace(call("charge", how="done"), tenant="other"))
    assert (error.value.code, error.value.sent, error.value.blame) == ("tool_secret_missing", False, "operator")
    assert len(charged) == before
    await host.close()


def test_a_function_gets_no_secret_that_the_operator_does_not_let_it_have() -> None:
    offer = offer_of(charge)
    assert offer is not None
    offers = {"charge": offer}
    check_secrets(offers, {"charge": frozenset({"pay", "more"})})
    with pytest.raises(FunctionsInvalid, match="vault:pay"):
        check_secrets(offers, {"charge": frozenset({"more"})})
    with pytest.raises(FunctionsInvalid, match='"chrage"'):
        check_secrets(offers, {"charge": frozenset({"pay"}), "chrage": frozenset({"pay"})})


def test_what_a_function_declares_is_a_short_list_of_names() -> None:
    with pytest.raises(TypeError):
        tool(secrets="pay")(lambda: None)
    with pytest.raises(TypeError):
        tool(name="x", secrets=[f"s{number}" for number in range(FUNCTION_SECRETS_MAX + 1)])(lambda: None)
    with pytest.raises(BadRequest):
        tool(name="x", secrets=["no/name"])(lambda: None)
