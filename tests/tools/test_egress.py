"""Tools connect to what is allowed, judged after the name was resolved."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from stateline.core.limits import TOOL_ADDRESSES_MAX, TOOL_URL_CHARS_MAX
from stateline.core.tools import ToolError
from stateline.tools.egress import Egress


class Names:
    """A resolver whose answers are given, one after the other; the last one stays."""

    def __init__(self, **answers: list[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        found = self.answers[host]
        return found.pop(0) if len(found) > 1 else found[0]


async def opened(egress: Egress, url: str) -> None:
    """What happens to a URL: what looks like a name in it is judged when it is resolved."""
    await egress.addresses(egress.check_url(url).split("/")[2], 80)


def refusal(error: pytest.ExceptionInfo[ToolError]) -> str:
    assert error.value.code == "tool_host_denied"
    assert not error.value.sent
    assert not error.value.retryable
    return error.value.message


async def test_by_default_tools_connect_nowhere_and_no_name_is_looked_up() -> None:
    names = Names(api_example=[["1.1.1.1"]])
    egress = Egress([], names)
    with pytest.raises(ToolError) as error:
        await egress.addresses("api.example", 443)
    assert '[tools] allow_hosts; add "api.example:443"' in refusal(error)
    with pytest.raises(ToolError) as error:
        egress.check_url("https://api.example/mcp")
    assert '"api.example:443"' in refusal(error)
    assert names.asked == []


async def test_a_name_that_comes_to_lead_inside_is_refused_and_resolved_once_a_connection() -> None:
    names = Names(api_example=[["1.1.1.1"], ["169.254.169.254"], ["127.0.0.1"], ["::ffff:127.0.0.1"]])
    egress = Egress(["*"], names)
    assert [str(each) for each in await egress.addresses("api.example", 443)] == ["1.1.1.1"]
    for _ in range(3):
        with pytest.raises(ToolError) as error:
            await egress.addresses("api.example", 443)
        assert "127." not in refusal(error)
        assert "169." not in refusal(error)
    assert len(names.asked) == 4


async def test_of_several_addresses_only_those_that_are_allowed_are_tried() -> None:
    egress = Egress(["*"], Names(api_example=[["10.0.0.1", "1.1.1.1", "fe80::1%eth0", "::1"]]))
    assert [str(each) for each in await egress.addresses("api.example", 443)] == ["1.1.1.1"]


async def test_no_more_addresses_are_judged_than_their_limit() -> None:
    many = [f"1.1.1.{number}" for number in range(TOOL_ADDRESSES_MAX + 1)]
    assert len(await Egress(["*"], Names(api_example=[many])).addresses("api.example", 443)) == TOOL_ADDRESSES_MAX


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "169.254.169.254."),
        *(
            "127.0.0.1",
            "[::1]",
            "localhost",
            "localhost.",
            "LOCALHOST",
            "0.0.0.0",
            "[::]",
            "0",
            "10.0.0.1",
            "[fd00::1]",
        ),
        *(
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "0x7f.1",
            "\uff11\uff12\uff17.0.0.1",
            "127。0。0。1",
            "[::ffff:127.0.0.1]",
        ),
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25eth0]", "100.64.0.1", "224.0.0.1"),
        *("api.example@127.0.0.1", "127.0.0.1#@api.example", "api.example\\@127.0.0.1", "api.example:80@127.0.0.1"),
        *("", ":80", "a b", "a\tb", "a\x00b", "a..b", "api.example:99999", "api.example:x", "[::1"),
    ],
)
async def test_any_public_address_opens_nothing_inside_however_it_is_written(host: str) -> None:
    names = Names(localhost=[["127.0.0.1", "::1"]])
    with pytest.raises(ToolError) as error:
        await opened(Egress(["*"], names), f"http://{host}/mcp")
    refusal(error)


@pytest.mark.parametrize("url", ["ftp://api.example", "file:///etc/passwd", "//api.example", "api.example", "http:/x"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ToolError) as error:
        Egress(["*"]).check_url(url)
    refusal(error)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ToolError) as error:
        Egress(["*"]).check_url("https://user:hunter2@api.example/")
    assert "hunter2" not in refusal(error)


def test_a_url_longer_than_its_limit_is_refused() -> None:
    url = "https://api.example/"
    Egress(["*"]).check_url(url.ljust(TOOL_URL_CHARS_MAX, "x"))
    with pytest.raises(ToolError) as error:
        Egress(["*"]).check_url(url.ljust(TOOL_URL_CHARS_MAX + 1, "x"))
    assert str(TOOL_URL_CHARS_MAX) in refusal(error)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://API.example/mcp?a=1", "https://api.example/mcp?a=1"),
        ("https://api.example.:8443/mcp#part", "https://api.example:8443/mcp"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://[2606:4700:0::1111]/", "http://[2606:4700::1111]/"),
    ],
)
def test_a_url_is_asked_in_the_form_in_which_it_was_judged(url: str, asked: str) -> None:
    assert Egress(["*"]).check_url(url) == asked


async def test_what_is_named_is_reached() -> None:
    names = Names(localhost=[["127.0.0.1"]], tickets_corp=[["10.1.2.3"]])
    egress = Egress(["localhost:9000", "[::1]", "tickets.corp"], names)
    assert [str(each) for each in await egress.addresses("localhost", 9000)] == ["127.0.0.1"]
    assert [str(each) for each in await egress.addresses("::1", 80)] == ["::1"]
    assert [str(each) for each in await egress.addresses("tickets.corp", 443)] == ["10.1.2.3"]
    assert egress.check_url("http://[::1]:80/") == "http://[::1]:80/"
    with pytest.raises(ToolError) as error:
        await egress.addresses("localhost", 9001)
    refusal(error)


async def test_a_name_without_an_address_is_unreachable_and_nothing_was_sent() -> None:
    egress = Egress(["*"], Names(empty_example=[[]], zone_example=[["fe80::1%eth0"]]))
    for host in ("missing.example", "empty.example", "zone.example"):
        with pytest.raises(ToolError) as error:
            await egress.addresses(host, 443)
        assert (error.value.code, error.value.sent, error.value.retryable) == ("tool_unreachable", False, True)


async def test_a_resolver_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(ToolError, match=r"within 0\.01 s") as error:
        await Egress(["*"], never).addresses("api.example", 443, timeout_s=0.01)
    assert not error.value.sent


async def test_this_machines_resolver_is_asked_where_no_other_is_given() -> None:
    assert {str(each) for each in await Egress(["localhost"]).addresses("localhost", 80)} <= {"127.0.0.1", "::1"}


def test_an_entry_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="credentials"):
        Egress(["169.254.169.254"])
