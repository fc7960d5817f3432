"""`stateline doctor`: looks at everything that a server needs, and says what to do where it is not so.

A check is a function from a subject to findings. Those of a store are listed by the scheme of its URL.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import msgspec

from stateline.config import Config, ConfigError, Deployment, api_key
from stateline.core.limits import CERTIFICATE_WARN_S, DOCTOR_ANSWER_BYTES_MAX, DOCTOR_PROBE_S, DOCTOR_PROBES
from stateline.ops import checks_postgres, checks_sqlite, checks_tools
from stateline.ops.asking import local
from stateline.ops.findings import Finding, fail, ok, warn

_EARLIEST_S = 1_735_689_600
"""2025-01-01: a clock that is behind it was never set."""


class Subject(NamedTuple):
    """What is looked at. ``probe``: deployments and servers of tools may be asked."""

    config: Config
    probe: bool


Check = Callable[[Subject], Iterable[Finding]]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["doctor"] = "doctor"
    healthy: bool
    findings: tuple[Finding, ...]


def examine(load: Callable[[], Config], *, probe: bool) -> Iterator[Finding]:
    """All findings, one after the other. Without a configuration there is nothing else to look at."""
    try:
        config = load()
    except ConfigError as error:
        yield fail("configuration", error.message, error.hint or "mend it; docs/configuration.md has every key")
        return
    models = {each.model for each in config.deployments}
    yield ok("configuration", f"valid; {len(config.deployments)} deployments of {len(models)} models")
    subject = Subject(config, probe)
    for check in CHECKS:
        yield from check(subject)
    for look in STORE_CHECKS["postgresql" if config.store.path is None else "sqlite"]:
        yield from look(config.store)


# -- what every server needs ---------------------------------------------------------------------------


def secrets(subject: Subject) -> Iterator[Finding]:
    """Each named secret is where it is said to be. What it is stays there."""
    named = [each for each in subject.config.deployments if each.api_key_env or each.api_key_file]
    missing = False
    for deployment in named:
        try:
            api_key(deployment, os.environ)
        except ConfigError as error:
            missing = True
            yield fail("secrets", str(error), "set the variable for the server's process, or write the file")
    if not missing:
        yield ok("secrets", f"{len(named)} named, all there" if named else "none are named")


def certificate(subject: Subject) -> Iterator[Finding]:
    server = subject.config.server
    if server.tls_cert is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    renew = "renew it; SIGHUP makes a running server take the new one"
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
        ends_s = _ends(context, server.tls_cert)
    except ssl.SSLCertVerificationError as error:
        yield fail("certificate", f"{server.tls_cert}: {error.verify_message}", renew)
    except (OSError, ssl.SSLError) as error:
        yield fail("certificate", f"{server.tls_cert}: {error.strerror or error}", "give PEM files that go together")
    else:
        message = f"{server.tls_cert} and its key go together; it is good until {_day(ends_s)}"
        soon = ends_s - time.time() < CERTIFICATE_WARN_S
        yield warn("certificate", message, renew) if soon else ok("certificate", message)


def _ends(context: ssl.SSLContext, path: str) -> float:
    """When the certificate is over, Unix seconds: what a client sees that trusts this very certificate.

    Raises:
        ssl.SSLCertVerificationError: it is over, or not good yet.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(path)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = client.wrap_bio(to_client, to_server)
    sides = (there, context.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(4):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    shown = there.getpeercert() or {}
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))


def _day(at_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_s))


def clock(_: Subject) -> Iterator[Finding]:
    now_s = time.time()
    if now_s < _EARLIEST_S:
        yield fail("clock", f"it is {_day(now_s)} here", "set the machine's clock")
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s)))


def port(subject: Subject) -> Iterator[Finding]:
    """Free, or used by a server of ours."""
    server = subject.config.server
    at = f"{server.host}:{server.port}"
    if server.port == 0:
        yield ok("port", f"any free one on {server.host}")
        return
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            yield ok("port", f"{at} is free")
            return
    scheme = "https" if server.tls_cert else "http"
    host = f"[{server.host}]" if ":" in server.host else server.host
    version = _stateline_at(local(f"{scheme}://{host}:{server.port}"))
    if version:
        yield ok("port", f"{at} is used by a Stateline {version}")
    else:
        yield fail(
            "port", f"{at} cannot be listened on: {reason}", "set server.host and server.port, or stop who has it"
        )


def _stateline_at(url: str) -> str:
    """The version of the server at ``url``, or nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"{url}/openapi.json", timeout=DOCTOR_PROBE_S) as answer:
            info = msgspec.json.decode(answer.read(DOCTOR_ANSWER_BYTES_MAX))["info"]
            return str(info["version"]) if info["title"] == "Stateline" else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def deployments(subject: Subject) -> Iterator[Finding]:
    """Whether those that are reached over HTTP answer; asked only where that is wished."""
    # Bedrock lists its models elsewhere, to signed requests.
    remote = [each for each in subject.config.deployments if each.base_url is not None and each.cloud != "aws"]
    if not remote:
        return
    if not subject.probe:
        yield ok("deployments", f"{len(remote)} over HTTP, not asked; --probe asks them")
        return
    with ThreadPoolExecutor(DOCTOR_PROBES) as pool:
        yield from pool.map(_ask, remote)


def _ask(deployment: Deployment) -> Finding:
    """Lists the deployment's models, which costs nothing."""
    azure = deployment.cloud == "azure"
    base = f"{(deployment.base_url or '').removesuffix('/openai/v1')}/openai/v1" if azure else deployment.base_url
    name, url = f"deployment {deployment.name}", f"{base}/models"
    headers = {"user-agent": "stateline-doctor"}
    try:
        if key := api_key(deployment, os.environ):
            own = {"azure": "api-key", "google": "x-goog-api-key"}.get(deployment.cloud)
            headers |= {own: key} if own else {"authorization": f"Bearer {key}"}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http or https, as the configuration checks
        with urllib.request.urlopen(request, timeout=DOCTOR_PROBE_S) as answer:  # noqa: S310
            return ok(name, f"{url} answers {answer.status}")
    except ConfigError:
        return warn(name, f"{url} was not asked, since its secret is missing", "see secrets")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return fail(name, f"{url} refuses the key with {error.code}", "give the deployment a key that holds")
        if error.code >= 500:
            return warn(name, f"{url} answers {error.code}", "look again later, or ask the provider")
        # Not every server lists its models; it is there, and that is what was asked.
        return ok(name, f"{url} answers {error.code}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return fail(name, f"{url} cannot be reached: {reason}", "check base_url, the network and HTTPS_PROXY")


def tools(subject: Subject) -> Iterator[Finding]:
    """Agents, and what their tools need; servers are asked only where that is wished."""
    return checks_tools.tools(subject.config, probe=subject.probe)


CHECKS: tuple[Check, ...] = (secrets, certificate, clock, port, deployments, tools)
STORE_CHECKS: Mapping[str, tuple[checks_sqlite.StoreCheck, ...]] = {
    "sqlite": checks_sqlite.CHECKS,
    "postgresql": checks_postgres.CHECKS,
}
