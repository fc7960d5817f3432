"""The rules that hold between values, after each has its type."""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal

from stateline.config.checks_identity import check_oidc, check_vault
from stateline.config.checks_tools import check_tools
from stateline.config.schema import (
    BUDGET_SCOPES,
    LOCAL_MODEL,
    RATES,
    Config,
    ConfigError,
    Deployment,
    Source,
    is_loopback,
)
from stateline.config.secrets import VARIABLE, from_environ, split_url
from stateline.core.hosted import OWN_SERVER, reserved
from stateline.core.limits import AMOUNT_MAX, AMOUNT_PLACES_MAX, TurnLimits
from stateline.models.facts.places import tiers_of

_AT_HOME = (
    ("format", "bedrock-converse", "aws"),
    ("auth", "sigv4", "aws"),
    ("format", "gemini", "google"),
    ("auth", "adc", "google"),
    ("auth", "entra", "azure"),
)
"""Values that one cloud alone has."""
_REGION = re.compile(r"[a-z0-9-]+")


def check(config: Config, source: Source) -> None:
    """Refuse what cannot work or is not safe, with a `ConfigError` that names the key."""
    _check_server(config, source)
    check_oidc(config, source)
    check_vault(config, source)
    _check_deployments(config, source)
    _check_contracts(config, source)
    _check_prices(config, source)
    _check_budgets(config, source)
    _check_rate_limits(config, source)
    check_tools(config, source)
    _check_limits(config, source)
    _check_agents(config, source)
    _check_approvals(config, source)


def _check_server(config: Config, source: Source) -> None:
    server = config.server
    if config.auth.mode == "open" and not is_loopback(server.host):
        raise ConfigError(
            "open_off_loopback",
            f'{source.at("server.host")}: "{server.host}" can be reached from other machines and auth.mode is "open"',
            'set auth.mode = "keys" and make a key with `stateline keys create`',
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        raise ConfigError("config_invalid", f"{source.at('server')}: tls_cert and tls_key go together")
    for origin in server.cors_origins:
        parts = split_url(origin, source.at("server.cors_origins"))
        if origin != "*" and (not parts.scheme or not parts.netloc or parts.path or parts.query):
            raise ConfigError(
                "config_invalid",
                f'{source.at("server.cors_origins")}: "{origin}" is not an origin',
                'write "https://app.example.com", with no path, or "*"',
            )
    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise ConfigError(
                "config_invalid",
                f'{source.at("server.trusted_proxies")}: "{proxy}" is not an address',
                'write an address or a network, "10.0.0.7" or "10.0.0.0/8"',
            ) from None


def _check_deployments(config: Config, source: Source) -> None:
    seen: set[str] = set()
    for index, deployment in enumerate(config.deployments):
        at = f"deployments[{index}]"
        if deployment.name in seen:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"{at}.name")}: "{deployment.name}" is taken',
                "every deployment has a name of its own",
            )
        seen.add(deployment.name)
        if deployment.model.startswith("agent/"):
            raise ConfigError("config_invalid", f"{source.at(f'{at}.model')}: names of agents start with agent/")
        if deployment.cloud != "local":
            _check_remote(deployment, source, at)
            _check_tier(deployment, source, at)


def _check_remote(deployment: Deployment, source: Source, at: str) -> None:
    _check_pair(deployment, source, at)
    if deployment.base_url is None and deployment.cloud == "aws":
        return _check_key(deployment, source, at)
    if deployment.base_url is None:
        raise ConfigError(
            "config_invalid",
            f'{source.at(at)}: cloud "{deployment.cloud}" needs a base_url',
            'such as "https://NAME.openai.azure.com"'
            if deployment.cloud == "azure"
            else 'such as "http://127.0.0.1:8000/v1"',
        )
    where = source.at(f"{at}.base_url")
    parts = split_url(deployment.base_url, where)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError("config_invalid", f"{where}: not an http or https URL", "end it before /chat/…")
    return _check_key(deployment, source, at)


def _check_pair(deployment: Deployment, source: Source, at: str) -> None:
    """What belongs to one cloud goes with it alone."""
    cloud = deployment.cloud
    for key, value, home in _AT_HOME:
        if getattr(deployment, key) == value and cloud != home:
            where = source.at(f"{at}.{key}")
            raise ConfigError(
                "config_invalid", f'{where}: "{value}" goes with cloud "{home}" alone, not with "{cloud}"'
            )
    claude = deployment.format == "anthropic-messages"
    if cloud == "google" and deployment.format != "gemini" and not claude:
        where, known = source.at(f"{at}.format"), '"gemini" and "anthropic-messages"'
        raise ConfigError("config_invalid", f'{where}: cloud "google" speaks {known}, not "{deployment.format}"')
    at_project = "/projects/" in (deployment.base_url or "")
    if cloud == "google" and (deployment.auth == "adc" or claude) and not at_project:
        what = 'auth "adc"' if deployment.auth == "adc" else "Claude"
        raise ConfigError(
            "config_invalid",
            f"{source.at(f'{at}.base_url')}: {what} is for a project on Vertex AI",
            'such as base_url = "https://aiplatform.googleapis.com/v1/projects/NAME" with a region',
        )
    if deployment.api_version is not None and cloud != "azure":
        where = source.at(f"{at}.api_version")
        raise ConfigError("config_invalid", f'{where}: goes with cloud "azure" alone, not with "{cloud}"')
    if cloud == "google" and deployment.region is not None and not _REGION.fullmatch(deployment.region):
        raise ConfigError("config_invalid", f"{source.at(f'{at}.region')}: not the name of a region")
    if cloud == "aws" and (deployment.region is None or not _REGION.fullmatch(deployment.region)):
        raise ConfigError(
            "config_invalid",
            f'{source.at(f"{at}.region")}: cloud "aws" needs the name of a region',
            'such as region = "us-east-1"',
        )


def _check_tier(deployment: Deployment, source: Source, at: str) -> None:
    """A tier that its cloud does not know would fail each call."""
    tier = deployment.service_tier
    if tier is None:
        return
    known = tiers_of(deployment.cloud, deployment.format, deployment.base_url)
    if known and tier not in known:
        raise ConfigError(
            "config_invalid",
            f'{source.at(f"{at}.service_tier")}: cloud "{deployment.cloud}" takes no "{tier}" '
            f'in the format "{deployment.format}"',
            "it may be " + ", ".join(f'"{each}"' for each in known),
        )


def _check_key(deployment: Deployment, source: Source, at: str) -> None:
    given = [key for key in ("api_key_env", "api_key_file", "auth") if getattr(deployment, key) is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given" if given else "no key is named"
        raise ConfigError(
            "config_invalid",
            f"{source.at(at)}: {what}",
            'set one of api_key_env, api_key_file or auth = "none"'
            + {"aws": ' or "sigv4"', "google": ' or "adc"', "azure": ' or "entra"'}.get(deployment.cloud, ""),
        )
    if deployment.api_key_env is not None and not VARIABLE.fullmatch(deployment.api_key_env):
        from_environ({}, deployment.api_key_env, source.at(at), "api_key_env")


def _check_contracts(config: Config, source: Source) -> None:
    """What clauses may ask of a deployment must be known, or be known not to be."""
    seen: set[str] = set()
    for index, product in enumerate(config.products):
        if product.name in seen:
            where = source.at(f"products[{index}].name")
            raise ConfigError("config_invalid", f'{where}: "{product.name}" is taken', "list each product once")
        seen.add(product.name)
    for index, deployment in enumerate(config.deployments):
        if deployment.product is not None and deployment.product not in seen:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"deployments[{index}].product")}: there is no product "{deployment.product}"',
                f'add [[products]] with name = "{deployment.product}"',
            )
        if config.contracts is not None and deployment.vendor is None:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"deployments[{index}]")}: "{deployment.name}" has no vendor, and contracts are set',
                'say who made the model, such as vendor = "openai"',
            )


def _check_amount(amount: Decimal | None, where: str, *, above_zero: bool = False) -> None:
    if amount is None:
        return
    exponent = amount.as_tuple().exponent
    if (
        not isinstance(exponent, int)
        or not exponent >= -AMOUNT_PLACES_MAX
        or not 0 <= amount <= AMOUNT_MAX
        or (above_zero and not amount)
    ):
        raise ConfigError(
            "config_invalid",
            f"{where}: not an amount",
            f'write one such as "1.25", {"above" if above_zero else "not below"} zero, up to {AMOUNT_MAX} '
            f"and with up to {AMOUNT_PLACES_MAX} digits behind the point",
        )


def _check_prices(config: Config, source: Source) -> None:
    for index, deployment in enumerate(config.deployments):
        price = deployment.price
        for key in () if price is None else price.__struct_fields__:
            if key != "currency":
                _check_amount(getattr(price, key), source.at(f"deployments[{index}].price.{key}"))
    seen: set[tuple[object, ...]] = set()
    for index, rate in enumerate(config.prices.rates):
        at = source.at(f"prices.rates[{index}]")
        _check_amount(rate.rate, source.at(f"prices.rates[{index}].rate"), above_zero=True)
        if rate.have == rate.want:
            raise ConfigError("config_invalid", f"{at}: from {rate.have} to itself")
        if (rate.have, rate.want, rate.on) in seen:
            raise ConfigError(
                "config_invalid", f"{at}: {rate.have} to {rate.want} on {rate.on} has two rates", "keep one"
            )
        seen.add((rate.have, rate.want, rate.on))


def _check_budgets(config: Config, source: Source) -> None:
    seen: set[str] = set()
    for index, budget in enumerate(config.budgets):
        at = f"budgets[{index}]"
        if all(getattr(budget, key) is None for key in BUDGET_SCOPES):
            raise ConfigError(
                "config_invalid", f"{source.at(at)}: it covers nothing", f"name one of {', '.join(BUDGET_SCOPES)}"
            )
        _check_amount(budget.usd_per_month, source.at(f"{at}.usd_per_month"))
        if budget.name in seen:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"{at}.name")}: "{budget.name}" is taken',
                "every budget has a name of its own, and one that has none is named by what it covers",
            )
        seen.add(budget.name)


def _check_rate_limits(config: Config, source: Source) -> None:
    seen: set[str] = set()
    for index, limit in enumerate(config.rate_limits):
        at = f"rate_limits[{index}]"
        if all(getattr(limit, key) is None for key in RATES):
            raise ConfigError("config_invalid", f"{source.at(at)}: it limits nothing", f"set one of {', '.join(RATES)}")
        if limit.name in seen:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"{at}.name")}: "{limit.name}" is taken',
                "every rate limit has a name of its own, and one that has none is named by what it covers",
            )
        seen.add(limit.name)


def _check_agents(config: Config, source: Source) -> None:
    served = {each.model for each in config.deployments} or {LOCAL_MODEL}
    seen: set[str] = set()
    for index, agent in enumerate(config.agents):
        at = f"agents[{index}]"
        if agent.name in seen:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"{at}.name")}: "{agent.name}" is taken',
                "every agent has a name of its own",
            )
        seen.add(agent.name)
        if agent.model not in served:
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"{at}.model")}: no deployment serves "{agent.model}"',
                f"models that are served: {', '.join(sorted(served))}",
            )
        if agent.instructions is not None and agent.instructions_file is not None:
            raise ConfigError(
                "config_invalid",
                f"{source.at(f'{at}.instructions_file')}: instructions and instructions_file are both given",
                "keep one of them",
            )
        labels = [each.server for each in agent.tools]
        if len(set(labels)) < len(labels):
            raise ConfigError("config_invalid", f"{source.at(f'{at}.tools')}: a server stands there twice")
        if any(map(reserved, labels)):
            raise ConfigError(
                "config_invalid",
                f'{source.at(f"{at}.tools")}: "{OWN_SERVER}" is Stateline\'s own server',
                "leave it out: its tool is offered where it is of use",
            )


def _check_approvals(config: Config, source: Source) -> None:
    approvals = config.approvals
    if config.store.path is None and config.uses_tools and approvals.key_env is None and approvals.key_file is None:
        raise ConfigError(
            "approvals_key_missing",
            f"{source.at('approvals')}: all servers of one store need the same key, and none is named",
            "write 32 random characters or more into a file and name it with approvals.key_file",
        )


def _check_limits(config: Config, source: Source) -> None:
    for key in TurnLimits.__struct_fields__:
        if getattr(config.limits, key) < 1:
            raise ConfigError("config_invalid", f"{source.at(f'limits.{key}')}: 1 at least")
