"""What rate limits leave a caller, in the headers that OpenAI's API has for it."""

from __future__ import annotations

from functools import partial

from stateline.api.call import Call
from stateline.api.errors import Header
from stateline.api.service import Service
from stateline.core.errors import StatelineError
from stateline.engine.types import RateState

RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


def show_rates(service: Service, call: Call, model: str) -> None:
    """Have the answer of a call of this model say what rate limits leave its key, where any covers it."""
    if service.engine.is_rated(call.tenant, call.principal.id, model):
        call.rates = partial(_headers, service, call, model)


async def _headers(service: Service, call: Call, model: str) -> list[Header]:
    try:
        found = await service.engine.rates(call.tenant, call.principal.id, model)
    except StatelineError:
        # A store that is away is told by what needs it.
        return []
    least: dict[str, RateState] = {}
    for each in found:
        before = least.get(each.kind)
        if each.kind != "concurrency" and (before is None or each.left < before.left):
            least[each.kind] = each
    headers: list[Header] = []
    for kind, state in least.items():
        name = kind.encode()
        headers.append((b"x-ratelimit-limit-" + name, b"%d" % state.limit))
        headers.append((b"x-ratelimit-remaining-" + name, b"%d" % state.left))
        headers.append((b"x-ratelimit-reset-" + name, b"%ds" % state.reset_s))
    return headers
