"""CPU of decoding one streamed answer of 100 tokens, by wire format: ``python -m bench.decoders``.

Two ways for the bytes to come: an event a read, as a model speaks, and all in one read, as behind a
buffering proxy. The figures are the best of several rounds, since others use the machine too.
"""

from __future__ import annotations

from time import process_time

from stateline.models.formats import FORMATS, WireFormat
from stateline.testing.anthropic_bodies import MessageBody
from stateline.testing.openai_bodies import ChatBody, ResponseBody
from stateline.testing.scripted import Answer, deltas_of

TOKENS = 100
STREAMS = 200
ROUNDS = 7


def streams() -> dict[str, list[bytes]]:
    """The reads of one answer in each format, an event each."""
    deltas = deltas_of(Answer(text=" ".join(["token"] * TOKENS)), 1)
    chat, responses = ChatBody(1, "m", with_usage=True), ResponseBody(1, "m", {})
    messages = MessageBody(1, "m")
    return {
        "openai-chat": [chat.begin(), *(chat.events([delta]) for delta in deltas)],
        "openai-responses": [responses.begin(), *(responses.events([delta]) for delta in deltas)],
        "anthropic-messages": [messages.begin(), *(messages.events([delta]) for delta in deltas)],
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
            assert decoder.done
        best = min(best, process_time() - began)
    return best / STREAMS * 1000


def main() -> None:
    for name, reads in streams().items():
        wire = FORMATS[name]
        apart, together = cpu_ms(wire, reads), cpu_ms(wire, [b"".join(reads)])
        print(f"{name:20} {apart:6.3f} ms, an event a read   {together:6.3f} ms, in one read")


if __name__ == "__main__":
    main()
