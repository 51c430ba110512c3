"""The one outlet of a connection: every byte that goes out on its socket passes through here.

Response heads, records, answers to pings and closes take the same route, so whatever a socket took in part is finished
before anything else is sent: no byte can get between the two halves of a chunk or a frame.

Rules:

* Bytes that were accepted but not sent yet (`_unsent`) are sent first, whoever sends next.
* `try_send` and `reply` never wait. `send_all` does, and also sends what they left over.
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


class Writer:
    """Writes to one connection (`hub.transport.Transport`). *Thread*: Trio's.

    Args:
        peer: Where to write.
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
        """Whether nothing is accepted any more: the last bytes have gone out, or the connection was aborted."""
        self.cut_off_as: Ending | None = None
        """Why the connection was closed that the peer had not ended; None: the peer was first."""
        self.last_activity_at = trio.current_time()
        """When the peer last sent something."""
        self._lock = trio.Lock()
        self._streams = False
        """Whether bytes may go to the socket at once in between."""
        self._descriptor = -1
        self._direct_bytes = 0
        """Most bytes that may go to the socket at once; 0 unless a stream is open and nothing waits to go out."""
        self._unsent: memoryview | None = None
        """What the socket has not taken yet of bytes that were accepted."""
        self._reply = b""
        """An answer that goes out after what is under way; a newer one replaces it (RFC 6455, section 5.5.3)."""
        self._notices: bytes | bytearray = b""
        """What else goes out then: whole frames, a few in the life of a stream, or one for each record in the window
        of a client that refuses all of them."""
        self._cut_short = False
        self._silence_seconds: float | None = None
        self._look_at = self.last_activity_at
        self._doubted = False
        """Whether the last look found no progress."""

    def open_stream(self, silence_seconds: float | None) -> None:
        """From now on a subscriber writes.

        Args:
            silence_seconds: The peer has to send something at least this often; None where it has nothing to say.
        """
        if self._peer.descriptor is not None:
            self._streams = True
            self._descriptor = self._peer.descriptor
            if self._unsent is None:
                self._direct_bytes = self._peer.liveness.direct_bytes
        self._silence_seconds = silence_seconds
        self.last_activity_at = trio.current_time()

    def hold(self, data: bytes) -> None:
        """Accept bytes that go out with whatever is sent next."""
        self._unsent = memoryview(data if self._unsent is None else bytes(self._unsent) + data)
        self._direct_bytes = 0

    def try_send(self, data: bytes) -> int:
        """Hand bytes to the socket if it takes some at once; returns how many it took (see `Transport`)."""
        size_bytes = len(data)
        if size_bytes > self._direct_bytes:
            return 0
        try:
            sent = os.write(self._descriptor, data)
        except OSError:
            return 0  # full, or broken: `send_all` finds out
        if sent < size_bytes:
            self._unsent, self._direct_bytes = memoryview(data)[sent:], 0
        return sent

    def reply(self, data: bytes) -> bool:
        """Answer the peer without waiting.

        Returns:
            False: the answer has gone out. True: `send_all` has to be called, with or without bytes, to send it.
        """
        sent = self.try_send(data)
        if not sent:
            self._reply = data
        return sent < len(data)

    def notify(self, data: bytes) -> bool:
        """Tell the peer something without waiting; unlike an answer it is replaced by no newer one.

        Returns:
            See `reply`.
        """
        sent = self.try_send(data)
        if not sent:
            if not self._notices:
                self._notices = bytearray()
            self._notices += data  # in place: a client that reads nothing must not cost a copy for each
        return sent < len(data)

    async def send_all(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Hand bytes to the socket, in order, after what it has not taken yet; returns when it took the last one.

        *Backpressure*: waits while the socket is full. *Cancellation*: the connection is aborted, because a part
        may have been sent.

        Raises:
            SubscriberGoneError: the connection is closed or broken, or its last bytes have gone out.
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
        """Let a `send_all` under way end with the buffer that it has begun, as if the connection were gone.

        For a client that leaves: each buffer is a whole frame, so a close may follow.
        """
        self._streams, self._direct_bytes, self._cut_short = False, 0, True

    async def end(self, data: bytes) -> None:
        """Send a stream's last bytes; from then on nothing is accepted.

        Does nothing when the connection has broken. *Cancellation*: as for `send_all`.
        """
        self._streams, self._cut_short = False, False
        self._reply = self._notices = b""
        with suppress(SubscriberGoneError, SubscriberStalledError):
            await self.send_all([data])
        self._close()

    def abort(self) -> None:
        """Close the connection at once, with a reset: whatever waits for it, in us or in the kernel, is let go."""
        if self._peer.socket.fileno() >= 0:
            self._peer.liveness.look()  # for the access log: a closed socket says nothing
            with suppress(OSError):
                self._peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._peer.socket.close()
        self._close()

    def end_if_silent(self, now: float) -> None:
        """Abort when the peer has vanished, which is to acknowledge nothing of what it was sent, or answers no ping."""
        if now < self._look_at or self.ended:
            return
        liveness = self._peer.liveness
        self._look_at = now + liveness.stall_timeout_seconds / 2
        if self._lock.locked():
            self.last_activity_at = now  # a send is under way, and gives up by itself
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
        """Send buffers and take them from the list; what was not begun stays in it after `cut_short`."""
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
