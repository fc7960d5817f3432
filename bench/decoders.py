"""CPU of decoding one streamed answer of 100 tokens, by wire format: ``python -m bench.decoders``.

The events are padded as the providers pad them. Two ways for the bytes to come: an event a read, as a model
speaks, and all in one read, as behind a buffering proxy. The figures are the best of several rounds, since
others use the machine too.
"""

from __future__ import annotations

from time import process_time

from bench import upstream_bodies as bodies
from bench import upstream_vendors as vendors
from stateline.models.formats import WireFormat, wire_of

TOKENS = 100
STREAMS = 200
ROUNDS = 7


def streams() -> dict[tuple[str, str], list[bytes]]:
    """The reads of one answer, an event each, by format and cloud."""
    return {
        ("openai-chat", "openai"): vendors.padded(bodies.chat_events(TOKENS, with_usage=True)),
        ("openai-responses", "openai"): vendors.padded(bodies.response_events(TOKENS)),
        ("anthropic-messages", "anthropic"): vendors.messages_events(TOKENS),
        ("anthropic-messages", "aws"): vendors.invoke_frames(TOKENS),
        ("bedrock-converse", "aws"): vendors.converse_frames(TOKENS),
        ("gemini", "google"): vendors.gemini_events(TOKENS),
    }


def cpu_ms(wire: WireFormat, reads: list[bytes]) -> float:
    """Milliseconds of CPU for one stream."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(STREAMS):
            decoder = wire.stream_decoder()
            for data in reads:
                decoder.feed(data)
            # A format without a last event is done when the body is.
            assert decoder.done or decoder.eof()
        best = min(best, process_time() - began)
    return best / STREAMS * 1000


def main() -> None:
    for (name, cloud), reads in streams().items():
        wire = wire_of(name, cloud)
        assert wire is not None
        apart, together = cpu_ms(wire, reads), cpu_ms(wire, [b"".join(reads)])
        print(f"{name:18} at {cloud:9} {apart:6.3f} ms, an event a read   {together:6.3f} ms, in one read")


if __name__ == "__main__":
    main()
