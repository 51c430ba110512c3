"""Streams that were opened with a token, which clients can renew after a warning, and which end when it expires.

One task handles all of them, sorted by the second in which something is due, so no stream needs its own task or timer.
"""

import heapq
import math
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import orjson
import trio

from dispatcher.auth_settings import Action
from dispatcher.hub.goodbyes import Goodbye, refused, token_expired, token_needed
from dispatcher.sansio.encoding.frames import text_frame
from dispatcher.sansio.encoding.messages import encode_expiring
from dispatcher.sansio.filters import Filter

if TYPE_CHECKING:
    from dispatcher.web.authentication import Verdict

WARNING_SECONDS = 30
"""How long before its token expires a WebSocket is sent `expiring`."""

SLICE = 50
"""Maximum number of streams that end in one step of the loop: a goodbye takes half a millisecond."""

LOOK_SECONDS = 5.0
"""Longest sleep, because the system's clock may be changed meanwhile."""


class Session:
    """One stream and the token that it was opened with.

    Args:
        sessions: All sessions.
        verdict: The token.
        action: The stream's action.
        topics: The stream's topics.
        grant: The filter of its grant; None: all records.
        can_renew: Whether the client can be warned and send another token, which needs a WebSocket.
    """

    __slots__ = (
        "_can_renew",
        "_end",
        "_is_renewing",
        "_notify",
        "_sessions",
        "action",
        "due",
        "grant",
        "topics",
        "verdict",
    )

    def __init__(
        self,
        sessions: "Sessions",
        verdict: "Verdict",
        action: Action,
        topics: AbstractSet[str],
        grant: Filter | None = None,
        *,
        can_renew: bool,
    ) -> None:
        self._sessions = sessions
        self.verdict = verdict
        self.action = action
        self.topics = frozenset(topics)
        self.grant = grant
        self._can_renew = can_renew
        self._end: Callable[[Goodbye], None] | None = None
        self._notify: Callable[[bytes], None] | None = None
        self._is_renewing = False
        self.due = 0
        """The second in which it is checked again."""

    @property
    def subject(self) -> str:
        """The token's subject, by which streams are counted."""
        return self.verdict.principal.subject

    def open(self, end: Callable[[Goodbye], None]) -> None:
        """The stream has its subscriber; `end` ends it, and may be called more than once."""
        self._end = end
        self._sessions.add(self, _second(self.verdict.principal.expires_at))

    def begin(self, notify: Callable[[bytes], None]) -> None:
        """Messages can be sent to the client from now on."""
        if self._can_renew:
            self._notify = notify
            self._schedule()

    def close(self) -> None:
        """The stream is over."""
        self._sessions.discard(self)
        self._end = self._notify = None

    def look(self, now: float) -> None:
        """Send the warning or end the stream, whichever is due."""
        expires_at = self.verdict.principal.expires_at
        if now >= math.floor(expires_at):
            self._finish(token_expired())
            return
        if self._notify is not None:
            self._notify(text_frame(encode_expiring(math.floor(expires_at - now))))
        self._sessions.add(self, _second(expires_at))

    def on_message(self, text: bytes) -> None:
        """Take a message from the client; only those of the type `token` matter."""
        try:
            message: Any = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        if not isinstance(message, dict) or message.get("type") != "token" or self._is_renewing:
            return
        token = message.get("token")
        if not isinstance(token, str):
            self.refuse("the message holds no token")
            return
        self._is_renewing = True
        self._sessions.renew(self, token)

    def extend(self, verdict: "Verdict") -> None:
        """Continue with another token."""
        self.verdict = verdict
        self._is_renewing = False
        # A token that lives for less than a minute is half used before the next one is requested: otherwise clients and
        # their issuer would do nothing but renew.
        self._schedule(min(WARNING_SECONDS, (verdict.principal.expires_at - time.time()) / 2))

    def refuse(self, reason: str) -> None:
        """End the stream: the client has sent a wrong token."""
        self._finish(refused(4401, reason))

    def forbid(self, reason: str) -> None:
        """End the stream: its token does not allow it."""
        self._finish(refused(4403, reason))

    def replace_by(self, reason: str) -> None:
        """End the stream: the client has to reconnect with another token."""
        self._finish(token_needed(reason))

    def renewed(self) -> None:
        """The renewal has ended, successfully or not."""
        self._is_renewing = False

    def _finish(self, goodbye: Goodbye) -> None:
        self._sessions.discard(self)
        if self._end is not None:
            self._end(goodbye)

    def _schedule(self, warning_seconds: float = WARNING_SECONDS) -> None:
        if self._end is not None:
            earlier = 0.0 if self._notify is None else warning_seconds
            self._sessions.add(self, _second(self.verdict.principal.expires_at - earlier))


class Sessions:
    """All streams that were opened with a token.

    Args:
        renew: Takes a new token for one of them.
    """

    def __init__(self, renew: Callable[[Session, str], Awaitable[None]]) -> None:
        self._renew = renew
        self._by_second: dict[int, set[Session]] = {}
        self._seconds: list[int] = []
        """A heap of the keys."""
        self._sooner = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def open(self) -> list[Session]:
        """The sessions whose token has not expired."""
        return [session for sessions in self._by_second.values() for session in sessions]

    def __len__(self) -> int:
        return sum(map(len, self._by_second.values()))

    def add(self, session: Session, second: int) -> None:
        """Check a stream in this second, instead of the one set before."""
        self.discard(session)
        session.due = second
        if second not in self._by_second:
            self._by_second[second] = set()
            heapq.heappush(self._seconds, second)
            if second == self._seconds[0]:
                self._sooner.set()
        self._by_second[second].add(session)

    def discard(self, session: Session) -> None:
        """Stop checking a stream."""
        if (others := self._by_second.get(session.due)) is not None:
            others.discard(session)
            # An empty set stays until its second is due: there is at most one for each second in which a token expires.

    def renew(self, session: Session, token: str) -> None:
        """Take a new token, without waiting."""
        if self._nursery is not None:
            self._nursery.start_soon(self._renew_one, session, token)

    async def run(self) -> None:
        """Check each stream when it is due, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            while True:
                await self._look_at_due()
                self._sooner = trio.Event()
                wait_seconds = self._seconds[0] - time.time() if self._seconds else LOOK_SECONDS
                with trio.move_on_after(min(LOOK_SECONDS, max(0.0, wait_seconds))):
                    await self._sooner.wait()

    async def _look_at_due(self) -> None:
        number, now = 0, time.time()
        while self._seconds and self._seconds[0] <= now:
            second = heapq.heappop(self._seconds)
            # Sessions that wait for the next step stay in the table: they may end meanwhile, and a reload must find
            # them.
            due = self._by_second[second]
            while due:
                due.pop().look(now)
                number += 1
                if number % SLICE == 0:
                    await trio.lowlevel.checkpoint()
            del self._by_second[second]

    async def _renew_one(self, session: Session, token: str) -> None:
        try:
            await self._renew(session, token)
        finally:
            session.renewed()


def _second(at: float) -> int:
    """The second in which a token expires, rounded so that no token is accepted for too long."""
    return math.floor(min(at, 2.0**53))
