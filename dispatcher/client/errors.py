"""What a subscription raises when reconnecting cannot help; whatever passes by itself is a state with a reason."""

from typing import ClassVar

from dispatcher.errors import DispatcherError


class SubscriptionError(DispatcherError):
    """The subscription is over, and doing the same again would end the same way."""

    retriable: ClassVar[bool] = False


class WrongAddressError(SubscriptionError, ValueError):
    """The URL, or something else that was asked for, cannot be right; nothing was sent."""


class WrongServerError(SubscriptionError):
    """Something answers there that is not a dispatcher: a page, another protocol, an untrusted certificate."""


class MalformedMessageError(WrongServerError):
    """The server sent something that no dispatcher sends. The subscription reconnects, and says so as a state."""

    retriable = True


class RefusedError(SubscriptionError):
    """The server will not serve this request: the request has to change.

    Args:
        reason: In the server's own words, where it had some.
        status: The HTTP status, None when the connection was closed with a code.
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
    """The allowed number of attempts in a row brought nothing; the message has the reason of the last one."""
