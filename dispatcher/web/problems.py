"""Errors as ``application/problem+json`` (RFC 9457), with a reason that people can act on."""

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from quart_trio.wrappers import TrioResponse

CONTENT_TYPE = "application/problem+json"

FAILED = "The dispatcher failed to handle this request; its log has the details."
"""What a client learns about an error of our own."""

_DETAILS = {
    400: "The request is not valid HTTP/1.1.",
    404: "Nothing is served at this path; see / for an overview.",
    405: "This path does not support that method; see the Allow header.",
    414: "The request line is longer than this server accepts.",
    431: "The request's headers are larger than the 16 KiB that this server accepts.",
    505: "This server speaks HTTP/1.1; put a proxy in front of it for HTTP/2.",
}


def problem_body(status: int, detail: str | None = None) -> bytes:
    """The body for a status, by default with the status's own detail."""
    title = HTTPStatus(status).phrase
    return orjson.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail or _DETAILS.get(status, title),
        }
    )


def problem_response(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> TrioResponse:
    """The same as a response."""
    return TrioResponse(problem_body(status, detail), status, dict(headers or {}), content_type=CONTENT_TYPE)
