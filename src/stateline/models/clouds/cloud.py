"""What the client has to know of a cloud."""

from __future__ import annotations

from typing import NamedTuple

from stateline.ports import Deployment


class Cloud(NamedTuple):
    """A cloud as data.

    Attributes:
        base_url: used where the deployment names none; empty where it has to.
        auth_header: the header that carries the key, or empty.
        auth_prefix: what stands before the key in it.
    """

    base_url: str = ""
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "

    def url(self, deployment: Deployment, path: str) -> str:
        return (deployment.base_url or self.base_url).rstrip("/") + path

    def headers(self, deployment: Deployment) -> dict[str, str]:
        """The headers that say who calls; none without a key."""
        if not deployment.api_key:
            return {}
        return {self.auth_header: self.auth_prefix + deployment.api_key}
