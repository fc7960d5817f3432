"""What the configuration says of callers and of tools' credentials, as `identity`'s values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from stateline import config as settings
from stateline.identity.keys import Keys, OpenAuthenticator
from stateline.ports import Clock, Store

if TYPE_CHECKING:
    from stateline.identity.audit import Auditor
    from stateline.identity.oidc import OidcAuthenticator
    from stateline.identity.vault import Vault


async def authenticator(
    config: settings.Config, keys: Keys, clock: Clock, token: str
) -> Keys | OpenAuthenticator | OidcAuthenticator:
    """Who lets callers in; what checks tokens is imported only where it is used."""
    if config.oidc is None:
        return keys if config.auth.mode == "keys" else OpenAuthenticator(token)
    from stateline.identity.oidc import OidcAuthenticator, Terms

    said = msgspec.structs.asdict(config.oidc)
    with_keys = keys if said.pop("keys") else None
    auth = OidcAuthenticator(Terms(**said), clock, keys=with_keys, admin_token=token)
    await auth.issuer.warm()
    return auth


def vault_of(config: settings.Config, store: Store, clock: Clock) -> Vault | None:
    """The vault that the configuration gives a master key; None without one.

    Raises:
        ConfigError, BadRequest: the master keys are not there, or are none.
    """
    if config.vault is None:
        return None
    from stateline.identity.vault import Vault, master_keys

    return Vault(store, clock, os.urandom, master_keys(settings.vault_keys(config.vault, os.environ)))


def auditor_of(config: settings.Config, store: Store, clock: Clock) -> Auditor | None:
    """Who signs sessions' audit chains; None where no key is configured.

    Raises:
        ConfigError, BadRequest: the keys are not there, or are none.
    """
    if config.audit is None:
        return None
    from stateline.identity.audit import Auditor, audit_keys

    return Auditor(store, clock, os.urandom, audit_keys(settings.audit_keys(config.audit, os.environ)))
