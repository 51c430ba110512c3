"""Streams that outlive the request that began them.

Whoever decides about a request (`opening`) leaves the stream with its connection (`Connection.stream`). The request is
answered with the head of the stream, directly (`direct`), or by Quart and Hypercorn, which are then done
(`Connection.begin_stream`): the memory that they needed, more than half of what an idle subscriber would cost, is
freed. Then the stream has the connection to itself: one task writes what the hub offers, another reads what the client
sends, until either side ends it.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio
from wsproto.frame_protocol import CloseReason

from dispatcher.errors import SubscriberGoneError, SubscriberStalledError
from dispatcher.hub.acked_subscriber import AckWindow
from dispatcher.hub.feed import Feed
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.hub import Hub
from dispatcher.hub.subscriber import Subscriber
from dispatcher.web.limits import Admission
from dispatcher.web.requests import Query
from dispatcher.web.sockets import Socket
from dispatcher.web.visits import Ending, Visit
from dispatcher.web.writer import Writer

log = structlog.get_logger(__name__)

LEAVE_SECONDS = 10.0
"""How much longer the current frame, which may be long, may take once the client has announced that it is leaving."""


MOST_OWED_BYTES = 64 * 1024
"""How many bytes of answers may wait for a client that does not read them, until nothing more is read from it."""

OWED_SECONDS = 0.05
"""How often to look whether it has read them."""


class Stream(Protocol):
    """The stream that a handler leaves."""

    @property
    def was_flooded(self) -> bool:
        """Whether it has ended because its client sent too much in too short a time."""

    async def run(self) -> None:
        """Send until either side ends the stream, then end the response."""

    def close(self) -> None:
        """Release what the stream holds; always called, even without `run`."""


class Streaming(Protocol):
    """A connection, as streams and requests see it."""

    stream: Stream | None

    @property
    def peer(self) -> Socket:
        """The socket to read from."""

    @property
    def writer(self) -> Writer:
        """The writer to write to."""

    @property
    def unread(self) -> list[bytes]:
        """Bytes that were read since the handler left the stream."""

    def begin_stream(self) -> None:
        """Stop serving requests, then run the stream."""

    def end_requests(self) -> None:
        """Serve no further request."""

    def pass_by(self) -> Awaitable[None]:
        """Wait until it is this client's turn (`hub.pace.Pace`)."""


class Farewell(Exception):  # noqa: N818 - not an error: a client may leave
    """The client sent something after which the stream must end.

    Args:
        code: The close code to end with; None if the client named none.
        reason: The close reason to end with.
        goodbye: What to send to the client before that; None if the client has left.
    """

    def __init__(self, code: int | None, reason: str, goodbye: Goodbye | None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.goodbye = goodbye


class Session(Protocol):
    """The token that a stream was opened with, and that ends it."""

    def open(self, end: Callable[[Goodbye], None]) -> None:
        """The stream has its subscriber; from now on the session may end it."""

    def begin(self, notify: Callable[[bytes], None]) -> None:
        """The stream begins; from now on the session may send ready-made bytes on it."""

    def close(self) -> None:
        """The stream is over."""


class Dialogue(Protocol):
    """The part of a stream that depends on its protocol."""

    receive_bytes: int
    """Maximum number of the client's bytes examined per step."""
    takes_turns: bool
    """Whether each step waits for its turn (`hub.pace.Pace`), not only those of a client that sends a lot."""

    def on_client_data(self, data: bytes, now: float) -> bytes | None:
        """Take what the client sent; returns what to answer.

        Raises:
            Farewell: the stream must end.
            SubscriberGoneError: the stream must end without a further message.
        """

    def go_on(self) -> bool:
        """Take one more step of the work that the client's last messages caused; False if none was left."""

    def rest_seconds(self, now: float) -> float:
        """How long to read nothing more from the client."""

    def last_bytes(self, code: int | None, reason: str) -> bytes:
        """The bytes that end a stream properly."""

    def close(self) -> None:
        """The stream is over: drop what refers back to it."""


class SubscriberStream:
    """One registered subscriber, and its connection.

    Args:
        hub: The hub to subscribe with.
        feed: The feed to subscribe to.
        query: The request, which says where to begin.
        connection: The connection to read from and write to.
        dialogue: The part that depends on the protocol.
        admission: Counts the stream; released when the stream ends, and here if it cannot begin.
        silence_seconds: Maximum time between two signs of life of the client; None if it need not send anything.
        session: The token that the stream was opened with, if one is needed.
        window: Bounds of the client's unacknowledged records; None if it does not acknowledge.

    Raises:
        UnavailableError: the replica accepts no more subscribers.
    """

    __slots__ = (
        "_admission",
        "_connection",
        "_dialogue",
        "_farewell",
        "_hub",
        "_session",
        "_silence_seconds",
        "_subscriber",
        "_visit",
    )

    def __init__(
        self,
        hub: Hub,
        feed: Feed,
        query: Query,
        connection: Streaming,
        dialogue: Dialogue,
        *,
        admission: Admission,
        silence_seconds: float | None = None,
        session: Session | None = None,
        window: AckWindow | None = None,
    ) -> None:
        self._admission = admission
        self._hub = hub
        self._session = session
        self._connection = connection
        self._dialogue = dialogue
        self._silence_seconds = silence_seconds
        self._farewell: Farewell | None = None
        # Last: the caller closes every stream that was made, so one that could not be made must hold nothing.
        try:
            self._subscriber = hub.subscribe(
                feed,
                connection.writer,
                query.position,
                query.since_ms,
                last=query.last,
                ignored=query.ignored,
                window=window,
                owner=admission.owner,
            )
        except BaseException:
            admission.release()
            raise
        self._visit: Visit | None = None
        try:
            if admission.visits is not None:
                self._visit = admission.visits.begin(admission.visitor, self._subscriber, connection.peer.liveness)
            if session is not None:
                session.open(self._subscriber.end)
        except BaseException:
            self.close()
            raise

    async def run(self) -> None:
        """Write and listen until either side ends the stream, then end it properly."""
        writer = self._connection.writer
        goodbye: Goodbye | None = None
        ending = Ending.CLIENT_LEFT
        writer.open_stream(self._silence_seconds)
        if self._session is not None:
            self._session.begin(self.notify)
        if self._subscriber.feed.whole:
            # The first state may take a while, and the head of the response must not wait for it.
            self._subscriber.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            try:
                goodbye = await self._subscriber.run()
            except SubscriberStalledError as error:
                log.info("subscriber stalled", subscriber=self._subscriber.number, reason=str(error))
                ending = Ending.STALLED
            except SubscriberGoneError:
                pass  # the writer noticed before the reader did
            nursery.cancel_scope.cancel()
        self._note_end(ending, goodbye)
        self.close()
        if self._farewell is not None:
            await writer.end(self._dialogue.last_bytes(self._farewell.code, self._farewell.reason))
        elif goodbye is not None:
            await writer.end(self._dialogue.last_bytes(goodbye.code, goodbye.reason))

    def close(self) -> None:
        """Unsubscribe."""
        if self._session is not None:
            self._session.close()
        if self._visit is not None:
            self._visit.end(Ending.CUT)
        self._hub.unsubscribe(self._subscriber)
        self._admission.release()
        self._dialogue.close()

    def _note_end(self, ending: Ending, goodbye: Goodbye | None) -> None:
        """Note in the access log how the stream ended."""
        visit, farewell = self._visit, self._farewell
        if visit is None:
            return
        if farewell is not None:
            is_close = farewell.goodbye is None
            ending = Ending.CLIENT_CLOSED if is_close else Ending.BROKE_PROTOCOL
            visit.end(ending, farewell.code, farewell.reason)
        elif goodbye is not None:
            visit.end(Ending.GOODBYE, goodbye.code, goodbye.reason)
        else:
            visit.end(self._connection.writer.cut_off_as or ending)

    @property
    def was_flooded(self) -> bool:
        """See `Stream`."""
        return self._farewell is not None and self._farewell.code == CloseReason.POLICY_VIOLATION

    @property
    def subscriber(self) -> Subscriber:
        """The subscriber."""
        return self._subscriber

    def notify(self, data: bytes) -> None:
        """Send whole frames between the subscriber's own, unless the stream has ended."""
        # After the end, the socket's descriptor may belong to another client.
        if not self._subscriber.closed and self._connection.writer.notify(data):
            self._subscriber.flush()

    async def _listen(self, stream: trio.CancelScope) -> None:
        """Read what the client sends until the stream must end."""
        try:
            await self._read_on()
        except Farewell as farewell:
            # Nothing more is read: whatever else the client sends waits in its own kernel.
            self._farewell = farewell
            if farewell.goodbye is None:
                self._subscriber.leave()
                self._connection.writer.cut_short()
                stream.deadline = trio.current_time() + LEAVE_SECONDS
            else:
                log.info("client broke the protocol", code=farewell.code, reason=farewell.reason)
                self._subscriber.end(farewell.goodbye)
                stream.deadline = trio.current_time() + self._connection.peer.liveness.stall_timeout_seconds
            return
        except SubscriberGoneError:
            self._connection.writer.abort()
        except (OSError, trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        stream.cancel()

    async def _read_on(self) -> None:
        """Take what the client sends, step by step, until it has closed its side."""
        connection, dialogue = self._connection, self._dialogue
        says_more = False
        while True:
            if connection.unread:
                data = connection.unread.pop(0)
            else:
                data = bytes(await connection.peer.receive_some(dialogue.receive_bytes))
            if not data:
                return
            start = 0
            while start < len(data):
                if says_more or dialogue.takes_turns:
                    # All clients that send that much together share a few steps per turn of the loop.
                    await connection.pass_by()
                # The dialogue may ask for smaller steps from now on.
                step, start = data[start : start + dialogue.receive_bytes], start + dialogue.receive_bytes
                connection.writer.last_activity_at = now = trio.current_time()
                answer = dialogue.on_client_data(step, now)
                if answer is not None and connection.writer.reply(answer):
                    self._subscriber.flush()
                while dialogue.go_on():
                    await connection.pass_by()
                says_more = len(step) >= dialogue.receive_bytes or start < len(data) or bool(connection.unread)
                if rest_seconds := dialogue.rest_seconds(now):
                    await trio.sleep(rest_seconds)
                while connection.writer.owed_bytes > MOST_OWED_BYTES:  # noqa: ASYNC110 - the socket wakes nobody here
                    await trio.sleep(OWED_SECONDS)
