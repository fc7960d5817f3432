"""A model that says what a script tells it to, when it is told to.

An ``Answer`` is a value: what is said, how it is paced, and how it ends (well, stalled, cut,
malformed, refused with a status). A ``Script`` chooses the answer of each request. The same scripts
run in process (``ScriptedModel``) and over HTTP (``stateline.testing.upstream``).
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from struct import pack
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from stateline.core.calls import (
    CallDelta,
    CallStart,
    EmbeddingParams,
    Finish,
    FinishReason,
    FunctionChoice,
    JsonObject,
    JsonSchema,
    ModelDelta,
    ModelRequest,
    ReasoningDelta,
    RefusalDelta,
    SummaryDelta,
    TextDelta,
    Usage,
)
from stateline.core.errors import ModelError
from stateline.core.items import FunctionCallOutput, InputText, Message
from stateline.ports import Deployment
from stateline.testing.schema_values import value_for

REQUESTS_KEPT_MAX = 10_000
"""Requests that a scripted model remembers; the oldest go first."""

End = Literal["finish", "stall", "cut", "malformed"]
_PIECES = re.compile(r"\s*\S+|\s+\Z")


class ScriptedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A function call to make. ``arguments`` is JSON text; without ``call_id`` one is derived."""

    name: str
    arguments: str = "{}"
    call_id: str | None = None


class Gate:
    """Holds an answer back, piece by piece, until a test lets it go on."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)
        self._open = False
        self._held = asyncio.Event()

    async def passing(self) -> None:
        """Wait for leave to send the next piece (the model calls this)."""
        if self._open:
            return
        if self._permits.locked():
            self._held.set()
        await self._permits.acquire()

    async def held(self) -> None:
        """Return once an answer waits here."""
        await self._held.wait()

    def step(self, pieces: int = 1) -> None:
        """Let ``pieces`` more pieces through."""
        self._held.clear()
        for _ in range(pieces):
            self._permits.release()

    def open(self) -> None:
        """Let everything through from now on."""
        self._open = True
        self.step(REQUESTS_KEPT_MAX)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model.

    Its parts are sent in the order summary, reasoning, text, refusal, calls, each cut into pieces
    (words), so that the pieces of ``text`` add up to it exactly.

    Attributes:
        delay_ms: before each piece but the first; ``first_byte_ms`` is before everything.
        group: pieces sent together; None: one with a delay or a gate, else all.
        gate: asked before each group.
        end: ``finish``, or what happens instead once ``after`` pieces were sent: ``stall`` (nothing
            more comes), ``cut`` (the connection closes without an end), ``malformed`` (broken JSON).
        finish_reason: derived from the parts when None.
        usage: counted from the pieces when unset; None sends none.
        status: an HTTP error instead of an answer, when 400 or above.
    """

    text: str = ""
    summary: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    delay_ms: float = 0.0
    first_byte_ms: float = 0.0
    group: int | None = None
    gate: Gate | None = None
    end: End = "finish"
    after: int = 0
    finish_reason: FinishReason | None = None
    usage: Usage | UnsetType | None = UNSET
    status: int = 200
    retry_after_s: float | None = None
    error_code: str | None = None
    error_message: str | None = None

    @property
    def paced(self) -> bool:
        return self.delay_ms > 0 or self.gate is not None


class Asked:
    """A request as a rule sees it.

    Attributes:
        serial: counts all requests of this scripted model, from 1.
        attempt: counts the requests with the same content, from 1.
        key: the effect's key (in process) or the ``Idempotency-Key`` header; "" without one.
        outcome: ``running``, then ``finished``, ``stall``, ``cut``, ``malformed``, ``error``, or
            ``closed`` where the caller left first.
    """

    __slots__ = ("attempt", "key", "model", "outcome", "serial", "stream")

    def __init__(self, key: str, model: str, stream: bool) -> None:
        self.key = key
        self.model = model
        self.stream = stream
        self.serial = 0
        self.attempt = 0
        self.outcome = "running"

    @property
    def user_text(self) -> str:
        """The text of the last user message."""
        raise NotImplementedError

    @property
    def tool_output(self) -> str | None:
        """The last tool output after the last user message."""
        raise NotImplementedError

    @property
    def tool(self) -> tuple[str, Mapping[str, Any]] | None:
        """Name and parameters of the tool to call: the one that is demanded, or the first offered."""
        raise NotImplementedError

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer must follow ({} for any JSON object)."""
        raise NotImplementedError


class ModelAsked(Asked):
    """A request that came through the port."""

    __slots__ = ("request",)

    def __init__(self, request: ModelRequest, model: str) -> None:
        super().__init__(request.key, model, request.stream)
        self.request = request

    @property
    def user_text(self) -> str:
        for item in reversed(self.request.items):
            if isinstance(item, Message) and item.role == "user":
                return "".join(part.text for part in item.content if isinstance(part, InputText))
        return ""

    @property
    def tool_output(self) -> str | None:
        for item in reversed(self.request.items):
            if isinstance(item, FunctionCallOutput):
                if isinstance(item.output, str):
                    return item.output
                return "".join(part.text for part in item.output if isinstance(part, InputText))
            if isinstance(item, Message) and item.role == "user":
                return None
        return None

    @property
    def tool(self) -> tuple[str, Mapping[str, Any]] | None:
        params = self.request.params
        tools = {tool.name: tool.parameters or {} for tool in params.tools}
        choice = params.tool_choice
        if isinstance(choice, FunctionChoice):
            return choice.name, tools.get(choice.name, {})
        if not isinstance(choice, str):
            allowed = () if choice.mode == "none" else choice.tools
            tools = {tool.name: tools.get(tool.name, {}) for tool in allowed}
        elif choice == "none":
            return None
        return next(iter(tools.items()), None)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        form = self.request.params.text.format
        if isinstance(form, JsonSchema):
            return form.schema or {}
        return {"type": "object"} if isinstance(form, JsonObject) else None


Rule = Callable[[Asked, int], Answer]
Script = Answer | Sequence[Answer] | Rule | Mapping[str, "Script"]
"""An answer for every request; one a request in turn (the last repeats); a function of the request
and its attempt; or one of these for each model's name."""


def rule_of(script: Script) -> Rule:
    """The one form of every script."""
    if isinstance(script, Answer):
        return lambda asked, attempt: script
    if callable(script):
        return script
    if isinstance(script, Mapping):
        rules = {model: rule_of(of_model) for model, of_model in script.items()}
        unknown = Answer(status=404, error_code="model_not_found", error_message="no such model")
        return lambda asked, attempt: rules[asked.model](asked, attempt) if asked.model in rules else unknown
    answers = deque(script)
    if not answers:
        raise ValueError("a script needs at least one answer")

    def in_turn(asked: Asked, attempt: int) -> Answer:
        return answers.popleft() if len(answers) > 1 else answers[0]

    return in_turn


# -- rules --------------------------------------------------------------------------------------


def tokens(count: int, delay_ms: float = 0.0, **fields: Any) -> Rule:
    """``count`` words that each name the request and the attempt (``7a2w0 7a2w1 …``).

    No two requests get the same text, so nothing can be put together from two of them unseen.
    """

    def rule(asked: Asked, attempt: int) -> Answer:
        stem = f"{asked.serial}a{attempt}w"
        text = " ".join([stem + str(at) for at in range(count)])
        return Answer(text=text, delay_ms=delay_ms, **fields)

    return rule


def echo(asked: Asked, attempt: int) -> Answer:
    """Say the last user text again."""
    return Answer(text=asked.user_text)


def tools_first(asked: Asked, attempt: int) -> Answer:
    """Call the first offered tool, with arguments after its schema; then answer with its output."""
    output, tool = asked.tool_output, asked.tool
    if output is not None:
        return Answer(text=output)
    if tool is None:
        return Answer(text="no tool was offered")
    name, parameters = tool
    arguments = msgspec.json.encode(value_for({"type": "object", **parameters}, asked.serial))
    return Answer(calls=(ScriptedCall(name=name, arguments=arguments.decode()),))


def structured(seed: int = 0) -> Rule:
    """A value after the requested schema, drawn from ``seed`` and the request's serial."""

    def rule(asked: Asked, attempt: int) -> Answer:
        value = value_for(asked.schema or {"type": "object"}, seed * 1_000_003 + asked.serial)
        return Answer(text=msgspec.json.encode(value).decode())

    return rule


_TOKENS = tokens(20)
_STRUCTURED = structured()


def auto(asked: Asked, attempt: int) -> Answer:
    """What the request asks for: a tool call, a tool's output, a value after a schema, or words."""
    if asked.tool_output is not None or asked.tool is not None:
        return tools_first(asked, attempt)
    if asked.schema is not None:
        return _STRUCTURED(asked, attempt)
    return _TOKENS(asked, attempt)


def prompted(asked: Asked, attempt: int) -> Answer:
    """The rule in the first line of the last user text after a ``!`` (``!tokens:50@10``), else ``auto``."""
    text = asked.user_text
    if not text.startswith("!"):
        return auto(asked, attempt)
    rule, _, _ = text[1:].partition("\n")
    return rule_of(_parsed(rule.strip()))(asked, attempt)


def flaky(seed: int, share: float = 0.25) -> Rule:
    """``prompted``, where ``share`` of the requests fail in one of five ways, drawn from ``seed``."""
    faults = (
        Answer(status=429, retry_after_s=0.05, error_code="rate_limit_exceeded"),
        Answer(status=500, error_code="server_error"),
        Answer(status=503, error_code="overloaded"),
    )

    def rule(asked: Asked, attempt: int) -> Answer:
        random = Random(f"{seed}/{asked.serial}")  # noqa: S311 - a seeded fault, no secret
        answer = prompted(asked, attempt)
        if answer.status >= 400 or random.random() >= share:
            return answer
        kind = random.randrange(5)
        if kind < len(faults):
            return faults[kind]
        end: End = "cut" if kind == 3 else "malformed"
        return msgspec.structs.replace(answer, end=end, after=random.randrange(8))

    return rule


def _number(text: str, default: float) -> float:
    return float(text) if text else default


def parse_script(text: str) -> Script:
    """A script from one word of a command line.

    ``text:WORDS``, ``tokens:N@MS``, ``echo``, ``tools``, ``schema:SEED``, ``auto``, ``prompt``,
    ``reasoning:N@MS``, ``refusal:WORDS``, ``slow:MS``, ``stall:N``, ``cut:N``, ``malformed:N``,
    ``error:STATUS@RETRY_AFTER_S``, ``flaky:SEED@SHARE``.

    Raises:
        ValueError: no such rule, or a number that is none.
    """
    name, _, rest = text.partition(":")
    left, _, right = rest.partition("@")
    plain: dict[str, Script] = {
        "echo": echo, "tools": tools_first, "auto": auto, "prompt": prompted
    }  # fmt: skip
    match name:
        case "text":
            return Answer(text=rest)
        case "refusal":
            return Answer(refusal=rest or "I cannot help with that.")
        case "tokens":
            return tokens(int(_number(left, 20)), _number(right, 0))
        case "reasoning":
            thought = " ".join(f"thought{at}" for at in range(int(_number(left, 5))))
            return tokens(10, _number(right, 0), reasoning=thought, summary="A short thought.")
        case "schema":
            return structured(int(_number(left, 0)))
        case "slow":
            return tokens(5, first_byte_ms=_number(left, 1000))
        case "stall" | "cut" | "malformed":
            after = int(_number(left, 3))
            return tokens(after + 3, _number(right, 0), end=name, after=after)
        case "error":
            wait = float(right) if right else None
            return Answer(status=int(_number(left, 500)), retry_after_s=wait)
        case "flaky":
            return flaky(int(_number(left, 0)), _number(right, 0.25))
        case _ if name in plain and not rest:
            return plain[name]
        case _:
            raise ValueError(f"no rule {text!r}; known: {(parse_script.__doc__ or '').strip()}")


@lru_cache(maxsize=256)
def _parsed(text: str) -> Script:
    try:
        return parse_script(text)
    except ValueError as error:
        return Answer(status=400, error_code="bad_script", error_message=str(error))


# -- from answers to deltas -----------------------------------------------------------------------


def deltas_of(answer: Answer, serial: int) -> list[ModelDelta]:
    """Everything that the answer says, its Finish last; cut to ``after`` pieces where it ends early."""
    said: list[ModelDelta] = []
    for text, kind in (
        (answer.summary, SummaryDelta),
        (answer.reasoning, ReasoningDelta),
        (answer.text, TextDelta),
        (answer.refusal, RefusalDelta),
    ):
        if text:
            said += [kind(piece) for piece in _PIECES.findall(text)]
    for index, call in enumerate(answer.calls):
        said.append(CallStart(index, call.call_id or f"call_{serial}_{index}", call.name))
        said += [CallDelta(index, piece) for piece in _PIECES.findall(call.arguments)]
    if answer.end != "finish":
        return said[: answer.after]
    usage = answer.usage
    if usage is UNSET:
        usage = Usage(input_tokens=10, output_tokens=len(said))
    reason = answer.finish_reason or ("tool_calls" if answer.calls else "stop")
    upstream_id = f"scripted_{serial}"
    said.append(Finish(reason=reason, usage=usage, upstream_id=upstream_id))
    return said


def groups_of(answer: Answer, deltas: list[ModelDelta]) -> list[list[ModelDelta]]:
    """The deltas in the groups in which they are sent, the Finish with the last piece."""
    size = answer.group or (1 if answer.paced else len(deltas) or 1)
    groups = [deltas[at : at + size] for at in range(0, len(deltas), size)]
    if len(groups) > 1 and len(groups[-1]) == 1 and isinstance(groups[-1][0], Finish):
        last = groups.pop()
        groups[-1] += last
    return groups


class Ledger:
    """Numbers requests, counts attempts, and remembers what was asked; bounded."""

    def __init__(self) -> None:
        self.requests: deque[Asked] = deque(maxlen=REQUESTS_KEPT_MAX)
        self.serial = 0
        self._attempts: dict[object, int] = {}

    def take(self, asked: Asked, content: object) -> None:
        self.serial += 1
        asked.serial = self.serial
        attempts = self._attempts
        asked.attempt = attempts[content] = attempts.get(content, 0) + 1
        if len(attempts) > REQUESTS_KEPT_MAX:
            del attempts[next(iter(attempts))]
        self.requests.append(asked)


def error_of(answer: Answer) -> ModelError:
    """The error that a client makes of an answer with a status of 400 or above."""
    retryable = answer.status in (408, 409, 429) or answer.status >= 500
    message = answer.error_message or f"scripted error {answer.status}"
    error = ModelError(
        f"the provider answered {answer.status}: {message}",
        code="rate_limited" if answer.status == 429 else "upstream_error",
        retryable=retryable,
        retry_after_s=answer.retry_after_s,
        provider_status=answer.status,
        provider_message=message,
    )
    if not retryable:
        # As the formats' tables have it: a key, a quota or a name that is refused is not the request's fault.
        error.blame = "operator" if answer.status in (401, 402, 403, 404) else "client"
    return error


def embeddings_of(given: Any, dimensions: int | None, encoding: str | None) -> tuple[list[dict[str, Any]], int]:
    """OpenAI's embedding objects of an input, the same each time, and the tokens that it came to."""
    one = isinstance(given, str) or isinstance(given[0], int)
    inputs = cast("list[Any]", [given] if one else given)
    out: list[dict[str, Any]] = []
    for at, each in enumerate(inputs):
        random = Random(msgspec.json.encode(each))  # noqa: S311 - the same vectors each time
        vector = [random.uniform(-1, 1) for _ in range(dimensions or 8)]
        shown = b64encode(pack(f"<{len(vector)}f", *vector)).decode() if encoding == "base64" else vector
        out.append({"object": "embedding", "index": at, "embedding": shown})
    return out, sum(len(each) for each in inputs)


def _vectors(embed: EmbeddingParams) -> ModelDelta:
    vectors, used = embeddings_of(msgspec.json.decode(embed.input), embed.dimensions, embed.encoding_format)
    raw = msgspec.Raw(msgspec.json.encode(vectors))
    return Finish(reason="stop", usage=Usage(input_tokens=used), embeddings=raw)


class ScriptedModel:
    """A ModelClient that needs no network: its answers come from a script.

    ``requests`` holds the last REQUESTS_KEPT_MAX requests, oldest first. ``sleep`` takes seconds; a
    simulation hands in its own clock's.
    """

    def __init__(
        self,
        script: Script = auto,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rule = rule_of(script)
        self._sleep = sleep
        self._ledger = Ledger()

    @property
    def requests(self) -> Sequence[Asked]:
        return self._ledger.requests

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta], None]:
        """Give the scripted answer's deltas, as ``ports.ModelClient`` says.

        Raises:
            ModelError: the script says so, or a stall outlasted ``deployment.timeout_s``.
        """
        asked = ModelAsked(request, deployment.upstream_model)
        # The step is no part of it: a call that is made again is a new step with the same content.
        turn, _, _ = request.key.rpartition("/")
        self._ledger.take(asked, (turn, asked.model, len(request.items)))
        answer = self._rule(asked, asked.attempt)
        deltas = deltas_of(answer, asked.serial) if request.embed is None else [_vectors(request.embed)]
        try:
            if answer.first_byte_ms > 0:
                await self._sleep(answer.first_byte_ms / 1000)
            if answer.status >= 400:
                asked.outcome = "error"
                raise error_of(answer)
            if not answer.paced and answer.group is None:
                if deltas and (request.stream or answer.end == "finish"):
                    yield deltas
            else:
                async for group in self._paced(answer, deltas, request.stream):
                    yield group
            if answer.end != "finish":
                asked.outcome = answer.end
                await self._end_badly(answer, deployment)
            asked.outcome = "finished"
        finally:
            if asked.outcome == "running":
                asked.outcome = "closed"

    async def _paced(
        self, answer: Answer, deltas: list[ModelDelta], stream: bool
    ) -> AsyncGenerator[list[ModelDelta], None]:
        """The groups in their time; without ``stream`` the whole at the end of it."""
        for at, group in enumerate(groups_of(answer, deltas)):
            if answer.gate is not None:
                await answer.gate.passing()
            if at and answer.delay_ms > 0:
                await self._sleep(answer.delay_ms / 1000)
            if stream:
                yield group
        if not stream and answer.end == "finish":
            yield deltas

    async def _end_badly(self, answer: Answer, deployment: Deployment) -> None:
        if answer.end == "stall":
            await self._sleep(deployment.timeout_s)
            raise ModelError(f"no byte came within {deployment.timeout_s} s", code="upstream_timeout", retryable=True)
        if answer.end == "cut":
            raise ModelError("the provider broke its answer off", code="answer_cut", retryable=True)
        raise ModelError("the provider sent broken JSON", code="malformed_stream", retryable=True)

    async def close(self) -> None:
        """There is nothing to release."""
