"""CPU of a relayed and stored 100-token stream in every wire format: ``python -m bench.formats``.

The real server with its store on disk, and behind it a fake upstream that speaks each format, both processes of
their own. The client asks for a stored response as a stream; each answer is checked for its words and its end, and
the upstream's count says in which format it was asked. `bench.decoders` measures the decoders alone.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

from bench import http_rows, report
from bench.bounds import Check, check
from bench.http_rows import Effort, Row
from bench.servers import Adapter, NotRunnable, adapters, serving, wait_first_answer

FULL = Effort(warm_s=1.5, cell_s=4.0, repeats=5)
QUICK = Effort(warm_s=0.3, cell_s=0.7, repeats=1)
CONCURRENCY = 16
MODELS = {
    "openai-chat": "fake-chat",
    "openai-responses": "fake-responses",
    "openai-chat (padded)": "fake-chat-padded",
    "openai-responses (padded)": "fake-responses-padded",
    "anthropic-messages": "fake-messages",
    "anthropic-messages (InvokeModel)": "fake-invoke",
    "bedrock-converse": "fake-converse",
    "gemini": "fake-gemini",
}
"""By format, the model of bench/configs/formats.toml that is spoken to in it. Padded is how OpenAI itself sends it."""
ASKED = {
    "openai-chat": "chat_stream",
    "openai-responses": "response_stream",
    "openai-chat (padded)": "chat_stream",
    "openai-responses (padded)": "response_stream",
    "anthropic-messages": "messages_stream",
    "anthropic-messages (InvokeModel)": "invoke_stream",
    "bedrock-converse": "converse_stream",
    "gemini": "gemini_stream",
}
"""By format, what the upstream calls a stream in it."""


def adapter() -> Adapter:
    """Stateline with a model of each format."""
    return replace(adapters()["stateline"], models=MODELS, config="formats.toml")


def measure(effort: Effort, tokens: int = 100) -> list[Row]:
    """One row a format.

    Raises:
        NotRunnable: the server did not start, or a format was not spoken as it should.
    """
    rows: list[Row] = []
    with http_rows.upstream(tokens) as behind, serving(adapter(), behind.port) as running:
        wait_first_answer(running)
        for row in http_rows.measure_server(running, behind, effort, ("response-stream",), (CONCURRENCY,)):
            wrong = row.upstream.keys() - {ASKED[row.upstream_format]}
            if wrong or row.failed or not row.answered:
                raise NotRunnable(f"{row.upstream_format}: {row.failed} failed, asked as {row.upstream}"
                                  f" {row.first_failure}")  # fmt: skip
            print(f"{row.upstream_format}: {row.cpu_ms} ms {row.cpu_ms_repeats}", file=sys.stderr)
            rows.append(row)
    return rows


def main() -> int:
    """Measure, print, keep; 0 where it ran, whatever the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.formats", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look in a quarter of a minute, no result kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    try:
        rows = measure(QUICK if arguments.quick else FULL)
    except NotRunnable as error:
        print(error, file=sys.stderr)
        return 1
    report.table(
        f"A stored stream of 100 tokens, {CONCURRENCY} at once (CPU of the server's process tree; times in ms)",
        ("upstream format", "CPU/stream", "of repeats", "p50", "p99", "1st byte", "streams/s", "MB"),
        [
            (
                *(r.upstream_format, f"{r.cpu_ms:.2f}", f"{min(r.cpu_ms_repeats):.2f}-{max(r.cpu_ms_repeats):.2f}"),
                *(f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}", f"{r.first_byte_p50_ms:.1f}"),
                *(f"{r.requests_per_s:.0f}", f"{r.resident_mb:.0f}"),
            )
            for r in rows
        ],
    )
    found = check("worst format cpu_ms", max(row.cpu_ms for row in rows))
    promised: list[Check] = [] if found is None else [found]
    report.checks(promised)
    content = {"formats": [asdict(row) for row in rows], "promised": [asdict(each) for each in promised]}
    if arguments.json:
        report.write(arguments.json, content)
    elif not arguments.quick:
        report.write(report.RESULTS / "formats.json", content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
