"""One system call where the server would make two: writes of one turn of the event loop go out together.

uvicorn writes an answer's head and body apart. On a short answer the second system call costs as much
as everything that we do to decide what to say.
"""

from __future__ import annotations

import asyncio
from typing import Any

from stateline.core.limits import JOINED_WRITE_BYTES_MAX


class JoinedTransport(asyncio.Transport):
    """Gathers what is written until the event loop comes round, or JOINED_WRITE_BYTES_MAX are there."""

    __slots__ = ("_call_soon", "_pieces", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pieces:
            self._call_soon(self._flush)
        self._pieces.append(data)
        self._size += len(data)
        if self._size > JOINED_WRITE_BYTES_MAX:
            self._flush()

    def _flush(self) -> None:
        pieces = self._pieces
        if pieces:
            self._pieces = []
            self._size = 0
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._pieces = []
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
