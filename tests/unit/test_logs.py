"""What the server says on standard error."""

from __future__ import annotations

import json
import logging
import sys

from stateline.logs import JsonLines, PlainLines


def record(name: str, level: int, message: str, *, failed: bool = False) -> logging.LogRecord:
    error = None
    if failed:
        try:
            raise RuntimeError("a defect")
        except RuntimeError:
            error = sys.exc_info()
    return logging.LogRecord(name, level, __file__, 1, message, None, error)


def test_each_record_is_one_json_object_with_its_traceback_inside() -> None:
    line = JsonLines().format(record("stateline.engine", logging.ERROR, "it broke", failed=True))
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "it broke"
    assert told["level"] == "error"
    assert "RuntimeError: a defect" in told["traceback"]


def test_an_access_line_is_json_already_and_stays_as_it_is() -> None:
    assert JsonLines().format(record("stateline.access", logging.INFO, '{"status":200}')) == '{"status":200}'


def test_on_a_terminal_information_is_plain_and_trouble_is_named() -> None:
    assert PlainLines().format(record("stateline", logging.INFO, "ready")).endswith(" ready")
    assert "WARNING: careful" in PlainLines().format(record("stateline", logging.WARNING, "careful"))


TRACE = ("0" * 31 + "1", "0" * 15 + "2")


def test_a_record_says_of_which_trace_it_is_where_there_is_one() -> None:
    told = json.loads(JsonLines(lambda: TRACE).format(record("stateline.engine", logging.INFO, "it began")))
    assert (told["trace_id"], told["span_id"]) == TRACE
    assert "trace_id" not in JsonLines().format(record("stateline.engine", logging.INFO, "it began"))
    plain = PlainLines(lambda: TRACE).format(record("stateline", logging.ERROR, "it broke", failed=True))
    first, _, rest = plain.partition("\n")
    assert first.endswith(f" ERROR: it broke trace_id={TRACE[0]} span_id={TRACE[1]}")
    assert "RuntimeError: a defect" in rest
    assert PlainLines(lambda: TRACE).format(record("stateline.access", logging.INFO, "{}")).endswith(" {}")
