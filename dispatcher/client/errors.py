"""Errors of a subscription that reconnecting cannot cure; temporary failures are states with a reason."""

from typing import ClassVar

from dispatcher.errors import DispatcherError


class SubscriptionError(DispatcherError):
    """The subscription is over, and an identical one would end in the same way."""

    retriable: ClassVar[bool] = False


class WrongAddressError(SubscriptionError, ValueError):
    """The URL or another argument is invalid; nothing was sent."""


class WrongServerError(SubscriptionError):
    """The server is not a dispatcher: it sends a page, another protocol, or an untrusted certificate."""


class MalformedMessageError(WrongServerError):
    """The server sent something that no dispatcher sends. The subscription reconnects, and reports this as a state."""

    retriable = True


class RefusedError(SubscriptionError):
    """The server refuses this request: the request has to change.

    Args:
        reason: The server's own words, if it sent any.
        status: The HTTP status; None if the connection was closed with a code.
        code: The code of the goodbye or of the close frame (docs/protocol.md, "Codes"), None for an HTTP status.
    """

    def __init__(self, reason: str, *, status: int | None = None, code: int | None = None) -> None:
        number = f"HTTP {status}" if code is None else f"code {code}"
        super().__init__(f"{number}: {reason}")
        self.reason = reason
        self.status = status
        self.code = code


class NotAllowedError(RefusedError):
    """HTTP 401 and 403, codes 4401 and 4403: the caller needs credentials, or other ones."""


class UnreachableError(SubscriptionError):
    """The allowed number of attempts in a row failed; the message has the reason of the last one."""
