"""Provides a subscription's token: a text, or a function that is called before each attempt."""

import re
from collections.abc import Awaitable, Callable

import trio

from dispatcher.client.errors import NotAllowedError, SubscriptionError, WrongAddressError
from dispatcher.client.events import Fail, Reconnect

Token = str | Callable[[], Awaitable[str]]
"""A token, or an async function that returns a fresh one."""

RENEWAL_SECONDS = 10.0
"""Maximum time for the function while a stream runs, because nothing is read meanwhile."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""


class Tokens:
    """The tokens of one subscription.

    Args:
        token: See `Token`; None sends no token.

    Raises:
        WrongAddressError: the text cannot be a token.
    """

    def __init__(self, token: Token | None) -> None:
        if isinstance(token, str) and not _TOKEN.fullmatch(token):
            raise WrongAddressError("the token has characters that tokens cannot contain, such as a line end")
        self._token = token
        self._was_refused = False

    async def next(self) -> str | None:
        """The token for the next request.

        *Cancellation*: as for the function.

        Raises:
            NoTokenError: the function raised, or returned no token.
        """
        if self._token is None or isinstance(self._token, str):
            return self._token
        try:
            token = await self._token()
        except Exception as error:
            # The function may depend on another service: the subscription survives its failures as it survives the
            # server's.
            raise NoTokenError(f"no token: {error!a}") from error
        if not _TOKEN.fullmatch(str(token)):
            raise NoTokenError("no token: the function returned something else")
        return token

    async def renewed(self) -> str | None:
        """A new token for a running stream; None if there is none now."""
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
        """Note that the server has begun a stream with the token."""
        self._was_refused = False

    def after(self, outcome: Reconnect | Fail) -> Reconnect | Fail:
        """The outcome of an attempt: a refused token may be replaced, but only once in a row."""
        error = outcome.error if isinstance(outcome, Fail) else None
        is_refused = isinstance(error, NotAllowedError) and (error.status == 401 or error.code == 4401)
        if not (is_refused and callable(self._token)) or self._was_refused:
            return outcome
        self._was_refused = True
        return Reconnect(str(error))


class NoTokenError(SubscriptionError):
    """The function has no token now; the subscription will call it again."""

    retriable = True
