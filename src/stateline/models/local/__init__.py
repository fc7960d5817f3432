"""The local model: a real language model with no key and no network, in this process.

``LocalModel`` is the ModelClient of ``cloud = "local"``. What a call asks is planned in ``prompt``,
generated in ``llama``, and read in ``toolcalls``; ``fetch`` brings the model's file.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Protocol

from stateline.core import ids
from stateline.core.calls import CallDelta, CallStart, Finish, FinishReason, ModelDelta, ModelRequest, TextDelta, Usage
from stateline.core.errors import ModelError
from stateline.core.limits import LOCAL_CALLS_PARALLEL_MAX, LOCAL_STRAY_CHARS_MAX
from stateline.models.local.catalogue import CATALOGUE
from stateline.models.local.fetch import find_model
from stateline.models.local.llama import LlamaRuntime, Piece, Stopped
from stateline.models.local.prompt import Plan, plan_call
from stateline.models.local.toolcalls import NO_SUCH_TOOL, CallGate, ParsedCall, read_calls, same_call
from stateline.ports import Deployment

__all__ = ["LocalModel", "model_path"]


class Runtime(Protocol):
    """What LocalModel needs of ``LlamaRuntime``."""

    async def load(self) -> None: ...

    def stream(self, body: dict[str, Any], /) -> AsyncGenerator[list[Piece]]: ...

    async def close(self) -> None: ...


def model_path(deployment: Deployment) -> Path:
    """The GGUF file that a deployment's ``upstream_model`` means: a path, or the name of a known model.

    Raises:
        ModelError: the model is not known, or has not been fetched.
    """
    if deployment.upstream_model.lower().endswith(".gguf"):
        return Path(deployment.upstream_model).expanduser()
    model = CATALOGUE.get(deployment.upstream_model)
    if model is None:
        raise _misconfigured(
            f"deployment {deployment.name!r}: {deployment.upstream_model!r} is neither a known local model "
            f"({', '.join(sorted(CATALOGUE))}) nor the path of a .gguf file"
        )
    path = find_model(model)
    if path is None:
        raise _misconfigured(
            f"the model {model.name} is not on this machine yet: run `python -m stateline.models.local`"
        )
    return path


class LocalModel:
    """Answers from GGUF files on this machine, each loaded once, at its first call.

    Args:
        runtime: makes the runtime of a file; tests put another in its place.
    """

    def __init__(self, runtime: Callable[[Path], Runtime] = LlamaRuntime) -> None:
        self._make = runtime
        self._runtimes: dict[Path, Runtime] = {}

    async def load(self, deployment: Deployment) -> None:
        """Load the deployment's model now, which holds the event loop up for a second or two.

        Raises:
            ModelError: it cannot be loaded.
        """
        await self._runtime(deployment).load()

    async def call(self, deployment: Deployment, request: ModelRequest) -> AsyncGenerator[list[ModelDelta]]:
        """Answer ``request``; the deltas come as they are generated, a function call once it is whole.

        Raises:
            ModelError: the model is missing, busy beyond its queue, too slow, or failed.
            BadRequest: it cannot carry the request.
        """
        plan = plan_call(request)
        answer = _Answer(self._runtime(deployment), plan, request.key, deployment)
        deadline = asyncio.get_running_loop().time() + deployment.timeout_s
        deltas = answer.deltas()
        try:
            while True:
                # The limit is on our waiting alone: what the caller does between batches is its own time.
                async with asyncio.timeout_at(deadline):
                    batch = await anext(deltas, None)
                if batch is None:
                    return
                if batch:
                    yield batch
        except TimeoutError as error:
            raise ModelError(
                f"deployment {deployment.name!r} took longer than its timeout_s",
                code="upstream_timeout",
                status=504,
                retryable=True,
            ) from error
        finally:
            await deltas.aclose()

    async def close(self) -> None:
        """End all calls and free the models."""
        runtimes, self._runtimes = self._runtimes, {}
        for runtime in runtimes.values():
            await runtime.close()

    def _runtime(self, deployment: Deployment) -> Runtime:
        path = model_path(deployment)
        if path not in self._runtimes:
            self._runtimes[path] = self._make(path)
        return self._runtimes[path]


class _Answer:
    """One call's answer: one generation, or two where the first went wrong in a known way."""

    def __init__(self, runtime: Runtime, plan: Plan, key: str, deployment: Deployment) -> None:
        self._runtime = runtime
        self._plan = plan
        self._key = key
        self._model = deployment.upstream_model
        self._spent = Usage()
        self._stopped: Stopped | None = None
        self._calls = 0

    async def deltas(self) -> AsyncGenerator[list[ModelDelta]]:
        plan = self._plan
        if plan.forced:
            yield await self._forced(plan.body())
        elif plan.schema is not None and plan.tools:
            yield await self._json(plan.body())
        elif plan.tools:
            async with contextlib.aclosing(self._choosing()) as batches:
                async for batch in batches:
                    yield batch
        else:
            async with contextlib.aclosing(self._plain(plan.body())) as batches:
                async for batch in batches:
                    yield batch

    async def _plain(self, body: dict[str, Any]) -> AsyncGenerator[list[ModelDelta]]:
        """Text only, as it comes."""
        async with contextlib.aclosing(self._generate(body)) as texts:
            async for text in texts:
                if text:
                    yield [TextDelta(text)]
        yield [self._finish()]

    async def _choosing(self) -> AsyncGenerator[list[ModelDelta]]:
        """Text as it comes, with whatever may be a call held back until it is known to be one or not."""
        plan = self._plan
        gate = CallGate(plan.tools)
        async with contextlib.aclosing(self._generate(plan.body())) as texts:
            async for text in texts:
                if shown := gate.feed(text):
                    yield [TextDelta(shown)]
                if self._enough(gate):
                    break
        if shown := gate.finish(cut=self._stopped is not None and self._stopped.reason == "length"):
            yield [TextDelta(shown)]
        if fresh := self._fresh(gate.calls):
            yield [*self._call_deltas(fresh), self._finish("tool_calls")]
        elif gate.calls or (gate.broken is not None and gate.broken.problems == (NO_SUCH_TOOL,)):
            # It repeats a call whose output it has, or calls a tool that it made up. A grammar would make
            # it call something else, and whatever that is, nobody asked for it: it is to say something.
            async with contextlib.aclosing(self._plain(plan.bare_body())) as batches:
                async for batch in batches:
                    yield batch
        elif gate.broken is not None:
            # It meant a call and got it wrong: the same again, with a grammar that leaves no choice.
            yield await self._forced(plan.forced_body(gate.broken.name))
        else:
            yield [self._finish()]

    async def _forced(self, body: dict[str, Any]) -> list[ModelDelta]:
        """A call that the grammar enforces. An answer cut short is no call, whatever it looks like."""
        text = await self._whole(body)
        if self._stopped is not None and self._stopped.reason == "length":
            return [self._finish()]
        calls = [call for call in read_calls(text, self._plan.tools) if isinstance(call, ParsedCall)]
        if not calls:
            raise ModelError(
                "the local model's call does not fit the tool's schema", code="malformed_response", retryable=True
            )
        return [*self._call_deltas(calls[:1]), self._finish("tool_calls")]

    async def _json(self, body: dict[str, Any]) -> list[ModelDelta]:
        """A call or an object of the text's schema: which, is known when it is whole."""
        text = await self._whole(body)
        cut = self._stopped is not None and self._stopped.reason == "length"
        calls = [call for call in read_calls(text, self._plan.tools) if isinstance(call, ParsedCall)]
        if calls and not cut and not self._plan.answered:
            return [*self._call_deltas(calls[:1]), self._finish("tool_calls")]
        return [TextDelta(text), self._finish()]

    async def _whole(self, body: dict[str, Any]) -> str:
        async with contextlib.aclosing(self._generate(body)) as texts:
            return "".join([text async for text in texts])

    async def _generate(self, body: dict[str, Any]) -> AsyncGenerator[str]:
        """The texts of one generation; what it used is added up, also when it is not read to its end."""
        usage = Usage()
        self._stopped = None
        try:
            async with contextlib.aclosing(self._runtime.stream(body)) as batches:
                async for batch in batches:
                    for piece in batch:
                        if isinstance(piece, Usage):
                            usage = piece
                        elif isinstance(piece, Stopped):
                            usage, self._stopped = piece.usage, piece
                    if text := "".join(piece for piece in batch if isinstance(piece, str)):
                        yield text
        finally:
            self._spent += usage

    def _enough(self, gate: CallGate) -> bool:
        """Whether more of the answer could only make it worse."""
        if gate.broken is not None:
            return True
        if not gate.calls:
            return False
        limit = LOCAL_CALLS_PARALLEL_MAX if self._plan.parallel else 1
        repeats = len({same_call(*call) for call in gate.calls}) < len(gate.calls)
        return len(gate.calls) >= limit or repeats or gate.stray_chars > LOCAL_STRAY_CHARS_MAX

    def _fresh(self, calls: list[ParsedCall]) -> list[ParsedCall]:
        """The calls that are not answered yet, each once."""
        once: dict[tuple[str, str], ParsedCall] = {}
        for call in calls:
            once.setdefault(same_call(*call), call)
        kept = [call for key, call in once.items() if key not in self._plan.answered]
        return kept[: LOCAL_CALLS_PARALLEL_MAX if self._plan.parallel else 1]

    def _call_deltas(self, calls: list[ParsedCall]) -> list[ModelDelta]:
        out: list[ModelDelta] = []
        for index, call in enumerate(calls):
            # Derived like every id of an effect: the same call of the same step has the same id.
            call_id = "call_" + ids.digest(self._key.encode(), str(index).encode())[:24]
            out += [CallStart(index, call_id, call.name), CallDelta(index, call.arguments)]
        return out

    def _finish(self, reason: FinishReason | None = None) -> Finish:
        stopped = self._stopped
        return Finish(
            reason=reason or (stopped.reason if stopped is not None else "stop"),
            usage=self._spent,
            upstream_id=stopped.upstream_id if stopped is not None else None,
            upstream_model=self._model,
        )


def _misconfigured(message: str) -> ModelError:
    error = ModelError(message, code="upstream_misconfigured", retryable=False, sent=False)
    error.blame = "operator"
    return error
