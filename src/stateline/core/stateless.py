"""What is recorded of calls that are kept in no session, without content."""

from __future__ import annotations

import msgspec

from stateline.core.billing import Charge, Counted, Reserved
from stateline.core.calls import Usage
from stateline.core.placing import Passed, Priced, Refused, Ruling


class StatelessCallStarted(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A call that is kept in no session was placed; without content. ``id`` is its own in the whole store.

    ``interface`` as in ``CallFacts``; ``passed``, ``verdict``, ``refused``, ``reserved``, ``priced`` and ``counted``
    as in ModelCallStarted.
    """

    id: str
    tenant: str
    principal: str
    interface: str
    deployment: str
    model: str
    passed: tuple[Passed, ...] = ()
    verdict: Ruling | None = None
    refused: tuple[Refused, ...] = ()
    reserved: Reserved | None = None
    priced: tuple[Priced, ...] = ()
    counted: tuple[Counted, ...] = ()


class StatelessCallEnded(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """It ended, well where there is no ``code``. The code ``node_lost``: its node was lost during the call."""

    id: str
    usage: Usage | None = None
    code: str | None = None
    charge: Charge | None = None
