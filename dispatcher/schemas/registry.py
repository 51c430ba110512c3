"""A client of Schema Registry: Confluent's API, which Apicurio, Karapace and Redpanda speak, too.

A schema's id names the same content for ever, so a fetched schema is never asked for again (`Schemas` keeps it).

Source: Confluent, "Schema Registry API Reference"; ids: ``GET /schemas/ids/{id}``, GUIDs: ``GET
/schemas/guids/{guid}``, what a schema refers to: ``GET /subjects/{subject}/versions/{version}``.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
import trio

from dispatcher.errors import DispatcherError
from dispatcher.schemas.framing import MAX_REASON_CHARACTERS, SchemaKey, UndecodableError

TIMEOUT_SECONDS = 10.0
"""How long the registry may take for a schema and everything that it refers to."""

MAX_SCHEMA_BYTES = 2 * 1024 * 1024
"""The largest response that is read, and the largest total size of what a schema refers to, counted once for each name
that it is referred to by: decoders read it as often."""

MAX_REFERENCES = 256
"""How many other schemas one schema may need, and under how many names."""


class RegistryUnavailableError(DispatcherError):
    """The registry gives no usable answer; a later attempt may succeed.

    Args:
        message: Why; at most `MAX_REASON_CHARACTERS` of it are kept.
        is_away: Whether there was no response at all.
    """

    retriable = True

    def __init__(self, message: str, *, is_away: bool = False) -> None:
        super().__init__(message[:MAX_REASON_CHARACTERS])
        self.is_away = is_away
        """Whether there was no response at all, in which case other requests need not be tried at once."""


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema, as in the registry."""

    kind: str
    """``AVRO``, ``PROTOBUF`` or ``JSON``."""
    text: str
    references: Mapping[str, str]
    """The schemas that it needs, by the name under which they are referred to, each after those that it needs
    itself."""


class Registry:
    """Fetches schemas over HTTP.

    Args:
        url: The URL of the API, such as ``http://registry:8081``.
        user: For basic authentication.
        password: For basic authentication.
        token: A bearer token, instead of user and password.
        ca_file: Certificates that sign the registry's, instead of the system's.
        timeout_seconds: How long fetching a schema and everything that it refers to may take.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ca_file: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self.url = str(httpx2.URL(url).copy_with(username=None, password=None))
        """The URL without credentials, for messages."""
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/") + "/",
            auth=(user, password or "") if user is not None else None,
            # Ask for uncompressed responses: a few kilobytes could expand to gigabytes, which httpx does not bound.
            headers={
                "Accept": "application/vnd.schemaregistry.v1+json, application/json",
                "Accept-Encoding": "identity",
            }
            | ({"Authorization": f"Bearer {token}"} if token else {}),
            verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
            timeout=timeout_seconds,
            follow_redirects=False,  # credentials must not be sent anywhere else
        )

    async def fetch(self, key: SchemaKey) -> RegisteredSchema:
        """Fetch a schema and everything that it refers to.

        Raises:
            UndecodableError: the registry has no such schema, or it is of an unknown kind.
            RegistryUnavailableError: the registry does not respond, or not as its API says.

        *Cancellation*: safe.
        """
        path = f"schemas/ids/{key}" if isinstance(key, int) else f"schemas/guids/{key}"
        references: dict[str, str] = {}
        found: dict[str, Any] | None = None
        with trio.move_on_after(self._timeout_seconds) as scope:
            found = await self._get(path, f"schema {key}")
            await self._collect(found, references, {})
        if found is None or scope.cancelled_caught:
            reason = f"{self.url} gave no complete answer for schema {key} within {self._timeout_seconds:g} s"
            raise RegistryUnavailableError(reason, is_away=found is None)
        kind = found.get("schemaType") or "AVRO"
        if kind not in ("AVRO", "PROTOBUF", "JSON"):  # not a set: a list has no hash
            raise UndecodableError(f"schema {key} is of the type {kind!r}, use AVRO, PROTOBUF or JSON")
        return RegisteredSchema(kind, _text(found), references)

    async def close(self) -> None:
        """Close the connections that are kept alive."""
        await self._client.aclose()

    async def _collect(
        self, schema: Mapping[str, Any], into: dict[str, str], known: dict[tuple[str, int], str]
    ) -> None:
        references = schema.get("references") or []
        if not isinstance(references, list):
            raise RegistryUnavailableError(f"{self.url} names references that are not a list")
        if len(references) > MAX_REFERENCES:
            raise _too_many()
        for reference in references:
            try:
                name, subject, version = str(reference["name"]), str(reference["subject"]), int(reference["version"])
            except (TypeError, KeyError, ValueError, OverflowError) as error:
                raise RegistryUnavailableError(f"{self.url} names a reference without subject or version") from error
            if (subject, version) not in known:
                if len(known) >= MAX_REFERENCES:
                    raise _too_many()
                found = await self._get(
                    f"subjects/{quote(subject, safe='')}/versions/{version}", f"{subject} {version}"
                )
                known[subject, version] = _text(found)
                if sum(map(len, known.values())) > MAX_SCHEMA_BYTES:
                    raise _too_large()
                await self._collect(found, into, known)
            into[name] = known[subject, version]
            if len(into) > MAX_REFERENCES:
                raise _too_many()
            if sum(len(name) + len(text) for name, text in into.items()) > MAX_SCHEMA_BYTES:
                raise _too_large()

    async def _get(self, path: str, what: str) -> dict[str, Any]:
        body = b""
        try:
            async with self._client.stream("GET", path) as response:
                # Read to the end or the deadline: httpx leaves unread responses to the garbage collector.
                async for part in response.aiter_raw():
                    if len(body) <= MAX_SCHEMA_BYTES:
                        body += part
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError, ValueError) as error:
            reason = f"{self.url}: {str(error) or type(error).__name__}"
            raise RegistryUnavailableError(reason, is_away=True) from error
        if response.status_code == 404:
            raise UndecodableError(f"the registry has no {what}")
        if response.status_code != 200:
            raise RegistryUnavailableError(f"{self.url} answered {response.status_code} for {what}")
        if len(body) > MAX_SCHEMA_BYTES:
            raise UndecodableError(f"{what} has more than {MAX_SCHEMA_BYTES} bytes")
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
            raise RegistryUnavailableError(f"{self.url} answered for {what} with something that is not a schema")
        return found


def _text(found: Mapping[str, Any]) -> str:
    return str(found["schema"])


def _too_many() -> UndecodableError:
    return UndecodableError(f"it refers to more than {MAX_REFERENCES} schemas")


def _too_large() -> UndecodableError:
    return UndecodableError(f"it and what it refers to have more than {MAX_SCHEMA_BYTES} bytes")
