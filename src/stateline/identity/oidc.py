"""Bearer tokens of an OpenID Connect issuer: who sent them, checked by its public keys.

RFC 7519 (claims), RFC 8725 (what goes wrong with them: the algorithm is ours to choose, and the key's to fit),
RFC 9068 (access tokens), RFC 6750 (errors). A token that was found good is good until it expires or its key goes, so
its check is kept by its digest, and a signature is computed once a token and not once a request.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, cast

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from stateline.core.errors import BadRequest, Forbidden, Unauthorized
from stateline.core.limits import OIDC_CACHE_MAX, OIDC_TOKEN_BYTES_MAX, PRINCIPAL_NAME_CHARS_MAX
from stateline.core.principals import DEFAULT_SCOPES, SCOPES, Principal
from stateline.identity.issuer import Issuer, fetch_over_http
from stateline.identity.keys import PREFIX, AdminToken, Keys, bearer, check_tenant
from stateline.ports import Clock

SCOPE_PREFIX = "stateline:"
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""Of tokens that name a caller; a logout token of the same issuer is none of them (RFC 8725, 3.11)."""


class TokenRefused(Unauthorized):
    """A bearer token that proves nothing."""

    code = "invalid_token"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration asks of tokens; see ``[oidc]`` in docs/configuration.md."""

    issuer: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...]
    jwks_url: str | None = None
    tenant: str | None = None
    tenant_claim: str | None = None
    user_claim: str = "sub"
    scope_claim: str | None = None
    scope_map: Mapping[str, tuple[str, ...]] | None = None
    leeway_s: float = 30.0


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Claims(msgspec.Struct, frozen=True):
    """Times are Unix seconds. The decoder refuses NaN and infinities, with which each comparison is false."""

    iss: str
    exp: float
    aud: str | list[str] = ""
    nbf: float | None = None
    iat: float | None = None


class _Checked(NamedTuple):
    principal: Principal
    until_ms: float


class OidcAuthenticator:
    """``auth.mode = "oidc"``: bearer tokens of one issuer.

    Args:
        keys: where API keys work as well; None: they do not.
        admin_token: what the command line proves itself with.
    """

    def __init__(
        self,
        terms: Terms,
        clock: Clock,
        *,
        keys: Keys | None = None,
        admin_token: str | None = None,
        fetch: Any = fetch_over_http,
    ) -> None:
        self._terms = terms
        self._clock = clock
        self._keys = keys
        self._admin = AdminToken(admin_token)
        self._known: OrderedDict[bytes, _Checked] = OrderedDict()
        self.issuer = Issuer(terms.issuer, clock, fetch, jwks_url=terms.jwks_url, changed=self._known.clear)

    async def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Find out for whom the token speaks.

        Raises:
            Unauthorized: no token; TokenRefused: one that proves nothing, or ``token_expired``.
            Forbidden: ``token_unfit``: a good one that names no tenant or user.
            IssuerUnavailable: it cannot be checked now.
        """
        token = bearer(headers)
        if token is None:
            raise Unauthorized("No token was sent. Send it as 'Authorization: Bearer …'.")
        operator = self._admin.caller(token)
        if operator is not None:
            return operator
        if token.startswith(PREFIX.encode()):
            if self._keys is None:
                raise Unauthorized("API keys are not taken here; send a token of the issuer.")
            return await self._keys.authenticate(headers)
        if len(token) > OIDC_TOKEN_BYTES_MAX:
            raise TokenRefused(f"The token is longer than {OIDC_TOKEN_BYTES_MAX} bytes.")
        digest = sha256(token).digest()
        known = self._known.get(digest)
        if known is not None:
            if self._clock.now_ms() < known.until_ms:
                return known.principal
            del self._known[digest]
        checked = await self._check(token)
        self._known[digest] = checked
        if len(self._known) > OIDC_CACHE_MAX:
            self._known.popitem(last=False)
        return checked.principal

    async def _check(self, token: bytes) -> _Checked:
        header = _header(token)
        if header.alg not in self._terms.algorithms:
            raise TokenRefused("The token is signed in a way that is not taken here.")
        if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
            raise TokenRefused("The token's header asks for what is not understood here.")
        if header.typ is not None and header.typ.lower() not in _TYPES:
            raise TokenRefused("This is no token for calling an API.")
        named = await self.issuer.find(header.kid, header.alg)
        if named is None:
            raise TokenRefused("The token's key is not one of the issuer's.")
        registry = jws.JWSRegistry(algorithms=[header.alg], strict_check_header=False)
        # Ours is the bound on the whole token; theirs on a header is too small for a chain of certificates.
        registry.max_header_length = OIDC_TOKEN_BYTES_MAX
        try:
            payload = jws.deserialize_compact(token, named.key, registry=registry).payload
        except (JoseError, ValueError, TypeError):
            raise TokenRefused("The token's signature does not hold.") from None
        return self._judge(payload)

    def _judge(self, payload: bytes) -> _Checked:
        terms = self._terms
        try:
            claims = msgspec.json.decode(payload, type=_Claims)
            every = msgspec.json.decode(payload, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise TokenRefused("The token's claims cannot be read, or it has no issuer or expiry.") from None
        now_s = self._clock.now_ms() / 1000
        if claims.iss != terms.issuer:
            raise TokenRefused("The token is of another issuer.")
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if not any(each in terms.audience for each in audience):
            raise TokenRefused("The token is for another audience.")
        until_s = claims.exp + terms.leeway_s
        if now_s >= until_s:
            raise TokenRefused("The token has expired.", code="token_expired")
        if max(claims.nbf or 0, claims.iat or 0) > now_s + terms.leeway_s:
            raise TokenRefused("The token is not valid yet.")
        return _Checked(self._principal(every), until_s * 1000)

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        terms = self._terms
        user = claims.get(terms.user_claim)
        if not isinstance(user, str) or not 0 < len(user) <= PRINCIPAL_NAME_CHARS_MAX or not user.isprintable():
            raise Forbidden(f"The token's claim '{terms.user_claim}' names no user.", code="token_unfit")
        tenant: object = terms.tenant if terms.tenant_claim is None else claims.get(terms.tenant_claim)
        if not isinstance(tenant, str) or not _is_tenant(tenant):
            raise Forbidden(f"The token's claim '{terms.tenant_claim}' names no tenant.", code="token_unfit")
        return Principal(tenant=tenant, kind="user", id=f"user:{user}", user=user, scopes=self._scopes(claims))

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """What a token allows. An issuer's own scopes, such as its ``admin``, mean nothing here by themselves."""
        terms = self._terms
        if terms.scope_claim is None:
            return DEFAULT_SCOPES
        said = claims.get(terms.scope_claim)
        words: Sequence[object] = ()
        if isinstance(said, str):
            words = said.split()
        elif isinstance(said, list):
            words = cast("list[object]", said)
        mapped = terms.scope_map or {}
        allowed: set[str] = set()
        for word in words:
            if not isinstance(word, str):
                continue
            allowed.update(mapped.get(word, ()))
            if word.startswith(SCOPE_PREFIX) and (own := word.removeprefix(SCOPE_PREFIX)) in SCOPES:
                allowed.add(own)
        return frozenset(allowed)


def _header(token: bytes) -> _Header:
    """What the token says of itself, before any of it is believed."""
    parts = token.split(b".")
    if len(parts) != 3 or not all(parts):
        raise TokenRefused("This is no signed token.")
    try:
        return msgspec.json.decode(urlsafe_b64decode(parts[0] + b"=" * (-len(parts[0]) % 4)), type=_Header)
    except (NotBase64, ValueError, RecursionError):
        raise TokenRefused("The token's header cannot be read.") from None


def _is_tenant(name: str) -> bool:
    try:
        check_tenant(name)
    except BadRequest:
        return False
    return True
