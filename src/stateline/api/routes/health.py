"""Probes and metrics."""

from __future__ import annotations

from typing import Literal

import msgspec

from stateline.api.call import Call
from stateline.api.service import Service


class Health(msgspec.Struct, frozen=True):
    status: Literal["ok"] = "ok"


async def healthz(_: Service, call: Call) -> None:
    """The process answers."""
    await call.reply_json(Health())


async def readyz(service: Service, call: Call) -> None:
    """The engine takes turns; it does not before its start and while it drains."""
    if not service.engine.ready:
        await call.reply(b'{"status":"not_ready"}', 503)
        return
    await call.reply_json(Health())


async def metrics(service: Service, call: Call) -> None:
    readings = await service.engine.readings()
    text = service.metrics.text(readings.gauges, readings.counters)
    await call.reply(text.encode(), kind=(b"content-type", b"text/plain; version=0.0.4; charset=utf-8"))


async def openapi(service: Service, call: Call) -> None:
    await call.reply(service.openapi)
