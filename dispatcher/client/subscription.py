"""``subscribe``: a stream that outlives its connections.

Rules of this module:

* One task reads and reconnects; the caller's takes what it has read. Between them is one chunk of at most
  `RECEIVE_BYTES`, so a slow caller slows the server down (whose history, and Kafka, wait for it).
* What a caller has not taken yet is not in `Subscription.position`.
* A deadline guards every wait for the server, none guards a wait for the caller.
"""

import logging
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Literal, Self

import trio

from dispatcher.client.address import Subscribed, read_address
from dispatcher.client.backoff import Backoff
from dispatcher.client.dialing import ByteStream, dial, hang_up
from dispatcher.client.errors import SubscriptionError, UnreachableError, WrongServerError
from dispatcher.client.events import (
    ComeBack,
    Dated,
    Gap,
    GiveUp,
    GoTo,
    Heard,
    Heartbeat,
    Opened,
    Record,
    RetryTime,
    State,
    StateHeard,
    Verdict,
)
from dispatcher.client.first_attempt import FirstAttempt
from dispatcher.client.seen import Seen
from dispatcher.client.transports import Transport, make_transport
from dispatcher.errors import MalformedPositionError

log = logging.getLogger("dispatcher.client")

RECEIVE_BYTES = 64 * 1024
MOST_REDIRECTS = 5
HEARTBEAT_SECONDS = 15.0
"""Until a state names it."""

Event = Record | Gap | State
_Item = Record | Gap | State | Heartbeat


@asynccontextmanager
async def subscribe(
    url: str,
    *,
    topics: Iterable[str] = (),
    since: str | int | datetime | None = None,
    last_event_id: str | None = None,
    transport: Literal["auto", "sse", "websocket"] = "auto",
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout_seconds: float = 10.0,
    first_wait_seconds: float = 1.0,
    max_wait_seconds: float = 30.0,
    max_failures: int | None = None,
) -> AsyncIterator["Subscription"]:
    """Subscribe to a dispatcher, and stay subscribed.

    ::

        async with subscribe("http://127.0.0.1:8000") as stream:
            async for record in stream:
                print(record.offset, record.text)

    It connects within the block, again and again as it has to: it resumes where it was, on whatever replica answers,
    and passes over repeats. The iteration never ends by itself. An exception of the block arrives as it was raised,
    not in a group.

    Args:
        url: ``http://host:port``; with ``/events`` or ``/ws`` if you like, and with the query of docs/protocol.md.
        topics: Topics to read; all that the dispatcher serves by default.
        since: Where partitions begin of which nothing was seen: ``earliest``, an RFC 3339 time, a datetime, or
            milliseconds since 1970. Without it they begin where the dispatcher has not dispatched yet; a connection
            that follows others, of which none said where it began, asks for what came since the first one.
        last_event_id: Where to go on: what `Subscription.position` was.
        transport: By default a WebSocket for ``ws:``, ``wss:`` and a path that ends with ``/ws``, else SSE.
        headers: Headers for every request; they are not sent to another origin after a redirect.
        ssl_context: For ``https`` and ``wss``; the system's certificates by default.
        connect_timeout_seconds: From the look-up of the name to the head of the answer.
        first_wait_seconds: The most that the first wait of the backoff takes, until the server says ``retry``.
        max_wait_seconds: The most that the backoff grows to.
        max_failures: Attempts in a row that may come to nothing before `UnreachableError`; None for no limit.

    Raises:
        WrongAddressError: at once, when an argument cannot be right.
    """
    subscribed = read_address(url, transport=transport, topics=topics, since=since, last_event_id=last_event_id)
    stream = Subscription(
        subscribed,
        headers=dict(headers or {}),
        ssl_context=ssl_context,
        connect_timeout_seconds=connect_timeout_seconds,
        backoff=Backoff(first_wait_seconds, max_wait_seconds, random.random),
        max_failures=max_failures,
    )
    failed: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream._run)  # noqa: SLF001 - its other half
        try:
            yield stream
        except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery that would wrap it
            failed = error
        finally:
            stream._close()  # noqa: SLF001
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


class Subscription:
    """The records of a stream, as an asynchronous iterator; made by `subscribe`.

    Take from it in one task at a time. *Backpressure*: see the module. *Cancellation*: safe, a record that was not
    returned comes with the next call.

    Raises:
        SubscriptionError: from the iteration, when coming back cannot help; again with each further call.
        trio.ClosedResourceError: the ``async with`` block is over.
    """

    def __init__(
        self,
        subscribed: Subscribed,
        *,
        headers: dict[str, str],
        ssl_context: ssl.SSLContext | None,
        connect_timeout_seconds: float,
        backoff: Backoff,
        max_failures: int | None,
    ) -> None:
        self._subscribed = subscribed
        self._headers = headers
        self._ssl_context = ssl_context
        self._connect_timeout_seconds = connect_timeout_seconds
        self._backoff = backoff
        self._max_failures = max_failures
        self._heard = Seen(subscribed.position)
        """What connections brought: from here they resume."""
        self._taken = Seen(subscribed.position)
        """What the caller took."""
        self._send, self._receive = trio.open_memory_channel[list[_Item]](1)
        self._ready: deque[_Item] = deque()
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        self._first_attempt: FirstAttempt | None = None
        self._error: SubscriptionError | None = None
        self.state = State("connecting")
        """As of now: it may be ahead of what was taken. In order with the records it comes from `events`."""
        self.repeats = 0
        """Records that came again and were passed over."""

    @property
    def position(self) -> str:
        """All that was taken, to be stored and given back as ``last_event_id``; empty while that is nothing.

        Store it when you are done with a record: then a crash of yours repeats records, and loses none.
        """
        return self._taken.format()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        """The next record; gaps go to the log as warnings (`events` hands them out)."""
        while not isinstance(event := await self._next(), Record):
            if isinstance(event, Gap):
                log.warning(
                    "gap: %s:%d has no offsets %d to %d (%s)",
                    event.topic,
                    event.partition,
                    event.from_offset,
                    event.to_offset,
                    event.reason,
                )
        return event

    def events(self) -> "Events":
        """Everything in its order: records, gaps and states. Takes from the same stream."""
        return Events(self)

    async def _next(self) -> Event:
        await trio.lowlevel.checkpoint()
        while True:
            while self._ready:
                item = self._ready.popleft()
                if isinstance(item, Record):
                    self._taken.record(item)
                elif isinstance(item, Gap):
                    self._taken.gap(item)
                elif isinstance(item, Heartbeat):
                    self._taken.move_to(item.id)
                    continue
                return item
            try:
                self._ready.extend(await self._receive.receive())
            except trio.EndOfChannel:
                assert self._error is not None  # noqa: S101 - nothing else ends it
                raise self._error from None

    def _close(self) -> None:
        self._ready.clear()
        self._receive.close()

    async def _run(self) -> None:
        """Read and reconnect until cancelled, or until there is no use in it."""
        with self._send:
            await self._tell(self.state)
            while True:
                verdict = await self._connect()
                if isinstance(verdict, GiveUp):
                    self._error = verdict.error
                    await self._tell(State("closed", str(verdict.error)))
                    return
                seconds = self._backoff.failed(verdict.after_seconds)
                if self._max_failures is not None and self._backoff.failures > self._max_failures:
                    self._error = UnreachableError(
                        f"{self._backoff.failures} attempts in a row came to nothing; the last: {verdict.reason}"
                    )
                    await self._tell(State("closed", str(self._error)))
                    return
                await self._tell(State("reconnecting", verdict.reason, retry_in_seconds=seconds))
                await trio.sleep(seconds)

    async def _connect(self) -> ComeBack | GiveUp:
        """One attempt, redirects and all."""
        address, headers = self._subscribed.address, self._headers
        if self._first_attempt is None:
            self._first_attempt = FirstAttempt(time.time() * 1000)
        elif not self._heard.format():
            # Records that were dispatched meanwhile, perhaps to an earlier connection, are sent again.
            address = address.with_since(self._first_attempt.since_ms)
        deadline = trio.current_time() + self._connect_timeout_seconds
        for _ in range(MOST_REDIRECTS + 1):
            transport = make_transport(self._subscribed.transport, address, self._heard.format(), headers)
            stream: ByteStream | None = None
            try:
                with trio.fail_at(deadline):
                    stream = await dial(address, self._ssl_context)
                    await stream.send_all(transport.begin())
                verdict = await self._listen(stream, transport, deadline)
            except trio.TooSlowError:
                return ComeBack(f"no answer within {self._connect_timeout_seconds:g} s")
            except (OSError, trio.BrokenResourceError) as error:
                return _cannot_connect(error)
            except (WrongServerError, MalformedPositionError) as error:
                return GiveUp(error if isinstance(error, WrongServerError) else WrongServerError(str(error)))
            finally:
                if stream is not None:
                    hang_up(stream)
            if not isinstance(verdict, GoTo):
                return verdict
            try:
                there = address.follow(verdict.location)
            except SubscriptionError as error:
                return GiveUp(error)
            if there.origin != address.origin:
                headers = {}
            address = there
        return GiveUp(WrongServerError(f"more than {MOST_REDIRECTS} redirects, the last to {address.url}"))

    async def _listen(self, stream: ByteStream, transport: Transport, deadline: float) -> Verdict:
        """Hand out what comes until the connection ends."""
        opened = False
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        while True:
            seconds = 2 * self._heartbeat_seconds
            with trio.move_on_at(trio.current_time() + seconds if opened else deadline) as patience:
                try:
                    data = bytes(await stream.receive_some(RECEIVE_BYTES))
                except trio.BrokenResourceError:
                    data = b""
            if patience.cancelled_caught:
                if not opened:
                    raise trio.TooSlowError
                return ComeBack(f"no sign of life for {seconds:g} s")
            heard = transport.receive(data)
            if replies := transport.to_send():
                # Before the caller has its time. When it cannot be sent, reading will tell why.
                with trio.move_on_after(seconds), suppress(trio.BrokenResourceError):
                    await stream.send_all(replies)
            opened = opened or any(isinstance(item, Opened) for item in heard)
            if items := [item for each in heard for item in self._sift(each)]:
                await self._send.send(items)
            last = heard[-1] if heard else None
            if isinstance(last, (ComeBack, GoTo, GiveUp)):
                return last

    def _sift(self, heard: Heard) -> list[_Item]:
        """Take note of what was heard, and return what is for the caller."""
        if isinstance(heard, StateHeard):
            self._backoff.succeeded()
            self._heartbeat_seconds = heard.heartbeat_seconds or HEARTBEAT_SECONDS
            self.state = heard.state
            self._heard.move_to(heard.id)
            return [Heartbeat(heard.id), heard.state]
        if isinstance(heard, Dated) and self._first_attempt is not None:
            self._first_attempt.server_said(heard.server_ms, time.time() * 1000)
        elif isinstance(heard, RetryTime):
            self._backoff.set_base(heard.seconds)
        elif isinstance(heard, (Record, Gap, Heartbeat)):
            return self._new(heard)
        return []

    def _new(self, item: Record | Gap | Heartbeat) -> list[_Item]:
        """The item, unless it is a repeat."""
        if isinstance(item, Gap):
            self._heard.gap(item)
        elif isinstance(item, Heartbeat):
            self._heard.move_to(item.id)
        elif not self._heard.record(item):
            self.repeats += 1
            return []
        return [item]

    async def _tell(self, state: State) -> None:
        self.state = state
        await self._send.send([state])


class Events:
    """All that comes on a `Subscription`, in its order; see there for backpressure, cancellation and errors."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next record, gap or state."""
        return await self._subscription._next()  # noqa: SLF001 - its other half


def _cannot_connect(error: OSError | trio.BrokenResourceError) -> ComeBack | GiveUp:
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup) or cause.__cause__ is not None:
        # trio says that all addresses failed, and why each did below it.
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return GiveUp(WrongServerError(f"its certificate is not trusted: {cause.verify_message}"))
    if isinstance(cause, ssl.SSLError):
        return ComeBack(f"no TLS there: {cause.reason or cause}")
    return ComeBack(f"no connection: {getattr(cause, 'strerror', None) or cause}")
