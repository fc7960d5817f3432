"""Bearer tokens that lapse, kept fresh in one place for every cloud that wants them.

Who issues a token is asked in a thread, once for all who wait, and again a few minutes before the token
lapses; calls go on with the old one meanwhile. Only the first call waits, and one that finds its token
lapsed. A failure is told with the issuer's words, out of which whatever may be a secret is taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from stateline.core.errors import ModelError

log = logging.getLogger("stateline.models")

RENEW_BEFORE_S = 240.0
"""A token is renewed when it has so long to live, or a little longer: nodes do not ask all at once."""
JITTER_S = 60.0
LAPSED_BEFORE_S = 10.0
"""A token with less to live than this may lapse under way."""
ASK_AGAIN_AFTER_S = 5.0
"""After a failure, calls that can go on with what they have leave the issuer alone for so long."""
_WORDS_CHARS_MAX = 300
_MAYBE_SECRET = re.compile(r"[A-Za-z0-9_\-.+/=~]{24,}")


class Token(NamedTuple):
    """A bearer token; ``lapses_at_s`` in Unix seconds."""

    value: str
    lapses_at_s: float


class Missing(Exception):
    """Nothing can be asked for a token: its words say what to set or install."""


class Tokens:
    """One token, of whoever ``fetch`` asks.

    Args:
        what: what it is called in errors.
        fetch: gives a token; called in a thread.
    """

    def __init__(self, what: str, fetch: Callable[[], Token], now: Callable[[], float] = time.time) -> None:
        self._what = what
        self._fetch = fetch
        self._now = now
        self._token: Token | None = None
        self._renew_at_s = 0.0
        self._asking: asyncio.Task[Token] | None = None

    async def current(self) -> str:
        """The token to send.

        Raises:
            ModelError: ``upstream_auth_failed``, it could not be had; ``upstream_misconfigured``, nothing
                can be asked for it. Nothing was sent.
        """
        token, now_s = self._token, self._now()
        if token is None or now_s >= token.lapses_at_s - LAPSED_BEFORE_S:
            token = await asyncio.shield(self.ask())
        elif now_s >= self._renew_at_s:
            self.ask()
        return token.value

    def ask(self) -> asyncio.Task[Token]:
        """Ask for a new token, once for all who wait."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            # Nobody may be waiting; who does gets the error too.
            self._asking.add_done_callback(_note)
        return self._asking

    def forget(self) -> None:
        """Ask anew before the next call."""
        self._token = None

    async def _ask(self) -> Token:
        try:
            token = await asyncio.to_thread(self._fetch)
        except Missing as error:
            raise _failure(f"{self._what}: {error}", "upstream_misconfigured", retryable=False) from None
        except Exception as error:
            self._renew_at_s = self._now() + ASK_AGAIN_AFTER_S
            words = _MAYBE_SECRET.sub("[hidden]", f"{type(error).__name__}: {error}")[:_WORDS_CHARS_MAX]
            # What it was raised from may hold the request, secrets included.
            raise _failure(f"{self._what} could not be had: {words}", "upstream_auth_failed", retryable=True) from None
        life_s = token.lapses_at_s - self._now()
        # A short-lived token is renewed in the second half of its life.
        before_s = min(RENEW_BEFORE_S + random.uniform(0, JITTER_S), life_s / 2)  # noqa: S311 - no secret
        self._token, self._renew_at_s = token, token.lapses_at_s - before_s
        return token


class BearerSigner:
    """Sends the token of one issuer."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def sign(self, target: str, body: bytes) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {await self._tokens.current()}"}

    def warm(self) -> None:
        self._tokens.ask()

    def rejected(self) -> None:
        self._tokens.forget()


def _note(task: asyncio.Task[Token]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s", getattr(error, "message", type(error).__name__))


def _failure(what: str, code: str, *, retryable: bool) -> ModelError:
    error = ModelError(what, code=code, retryable=retryable, sent=False)
    error.blame = "operator"
    return error
