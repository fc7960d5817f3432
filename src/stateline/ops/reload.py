"""Reloading the configuration: everything is checked before anything is changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from stateline.api.operator import Reloaded
from stateline.config import Config, Contracts, Policy
from stateline.core.errors import BadRequest, StatelineError

log = logging.getLogger("stateline")

FIXED = (
    "server.host",
    "server.port",
    "server.cors_origins",
    "server.trusted_proxies",
    "store.url",
    "auth.mode",
    "oidc",
    "vault",
    "audit",
)
"""What a running process cannot change: its socket, its store and who it lets in."""

Apply = Callable[[], tuple[str, ...]]
"""Puts a checked configuration in force, and names what else has changed by it. It cannot fail."""


class Reloader:
    """Holds the configuration in force.

    Args:
        load: reads it from where it was read at the start.
        prepare: checks what ``load`` does not, such as secrets, and gives what puts it in force.
    """

    def __init__(
        self, config: Config, load: Callable[[], Config], prepare: Callable[[Config], Awaitable[Apply]]
    ) -> None:
        self.config = config
        self._load = load
        self._prepare = prepare
        self._one = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read, check, change.

        Raises:
            BadRequest: with the line that a start would have ended with; nothing was changed.
        """
        async with self._one:
            return await self._reloaded()

    async def _reloaded(self) -> Reloaded:
        try:
            found = self._load()
            fixed = FIXED
            if (self.config.server.tls_cert is None) != (found.server.tls_cert is None):
                # A certificate may be replaced; a socket cannot begin or cease to speak TLS.
                fixed = (*FIXED, "server.tls_cert", "server.tls_key")
            restart = tuple(key for key in differences(self.config, found) if key in fixed)
            config = kept(self.config, found, restart)
            apply = await self._prepare(config)
        except StatelineError as error:
            log.error("the configuration was not reloaded: %s", error)
            raise BadRequest(str(error), code=error.code) from None
        changed = (*differences(self.config, config), *apply())
        self.config = config
        log.info(
            "reloaded the configuration; changed: %s; waiting for a restart: %s",
            ", ".join(changed) or "nothing",
            ", ".join(restart) or "nothing",
        )
        return Reloaded(changed=changed, restart_needed=restart)


def differences(old: Config, new: Config) -> Iterator[str]:
    """The keys whose values differ; those of lists by their names."""
    for section in ("server", "auth", "prices", "limits", "retention"):
        before, after = getattr(old, section), getattr(new, section)
        for key in before.__struct_fields__:
            if getattr(before, key) != getattr(after, key):
                yield f"{section}.{key}"
    # However it was named: url, url_env or url_file.
    if old.store.url != new.store.url:
        yield "store.url"
    for section in ("oidc", "vault", "audit"):
        if getattr(old, section) != getattr(new, section):
            yield section
    for section in ("deployments", "products", "budgets", "rate_limits"):
        before, after = ({each.name: each for each in getattr(config, section)} for config in (old, new))
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                yield f"{section}.{name}"
    for key in Contracts.__struct_fields__:
        if getattr(old.contracts, key, None) != getattr(new.contracts, key, None):
            yield f"contracts.{key}"
    for key in Policy.__struct_fields__:
        if getattr(old.policy, key, None) != getattr(new.policy, key, None):
            yield f"policy.{key}"


def kept(old: Config, new: Config, keys: tuple[str, ...]) -> Config:
    """The new configuration with the old values of ``keys``."""
    for path in keys:
        section, _, key = path.partition(".")
        if section in ("store", "oidc", "vault", "audit"):
            new = msgspec.structs.replace(new, **{section: getattr(old, section)})
            continue
        value: Any = getattr(new, section)
        value = msgspec.structs.replace(value, **{key: getattr(getattr(old, section), key)})
        new = msgspec.structs.replace(new, **{section: value})
    return new
