"""A real issuer of tokens on a loopback port: its configuration, its keys, and tokens, good and bad."""

from __future__ import annotations

import json
import threading
from base64 import urlsafe_b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

NOW_S = 1_700_000_000
AUDIENCE = "stateline"
Key = RSAKey | ECKey | OKPKey | OctKey


def b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


class AnIssuer:
    """``keys`` and ``documents`` may be changed while it serves; ``asked`` are the paths it was asked for."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.documents: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.hold: threading.Event | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                if issuer.hold is not None:
                    issuer.hold.wait(10)
                status, body = issuer.document(self.path)
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("location", body.decode())
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def document(self, path: str) -> tuple[int, bytes]:
        if path in self.documents:
            return self.documents[path]
        if path == "/.well-known/openid-configuration":
            return 200, json.dumps({"issuer": self.url, "jwks_uri": self.url + "/keys"}).encode()
        if path == "/keys":
            return 200, json.dumps({"keys": [self.public(kid) for kid in self.keys]}).encode()
        return 404, b"{}"

    def public(self, kid: str) -> dict[str, Any]:
        return {**self.keys[kid].as_dict(private=False), "kid": kid, "use": "sig"}

    def start(self) -> AnIssuer:
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def claims(self, **changed: object) -> dict[str, object]:
        """Of a good token; a claim that is None is left out."""
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "exp": NOW_S + 600, "iat": NOW_S, **changed}
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, kid: str = "one", alg: str = "RS256", header: dict[str, Any] | None = None, **claims: object
    ) -> str:
        return self.sign(
            self.keys[kid], {"alg": alg, "kid": kid, "typ": "JWT", **(header or {})}, self.claims(**claims)
        )

    @staticmethod
    def sign(key: Key, header: dict[str, Any], claims: object) -> str:
        protected = {name: value for name, value in header.items() if value is not None}
        registry = jws.JWSRegistry(algorithms=[protected["alg"]], strict_check_header=False)
        registry.max_header_length = 100_000
        body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        return jws.serialize_compact(protected, body, key, registry=registry)
