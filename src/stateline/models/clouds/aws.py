"""Amazon Bedrock: its endpoints by region, and requests signed with Signature Version 4.

The credentials are found by botocore's chain (environment, profiles, SSO, roles, container and instance
metadata). botocore is imported only where a deployment signs, and only ever asked in a thread: it reads
files, runs programs and waits for the network. What it found is asked for again every minute, so that it
renews what lapses a quarter of an hour before it does; no call waits for that but the first, and one after
a long silence. A deployment with an API key of Bedrock's sends that, and signs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from stateline.core.errors import ModelError
from stateline.models.clouds.cloud import Cloud, Signer
from stateline.models.formats.openai_shared import refused
from stateline.ports import Deployment

log = logging.getLogger("stateline.models")

SERVICE = "bedrock"
CHECK_AFTER_S = 60.0
"""botocore is asked again when credentials are as old as this; calls go on with the old ones meanwhile."""
STALE_AFTER_S = 240.0
"""Credentials that were not asked for so long may have lapsed: botocore renews them ten minutes before."""
ASK_AGAIN_AFTER_S = 5.0
"""After botocore failed to renew, calls that can go on with what they have leave it alone for so long."""
_TIERS = ("default", "priority", "flex", "reserved")
"""https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ServiceTier.html"""
_REGION_IN_HOST = re.compile(r"bedrock(?:-[a-z]+)*\.([a-z0-9-]+)\.(?:amazonaws\.com|api\.aws)")
_OPENAI_PATH = "/openai/v1"


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None


Find = Callable[[], Any]
"""Gives botocore's credentials object, or None. Called in a thread."""


def find_credentials() -> Any:
    """botocore's credentials object by its default chain, or None where there are none."""
    # By name, because it has no types and is not there where it is not used.
    session = importlib.import_module("botocore.session")
    return session.get_session().get_credentials()


class Chain:
    """The process's credentials, kept fresh off the event loop."""

    def __init__(self, find: Find = find_credentials, clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._source: Any = None
        self._now: Credentials | None = None
        self._asked_at_s = 0.0
        self._failed_at_s = float("-inf")
        self._asking: asyncio.Task[Credentials] | None = None

    async def current(self) -> Credentials:
        """The credentials to sign with.

        Raises:
            ModelError: ``upstream_auth_failed``, there are none or they cannot be renewed;
                ``upstream_misconfigured``, botocore is not installed.
        """
        now, age_s = self._now, self._clock() - self._asked_at_s
        if now is not None and age_s < CHECK_AFTER_S:
            return now
        if now is not None and age_s < STALE_AFTER_S:
            if self._clock() - self._failed_at_s >= ASK_AGAIN_AFTER_S:
                self.ask()
            return now
        return await asyncio.shield(self.ask())

    def ask(self) -> asyncio.Task[Credentials]:
        """Ask botocore, once for all who wait."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            # Nobody may be waiting; who does gets the error too.
            self._asking.add_done_callback(_note)
        return self._asking

    def forget(self) -> None:
        """Look for credentials anew before the next call."""
        self._now = self._source = None

    async def _ask(self) -> Credentials:
        try:
            source, found = await asyncio.to_thread(self._look, self._source)
        except ImportError as error:
            self._failed_at_s = self._clock()
            raise _failure("botocore is missing; install stateline[aws]", "upstream_misconfigured") from error
        except Exception as error:
            self._failed_at_s = self._clock()
            raise _failure(f"they could not be had: {_reason(error)}", retryable=True) from error
        if found is None:
            raise _failure("there are none: set AWS_ACCESS_KEY_ID, AWS_PROFILE or a role, or name an api_key_env")
        self._source, self._now, self._asked_at_s = source, found, self._clock()
        return found

    def _look(self, source: Any) -> tuple[Any, Credentials | None]:
        source = self._find() if source is None else source
        if source is None:
            return None, None
        frozen = source.get_frozen_credentials()
        return source, Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _note(task: asyncio.Task[Credentials]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("AWS credentials: %s", getattr(error, "message", type(error).__name__))


def _reason(error: Exception) -> str:
    """What botocore says, but not where it repeats what a program wrote, which may be a secret."""
    name = type(error).__name__
    return name if name == "CredentialRetrievalError" else f"{name}: {str(error)[:300]}"


def _failure(what: str, code: str = "upstream_auth_failed", *, retryable: bool = False) -> ModelError:
    error = ModelError(f"AWS credentials: {what}", code=code, retryable=retryable, sent=False)
    error.blame = "operator"
    return error


class SigV4:
    """Signs POST requests to one host; the key of the day is kept.

    Source: AWS General Reference, "Create a signed AWS API request".
    """

    def __init__(self, host: str, region: str, service: str = SERVICE) -> None:
        self._host = host
        self._region = region
        self._service = service
        self._key: tuple[str, str, bytes] = ("", "", b"")

    def headers(self, credentials: Credentials, target: str, body: bytes, at_s: float) -> dict[str, str]:
        """The headers that sign ``body`` for ``target`` (a quoted path) at a time in Unix seconds."""
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))
        day = at[:8]
        access_key, secret_key, token = credentials
        lines = f"content-type:application/json\nhost:{self._host}\nx-amz-date:{at}\n"
        names = "content-type;host;x-amz-date"
        if token:
            lines += f"x-amz-security-token:{token}\n"
            names += ";x-amz-security-token"
        # The path is quoted once more, for every service but S3.
        path = quote(target, safe="/~")
        asked = f"POST\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        signature = hmac.digest(self._day_key(day, secret_key), to_sign.encode(), "sha256").hex()
        signed = {
            "X-Amz-Date": at,
            "Authorization": (
                f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
            ),
        }
        if token:
            signed["X-Amz-Security-Token"] = token
        return signed

    def _day_key(self, day: str, secret_key: str) -> bytes:
        known_day, known_secret, key = self._key
        if known_day != day or known_secret != secret_key:
            key = f"AWS4{secret_key}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (day, secret_key, key)
        return key


class _Signer:
    """Signs for one deployment."""

    def __init__(self, chain: Chain, host: str, region: str, now: Callable[[], float]) -> None:
        self._chain = chain
        self._sigv4 = SigV4(host, region)
        self._now = now

    async def sign(self, target: str, body: bytes) -> Mapping[str, str]:
        return self._sigv4.headers(await self._chain.current(), target, body, self._now())

    def warm(self) -> None:
        self._chain.ask()

    def rejected(self) -> None:
        self._chain.forget()


class AwsKeyring:
    """One chain of credentials for all deployments."""

    def __init__(self, chain: Chain | None = None, now: Callable[[], float] = time.time) -> None:
        self._chain = chain or Chain()
        self._now = now

    def signer(self, deployment: Deployment, host: str) -> Signer | None:
        if deployment.api_key or deployment.auth == "none":
            return None
        found = _REGION_IN_HOST.fullmatch(host)
        region = deployment.region or (found[1] if found else None)
        if region is None:
            raise _no_region(deployment)
        return _Signer(self._chain, host, region, self._now)


def locate(deployment: Deployment, path: str) -> str:
    """Where Bedrock is in the deployment's region; OpenAI's formats have a path of their own there.

    Raises:
        ModelError: ``upstream_misconfigured``, it names no region.
    """
    if deployment.base_url:
        return deployment.base_url.rstrip("/") + path
    if not deployment.region:
        raise _no_region(deployment)
    ending = ".cn" if deployment.region.startswith("cn-") else ""
    prefix = _OPENAI_PATH if deployment.format.startswith("openai-") else ""
    return f"https://bedrock-runtime.{deployment.region}.amazonaws.com{ending}{prefix}{path}"


def _no_region(deployment: Deployment) -> ModelError:
    message = f"deployment {deployment.name!r}: cloud 'aws' needs a region"
    error = ModelError(message, code="upstream_misconfigured", retryable=False, sent=False)
    error.blame = "operator"
    return error


def tier_headers(deployment: Deployment, tier: str) -> Mapping[str, str] | None:
    """How InvokeModel is asked for a service tier; the other formats have it in their bodies.

    Source: Amazon Bedrock API Reference, "InvokeModel".

    Raises:
        BadRequest: ``unsupported_parameter``: Bedrock does not know it.
    """
    if deployment.format != "anthropic-messages":
        return None
    if tier == "auto":
        return {}
    if tier not in _TIERS:
        raise refused("service_tier", f"The service tier {tier[:64]!r}", "Bedrock InvokeModel")
    return {"X-Amzn-Bedrock-Service-Tier": tier}


CLOUD = Cloud(locate=locate, keyring=AwsKeyring, tier_headers=tier_headers)
