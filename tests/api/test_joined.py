"""What an answer's writes become on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stateline.api import joined
from stateline.api.joined import JoinedTransport


class Wire(asyncio.Transport):
    """Keeps what was written, call by call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.calls: list[bytes] = []
        self.said: list[str] = []

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.said.append("closed")

    def abort(self) -> None:
        self.said.append("aborted")

    def is_closing(self) -> bool:
        return bool(self.said)

    def pause_reading(self) -> None:
        self.said.append("paused")

    def resume_reading(self) -> None:
        self.said.append("resumed")

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.said.append("protocol")


async def test_writes_of_one_turn_of_the_event_loop_go_out_together_and_in_order() -> None:
    wire = Wire()
    transport = JoinedTransport(wire)
    transport.write(b"head ")
    transport.write(bytearray(b"body"))
    assert wire.calls == []
    await asyncio.sleep(0)
    assert wire.calls == [b"head body"]
    transport.write(b"next")
    await asyncio.sleep(0)
    assert wire.calls == [b"head body", b"next"]


async def test_more_than_the_bound_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "JOINED_WRITE_BYTES_MAX", 8)
    wire = Wire()
    transport = JoinedTransport(wire)
    transport.write(b"12345678")
    assert wire.calls == []
    transport.write(b"9")
    assert wire.calls == [b"123456789"]
    await asyncio.sleep(0)
    assert wire.calls == [b"123456789"]


async def test_closing_writes_what_is_gathered_and_aborting_drops_it() -> None:
    wire = Wire()
    transport = JoinedTransport(wire)
    transport.write(b"last words")
    transport.close()
    assert (wire.calls, wire.said) == ([b"last words"], ["closed"])
    cut = Wire()
    transport = JoinedTransport(cut)
    transport.write(b"never said")
    transport.abort()
    await asyncio.sleep(0)
    assert (cut.calls, cut.said) == ([], ["aborted"])


async def test_all_else_is_the_transports_own() -> None:
    wire = Wire()
    transport = JoinedTransport(wire)
    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)
    assert not transport.is_closing()
    transport.pause_reading()
    transport.resume_reading()
    transport.set_protocol(asyncio.Protocol())
    assert wire.said == ["paused", "resumed", "protocol"]
