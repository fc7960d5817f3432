"""Who the client is when a proxy stands between: only proxies named in the configuration are believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

from starlette.types import Scope

from stateline.core.limits import PROXY_ADDRESSES_MAX, PROXY_HOPS_MAX


class TrustedProxies:
    """``trusted`` are addresses or networks (``10.0.0.0/8``); empty means that nobody is believed."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(each, strict=False) for each in trusted]
        self._known: dict[str, bool] = {}

    @property
    def remembered(self) -> int:
        return len(self._known)

    def client(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """The client's address: the last hop of X-Forwarded-For that is not a trusted proxy itself."""
        peer = scope["client"][0] if scope.get("client") else ""
        if not self._networks or not self._is_trusted(peer):
            return peer
        forwarded = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        for hop in reversed([each.strip() for each in forwarded[-PROXY_HOPS_MAX:] if each.strip()]):
            if not self._is_trusted(hop):
                return hop[:64]
            peer = hop
        return peer

    def _is_trusted(self, address: str) -> bool:
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= PROXY_ADDRESSES_MAX:
                self._known.clear()
            known = self._known[address] = self._look_up(address)
        return known

    def _look_up(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)
