"""Which hosts and addresses tools may connect to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.core.hosts import canonical, may_ask, may_reach, plain, reach_of, read_named

REACHES = {
    "public": ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"],
    "private": ["10.0.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12:3456::1"],
    "loopback": ["127.0.0.1", "127.255.0.9", "::1"],
    "link_local": ["169.254.1.1", "fe80::1"],
    "never": [
        *("169.254.169.254", "fd00:ec2::254", "169.254.170.2", "100.100.100.200", "168.63.129.16"),
        *("0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "0.1.2.3"),
        *("192.0.2.1", "198.18.0.1", "2001:db8::1", "3fff::1", "2001:10::1", "fec0::1", "4000::1", "100::1"),
    ],
}


@pytest.mark.parametrize(("reach", "text"), [(reach, text) for reach, texts in REACHES.items() for text in texts])
def test_an_address_reaches_as_far_as_its_registry_says(reach: str, text: str) -> None:
    assert reach_of(ipaddress.ip_address(text)) == reach


@pytest.mark.parametrize(
    "text",
    [
        "::ffff:127.0.0.1",  # mapped
        "::ffff:0:127.0.0.1",  # translated (RFC 2765)
        "::127.0.0.1",  # compatible
        "64:ff9b::127.0.0.1",  # NAT64
        "2002:7f00:1::",  # 6to4
        "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo
    ],
)
def test_an_ipv6_address_is_judged_by_the_ipv4_address_that_it_stands_for(text: str) -> None:
    assert plain(ipaddress.ip_address(text)) == ipaddress.ip_address("127.0.0.1")
    assert reach_of(ipaddress.ip_address(text)) == "loopback"


@given(st.integers(0, 2**32 - 1))
def test_no_way_of_writing_an_ipv4_address_reaches_farther_than_it(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    for way in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert reach_of(ipaddress.ip_address(way)) == reach_of(address)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("ⓔxample.com", "example.com"),
        ("_svc.example", "_svc.example"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_name_has_one_form(host: str, name: str) -> None:
    assert canonical(host) == (name, None)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[0:0::0:1]", "::1"),
        ("[::FFFF:7f00:1]", "::ffff:127.0.0.1"),
    ],
)
def test_an_address_is_known_as_one(host: str, text: str) -> None:
    name, address = canonical(host)
    assert address == ipaddress.ip_address(text)
    assert ipaddress.ip_address(name) == address


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.0.1..", "1.2.3.256", "0x"),
        *("", ".", "a..b", "-a.example", "a-.example", "a b", "a@b", "a/b", "a\\b", "a%00b", "a:b", "x" * 64),
        *("[::1", "[fe80::1%eth0]", "[127.0.0.1]", "[]", "é" * 64, "a." * 127 + "a"),
    ],
)
def test_what_resolvers_read_in_different_ways_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match=r"a name|no name|an address|no IPv6"):
        canonical(host)


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("*", "*", None),
        ("API.example", "api.example", None),
        ("api.example:8443", "api.example", 8443),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]", "::1", None),
        ("[::1]:9000", "::1", 9000),
    ],
)
def test_an_entry_is_a_host_and_perhaps_a_port(entry: str, host: str, port: int | None) -> None:
    named = read_named(entry)
    assert (named.host, named.port) == (host, port)


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*.example.com", "*:80", "a:0", "a:65536", "a:port", "a:", "::1", "https://a", "a/b"),
        *("169.254.169.254", "[fd00:ec2::254]:80", "0.0.0.0", "[::ffff:169.254.169.254]", "a:\uff18\uff10"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_named(entry)


def reaches(allowed: list[str], host: str, address: str, port: int = 443) -> bool:
    return may_reach([read_named(each) for each in allowed], host, port, ipaddress.ip_address(address))


def test_nothing_is_reached_unless_it_is_named() -> None:
    assert not reaches([], "api.example", "1.1.1.1")
    assert not reaches(["other.example"], "api.example", "1.1.1.1")
    assert reaches(["api.example"], "api.example", "1.1.1.1")
    assert not reaches(["api.example"], "api.example.evil.example", "1.1.1.1")


def test_a_port_narrows_an_entry() -> None:
    assert reaches(["api.example:443"], "api.example", "1.1.1.1", 443)
    assert not reaches(["api.example:443"], "api.example", "1.1.1.1", 22)


def test_any_public_address_is_no_private_one() -> None:
    assert reaches(["*"], "api.example", "1.1.1.1")
    for address in ("10.0.0.1", "127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1", "0.0.0.0"):
        assert not reaches(["*"], "api.example", address)


def test_a_named_host_may_be_private_and_chooses_no_loopback_link_local_or_metadata_address() -> None:
    assert reaches(["api.example"], "api.example", "10.0.0.1")
    for address in ("127.0.0.1", "::1", "169.254.1.1", "169.254.169.254", "::ffff:127.0.0.1", "fd00:ec2::254"):
        assert not reaches(["api.example"], "api.example", address)


def test_loopback_takes_its_name_or_its_address() -> None:
    assert reaches(["localhost:9000"], "localhost", "127.0.0.1", 9000)
    assert reaches(["app.localhost"], "app.localhost", "::1")
    assert reaches(["127.0.0.1:9000"], "localhost", "127.0.0.1", 9000)
    assert not reaches(["127.0.0.1:9000"], "localhost", "127.0.0.2", 9000)
    assert reaches(["[::1]"], "::1", "::1")
    assert reaches(["127.0.0.1"], "::ffff:127.0.0.1", "::ffff:127.0.0.1")
    assert not reaches(["127.0.0.1"], "x.example", "127.0.0.1")
    assert not reaches(["localhost"], "localhost", "169.254.1.1")
    assert reaches(["169.254.1.1"], "169.254.1.1", "169.254.1.1")


def test_a_name_that_could_not_be_connected_to_is_not_even_looked_up() -> None:
    def asks(allowed: list[str], host: str, port: int = 443) -> bool:
        return may_ask([read_named(each) for each in allowed], host, port)

    assert not asks([], "api.example")
    assert not asks(["other.example", "127.0.0.1"], "secret.evil.example")
    assert not asks(["api.example:443"], "api.example", 80)
    assert asks(["*"], "api.example")
    assert asks(["api.example:443"], "api.example")
    assert asks(["127.0.0.1"], "localhost")
    assert asks(["127.0.0.1"], "::ffff:127.0.0.1")
    assert asks(["127.0.0.1"], "10.0.0.1")
