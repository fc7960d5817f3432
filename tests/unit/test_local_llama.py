"""The worker thread of llama.cpp, over a scripted binding."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from stateline.core.calls import Usage
from stateline.core.errors import BadRequest, ModelError
from stateline.core.limits import LOCAL_CALLS_WAITING_MAX, LOCAL_CONTEXT_TOKENS
from stateline.models.local import llama
from stateline.models.local.llama import LlamaRuntime, Piece, Stopped, thread_count

Callback = Callable[[dict[str, Any]], bool]
Answer = Callable[[dict[str, Any], Callback], object]


def token(text: str, number: int, reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "choices": [{"delta": {"content": text}, "finish_reason": reason}],
        "timings": {"cache_n": 3, "prompt_n": 4, "predicted_n": number},
    }


class Binding:
    """Stands in for xllamacpp. ``answer`` is what a generation does with its body and callback."""

    def __init__(self) -> None:
        self.params: Any = None
        self.bodies: list[dict[str, Any]] = []
        self.threads: set[int] = set()
        self.entered = threading.Event()
        self.ended = threading.Event()
        self.broken_file = False
        self.answer: Answer = self._hello

    def _hello(self, body: dict[str, Any], send: Callback) -> None:
        send({"choices": [], "prompt_progress": {"processed": 4}})
        send(token("Hel", 1))
        send(token("lo", 2, "stop"))

    def module(self) -> ModuleType:
        binding = self

        class Server:
            def __init__(self, params: Any) -> None:
                if binding.broken_file:
                    raise RuntimeError("not a gguf file")
                binding.params = params

            def handle_chat_completions(self, body: dict[str, Any], send: Callback) -> None:
                binding.bodies.append(body)
                binding.threads.add(threading.get_ident())
                binding.entered.set()
                try:
                    binding.answer(body, send)
                finally:
                    binding.ended.set()

        def params() -> SimpleNamespace:
            return SimpleNamespace(
                model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace()
            )

        module = ModuleType("xllamacpp")
        module.__spec__ = ModuleSpec("xllamacpp", None)
        module.__dict__.update(Server=Server, CommonParams=params)
        return module


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Binding]:
    scripted = Binding()
    monkeypatch.setitem(sys.modules, "xllamacpp", scripted.module())
    yield scripted
    # Nothing of the worker may outlive its test.
    assert not [thread for thread in threading.enumerate() if thread.name == "stateline-llama"]


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


async def pieces(runtime: LlamaRuntime, body: dict[str, Any] | None = None) -> list[Piece]:
    return [piece async for batch in runtime.stream(body or {"messages": []}) for piece in batch]


async def test_pieces_come_in_order_and_end_with_the_usage(binding: Binding, gguf: Path) -> None:
    runtime = LlamaRuntime(gguf, threads=3)
    out = await pieces(runtime, {"messages": ["m"]})
    await runtime.close()
    usage = Usage(input_tokens=7, output_tokens=2, cached_tokens=3)
    assert [piece for piece in out if isinstance(piece, str)] == ["Hel", "lo"]
    assert out[-1] == Stopped(reason="stop", usage=usage, upstream_id="chatcmpl-1")
    assert binding.bodies[0]["messages"] == ["m"]
    assert binding.bodies[0]["stream"]
    assert binding.bodies[0]["cache_prompt"]
    assert binding.params.n_ctx == LOCAL_CONTEXT_TOKENS
    assert binding.params.cpuparams.n_threads == binding.params.cpuparams_batch.n_threads == 3


async def test_the_port_that_the_binding_opens_is_locked(binding: Binding, gguf: Path) -> None:
    runtime = LlamaRuntime(gguf)
    await runtime.load()
    await runtime.close()
    (key,) = binding.params.api_keys
    assert len(key) == 64


async def test_everything_of_llama_runs_in_one_thread_and_not_the_loops(binding: Binding, gguf: Path) -> None:
    runtime = LlamaRuntime(gguf)
    await asyncio.gather(*(pieces(runtime) for _ in range(5)))
    await runtime.close()
    assert len(binding.threads) == 1
    assert threading.get_ident() not in binding.threads


async def test_a_length_limit_is_told_from_an_end(binding: Binding, gguf: Path) -> None:
    binding.answer = lambda _body, send: send(token("x", 1, "length"))
    runtime = LlamaRuntime(gguf)
    out = await pieces(runtime)
    await runtime.close()
    assert isinstance(out[-1], Stopped)
    assert out[-1].reason == "length"


async def test_closing_the_stream_stops_the_generation(binding: Binding, gguf: Path) -> None:
    go_on = threading.Event()
    stopped = list[bool]()

    def endless(_body: dict[str, Any], send: Callback) -> None:
        send(token("a", 1))
        assert go_on.wait(30)
        stopped.append(send(token("b", 2)))

    binding.answer = endless
    runtime = LlamaRuntime(gguf)
    stream = runtime.stream({"messages": []})
    assert "a" in await anext(stream)
    await stream.aclose()
    go_on.set()
    await asyncio.to_thread(binding.ended.wait, 30)
    await runtime.close()
    assert stopped == [True]


async def test_a_call_cancelled_while_it_waits_never_runs(binding: Binding, gguf: Path) -> None:
    go_on = threading.Event()
    binding.answer = lambda _body, send: (go_on.wait(30), send(token("a", 1)))
    runtime = LlamaRuntime(gguf)
    first = asyncio.create_task(pieces(runtime, {"messages": ["first"]}))
    await asyncio.to_thread(binding.entered.wait, 30)
    second = asyncio.create_task(pieces(runtime, {"messages": ["second"]}))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    await pieces(runtime, {"messages": ["third"]})
    await runtime.close()
    assert [body["messages"] for body in binding.bodies] == [["first"], ["third"]]


async def test_the_queue_is_bounded(binding: Binding, gguf: Path) -> None:
    go_on = threading.Event()
    binding.answer = lambda _body, send: (go_on.wait(30), send(token("a", 1)))
    runtime = LlamaRuntime(gguf)
    running = asyncio.create_task(pieces(runtime))
    await asyncio.to_thread(binding.entered.wait, 30)
    waiting = [asyncio.create_task(pieces(runtime)) for _ in range(LOCAL_CALLS_WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(ModelError) as caught:
        await pieces(runtime)
    assert (caught.value.code, caught.value.retryable, caught.value.sent) == ("upstream_overloaded", True, False)
    go_on.set()
    await asyncio.gather(running, *waiting)
    await runtime.close()


async def test_closing_ends_what_runs_and_what_waits(binding: Binding, gguf: Path) -> None:
    closing = threading.Event()

    def until_closed(_body: dict[str, Any], send: Callback) -> None:
        assert closing.wait(30)
        while not send(token("a", 1)):
            pass

    binding.answer = until_closed
    runtime = LlamaRuntime(gguf)
    calls = [asyncio.create_task(pieces(runtime)) for _ in range(3)]
    await asyncio.to_thread(binding.entered.wait, 30)
    closed = asyncio.create_task(runtime.close())
    await asyncio.sleep(0)
    closing.set()
    await closed
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, ModelError)
        assert "shutting down" in error.message
    with pytest.raises(ModelError, match="shutting down"):
        await pieces(runtime)
    await runtime.close()


def _raises(error: Exception) -> Answer:
    def answer(_body: dict[str, Any], _send: Callback) -> None:
        raise error

    return answer


def _says(error: dict[str, Any]) -> Answer:
    def answer(_body: dict[str, Any], send: Callback) -> None:
        assert send({"error": error})

    return answer


_TOO_LONG = {"code": 400, "type": "exceed_context_size_error", "message": "m", "n_prompt_tokens": 9, "n_ctx": 8}


class Trouble(NamedTuple):
    answer: Answer
    kind: type[Exception]
    code: str
    said: str


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(_raises(ValueError("JSON schema error at #")), BadRequest, "unsupported_schema", "JSON schema"),
        Trouble(_raises(RuntimeError("no idea")), ModelError, "upstream_error", "no idea"),
        Trouble(_says(_TOO_LONG), ModelError, "context_length_exceeded", "9 tokens and the local model reads 8"),
        Trouble(_says({"code": 500, "message": "lost"}), ModelError, "upstream_error", "lost"),
    ],
)
async def test_errors_are_translated_and_the_next_call_works(binding: Binding, gguf: Path, trouble: Trouble) -> None:
    good, binding.answer = binding.answer, trouble.answer
    runtime = LlamaRuntime(gguf)
    with pytest.raises(trouble.kind, match=trouble.said) as caught:
        await pieces(runtime)
    assert getattr(caught.value, "code", None) == trouble.code
    binding.answer = good
    assert isinstance((await pieces(runtime))[-1], Stopped)
    await runtime.close()


async def test_a_file_that_is_missing_or_broken_is_the_operators_fault(binding: Binding, gguf: Path) -> None:
    runtime = LlamaRuntime(gguf.with_name("nowhere.gguf"))
    with pytest.raises(ModelError, match="there is no file") as caught:
        await runtime.load()
    assert (caught.value.blame, caught.value.retryable, caught.value.sent) == ("operator", False, False)
    await runtime.close()
    binding.broken_file = True
    runtime = LlamaRuntime(gguf)
    with pytest.raises(ModelError, match=r"cannot be loaded as a model \(not a gguf file"):
        await runtime.load()
    binding.broken_file = False
    await runtime.load()
    await runtime.close()


async def test_without_the_extra_it_says_what_to_install(
    gguf: Path, binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "available", bool)
    runtime = LlamaRuntime(gguf)
    with pytest.raises(ModelError, match=r"pip install 'stateline\[local\]'"):
        await runtime.load()
    await runtime.close()


async def test_a_missing_system_library_is_named_with_its_package(
    gguf: Path, binding: Binding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_libgomp(_name: str) -> ModuleType:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", no_libgomp)
    runtime = LlamaRuntime(gguf)
    with pytest.raises(ModelError, match="apt-get install libgomp1") as caught:
        await runtime.load()
    assert caught.value.blame == "operator"
    await runtime.close()


async def test_a_runtime_that_never_ran_closes_at_once() -> None:
    await LlamaRuntime(Path("x.gguf")).close()


def test_there_is_at_least_one_thread_to_compute_with() -> None:
    assert 1 <= thread_count() <= 8
