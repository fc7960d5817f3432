"""One tool call, as an operator writes it down to ask what the policies say of it."""

from __future__ import annotations

from typing import Any

import msgspec

from stateline.core.errors import BadRequest
from stateline.core.tools import EffectClass, History, PolicyRequest


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: str
    tool: str
    tenant: str = "default"
    principal: str = ""
    agent: str = ""
    effect: EffectClass = "unsafe"
    arguments: dict[str, Any] = {}
    data_zone: str = ""
    history: History = History()
    approved: bool = False


def question(text: str) -> PolicyRequest:
    """The call that a JSON object describes: ``server`` and ``tool``, and whatever else is not the usual.

    Raises:
        BadRequest: ``policy_question``.
    """
    try:
        asked = msgspec.json.decode(text, type=_Question)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"--facts: {error}", code="policy_question") from None
    return PolicyRequest(**{name: getattr(asked, name) for name in asked.__struct_fields__})
