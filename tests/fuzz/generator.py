"""Makes requests, frames, PROXY headers, tokens and settings that are nearly right: mutations of right ones."""

import hmac
import random
import struct
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any

import orjson

from dispatcher.sansio.proxy_protocol import SIGNATURE
from testbed.tokens import SECRET, claims, grant

PATHS = (
    "/events",
    "/ws",
    "/",
    "/client.js",
    "/livez",
    "/readyz",
    "/status",
    "/metrics",
    "/nothing",
    "*",
    "",
    "//",
    "/%",
    "/é",
)
QUERIES = (
    "",
    "?since=earliest",
    "?topic=assets",
    "?format=envelope",
    "?last_event_id=assets:0=1",
    "?since=-1",
    "?%00",
    "?a&&b=%zz",
    "?topic=" + "x" * 300,
    "?last_event_id=assets:~AAAA",
    "?access_token=x.y.z",
    "?last_event_id=" + "assets:0=1;" * 50,
)
FIELDS = (
    "Host: localhost",
    "Host: evil.example",
    "Host: [::1",
    "Connection: close",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Protocol: dispatcher.v1.json",
    "Sec-WebSocket-Protocol: dispatcher.bearer.eA",
    "Content-Length: 5",
    "Content-Length: -1",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Origin: null",
    "Origin: http://localhost",
    "Authorization: Bearer x.y.z",
    "Authorization: Basic é",
    "Cookie: __Host-dispatcher=x",
    "Last-Event-ID: assets:0=1",
    "Last-Event-ID: \xff",
    "X-Forwarded-For: 1.2.3.4, unknown",
    'Forwarded: for="[',
    "Accept: text/event-stream",
    "User-Agent: Mozilla/5.0",
    "Sec-Fetch-Site: cross-site",
    "X: " + "y" * 2000,
)
NO_LINE_ENDS = str.maketrans("\r\n", "  ")
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PRI", "DELETE", "get", "\x00")
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "XTTP/1.1", "")
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CLAIMS = ("iss", "aud", "sub", "exp", "nbf", "iat", "scope", "client_id", "authorization_details")
CLAIM_VALUES: tuple[Any, ...] = (
    None,
    "",
    "x",
    0,
    -1,
    1e300,
    2**60,
    True,
    [],
    {},
    ["x"],
    {"a": {"b": []}},
    "\x00",
    "é😀",
    "x" * 5000,
)
HEADERS = (
    {"alg": "none"},
    {"typ": None},
    {"typ": 1},
    {"kid": "x" * 300},
    {"kid": None},
    {"kid": 7},
    {"jku": "https://evil.example/jwks"},
    {"crit": ["exp"]},
    {"b64": False},
    {"zip": "DEF"},
)


class Generator:
    """Everything that it makes follows from its seed, and the end of its tokens from the clock.

    Args:
        seed: The same gives the same.
        has_tokens: Whether requests carry tokens.
    """

    def __init__(self, seed: int, *, has_tokens: bool = False) -> None:
        self.random = random.Random(seed)  # noqa: S311 - to be repeated
        self._has_tokens = has_tokens
        self.tokens: list[str] = []
        """Those that it made."""

    def pieces(self) -> Iterator[bytes]:
        """Yield what one connection sends, piece by piece."""
        pick = self.random
        kind = pick.choice((self.request, self.request, self.websocket, self.proxied))
        data = kind()
        while data:
            size = pick.choice((1, 7, 100, 10_000, 100_000))
            yield data[:size]
            data = data[size:]

    def request(self) -> bytes:
        """One or more requests."""
        pick = self.random
        data = b""
        for _ in range(pick.choice((1, 1, 1, 2, 5))):
            fields = pick.sample(FIELDS, pick.randrange(8))
            if pick.random() < 0.7:
                fields.insert(0, "Host: localhost")
            line = f"{pick.choice(METHODS)} {pick.choice(PATHS)}{pick.choice(QUERIES)} {pick.choice(VERSIONS)}"
            if pick.random() < 0.5:
                line = f"GET {pick.choice(PATHS[:9])}{pick.choice(QUERIES)} HTTP/1.1"
            if self._has_tokens:
                fields += self._token_fields()
            data += "\r\n".join([line, *fields, "", ""]).encode("latin-1", errors="replace")
            data += pick.choice((b"", b"", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n", b"hello"))
        return self.mutated(data)

    def websocket(self) -> bytes:
        """A handshake and frames."""
        pick = self.random
        data = handshake = self._handshake()
        for _ in range(pick.randrange(1, 30)):
            payload = pick.randbytes(pick.choice((0, 1, 2, 125, 126, 5000)))
            if pick.random() < 0.5:
                token = b'{"type":"token","token":"%b"}' % (self.token().encode() if self._has_tokens else b"x")
                payload = pick.choice((token, b'{"type":"ack","id":"a:0=1"}', b"{}", b"[]", b"\xff"))
            first = pick.choice((0x81, 0x82, 0x88, 0x89, 0x8A, 0x01, 0x00, 0x80, 0xC1, 0x83, pick.randrange(256)))
            length = len(payload)
            head = bytes([first, 0x80 | min(length, 126)]) if length < 126 else struct.pack("!BBH", first, 0xFE, length)
            data += head + b"\0\0\0\0" + payload
        return data if pick.random() < 0.5 else handshake + self.mutated(data[len(handshake) :])

    def token(self) -> str:
        """A token, right or nearly."""
        pick = self.random
        changed = {pick.choice(CLAIMS): pick.choice(CLAIM_VALUES) for _ in range(pick.choice((0, 0, 1, 3)))}
        if pick.random() < 0.3:
            changed["exp"] = int(time.time()) + pick.choice((-60, -1, 1, 2))
        if pick.random() < 0.3:
            changed["authorization_details"] = [grant("assets", filter=pick.choice(CLAIM_VALUES))]
        header = {"alg": "HS256", "typ": "at+jwt"} | (pick.choice(HEADERS) if pick.random() < 0.3 else {})
        signed = b".".join(urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=") for part in (header, claims(**changed)))
        signature = b"" if header["alg"] == "none" else hmac.digest(SECRET, signed, "sha256")
        token = b".".join((signed, urlsafe_b64encode(signature).rstrip(b"="))).decode()
        if pick.random() < 0.3:
            token = self.mutated(token.encode()).decode("latin-1").translate(NO_LINE_ENDS)
        self.tokens.append(token)
        return token

    def _token_fields(self) -> list[str]:
        """Header fields with tokens, in none, one, or several of the ways."""
        pick, fields = self.random, list[str]()
        for _ in range(pick.choice((0, 1, 1, 1, 2))):
            token = self.token()
            subprotocol = urlsafe_b64encode(token.encode("latin-1")).decode().rstrip("=")
            fields.append(
                pick.choice(
                    (
                        f"Authorization: Bearer {token}",
                        f"Cookie: __Host-dispatcher={token}",
                        f"Sec-WebSocket-Protocol: dispatcher.v1.json, dispatcher.bearer.{subprotocol}",
                    )
                )
            )
        return fields

    def _handshake(self) -> bytes:
        fields = [field.encode("latin-1") + b"\r\n" for field in self._token_fields()] if self._has_tokens else []
        return b"".join((HANDSHAKE.removesuffix(b"\r\n"), *fields, b"\r\n"))

    def proxied(self) -> bytes:
        """A PROXY header, right or wrong, and a request."""
        pick = self.random
        version_2 = SIGNATURE + struct.pack(
            "!BBH", pick.choice((0x20, 0x21, 0x22)), pick.randrange(256), pick.choice((0, 12, 36))
        )
        header = pick.choice(
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"PROXY UNKNOWN\r\n", version_2 + pick.randbytes(36))
        )
        return self.mutated(header) + self.request()

    def mutated(self, data: bytes) -> bytes:
        """The same, or with some bytes changed, left out, doubled, or put in."""
        pick = self.random
        changed = bytearray(data)
        for _ in range(pick.choice((0, 0, 1, 1, 3, 10))):
            at = pick.randrange(len(changed) + 1)
            change = pick.randrange(4)
            if change == 0:
                changed[at : at + 1] = bytes([pick.randrange(256)])
            elif change == 1:
                del changed[at : at + pick.randrange(1, 20)]
            elif change == 2:
                changed[at:at] = changed[at : at + pick.randrange(1, 50)]
            else:
                changed[at:at] = pick.choice((b"\r\n", b"\n", b"\0", b"\xff", b":", b" ", b"\t"))
        return bytes(changed)

    def setting(self, names: list[str]) -> dict[str, str]:
        """Variables of an environment."""
        pick = self.random
        values = (
            "",
            "-1",
            "0",
            "1e9",
            "nan",
            "a",
            "a,b",
            "127.0.0.1:0",
            "[::]:1",
            "64 MiB",
            "\x00",
            "é",
            "{",
            "[]",
            "x" * 500,
        )
        prefixes = ("DISPATCHER_", "DISPATCHER_KAFKA__", "DISPATCHER_KAFKA_", "DISPATCHER_PORT_")
        return {
            f"{pick.choice(prefixes)}{pick.choice(names).upper()}{pick.choice(('', '', '_FILE', '_'))}": pick.choice(
                values
            )
            for _ in range(pick.randrange(1, 5))
        }
