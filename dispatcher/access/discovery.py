"""Fetches an issuer's keys: by discovery (OpenID Connect Discovery 1.0, RFC 8414), or from the URL of a JWKS.

Only the settings and the issuer's own metadata decide which URLs are fetched; no token does. Redirects are not
followed, and the size of responses is bounded.
"""

import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson

from dispatcher.access.keyring import MAX_DOCUMENT_BYTES
from dispatcher.access.keys import KeySet, UnusableKeysError, read_keys


class UrlSource:
    """The keys of an issuer on the network.

    Args:
        issuer: The issuer's name, as in its tokens.
        jwks_url: The URL of its keys; if empty, the issuer's metadata names it.
    """

    def __init__(self, issuer: str, jwks_url: str) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._context: ssl.SSLContext | None = None

    async def fetch(self) -> KeySet:
        """See `KeySource`."""
        self._context = self._context or ssl.create_default_context()
        async with httpx2.AsyncClient(verify=self._context, follow_redirects=False) as client:
            url = self._jwks_url or await self._discover(client)
            document = await _get(client, url)
        assert document is not None  # noqa: S101 - only a metadata document may be missing
        return read_keys(document)

    async def _discover(self, client: httpx2.AsyncClient) -> str:
        for url in _metadata_urls(self._issuer):
            document = await _get(client, url, may_be_missing=True)
            if document is not None:
                return self._read_metadata(url, document)
        raise UnusableKeysError(f"{self._issuer} has no metadata at {' or '.join(_metadata_urls(self._issuer))}")

    def _read_metadata(self, url: str, document: bytes) -> str:
        """Read the URL of the keys from the issuer's metadata."""
        try:
            metadata: Any = orjson.loads(document)
        except orjson.JSONDecodeError:
            metadata = None
        if not isinstance(metadata, dict):
            raise UnusableKeysError(f"{url} is not a JSON object")
        if metadata.get("issuer") != self._issuer:
            # OpenID Connect Discovery 1.0, section 4.3: otherwise one issuer could vouch for the keys of another.
            raise UnusableKeysError(f"{url} is the metadata of {metadata.get('issuer')!a}, not of auth_issuer")
        jwks_url = metadata.get("jwks_uri")
        if not isinstance(jwks_url, str):
            raise UnusableKeysError(f"{url} names no jwks_uri")
        if self._issuer.startswith("https:") and not jwks_url.startswith("https:"):
            raise UnusableKeysError(f"{url} names a jwks_uri without TLS")
        return jwks_url


def _metadata_urls(issuer: str) -> list[str]:
    """Return where metadata may be: OpenID Connect appends to the path, RFC 8414, section 3.1, inserts before it."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return [
        f"{origin}{path}/.well-known/openid-configuration",
        f"{origin}/.well-known/oauth-authorization-server{path}",
    ]


async def _get(client: httpx2.AsyncClient, url: str, *, may_be_missing: bool = False) -> bytes | None:
    """Return the body of a response; None for a 404, if the document may be missing."""
    document = b""
    try:
        async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
            if answer.status_code == 404 and may_be_missing:
                return None
            if answer.status_code != 200:
                raise UnusableKeysError(f"{url} answers {answer.status_code}")
            # Read to the end or the deadline: httpx leaves unread responses to the garbage collector.
            async for data in answer.aiter_bytes():
                if len(document) <= MAX_DOCUMENT_BYTES:
                    document += data
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise UnusableKeysError(f"{url}: {str(error) or type(error).__name__}") from error
    if len(document) > MAX_DOCUMENT_BYTES:
        raise UnusableKeysError(f"{url} answers more than {MAX_DOCUMENT_BYTES} bytes")
    return document
