"""What the client has to know of a cloud."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from stateline.ports import Deployment


class Signer(Protocol):
    """Says, for each request of one deployment, who calls."""

    async def sign(self, target: str, body: bytes) -> Mapping[str, str]:
        """The headers for a POST of ``body`` to ``target``, the path as it is sent.

        Raises:
            ModelError: there is nothing to sign with. Nothing was sent.
        """
        ...

    def warm(self) -> None:
        """Begin to fetch what the first call would wait for."""
        ...

    def rejected(self) -> None:
        """The provider did not accept who calls: what is remembered of that is read anew."""
        ...


class Keyring(Protocol):
    """What a client holds to sign with, for all deployments of one cloud."""

    def signer(self, deployment: Deployment, host: str) -> Signer | None:
        """Who signs for a deployment; ``host`` as its header says. None where a key in a header does.

        Raises:
            ModelError: ``upstream_misconfigured``.
        """
        ...


def _in_the_body(deployment: Deployment, tier: str) -> None:
    del deployment, tier


class Cloud(NamedTuple):
    """A cloud as data.

    Attributes:
        base_url: used where the deployment names none; empty where it has to.
        auth_header: the header that carries the key, or empty.
        auth_prefix: what stands before the key in it.
        locate: makes the URL of a deployment's path, query included, where it depends on more than the cloud.
        keyring: makes what a client signs with, where a cloud wants each request signed.
        tier_headers: the headers that ask a deployment for a service tier; None where the body does.
    """

    base_url: str = ""
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "
    locate: Callable[[Deployment, str], str] | None = None
    keyring: Callable[[], Keyring] | None = None
    tier_headers: Callable[[Deployment, str], Mapping[str, str] | None] = _in_the_body

    def url(self, deployment: Deployment, path: str) -> str:
        if self.locate is not None:
            return self.locate(deployment, path)
        return (deployment.base_url or self.base_url).rstrip("/") + path

    def headers(self, deployment: Deployment) -> dict[str, str]:
        """The headers that say who calls; none without a key."""
        if not deployment.api_key:
            return {}
        return {self.auth_header: self.auth_prefix + deployment.api_key}
