"""The tool host of the operator's own Python functions (docs/tools-python.md).

Plain functions run in a pool of threads, async ones in the event loop, both up to a number at once. What a function
raises stays with the operator: the model is told that it failed, and the log the type and place, for a message or a
traceback may hold what nobody should read.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, cast

import msgspec

from stateline.core.errors import Blame, StatelineError
from stateline.core.limits_tools import FUNCTION_OUTPUT_BYTES_MAX, TOOL_FUNCTIONS_MAX
from stateline.core.secrets import REFERENCE, Secret
from stateline.core.tools import Tool, ToolCall, ToolError, ToolResult
from stateline.tools.authoring import Context, Offer, ToolFailure, offer_of
from stateline.tools.credentials import OpensSecrets, opened
from stateline.tools.redaction import Redact, redactor

GROUP = "stateline.tools"
"""The group of entry points that packages announce their tools under."""

_log = logging.getLogger(__name__)


class FunctionsInvalid(StatelineError):
    """What `[tools] functions` names cannot be loaded, or is no tool. Nothing was started or changed."""

    code = "tool_functions_invalid"
    status = 400
    blame: Blame = "operator"


def load(names: Sequence[str]) -> dict[str, Offer]:
    """The tools that are named, by their names.

    Args:
        names: each ``package.module:attribute``, or the name of an entry point of the group. What it leads to is a
            function that `tool` decorated, a list of such, or a module that has some.

    Raises:
        FunctionsInvalid: a name leads nowhere or to no tool, or two tools have one name.
    """
    offers: dict[str, Offer] = {}
    for name in names:
        found = list(_offers(_resolve(name)))
        if not found:
            raise FunctionsInvalid(f'[tools] functions: "{name}" has no tool. Decorate functions with @tool(…).')
        for offer in found:
            if offers.setdefault(offer.tool.name, offer) is not offer:
                raise FunctionsInvalid(
                    f'[tools] functions: "{name}" brings another tool named "{offer.tool.name}". '
                    "Give one of them another name with @tool(name=…)."
                )
    if len(offers) > TOOL_FUNCTIONS_MAX:
        raise FunctionsInvalid(f"[tools] functions: {len(offers)} tools, of at most {TOOL_FUNCTIONS_MAX}.")
    return offers


def check_secrets(offers: Mapping[str, Offer], allowed: Mapping[str, frozenset[str]]) -> None:
    """Hold what functions ask of the vault against what the operator lets them have.

    Raises:
        FunctionsInvalid: one asks for more, or what is allowed is for no function that is loaded.
    """
    for name, offer in offers.items():
        if more := sorted({*offer.secrets} - allowed.get(name, frozenset())):
            raise FunctionsInvalid(
                f'[tools] function_secrets: "{name}" asks for {", ".join(REFERENCE + each for each in more)}, which it '
                "may not have. Name it there if the function may."
            )
    if unknown := sorted(allowed.keys() - offers.keys()):
        raise FunctionsInvalid(f'[tools] function_secrets: no function "{unknown[0]}" is loaded.')


def _resolve(name: str) -> object:
    try:
        if ":" in name:
            return EntryPoint(name, name, GROUP).load()
        if found := [each for each in entry_points(group=GROUP) if each.name == name]:
            return found[0].load()
    except Exception as error:
        # The package's own code runs here, and may raise anything.
        raise FunctionsInvalid(
            f'[tools] functions: "{name}" cannot be loaded: {type(error).__name__}: {error}'
        ) from error
    known = ", ".join(sorted({each.name for each in entry_points(group=GROUP)})) or "none"
    raise FunctionsInvalid(
        f'[tools] functions: no installed package announces "{name}" ({known} announced). '
        'Install it beside Stateline, or write "package.module:function".'
    )


def _offers(value: object) -> Iterable[Offer]:
    if isinstance(value, ModuleType):
        named = [each for each in vars(value).values() if offer_of(each) is not None]
        value = [each for each in named if each.__module__ == value.__name__] or named
    many: Iterable[object] = cast("Iterable[object]", value) if isinstance(value, list | tuple) else [value]
    seen: dict[int, Offer] = {}
    for each in many:
        if (offer := offer_of(each)) is not None:
            seen[id(offer)] = offer
    return seen.values()


class Functions:
    """The tool host.

    Args:
        offers: from `load`.
        at_once: calls that run at the same time, and threads for plain functions. A thread cannot be stopped: one
            whose time is over keeps its place until its function returns.
        timeout_s: of one run, where the function has none of its own; a call may bring less.
        vault: opens the secrets that functions declare.
    """

    label = "functions"

    def __init__(
        self, offers: dict[str, Offer], *, at_once: int, timeout_s: float, vault: OpensSecrets | None = None
    ) -> None:
        self._offers = offers
        self._vault = vault
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="tool")

    async def tools(self) -> Sequence[Tool]:
        return [offer.tool for offer in self._offers.values()]

    async def call(self, call: ToolCall) -> ToolResult:
        """Run a function.

        Raises:
            ToolError: `tool_busy` where none of the places became free, `tool_timeout`, or `tool_failed` where an
                ``unsafe`` function raised what is no `ToolFailure`: it may have done half of what it does;
                `tool_secret_missing` and `tool_secret_unusable` where it was not begun.
        """
        offer = self._offers.get(call.tool)
        if offer is None:
            return ToolResult(output=f"There is no tool {call.tool[:64]!r}.", failed=True)
        try:
            arguments = msgspec.json.decode(call.arguments, type=offer.arguments)
        except (msgspec.MsgspecError, UnicodeError) as error:
            return ToolResult(output=f"The arguments do not fit: {error}.", failed=True)
        given = {name: getattr(arguments, name) for name in offer.arguments.__struct_fields__}
        secrets = await self._secrets(offer, call)
        redact = redactor((), secrets.items())
        if offer.context:
            given[offer.context] = _context(call, secrets)
        try:
            value = await self._run(offer, call, partial(offer.function, **given))
            return _result(value, redact)
        except ToolFailure as error:
            return ToolResult(output=_cut(redact(str(error))), failed=True)
        except ToolError as error:
            if (message := redact(error.message)) == error.message:
                raise
            raise ToolError(message, code=error.code, sent=error.sent, retryable=error.retryable) from None
        except Exception as error:
            _note(offer, error)
            message = f"The tool failed ({type(error).__name__}). The operator's log says where."
            if offer.tool.effect == "unsafe":
                raise ToolError(message, sent=True) from None
            return ToolResult(output=message, failed=True)

    async def look_up(self, call: ToolCall) -> ToolResult | None:
        offer = self._offers.get(call.tool)
        if offer is None or offer.look_up is None:
            return None
        try:
            secrets = await self._secrets(offer, call)
            value = await self._run(offer, call, partial(offer.look_up, _context(call, secrets)))
            return None if value is None else _result(value, redactor((), secrets.items()))
        except ToolError:
            raise
        except Exception as error:
            _note(offer, error)
            return None

    async def close(self) -> None:
        """Begin nothing more. Threads that still run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _secrets(self, offer: Offer, call: ToolCall) -> dict[str, Secret]:
        """All that the function declares: it is not begun where one is missing."""
        who = f"tool {offer.tool.name}"
        return {name: await opened(self._vault, call.tenant, name, who) for name in offer.secrets}

    async def _run(self, offer: Offer, call: ToolCall, function: Callable[[], Any]) -> Any:
        """Its answer, within its time: waiting for a place is a part of it."""
        timeout_s = min(call.timeout_s, offer.timeout_s or self._timeout_s)
        begun = False
        place, time = self._places, asyncio.timeout(timeout_s)
        try:
            async with time:
                await place.acquire()
                if inspect.iscoroutinefunction(function):
                    begun = True
                    try:
                        return await function()
                    finally:
                        place.release()
                begun = True
                future = asyncio.get_running_loop().run_in_executor(self._threads, function)
                # The place is free when the thread is, whoever still waits for it.
                future.add_done_callback(lambda done: (place.release(), done.cancelled() or done.exception()))
                return await asyncio.shield(future)
        except TimeoutError as error:
            if not time.expired():
                raise
            if not begun:
                raise ToolError(
                    f"All places for tools were taken for {timeout_s:g} seconds.",
                    code="tool_busy",
                    sent=False,
                    retryable=True,
                ) from error
            raise ToolError(
                f"The tool did not end within {timeout_s:g} seconds.", code="tool_timeout", sent=True
            ) from error


def _context(call: ToolCall, secrets: Mapping[str, Secret]) -> Context:
    return Context(
        key=call.key,
        tenant=call.tenant,
        session=call.session,
        principal=call.principal,
        agent=call.agent,
        secrets=secrets,
    )


def _result(value: object, redact: Redact) -> ToolResult:
    if isinstance(value, ToolResult):
        encoded = msgspec.json.encode(value).decode()
        cleared = redact(encoded)
        return value if cleared == encoded else msgspec.json.decode(cleared, type=ToolResult)
    if value is None:
        return ToolResult()
    return ToolResult(output=_cut(redact(value if isinstance(value, str) else msgspec.json.encode(value).decode())))


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    if len(data) <= FUNCTION_OUTPUT_BYTES_MAX:
        return data.decode()
    return data[:FUNCTION_OUTPUT_BYTES_MAX].decode(errors="ignore") + f"\n[cut off: it had {len(data)} bytes]"


def _note(offer: Offer, error: Exception) -> None:
    """Type and place; the message may hold a secret."""
    at = traceback.extract_tb(error.__traceback__)[-1:]
    place = f"{at[0].filename}:{at[0].lineno}" if at else "nowhere"
    _log.warning("tool %s failed: %s at %s", offer.tool.name, type(error).__name__, place)
