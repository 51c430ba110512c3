"""The one outlet of a connection: every byte that is sent on its socket passes through here.

Response heads, records, answers to pings and closes take the same route, so a partly sent buffer is finished before
anything else is sent: no byte can get between the two halves of a chunk or a frame.

Rules:

* Bytes that were accepted but not sent yet (`_unsent`) are always sent first.
* `try_send`, `reply` and `notify` never wait. `send_all` does, and also sends what they left over.
* After a stream's last bytes (`end`) and after `abort` nothing is accepted.
"""

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

import structlog
import trio

from dispatcher.errors import SubscriberGoneError, SubscriberStalledError
from dispatcher.web.liveness import Progress
from dispatcher.web.sockets import Socket
from dispatcher.web.visits import Ending

log = structlog.get_logger(__name__)

DIRECT_PIECES_BYTES = 2 * 1024
"""Maximum size of a direct write that the socket has to be given in pieces (`Liveness.send`): it takes three times as
long as a direct write in one piece, and a task that has to wake ten times. A round offers it to 256 subscribers."""


class Writer:
    """Writes to one connection (`hub.transport.Transport`). *Thread*: Trio's.

    Args:
        peer: The socket to write to.
    """

    __slots__ = (
        "_cut_short",
        "_descriptor",
        "_direct_bytes",
        "_doubted",
        "_lock",
        "_look_at",
        "_notices",
        "_peer",
        "_reply",
        "_silence_seconds",
        "_streams",
        "_unsent",
        "cut_off_as",
        "ended",
        "last_activity_at",
        "name",
    )

    def __init__(self, peer: Socket) -> None:
        self._peer = peer
        self.name = peer.name
        self.ended = False
        """Whether all bytes are refused, because the last ones were sent or the connection was aborted."""
        self.cut_off_as: Ending | None = None
        """Why the server closed the connection; None if the peer closed it first."""
        self.last_activity_at = trio.current_time()
        """The time at which the peer last sent something."""
        self._lock = trio.Lock()
        self._streams = False
        """Whether bytes may be written to the socket directly, between two `send_all`: on a stream without TLS."""
        self._descriptor = -1
        self._direct_bytes = 0
        """Maximum number of bytes that may be written directly, in one piece; 0 unless a stream is open and nothing
        waits to be sent."""
        self._unsent: memoryview | None = None
        """Accepted bytes that the socket has not taken yet."""
        self._reply = b""
        """An answer to be sent after the current write; a newer one replaces it (RFC 6455, section 5.5.3)."""
        self._notices: bytes | bytearray = b""
        """Other whole frames to be sent then. Whoever lets clients cause them reads `owed_bytes`."""
        self._cut_short = False
        self._silence_seconds: float | None = None
        self._look_at = self.last_activity_at
        self._doubted = False
        """Whether the last check found no progress."""

    def open_stream(self, silence_seconds: float | None) -> None:
        """Let a subscriber write from now on.

        Args:
            silence_seconds: Maximum time between two signs of life of the peer; None if it need not send anything.
        """
        if self._peer.descriptor is not None:
            self._streams = True
            self._descriptor = self._peer.descriptor
            if self._unsent is None:
                self._direct_bytes = self._peer.liveness.direct_bytes
        self._silence_seconds = silence_seconds
        self.last_activity_at = trio.current_time()

    def hold(self, data: bytes) -> None:
        """Accept bytes that are sent together with the next write."""
        self._unsent = memoryview(data if self._unsent is None else bytes(self._unsent) + data)
        self._direct_bytes = 0

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes any at once; returns how many it took (see `Transport`)."""
        size_bytes = len(data)
        try:
            if size_bytes <= self._direct_bytes:
                sent = os.write(self._descriptor, data)
            elif self._direct_bytes and size_bytes <= DIRECT_PIECES_BYTES:
                sent = self._peer.liveness.send([data])
                self._direct_bytes = self._peer.liveness.direct_bytes
            else:
                return 0
        except OSError:
            return 0  # full, or broken: `send_all` finds out
        if sent < size_bytes:
            self._unsent, self._direct_bytes = memoryview(data)[sent:], 0
        return sent

    def reply(self, data: bytes) -> bool:
        """Answer the peer without waiting.

        Returns:
            False if the answer was sent. True if `send_all` has to be called, with or without bytes, to send it.
        """
        sent = self.try_send(data)
        if not sent:
            self._reply = data
        return sent < len(data)

    @property
    def owed_bytes(self) -> int:
        """How many bytes of messages (`notify`) wait to be sent."""
        return len(self._notices)

    def notify(self, data: bytes) -> bool:
        """Send the peer a message without waiting; unlike an answer, it is never replaced by a newer one.

        Returns:
            See `reply`.
        """
        sent = self.try_send(data)
        if not sent:
            if not self._notices:
                self._notices = bytearray()
            self._notices += data  # in place, so that a client that reads nothing does not cost a copy per message
        return sent < len(data)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Hand bytes to the socket, in order, after those that it has not taken yet; returns once all are taken.

        *Backpressure*: waits while the socket is full. *Cancellation*: the connection is aborted, because a part
        may have been sent.

        Raises:
            SubscriberGoneError: the connection is closed or broken, or its last bytes were sent.
            SubscriberStalledError: the peer took nothing for `stall_timeout_seconds`; the connection is aborted.
        """
        async with self._lock:
            if self.ended:
                raise SubscriberGoneError("the connection has ended")
            self._direct_bytes = 0
            waiting = [buffer for buffer in buffers if buffer]
            if self._unsent is not None:
                waiting.insert(0, self._unsent)
                self._unsent = None
            try:
                await self._send(waiting)
                while (self._reply or self._notices) and not waiting:
                    pending, self._reply, self._notices = bytes(self._notices) + self._reply, b"", b""
                    await self._send([pending])
            except (OSError, trio.ClosedResourceError, trio.BrokenResourceError) as error:
                self.abort()
                raise SubscriberGoneError("the connection is closed") from error
            except BaseException:
                self.abort()
                raise
            if waiting:
                raise SubscriberGoneError("the stream ends")
            if self._streams and not self.ended:
                self._direct_bytes = self._peer.liveness.direct_bytes

    def cut_short(self) -> None:
        """Let the current `send_all` end after the buffer that it has begun, as if the connection were gone.

        For a client that leaves: each buffer is a whole frame, so a close may follow.
        """
        self._streams, self._direct_bytes, self._cut_short = False, 0, True

    async def end(self, data: bytes) -> None:
        """Send a stream's last bytes, and accept nothing more.

        Does nothing when the connection has broken. *Cancellation*: as for `send_all`.
        """
        self._streams, self._cut_short = False, False
        self._reply = self._notices = b""
        with suppress(SubscriberGoneError, SubscriberStalledError):
            await self.send_all([data])
        self._close()

    def abort(self) -> None:
        """Close the connection at once, with a reset: bytes that wait here or in the kernel are dropped."""
        if self._peer.socket.fileno() >= 0:
            self._peer.liveness.look()  # for the access log, because a closed socket reports nothing
            with suppress(OSError):
                self._peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._peer.socket.close()
        self._close()

    def end_if_silent(self, now: float) -> None:
        """Abort if the peer has vanished, which means that it acknowledges nothing, or does not answer pings."""
        if now < self._look_at or self.ended:
            return
        liveness = self._peer.liveness
        self._look_at = now + liveness.stall_timeout_seconds / 2
        if self._lock.locked():
            self.last_activity_at = now  # a send is in progress, and gives up by itself
            return
        progress = liveness.look()
        if progress is Progress.MOVING:
            self.last_activity_at = now  # pings wait for room, too
        if progress is Progress.NONE and self._doubted:
            log.info("subscriber vanished", stall_timeout_seconds=liveness.stall_timeout_seconds)
            self.cut_off_as = Ending.VANISHED
            self.abort()
        self._doubted = progress is Progress.NONE
        if self._silence_seconds is not None:
            if now - self.last_activity_at >= self._silence_seconds:
                log.info("subscriber did not answer pings", silence_seconds=now - self.last_activity_at)
                self.cut_off_as = Ending.VANISHED
                self.abort()
            self._look_at = min(self._look_at, self.last_activity_at + self._silence_seconds)

    async def _send(self, buffers: list[bytes | memoryview]) -> None:
        """Send buffers and remove them from the list; after `cut_short`, those not begun stay in it."""
        while buffers:
            if self._cut_short and not isinstance(buffers[0], memoryview):
                return
            if self.ended:
                raise SubscriberGoneError("the connection has ended")
            sent = await self._peer.send_some(buffers[:1] if self._cut_short else buffers)
            done = 0
            while done < len(buffers) and sent >= len(buffers[done]):
                sent -= len(buffers[done])
                done += 1
            del buffers[:done]
            if sent:
                buffers[0] = memoryview(buffers[0])[sent:]

    def _close(self) -> None:
        self.ended = True
        self._direct_bytes, self._unsent = 0, None
        self._reply = self._notices = b""
