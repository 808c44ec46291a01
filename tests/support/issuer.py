"""An issuer of tokens: private keys, and their public halves over HTTP, which may rotate and fail."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from threading import Event, Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

ME = 7


def a_private_key(algorithm: str) -> Any:
    match algorithm:
        case "RS256":
            return rsa_key(65537, 2048)
        case "ES256":
            return ec_key(SECP256R1())
        case "EdDSA":
            return Ed25519PrivateKey.generate()
    raise ValueError(algorithm)


def pem_of(private_key: Any) -> bytes:
    """The public half."""
    public: bytes = private_key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    return public


def claims(**changes: object) -> dict[str, Any]:
    """What a good token says, changed; None leaves a claim out."""
    good = {
        "sub": str(ME),
        "aud": "innbox",
        "iss": "innbox",
        "exp": datetime.now(UTC) + timedelta(minutes=1),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def forged(secret: bytes, **header: object) -> bytes:
    """Sign with what everybody knows, as if it were a secret: PyJWT itself would refuse to."""
    said = claims(exp=int(datetime.now(UTC).timestamp()) + 60)
    parts = [{"alg": "HS256", "typ": "JWT", **header}, said]
    signed = b".".join(unpadded(json.dumps(part).encode()) for part in parts)
    return signed + b"." + unpadded(hmac.digest(secret, signed, hashlib.sha256))


def unpadded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


@dataclass
class Issuer:
    """Publishes `keys` by kid, unless it is to say something else; counts how often it is asked."""

    keys: dict[str, tuple[str, Any]] = field(default_factory=dict)
    url: str = ""
    asked: int = 0
    status: int = 200
    said_instead: bytes | None = None
    is_dripping: bool = False
    may_answer: Event = field(default_factory=Event)

    def add(self, kid: str, algorithm: str) -> None:
        self.keys[kid] = (algorithm, a_private_key(algorithm))

    def token(self, kid: str, headers: dict[str, Any] | None = None, **changes: object) -> bytes:
        algorithm, key = self.keys[kid]
        return jwt.encode(
            claims(**changes), key, algorithm, headers={"kid": kid, **(headers or {})}
        ).encode()

    def jwk(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        public = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        return {**public, "kid": kid, "alg": algorithm, "use": "sig"}

    @property
    def document(self) -> bytes:
        if self.said_instead is not None:
            return self.said_instead
        return json.dumps({"keys": [self.jwk(kid) for kid in self.keys]}).encode()

    def at(self, kept: socket) -> str:
        """Have an address, before it is served there."""
        self.url = f"http://127.0.0.1:{kept.getsockname()[1]}/jwks"
        return self.url

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer on `url`, the same each time, for the length of a block."""
        port = int(self.url.rsplit(":", 1)[1].split("/")[0]) if self.url else 0
        server = _Server(("127.0.0.1", port), _handler(self))
        self.url = f"http://127.0.0.1:{server.server_port}/jwks"
        self.may_answer.set()
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield
        finally:
            self.may_answer.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    allow_reuse_port = True  # a test may keep the port while nobody listens


def _handler(issuer: Issuer) -> type[BaseHTTPRequestHandler]:
    never = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            issuer.may_answer.wait(30)
            self.send_response(issuer.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            with suppress(OSError):  # who asked has heard enough
                while issuer.is_dripping and not never.wait(0.01):
                    self.wfile.write(b" ")
                self.wfile.write(issuer.document)

        def log_message(self, *_: object) -> None:
            """The tests count what they want to know."""

    return Handler
