"""Sends requests to a replica's port for operators, with bounds on time and size; errors say what to do."""

import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
import orjson

from dispatcher.command.safe_text import clean

TIMEOUT_SECONDS = 10.0
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_SHOWN = 300

EXIT_NO_ANSWER = 3


class NoAnswerError(click.ClickException):
    """There is no usable answer; exit code 3."""

    exit_code = EXIT_NO_ANSWER


@dataclass(frozen=True, slots=True)
class Answer:
    """A replica's answer."""

    status: int
    body: Any
    """JSON."""


class Port:
    """A replica's port.

    Args:
        url: ``http://host:port``, or ``host:port``; a path in it becomes a prefix of the paths that are requested.
        token: The token for ``Authorization: Bearer``.
        ca_file: Certificates to trust instead of the system's.

    Raises:
        click.UsageError: the address is wrong.
    """

    def __init__(self, url: str, token: str | None = None, ca_file: Path | None = None) -> None:
        text = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise click.UsageError(f"{clean(url)} is not an address: {error}") from None
        if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment or parts.username:
            raise click.UsageError(f"{clean(url)} is not an address: use http://HOST:PORT or https://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._host, self._port = host, port
        self._path = parts.path.rstrip("/").removesuffix("/status")
        self._is_secure = parts.scheme == "https"
        self._ca_file = ca_file
        self._headers = {"Accept": "application/json", "User-Agent": "dispatcher"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        """Request a path.

        Raises:
            NoAnswerError: nothing answers, or what answers is not a dispatcher.
        """
        target = f"{self._path}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            connection = self._connect()
            try:
                connection.request("GET", target, headers=self._headers)
                response = connection.getresponse()
                status, data = response.status, response.read(MAX_BODY_BYTES)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise NoAnswerError(f"no answer from {clean(self.url)}: {clean(reason)}") from None
        try:
            return Answer(status, orjson.loads(data))
        except orjson.JSONDecodeError:
            raise NoAnswerError(f"{clean(self.url)} answered {status}, but is not a dispatcher") from None

    def _connect(self) -> http.client.HTTPConnection:
        if not self._is_secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        context = ssl.create_default_context(cafile=self._ca_file)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_SECONDS, context=context)


def detail_of(answer: Answer) -> str:
    """The reason in a problem document (RFC 9457)."""
    detail = answer.body.get("detail") if isinstance(answer.body, Mapping) else None
    return clean(str(detail)[:MAX_SHOWN]) if detail else "no reason was given"


def read_token_file(path: str) -> str:
    """The token in a file, or on standard input (``-``).

    Raises:
        click.UsageError: the file has no token, or cannot be read.
    """
    try:
        with click.open_file(path, encoding="utf-8-sig") as file:
            token = str(file.read()).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"{clean(path)} cannot be read: {reason}") from None
    if not token or not token.isascii() or len(token.split()) != 1:
        raise click.UsageError(f"{clean(path)} holds no token")
    return token
