"""The rules of `[oidc]`, `[vault]` and `[audit]`."""

from __future__ import annotations

from stateline.config.schema import Config, ConfigError, Source, is_loopback
from stateline.config.secrets import VARIABLE, from_environ, split_url
from stateline.core.principals import SCOPES


def check_oidc(config: Config, source: Source) -> None:
    """Refuse what would take tokens from nobody, or from anybody."""
    oidc = config.oidc
    if (config.auth.mode == "oidc") != (oidc is not None):
        raise ConfigError(
            "config_invalid",
            f'{source.at("auth.mode")}: "oidc" and the section [oidc] go together',
            "say whose tokens are taken: [oidc] with issuer, audience and tenant",
        )
    if oidc is None:
        return
    for key, url in (("issuer", oidc.issuer), ("jwks_url", oidc.jwks_url)):
        if url is not None:
            _check_url(url, source.at(f"oidc.{key}"))
    if (oidc.tenant is None) == (oidc.tenant_claim is None):
        raise ConfigError(
            "config_invalid",
            f"{source.at('oidc')}: whose tenant is a caller?",
            'set one of tenant, such as "acme", and tenant_claim, such as "org_id"',
        )
    if oidc.tenant is not None and (oidc.tenant == "system" or not _is_name(oidc.tenant)):
        raise ConfigError("config_invalid", f'{source.at("oidc.tenant")}: "{oidc.tenant}" cannot be a tenant\'s name')
    if oidc.scope_map and oidc.scope_claim is None:
        raise ConfigError(
            "config_invalid", f"{source.at('oidc.scope_map')}: no claim is mapped", 'set scope_claim, such as "scope"'
        )
    for word, scopes in (oidc.scope_map or {}).items():
        unknown = [each for each in scopes if each not in SCOPES]
        if unknown:
            raise ConfigError(
                "config_invalid",
                f'{source.at("oidc.scope_map")}: "{word}" gives "{unknown[0]}", which is no scope',
                f"scopes are {', '.join(SCOPES)}",
            )


def check_vault(config: Config, source: Source) -> None:
    """The master key is named, in one place; and so is the one that signs audits."""
    for name, section, what in (("vault", config.vault, "master key"), ("audit", config.audit, "signing key")):
        if section is None:
            continue
        if (section.key_file is None) == (section.key_env is None):
            raise ConfigError(
                "config_invalid", f"{source.at(name)}: where is the {what}?", "set one of key_file and key_env"
            )
        if section.key_env is not None and not VARIABLE.fullmatch(section.key_env):
            from_environ({}, section.key_env, source.at(name), "key_env")


def _is_name(tenant: str) -> bool:
    return len(tenant) <= 64 and all(char.isascii() and (char.isalnum() or char in "._-") for char in tenant)


def _check_url(url: str, where: str) -> None:
    parts = split_url(url, where)
    plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not parts.hostname or parts.fragment or not (parts.scheme == "https" or plain):
        raise ConfigError("config_invalid", f"{where}: not an https URL", "http is for loopback alone")
