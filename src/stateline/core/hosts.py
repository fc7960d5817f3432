"""Hosts and addresses: which of them tools may be let connect to.

Pure: names are resolved elsewhere, and what comes of that is judged here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Reach = Literal["public", "private", "loopback", "link_local", "never"]
"""How far an address reaches; ``never`` are those that no tool has business with."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
HOST_CHARS_MAX = 253
"""Of a name (RFC 1035, 2.3.4)."""

_METADATA = frozenset(
    ipaddress.ip_address(each)
    for each in (
        "169.254.169.254",  # AWS, Azure, Google and most others
        "169.254.170.2",  # credentials of tasks on ECS
        "169.254.170.23",  # credentials of pods on EKS
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # pods on EKS over IPv6
        "fd20:ce::254",  # Google over IPv6
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's host agent
        "192.0.0.192",  # Oracle's older one
    )
)
"""Where machines are told their credentials."""

_PRIVATE = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),  # RFC 1918
        "100.64.0.0/10",  # RFC 6598, shared between a provider and its customers
        "fc00::/7",  # RFC 4193
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    ipaddress.IPv6Network(each)
    for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")  # IANA's registry of special addresses
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class Named(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``allow_hosts``. ``host`` is canonical, or ``*``; without a port: any."""

    host: str
    port: int | None = None
    address: Address | None = None


def plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does: a connection to it ends there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    inside = any(address in network for network in (_NAT64, _TRANSLATED, _COMPATIBLE))
    if inside and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def reach_of(address: Address) -> Reach:
    """How far an address reaches, by what it stands for."""
    address = plain(address)
    if address in _METADATA or address.is_unspecified or address.is_multicast:
        return "never"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link_local"
    if any(address in network for network in _PRIVATE):
        return "private"
    if isinstance(address, ipaddress.IPv4Address):
        return "public" if address.is_global and not address.is_reserved else "never"
    special = any(address in network for network in _SPECIAL_V6)
    return "public" if address in _GLOBAL_V6 and not special else "never"


def canonical(host: str) -> tuple[str, Address | None]:
    """A host as it is compared and connected to, and its address where it is one.

    Names come out in lower case, in their ``xn--`` form, and without the dot at the end; addresses as RFC 5952
    writes them, without brackets.

    Raises:
        ValueError: it is no host, or one that resolvers read in different ways (``0177.1``, ``2130706433``).
    """
    if host.startswith("[") and host.endswith("]"):
        if "%" in host:
            raise ValueError("an address with a zone")
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("no IPv6 address between the brackets") from None
        return str(address), address
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("a name that has no form in ASCII") from None
    name = host.lower().removesuffix(".")
    if not name or len(name) > HOST_CHARS_MAX:
        raise ValueError("no name of a host")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            address = ipaddress.IPv4Address(name)
        except ValueError:
            raise ValueError("an address that is not written as four decimal numbers") from None
        return str(address), address
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("no name of a host")
    return name, None


def read_named(entry: str) -> Named:
    """An entry of ``allow_hosts``: ``host``, ``host:port``, ``[v6]:port`` or ``*``.

    Raises:
        ValueError: with what is wrong, for a person.
    """
    if entry == "*":
        return Named("*")
    host, colon, digits = entry.rpartition(":")
    if not colon or entry.endswith("]"):
        host, digits = entry, ""
    elif not (digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 65535):
        raise ValueError("the port is a number up to 65535, and an IPv6 address stands in brackets")
    if "*" in host:
        raise ValueError('a name has no wildcard; "*" by itself is any public address')
    name, address = canonical(host)
    if address is not None and reach_of(address) == "never":
        raise ValueError("no tool may connect there, whatever is configured: it is reserved, or gives out credentials")
    return Named(name, int(digits) if digits else None, address)


def may_ask(named: Sequence[Named], host: str, port: int) -> bool:
    """Whether a host may be resolved at all: a name that is looked up tells something, too.

    Args:
        host: canonical, as `canonical` gives it.
    """
    return any(
        entry.port in (None, port)
        and (entry.host in ("*", host) or (entry.address is not None and (_local(host) or _literal(host))))
        for entry in named
    )


def may_reach(named: Sequence[Named], host: str, port: int, address: Address) -> bool:
    """Whether a tool may connect to an address that a host has resolved to.

    A name that is listed may lie in a private network. Loopback takes a name for it or the address itself, link-local
    the address itself: whoever answers for a name must not choose those.

    Args:
        host: canonical, as `canonical` gives it.
        address: what is connected to.
    """
    reach = reach_of(address)
    if reach == "never":
        return False
    local, meant = _local(host), plain(address)
    for entry in named:
        if entry.port is not None and entry.port != port:
            continue
        if entry.host == "*":
            if reach == "public":
                return True
        elif entry.address is not None:
            if plain(entry.address) == meant and (local or _literal(host)):
                return True
        elif entry.host == host and (reach in ("public", "private") or (reach == "loopback" and local)):
            return True
    return False


def _local(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _literal(host: str) -> bool:
    """Whether a canonical host is an address: the last label of no name is a number."""
    return ":" in host or host.rpartition(".")[2].isdigit()
