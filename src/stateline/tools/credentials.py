"""Tools' credentials that lie in the vault: named in the configuration, opened for one tenant where they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from stateline.core.errors import NotFound, StatelineError
from stateline.core.headers import fits
from stateline.core.limits_tools import SECRETS_TOLD_MAX
from stateline.core.secrets import REFERENCE, Secret
from stateline.core.tools import ToolError

MISSING = "tool_secret_missing"
UNUSABLE = "tool_secret_unusable"


class OpensSecrets(Protocol):
    """The vault, as tools need it."""

    async def open(self, tenant: str, name: str) -> Secret:
        """The value that a tenant has stored under a name, with its version.

        Raises:
            NotFound: it has none.
            StatelineError: it cannot be opened.
        """
        ...


async def opened(vault: OpensSecrets | None, tenant: str, name: str, who: str) -> Secret:
    """A secret for a call of a tenant's.

    Args:
        who: wants it, such as ``MCP server shop``.

    Raises:
        ToolError: ``tool_secret_missing`` or ``tool_secret_unusable``, with ``sent`` False; it names the reference.
    """
    at = f"{who}: {REFERENCE}{name}"
    if vault is None:
        todo = "the operator sets [vault] and restarts it"
        raise _refused(f"{at} needs the vault, which this server was started without; {todo}", UNUSABLE)
    try:
        return await vault.open(tenant, name)
    except NotFound:
        todo = f"the operator stores it with `stateline vault set {name} --tenant {tenant}`"
        raise _refused(f"{at} is not in the vault for the tenant {tenant}; {todo}", MISSING) from None
    except StatelineError as error:
        todo = f"the operator finds what to do under {error.code} in docs/errors.md"
        raise _refused(f"{at} cannot be opened for the tenant {tenant}; {todo}", UNUSABLE) from None


def _refused(message: str, code: str) -> ToolError:
    error = ToolError(message, code=code, sent=False)
    error.blame = "operator"
    return error


class Placed(NamedTuple):
    """Where a secret goes: behind ``before``, such as ``Bearer ``, in a header."""

    name: str
    before: str = ""


@dataclass(frozen=True, kw_only=True)
class Named:
    """The secrets that a server is told, by where they go: all of them names, no value.

    Attributes:
        headers: by header.
        env: by variable, for a server that is started here.
        others: what else is asked of the vault, such as a client's secret.
        auth: makes what gets tokens (`McpServer.auth`) of a tenant's credentials.
    """

    headers: Mapping[str, Placed] = field(default_factory=dict[str, Placed])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    others: tuple[str, ...] = ()
    auth: Callable[[Credentials], Callable[[str], Any]] | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Each once, in order."""
        return tuple(sorted({*(each.name for each in self.headers.values()), *self.env.values(), *self.others}))


class Told:
    """What was opened, by name, so that it can be taken out of what comes back. In memory alone, and bounded."""

    def __init__(self) -> None:
        self._secrets: dict[tuple[str, str], Secret] = {}

    def add(self, name: str, secret: Secret) -> None:
        self._secrets[name, secret.version] = secret
        while len(self._secrets) > SECRETS_TOLD_MAX:
            del self._secrets[next(iter(self._secrets))]

    def clear(self) -> None:
        self._secrets.clear()

    def items(self) -> Iterable[tuple[str, Secret]]:
        return [(name, secret) for (name, _), secret in self._secrets.items()]

    def __len__(self) -> int:
        return len(self._secrets)


class Credentials:
    """The secrets of one server, as one tenant has them. Each use opens them anew, so the latest value counts.

    Attributes:
        told: what was opened.
    """

    def __init__(self, vault: OpensSecrets | None, tenant: str, who: str, named: Named) -> None:
        self._vault = vault
        self._tenant = tenant
        self._who = who
        self._named = named
        self.told = Told()

    async def versions(self) -> tuple[str, ...]:
        """Of all of them as they are now. No value is kept.

        Raises:
            ToolError: one is missing or does not open, or cannot be sent.
        """
        await self.headers(told=False)
        return tuple([(await self._open(name)).version for name in self._named.names])

    async def headers(self, *, told: bool = True) -> Mapping[str, str]:
        """What is sent with a request.

        Raises:
            ToolError: as above.
        """
        found: dict[str, str] = {}
        for header, placed in self._named.headers.items():
            secret = await self._open(placed.name)
            value = placed.before + secret.reveal()
            if not fits(header, value):
                raise _refused(
                    f"{self._who}: {REFERENCE}{placed.name} of the tenant {self._tenant} cannot stand in the header "
                    f"{header}, which takes printable ASCII; the operator sets it anew",
                    UNUSABLE,
                )
            if told:
                self.told.add(placed.name, secret)
            found[header] = value
        return found

    async def env(self) -> Mapping[str, str]:
        """What a program is started with.

        Raises:
            ToolError: as above.
        """
        found: dict[str, str] = {}
        for variable, name in self._named.env.items():
            found[variable] = await self.value(name)
            if "\0" in found[variable]:
                raise _refused(
                    f"{self._who}: {REFERENCE}{name} of the tenant {self._tenant} has a character that no variable "
                    "can have; the operator sets it anew",
                    UNUSABLE,
                )
        return found

    async def value(self, name: str) -> str:
        """One of them, for who sends it now.

        Raises:
            ToolError: as above.
        """
        secret = await self._open(name)
        self.told.add(name, secret)
        return secret.reveal()

    async def _open(self, name: str) -> Secret:
        return await opened(self._vault, self._tenant, name, self._who)
