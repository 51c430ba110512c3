"""The table of streams that were opened with a token: who is in it, and for how long."""

import time
from collections.abc import Callable

import trio
import trio.testing

from dispatcher.access.principal import Principal
from dispatcher.access.tokens import Valid
from dispatcher.web.authentication import Verdict
from dispatcher.web.sessions import Session, Sessions


async def renew(_session: Session, _token: str) -> None:
    """Nobody sends another token here."""


def opened(sessions: Sessions, number: int, notify: Callable[[], None]) -> list[Session]:
    """Streams whose tokens end in 20 s, so each is to be warned at once."""
    expires_at = time.time() + 20
    valid = Valid({}, "alice", expires_at, "key")
    verdict = Verdict(valid, Principal("issuer", "alice", expires_at, (), "key"))
    streams = [Session(sessions, verdict, "subscribe", {"orders"}, can_renew=True) for _ in range(number)]
    for session in streams:
        session.open(lambda _goodbye: None)
        session.begin(lambda _data: notify())
    return streams


async def look(sessions: Sessions) -> None:
    """Let it look at all that are due."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sessions.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_stream_that_ends_while_others_are_warned_leaves_the_table() -> None:
    """It was due in the same second, but not reached yet."""
    sessions, warned = Sessions(renew), list[int]()

    def notify() -> None:
        warned.append(len(sessions))
        for session in sessions.open:
            session.close()

    opened(sessions, 3, notify)
    await look(sessions)
    assert (warned, len(sessions)) == ([2], 1)


async def test_a_stream_is_in_the_table_until_it_ends() -> None:
    """Otherwise a reload during warnings would miss it."""
    sessions, seen = Sessions(renew), list[int]()
    streams = opened(sessions, 3, lambda: seen.append(len(sessions.open)))
    await look(sessions)
    assert seen == [2, 2, 2]  # all but the one that is warned now
    assert set(sessions.open) == set(streams)
    for session in streams:
        session.close()
    assert len(sessions) == 0
