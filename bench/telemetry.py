"""The CPU that traces and metrics over OTLP add to a call: ``python -m bench.telemetry``.

Two real servers before one fake upstream, alike but that one of them tells a collector of all that it does; loaded in
turns (``bench.paired``). The collector takes what it is sent and looks at none of it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from bench import paired
from bench.servers import NotRunnable, adapters


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def collector() -> Generator[str]:
    """A collector's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def main() -> int:
    """Measure, print, keep; 0 where it ran, whatever the figures."""
    arguments = paired.arguments_of("bench.telemetry", __doc__, "telemetry.json")
    bare = replace(adapters()["stateline"], models={"openai-responses": "fake-responses"})
    with collector() as url:
        told = {"STATELINE_TELEMETRY__ENDPOINT": url, "STATELINE_TELEMETRY__METRICS": "true"}
        try:
            title = "CPU a call, ms: what traces and metrics over OTLP add"
            paired.compare(arguments, title, "telemetry adds cpu_ms", bare, replace(bare, env=told))
        except NotRunnable as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
