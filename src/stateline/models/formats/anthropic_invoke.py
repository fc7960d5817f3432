"""Claude by Bedrock's InvokeModel: Anthropic's own bodies, and streams of Anthropic's events in Amazon's frames.

A message ``chunk`` holds one event of the Messages API, in base64; exceptions are Bedrock's, as in its own
format. Source: Amazon Bedrock API Reference, "InvokeModelWithResponseStream".
"""

from __future__ import annotations

import msgspec

from stateline.core.calls import ModelDelta, Usage
from stateline.models.formats import anthropic_messages
from stateline.models.formats.aws_eventstream import MessageSplitter
from stateline.models.formats.bedrock_converse_errors import decode_error, translate_exception
from stateline.models.formats.openai_shared import cut_stream, malformed
from stateline.models.formats.together import BROKEN, decoded

__all__ = ["StreamDecoder", "decode_error"]


class _Chunk(msgspec.Struct, gc=False):
    """msgspec reads base64 into bytes."""

    event: bytes = msgspec.field(name="bytes")


_chunk = msgspec.json.Decoder(_Chunk).decode
_chunks = msgspec.json.Decoder(list[_Chunk]).decode


class StreamDecoder:
    """Decodes a stream that is fed in pieces of any size."""

    __slots__ = ("_events", "_messages", "done")

    def __init__(self) -> None:
        self.done = False
        self._messages = MessageSplitter()
        self._events = anthropic_messages.StreamDecoder()

    @property
    def used(self) -> Usage | None:
        """What it has cost so far, as far as the provider said."""
        return self._events.used

    def feed(self, data: bytes) -> list[ModelDelta]:
        """The deltas of the messages that ``data`` completes.

        Raises:
            ModelError: ``malformed_stream``, ``unsupported_output``, or what an exception inside the
                stream says.
        """
        chunks: list[bytes] = []
        for message in self._messages.feed(data):
            (kind, name, _), payload = message
            if kind != "event":
                if self.done:
                    break
                raise translate_exception(message)
            if name == "chunk":
                chunks.append(payload)
        try:
            events = [chunk.event for chunk in decoded(chunks, _chunks, _chunk)]
        except BROKEN as error:
            raise malformed(str(error)) from None
        out = self._events.decode(events)
        self.done = self._events.done
        return out

    def eof(self) -> list[ModelDelta]:
        """The deltas still due when the body has ended.

        Raises:
            ModelError: ``answer_cut``, when the stream has no end.
        """
        if self._messages.partial and not self.done:
            raise cut_stream()
        out = self._events.eof()
        self.done = self._events.done
        return out
