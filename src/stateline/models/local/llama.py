"""llama.cpp inside this process: one model, one worker thread, tokens handed to the event loop.

The thread owns everything of llama.cpp. It loads the model at the first call and answers one call
at a time; the event loop only ever puts calls into a bounded queue and takes pieces of text out.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import importlib.util
import os
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from stateline.core.calls import Usage
from stateline.core.errors import BadRequest, Blame, ModelError
from stateline.core.limits import (
    LOCAL_CALLS_WAITING_MAX,
    LOCAL_CONTEXT_TOKENS,
    LOCAL_PROMPT_CACHE_MB,
    LOCAL_THREADS_MAX,
)

# Threads that spin while they wait for one another take the whole of a small machine: on two busy
# cores, two spinning threads make 1.7 tokens a second and two sleeping ones 19. Read at import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_BATCH_TOKENS = 64
"""Prompt tokens between two looks at whether the caller has gone. On a CPU, no slower than 512."""
_CLOSE_WAIT_S = 10.0


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a generation."""

    reason: Literal["stop", "length"]
    usage: Usage
    upstream_id: str | None = None


Piece = str | Usage | Stopped
"""A text, the tokens counted so far, or the end."""


def available() -> bool:
    """Whether llama.cpp is installed (``stateline[local]``)."""
    return importlib.util.find_spec("xllamacpp") is not None


def thread_count() -> int:
    """Threads to compute with: the cores this process may use, one left for the event loop if there are many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores if cores <= 2 else cores - 1, LOCAL_THREADS_MAX))


class _Call:
    """One generation: its request, and what came of it so far."""

    def __init__(self, body: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.body = body
        self.cancelled = False
        self.upstream_id: str | None = None
        self.usage = Usage()
        self._reason: Literal["stop", "length"] = "stop"
        self._failed = False
        self._loop = loop
        self._pieces: list[Piece | BaseException] = []
        self._ready = asyncio.Event()

    def send(self, *pieces: Piece | BaseException) -> None:
        """Hand pieces to the event loop; called in the worker."""
        try:
            self._loop.call_soon_threadsafe(self._arrived, pieces)
        except RuntimeError:  # The loop is closed: nobody waits any more.
            self.cancelled = True

    def _arrived(self, pieces: tuple[Piece | BaseException, ...]) -> None:
        self._pieces += pieces
        self._ready.set()

    async def next_pieces(self) -> list[Piece | BaseException]:
        await self._ready.wait()
        self._ready.clear()
        pieces, self._pieces = self._pieces, []
        return pieces

    def on_chunk(self, chunk: dict[str, Any]) -> bool:
        """llama.cpp's callback, in the worker. True ends the generation."""
        if self.cancelled:
            return True
        if error := chunk.get("error"):
            self.fail(_refusal(error))
            return True
        out: list[Piece | BaseException] = []
        self.upstream_id = chunk.get("id") or self.upstream_id
        if timings := chunk.get("timings"):
            self.usage = _usage(timings)
            out.append(self.usage)
        for choice in chunk.get("choices", ()):
            if text := choice["delta"].get("content"):
                out.append(text)
            if choice.get("finish_reason") == "length":
                self._reason = "length"
        if out:
            self.send(*out)
        return False

    def fail(self, error: BaseException) -> None:
        self._failed = True
        self.send(error)

    def end(self) -> None:
        """llama.cpp has returned."""
        if not self._failed:
            self.send(Stopped(reason=self._reason, usage=self.usage, upstream_id=self.upstream_id))


class LlamaRuntime:
    """One GGUF file, answering one call after the other.

    Args:
        path: the model.
        context_tokens: prompt and answer together.
        threads: to compute with; default ``thread_count()``.
    """

    def __init__(self, path: Path, *, context_tokens: int = LOCAL_CONTEXT_TOKENS, threads: int | None = None) -> None:
        self.path = path
        self._context_tokens = context_tokens
        self._threads = threads or thread_count()
        self._calls: queue.Queue[_Call | None] = queue.Queue(maxsize=LOCAL_CALLS_WAITING_MAX)
        self._running: _Call | None = None
        self._worker: threading.Thread | None = None
        self._closed = False

    async def load(self) -> None:
        """Load the model now rather than at the first call.

        llama.cpp's binding keeps Python's lock while it loads (about 1.4 s for the 0.5B model), so a
        server does this before it listens.

        Raises:
            ModelError: the file cannot be loaded.
        """
        async for _ in self.stream({}):
            pass

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[list[Piece]]:
        """Generate, in batches of pieces; the last piece is a Stopped. Closing it ends the generation.

        Args:
            body: a request of llama.cpp's own ``/v1/chat/completions``; empty: only load the model.

        Raises:
            ModelError: too many calls wait, the model cannot be loaded, or the context is too long.
            BadRequest: llama.cpp cannot enforce the request's JSON schema.
        """
        call = _Call(body, asyncio.get_running_loop())
        self._submit(call)
        try:
            while True:
                pieces = await call.next_pieces()
                if pieces and isinstance(pieces[-1], BaseException):
                    raise pieces[-1]
                yield [piece for piece in pieces if not isinstance(piece, BaseException)]
                if pieces and isinstance(pieces[-1], Stopped):
                    return
        finally:
            call.cancelled = True

    def _submit(self, call: _Call) -> None:
        if self._closed:
            raise ModelError("the local model is shutting down", code="upstream_overloaded", status=503, retryable=True)
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="stateline-llama", daemon=True)
            self._worker.start()
            atexit.register(self._leave)
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise ModelError(
                f"{LOCAL_CALLS_WAITING_MAX} calls wait for the local model already",
                code="upstream_overloaded",
                status=503,
                retryable=True,
                sent=False,
                retry_after_s=5.0,
            ) from None

    async def close(self) -> None:
        """End the running generation, refuse the waiting ones, free the model."""
        if worker := self._stop():
            await asyncio.to_thread(worker.join, _CLOSE_WAIT_S)

    def _leave(self) -> None:
        """At the interpreter's exit: a thread cut off inside llama.cpp would abort the process."""
        if worker := self._stop():
            worker.join(_CLOSE_WAIT_S)

    def _stop(self) -> threading.Thread | None:
        """Tell the worker to end, and everybody who waits for it; the worker, if there is one to wait for."""
        self._closed = True
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        atexit.unregister(self._leave)
        with contextlib.suppress(queue.Empty):
            while True:
                if waiting := self._calls.get_nowait():
                    waiting.fail(_closing())
        if running := self._running:
            running.fail(_closing())
            running.cancelled = True
        self._calls.put_nowait(None)
        return worker

    # -- in the worker ------------------------------------------------------------------------------

    def _work(self) -> None:
        server: Any = None
        while call := self._calls.get():
            if call.cancelled:
                continue
            self._running = call
            try:
                if server is None:
                    server = self._load()
                if call.body:
                    server.handle_chat_completions({**call.body, **_STREAMING}, call.on_chunk)
                call.end()
            except Exception as error:
                call.fail(_translated(error, loaded=server is not None, path=self.path))
            self._running = None

    def _load(self) -> Any:
        """The model in memory. Everything of the binding is untyped, so it is named by strings."""
        if not available():
            raise _misconfigured("llama.cpp is not installed: pip install 'stateline[local]'")
        if not self.path.is_file():
            raise _misconfigured(f"there is no file {self.path}")
        try:
            xllamacpp: Any = importlib.import_module("xllamacpp")
        except ImportError as error:
            hint = "; on Debian and Ubuntu: apt-get install libgomp1" if "libgomp" in str(error) else ""
            raise _misconfigured(f"llama.cpp cannot be loaded ({error}){hint}") from error
        params = xllamacpp.CommonParams()
        params.model.path = str(self.path)
        params.n_ctx = self._context_tokens
        params.n_parallel = 1
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.cache_ram_mib = LOCAL_PROMPT_CACHE_MB
        params.warmup = False
        params.fit_params = False
        params.verbosity = 0
        # The binding always opens an HTTP port on the loopback address. Nobody is to use it, so it
        # gets a key that is told to no one.
        params.api_keys = [secrets.token_hex(32)]
        params.cors_origins = ""
        params.endpoint_slots = False
        params.n_threads_http = 1
        return xllamacpp.Server(params)


_STREAMING: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "timings_per_token": True,
    # Progress of the prompt is a chunk too, so a caller that left is noticed before the first token.
    "return_progress": True,
    "cache_prompt": True,
}


def _usage(timings: Mapping[str, Any]) -> Usage:
    cached, read = int(timings.get("cache_n", 0)), int(timings.get("prompt_n", 0))
    return Usage(input_tokens=cached + read, cached_tokens=cached, output_tokens=int(timings.get("predicted_n", 0)))


def _refusal(error: Mapping[str, Any]) -> ModelError:
    """An error that llama.cpp's server sent as a chunk."""
    said = str(error.get("message", error))
    if error.get("type") == "exceed_context_size_error":
        return _model_error(
            f"the input has {error.get('n_prompt_tokens')} tokens and the local model reads {error.get('n_ctx')}",
            code="context_length_exceeded",
            status=400,
            blame="client",
        )
    retryable = int(error.get("code", 500)) >= 500
    return _model_error(f"the local model failed: {said}", code="upstream_error", retryable=retryable)


def _translated(error: Exception, *, loaded: bool, path: Path) -> Exception:
    """What the binding raised, by where it was raised: it has no types of its own."""
    if isinstance(error, ModelError):
        return error
    said = str(error).strip() or type(error).__name__
    if not loaded:
        return _misconfigured(f"{path} cannot be loaded as a model ({said})")
    if "schema" in said.lower() or "grammar" in said.lower():
        return BadRequest(
            f"the local model cannot enforce this JSON schema: {said}", code="unsupported_schema", param="text.format"
        )
    return _model_error(f"the local model failed: {said}", code="upstream_error", retryable=False)


def _misconfigured(message: str) -> ModelError:
    return _model_error(message, code="upstream_misconfigured", sent=False, blame="operator")


def _closing() -> ModelError:
    return _model_error("the local model is shutting down", code="upstream_overloaded", status=503, retryable=True)


def _model_error(
    message: str,
    *,
    code: str,
    status: int = 502,
    retryable: bool = False,
    sent: bool = True,
    blame: Blame = "upstream",
) -> ModelError:
    error = ModelError(message, code=code, status=status, retryable=retryable, sent=sent)
    error.blame = blame
    return error
