"""Where a subscription has its token from: a text, or a function that is asked before each attempt."""

import re
from collections.abc import Awaitable, Callable

import trio

from dispatcher.client.errors import NotAllowedError, SubscriptionError, WrongAddressError
from dispatcher.client.events import Fail, Reconnect

Token = str | Callable[[], Awaitable[str]]
"""A token, or an async function that returns one that is fresh."""

RENEWAL_SECONDS = 10.0
"""How long the function may take while a stream runs: nothing is read meanwhile."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""


class Tokens:
    """The tokens of one subscription.

    Args:
        token: See `Token`; None: no token is sent.

    Raises:
        WrongAddressError: it is a text that no token can be.
    """

    def __init__(self, token: Token | None) -> None:
        if isinstance(token, str) and not _TOKEN.fullmatch(token):
            raise WrongAddressError("the token has characters that no token may have, such as a line end")
        self._token = token
        self._was_refused = False

    async def next(self) -> str | None:
        """The token for the next request.

        *Cancellation*: that of the function.

        Raises:
            NoTokenError: the function raised, or returned no token.
        """
        if self._token is None or isinstance(self._token, str):
            return self._token
        try:
            token = await self._token()
        except Exception as error:
            # It asks somebody else, who may be away: the subscription outlives that as it outlives a server's.
            raise NoTokenError(f"no token: {error!a}") from error
        if not _TOKEN.fullmatch(str(token)):
            raise NoTokenError("no token: the function returned something else")
        return token

    async def renewed(self) -> str | None:
        """A new token for a stream that runs; None where there is none to be had now."""
        if not callable(self._token):
            return None
        token = None
        with trio.move_on_after(RENEWAL_SECONDS):
            try:
                token = await self.next()
            except NoTokenError:
                return None
        return token

    def accepted(self) -> None:
        """The server has begun a stream with the token."""
        self._was_refused = False

    def after(self, outcome: Reconnect | Fail) -> Reconnect | Fail:
        """What the end of an attempt means: a token that is refused may be replaced, once in a row."""
        error = outcome.error if isinstance(outcome, Fail) else None
        is_refused = isinstance(error, NotAllowedError) and (error.status == 401 or error.code == 4401)
        if not (is_refused and callable(self._token)) or self._was_refused:
            return outcome
        self._was_refused = True
        return Reconnect(str(error))


class NoTokenError(SubscriptionError):
    """The function for the token has none now; the subscription asks it again."""

    retriable = True
