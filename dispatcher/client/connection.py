"""Makes one attempt after another: connects, follows redirects, and reads until the connection ends.

Rules of this module:

* Every wait for the server has a deadline; waits for the caller have none.
* Whatever a server does, an attempt ends with an `Outcome`; nothing is raised.
"""

import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import orjson
import trio
from wsproto.utilities import ProtocolError

from dispatcher.client.address import Address, SubscriptionRequest
from dispatcher.client.dialing import ByteStream, dial, hang_up
from dispatcher.client.errors import MalformedMessageError, SubscriptionError, WrongServerError
from dispatcher.client.events import (
    Dated,
    Expiring,
    Fail,
    Opened,
    Outcome,
    Received,
    Reconnect,
    Redirect,
    StateReceived,
)
from dispatcher.client.first_attempt import FirstAttempt
from dispatcher.client.tokens import NoTokenError, Tokens
from dispatcher.client.transports import Transport, make_transport
from dispatcher.errors import MalformedPositionError

log = logging.getLogger("dispatcher.client")

RECEIVE_BYTES = 64 * 1024
MAX_REDIRECTS = 5
HEARTBEAT_SECONDS = 15.0
"""The heartbeat interval until a state names it."""


class Connector:
    """Makes the attempts of a subscription.

    Args:
        request: The address and the request.
        headers: Sent with every request, but not to another origin after a redirect.
        ssl_context: The TLS context; None uses the system's certificates.
        connect_timeout_seconds: Maximum time from the name lookup to the head of the response.
        deliver: Takes received items, in order.
        tokens: Tokens for ``Authorization``, likewise not sent to another origin.
    """

    def __init__(
        self,
        request: SubscriptionRequest,
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
        connect_timeout_seconds: float,
        deliver: Callable[[Sequence[Received]], Awaitable[None]],
        *,
        tokens: Tokens,
    ) -> None:
        self._tokens = tokens
        self._request = request
        self._headers = headers
        self._ssl_context = ssl_context
        self._connect_timeout_seconds = connect_timeout_seconds
        self._deliver = deliver
        self._first_attempt: FirstAttempt | None = None
        self._open: tuple[ByteStream, Transport] | None = None
        """The open stream."""
        self._sending = trio.Lock()
        self.attempts = 0
        self.received_bytes = 0

    async def say(self, text: str) -> bool:
        """Send a message on the stream; returns whether there is one. A broken stream is noticed when it is read.

        *Backpressure*: waits while the server does not read. *Cancellation*: a part of it may have been sent.
        """
        return await self._send(lambda transport: transport.message_bytes(text))

    async def leave(self) -> bool:
        """Announce that the client leaves, after all earlier messages; returns whether the server will answer.

        *Backpressure*, *cancellation*: as for `say`.
        """
        return await self._send(lambda transport: transport.close_bytes())

    @property
    def is_open(self) -> bool:
        """Whether a stream is open."""
        return self._open is not None

    async def _send(self, make: Callable[[Transport], bytes]) -> bool:
        async with self._sending:
            if self._open is None:
                return False
            stream, transport = self._open
            # A closing connection accepts nothing more.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
                await stream.send_all(make(transport))
        return True

    async def attempt(self, position: str) -> Reconnect | Fail:
        """Make one attempt, including redirects.

        *Cancellation*: safe, no connection stays open.

        Args:
            position: The position to resume from; empty if there is none.
        """
        self.attempts += 1
        address, headers = self._request.address, self._headers
        deadline = trio.current_time() + self._connect_timeout_seconds
        try:
            with trio.fail_at(deadline):
                if token := await self._tokens.next():
                    headers = {**headers, "Authorization": f"Bearer {token}"}
        except NoTokenError as error:
            return Reconnect(str(error))
        except trio.TooSlowError:
            return Reconnect(f"no token within {self._connect_timeout_seconds:g} s")
        if self._first_attempt is None:
            self._first_attempt = FirstAttempt(time.time() * 1000)
        elif not position:
            # Records dispatched meanwhile, perhaps to an earlier connection, are sent again.
            address = address.with_since(self._first_attempt.since_ms)
        for _ in range(MAX_REDIRECTS + 1):
            transport = make_transport(self._request.transport, address, position, headers)
            outcome = await self._connect(address, transport, deadline)
            if not isinstance(outcome, Redirect):
                return self._tokens.after(outcome)
            try:
                there = address.follow(outcome.location)
            except SubscriptionError as error:
                return Fail(WrongServerError(f"a redirect that cannot be followed: {error}"))
            if there.origin != address.origin:
                headers = {}
            address = there
        return Fail(WrongServerError(f"more than {MAX_REDIRECTS} redirects, the last to {address.url}"))

    async def _connect(self, address: Address, transport: Transport, deadline: float) -> Outcome:
        stream: ByteStream | None = None
        try:
            with trio.fail_at(deadline):
                stream = await dial(address, self._ssl_context)
                await stream.send_all(transport.begin())
            return await self._listen(stream, transport, deadline)
        except trio.TooSlowError:
            return Reconnect(f"no answer within {self._connect_timeout_seconds:g} s")
        except (OSError, trio.BrokenResourceError) as error:
            return _cannot_connect(error)
        except (MalformedMessageError, MalformedPositionError) as error:
            return Reconnect(str(error))
        except WrongServerError as error:
            return Fail(error)
        finally:
            self._open = None
            if stream is not None:
                hang_up(stream)

    async def _listen(self, stream: ByteStream, transport: Transport, deadline: float) -> Outcome:
        """Deliver received items until the connection ends."""
        opened = False
        heartbeat_seconds = HEARTBEAT_SECONDS
        while True:
            seconds = 2 * heartbeat_seconds
            with trio.move_on_at(trio.current_time() + seconds if opened else deadline) as patience:
                try:
                    data = bytes(await stream.receive_some(RECEIVE_BYTES))
                except trio.BrokenResourceError:
                    data = b""
            if patience.cancelled_caught:
                if not opened:
                    raise trio.TooSlowError
                return Reconnect(f"no data for {seconds:g} s")
            self.received_bytes += len(data)
            received = _read(transport, data)
            if replies := transport.to_send():
                # Sent before the caller runs. If it cannot be sent, reading will show why.
                with trio.move_on_after(seconds), suppress(trio.BrokenResourceError):
                    async with self._sending:
                        await stream.send_all(replies)
            for item in received:
                if isinstance(item, Opened):
                    opened = True
                    self._open = stream, transport
                elif isinstance(item, Expiring):
                    if token := await self._tokens.renewed():
                        with trio.move_on_after(seconds):
                            await self.say(orjson.dumps({"type": "token", "token": token}).decode())
                elif isinstance(item, StateReceived):
                    self._tokens.accepted()
                    heartbeat_seconds = item.heartbeat_seconds or HEARTBEAT_SECONDS
                elif isinstance(item, Dated) and self._first_attempt is not None:
                    self._first_attempt.server_said(item.server_ms, time.time() * 1000)
            await self._deliver(received)
            last = received[-1] if received else None
            if isinstance(last, (Reconnect, Redirect, Fail)):
                return last


def _read(transport: Transport, data: bytes) -> list[Received]:
    try:
        return transport.receive(data)
    except (WrongServerError, MalformedPositionError):
        raise
    except Exception as error:
        # This runs in the user's process, which must survive any bytes that confuse a parser below us.
        log.debug("the server sent malformed data", exc_info=True)
        raise MalformedMessageError(f"the server sent malformed data: {error!a}") from error


def _cannot_connect(error: OSError | trio.BrokenResourceError) -> Reconnect | Fail:
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) or cause.__cause__ is not None:
        # Trio's error says that all addresses failed; the exceptions in it say why.
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Fail(WrongServerError(f"its certificate is not trusted: {cause.verify_message}"))
    if isinstance(cause, ssl.SSLError):
        return Reconnect(f"the server does not speak TLS: {cause.reason or cause}")
    return Reconnect(f"no connection: {getattr(cause, 'strerror', None) or cause}")
