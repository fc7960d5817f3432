"""The public keys of an OpenID Connect issuer: found, fetched, kept, and fetched anew when they rotate.

OpenID Connect Discovery 1.0, section 4 (where the keys are); RFC 7517 (what they look like). Nothing that a token
says leads anywhere: its ``kid`` is looked up in a dict, and its ``jku``, ``x5u`` and ``jwk`` are never read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from stateline.core.errors import StatelineError
from stateline.core.limits import (
    JWKS_BYTES_MAX,
    JWKS_KEYS_MAX,
    JWKS_REFETCH_S,
    JWKS_REFRESH_S,
    JWKS_STALE_S,
    JWKS_TIMEOUT_S,
    OIDC_KID_CHARS_MAX,
    OIDC_RSA_BITS_MIN,
)
from stateline.ports import Clock

log = logging.getLogger("stateline.identity")

PublicKey = RSAKey | ECKey | OKPKey
Fetch = Callable[[str], Awaitable[bytes]]
# Of a modulus in base64: what is too small is known before the library warns of it, what is huge costs seconds.
_RSA_CHARS_MIN = OIDC_RSA_BITS_MIN // 6
_RSA_CHARS_MAX = 4 * _RSA_CHARS_MIN
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class IssuerUnavailable(StatelineError):
    """Tokens cannot be checked, since the issuer's keys cannot be had. No fault of the caller."""

    code = "issuer_unavailable"
    status = 503
    blame = "upstream"
    retry_after_s = 5


class FetchFailed(Exception):
    """What the issuer answered cannot be used; the words say why."""


class Named(NamedTuple):
    """A key, with what its issuer says it is for; ``alg`` None: any that fits its type."""

    kid: str | None
    alg: str | None
    key: PublicKey


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class Issuer:
    """An issuer's keys.

    Args:
        issuer: its name, which is its URL; ``/.well-known/openid-configuration`` follows on it.
        jwks_url: where its keys are, where that is not to be discovered.
        changed: called when a key is gone or another one has its name.
    """

    def __init__(
        self, issuer: str, clock: Clock, fetch: Fetch, *, jwks_url: str | None, changed: Callable[[], None]
    ) -> None:
        self._issuer = issuer
        self._clock = clock
        self._fetch = fetch
        self._jwks_url = jwks_url
        self._changed = changed
        self._keys: tuple[Named, ...] = ()
        self._raw: Mapping[str, object] = {}
        self._fetched_at_ms: int | None = None
        self._tried_at_ms: int | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, alg: str) -> Named | None:
        """The key of that name that fits the algorithm; None where the issuer has none.

        A token without a name is checked with the only key that may be meant, if there is only one.

        Raises:
            IssuerUnavailable: its keys cannot be had, or were fetched too long ago.
        """
        now_ms = self._clock.now_ms()
        age_s = None if self._fetched_at_ms is None else (now_ms - self._fetched_at_ms) / 1000
        if age_s is None or age_s > JWKS_STALE_S:
            await self._refetch()
            if self._fetched_at_ms is None or self._clock.now_ms() - self._fetched_at_ms > JWKS_STALE_S * 1000:
                raise IssuerUnavailable("The issuer of tokens cannot be reached, so no token can be checked.")
        elif age_s > JWKS_REFRESH_S:
            self._begin()  # What is known goes on meanwhile.
        found = self._known(kid, alg)
        if found is not None or (kid is not None and len(kid) > OIDC_KID_CHARS_MAX):
            return found
        await self._refetch()
        found = self._known(kid, alg)
        if found is None and self._failed:
            raise IssuerUnavailable("This token's key is not known, and the issuer cannot be asked for it.")
        return found

    async def warm(self) -> None:
        """Fetch the keys before the first token; a failure is logged, since the issuer may come later."""
        await self._refetch()

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _known(self, kid: str | None, alg: str) -> Named | None:
        fitting = [each for each in self._keys if (kid is None or each.kid == kid) and fits(each, alg)]
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None

    async def _refetch(self) -> None:
        task = self._begin()
        if task is not None:
            # One fetch for all who wait; who leaves does not end it for the others.
            await asyncio.shield(task)

    def _begin(self) -> asyncio.Task[None] | None:
        """A fetch: the one under way or a new one; None where the last one was begun just now."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now_ms = self._clock.now_ms()
        if self._tried_at_ms is not None and now_ms - self._tried_at_ms < JWKS_REFETCH_S * 1000:
            return None
        self._tried_at_ms = now_ms
        self._fetching = asyncio.get_running_loop().create_task(self._load())
        return self._fetching

    async def _load(self) -> None:
        try:
            url = self._jwks_url or await self._discover()
            keys, raw = _read_keys(await self._fetch(url))
        except FetchFailed as error:
            self._failed = True
            log.warning("the keys of the issuer %s cannot be had: %s", self._issuer, error)
            return
        self._failed = False
        self._fetched_at_ms = self._clock.now_ms()
        lost = any(raw.get(name) != value for name, value in self._raw.items())
        self._keys, self._raw = keys, raw
        if lost:
            self._changed()

    async def _discover(self) -> str:
        url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            found = msgspec.json.decode(await self._fetch(url), type=_Discovery)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FetchFailed(f"its configuration cannot be read: {error}") from None
        if found.issuer != self._issuer:
            # Discovery, section 4.3: else one issuer could speak in the name of another.
            raise FetchFailed(f"its configuration is that of {found.issuer[:200]!r}")
        if not may_fetch(found.jwks_uri):
            raise FetchFailed("its keys are not behind https")
        return found.jwks_uri


def fits(named: Named, alg: str) -> bool:
    """Whether the key is for the algorithm: what a token claims must not make one kind of key another."""
    if named.alg is not None and named.alg != alg:
        return False
    kind = {"RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}.get(alg[:2])
    return kind is not None and type(named.key) is kind


def may_fetch(url: str) -> bool:
    """https anywhere; http on this machine alone."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username or parts.password:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)


def _read_keys(raw: bytes) -> tuple[tuple[Named, ...], dict[str, object]]:
    """The keys that can check signatures; others are left out, as RFC 7517 section 5 wants it.

    Raises:
        FetchFailed: not a set of keys, or more than JWKS_KEYS_MAX.
    """
    try:
        found = msgspec.json.decode(raw, type=_KeySet).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FetchFailed(f"its keys cannot be read: {error}") from None
    if len(found) > JWKS_KEYS_MAX:
        raise FetchFailed(f"it has {len(found)} keys, and {JWKS_KEYS_MAX} are taken")
    keys: list[Named] = []
    seen: dict[str, object] = {}
    for each in found:
        named = _read_key(each)
        if named is not None:
            keys.append(named)
            seen[f"{named.kid}/{len(seen) if named.kid is None else ''}"] = each
    if not keys:
        raise FetchFailed("it has no key that checks signatures")
    return tuple(keys), seen


def _read_key(each: dict[str, Any]) -> Named | None:
    kid, alg = each.get("kid"), each.get("alg")
    if each.get("kty") not in ("RSA", "EC", "OKP") or each.get("use", "sig") != "sig":
        return None
    if not isinstance(kid, str | None) or not isinstance(alg, str | None) or len(kid or "") > OIDC_KID_CHARS_MAX:
        return None
    modulus = each.get("n", "")
    if each["kty"] == "RSA" and not (isinstance(modulus, str) and _RSA_CHARS_MIN <= len(modulus) <= _RSA_CHARS_MAX):
        return None
    try:
        key = JWKRegistry.import_key(each)
        if not isinstance(key, RSAKey | ECKey | OKPKey):
            return None
        if isinstance(key, RSAKey) and key.public_key.key_size < OIDC_RSA_BITS_MIN:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return Named(kid, alg, key)


async def fetch_over_http(url: str) -> bytes:
    """The body of a document of the issuer; redirects are not followed, and proxies of the environment are.

    Raises:
        FetchFailed: no such document, in time and of a size that is taken.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=JWKS_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url, allow_redirects=False, headers={"accept": "application/json"}) as answer,
        ):
            if answer.status != 200:
                raise FetchFailed(f"{url} answered {answer.status}")
            body = bytearray()
            async for piece in answer.content.iter_chunked(16_384):
                body += piece
                if len(body) > JWKS_BYTES_MAX:
                    raise FetchFailed(f"{url} is longer than {JWKS_BYTES_MAX} bytes")
            return bytes(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise FetchFailed(f"{url}: {error or type(error).__name__}") from None
