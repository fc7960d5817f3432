"""A server is connected to by its address, and known by its name."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.tools.mcp_servers import Odd, serving
from tests.tools.test_mcp import call
from tests.tools.test_mcp_odd import nothing

from stateline.core.tools import ToolError
from stateline.tools import mcp_http
from stateline.tools.egress import Egress
from stateline.tools.mcp import McpHost
from stateline.tools.mcp_server import McpServer


async def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[dict[str, str]]:
    """One for shop.localhost, which is trusted while the test runs."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("shop.localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_keyfile": str(tmp_path / "key.pem")}
    Path(files["ssl_certfile"]).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    Path(files["ssl_keyfile"]).write_bytes(key.private_bytes(serialization.Encoding.PEM, private, plain))
    monkeypatch.setenv("SSL_CERT_FILE", files["ssl_certfile"])
    mcp_http._tls.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield files
    mcp_http._tls.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("name", "known"), [("shop.localhost", True), ("other.localhost", False)])
async def test_the_certificate_is_held_against_the_name(certificate: dict[str, str], name: str, *, known: bool) -> None:
    server = Odd(nothing)
    async with serving(server.app(), **certificate) as base:
        port = base.rpartition(":")[2]
        host = McpHost(McpServer(label="shop", url=f"https://{name}:{port}/mcp"), Egress([name], here))
        try:
            if known:
                assert (await host.call(call("act"))).output == "ok"
                return
            with pytest.raises(ToolError) as error:
                await host.call(call("act"))
        finally:
            await host.close()
    assert (error.value.code, error.value.sent) == ("tool_unreachable", False)
    assert not server.asked
