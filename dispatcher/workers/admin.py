"""``/admin`` for all workers: the parent asks each of them and combines the answers.

Each worker numbers its own subscribers. In these answers the worker's number comes first: 2000000000017 is subscriber
17 of worker 2, the same number as in the log. A worker that does not answer in time is listed in ``unanswered``.

An order to drain also applies to processes that start later. So orders are numbered, each worker reports the number of
the last order that it carried out, and a worker that reports another number is given the order again.

*Thread*: Trio's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import trio

from dispatcher.errors import NotFoundError, UnavailableError
from dispatcher.web.admin_streams import Answer, Selection
from dispatcher.workers.member import Member

ANSWER_SECONDS = 2.0
"""How long a worker may take to list its streams, or to start draining."""
END_SECONDS = 10.0
"""How long a worker may take to end streams: half a millisecond for each."""

NUMBERS = 10**12
"""The factor for the worker's number: larger than any count of subscribers, and small enough that JavaScript's numbers
are exact for 9,000 workers."""


class WorkersStreams:
    """The streams of all workers (`web.admin_streams.Streams`). `run` makes the workers carry out orders.

    Args:
        members: The workers, whose names are their numbers from 1.
        stop: Begins a graceful stop of all workers.
    """

    def __init__(self, members: Sequence[Member], stop: Callable[[], None]) -> None:
        self._members = members
        self._stop = stop
        self._order = 0
        """The number of the last order to drain, or to end a drain; 0 before the first one."""
        self._seconds: float | None = None
        """How long the current drain may take; None while there is none."""
        self._stops = False

    async def run(self) -> None:
        """Repeat the last order to workers that missed it; when a drain that stops has emptied all of them, stop."""
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(self._watch, member)

    async def page(self, selection: Selection, after: int, limit: int) -> Answer:
        """See `web.admin_streams.Streams`. *Cancellation*: safe."""
        given = selection.arguments()
        answers = await self._ask_all(
            ANSWER_SECONDS,
            "subscribers",
            lambda member: {"selection": given, "after": _own_number(member, after), "limit": limit},
        )
        found: list[Mapping[str, Any]] = []
        is_last = True
        for member in self._members:
            answer = answers.get(member.name)
            if answer is not None:
                found += [
                    {**one, "id": int(member.name) * NUMBERS + one["id"], "worker": member.name}
                    for one in answer["subscribers"]
                ]
                is_last = is_last and answer["next"] is None
        shown = found[:limit]
        has_more = len(found) > limit or not is_last
        total = sum(answer["total"] for answer in answers.values())
        following = shown[-1]["id"] if has_more else None
        return {"subscribers": shown, "next": following, "total": total, "unanswered": self._unanswered(answers)}

    async def disconnect_one(self, number: int, *, returns: bool) -> Answer:
        """See `web.admin_streams.Streams`. *Cancellation*: the subscriber may have been disconnected."""
        worker, own = divmod(number, NUMBERS)
        for member in self._members:
            if member.name == str(worker):
                answer = await _ask(member, END_SECONDS, "disconnect-one", {"number": own, "returns": returns})
                if answer is None:
                    raise UnavailableError(f"worker {worker} does not answer")
                if answer["disconnected"]:
                    return answer
        raise NotFoundError(f"no subscriber {number} is connected here")

    async def disconnect(self, selection: Selection, *, returns: bool) -> Answer:
        """See `web.admin_streams.Streams`. *Cancellation*: some subscribers have been disconnected."""
        question = {"selection": selection.arguments(), "returns": returns}
        answers = await self._ask_all(END_SECONDS, "disconnect", lambda _: question)
        number = sum(answer["disconnected"] for answer in answers.values())
        return {"disconnected": number, "unanswered": self._unanswered(answers)}

    async def begin_drain(self, seconds: float, *, stops: bool) -> Answer:
        """See `web.admin_streams.Streams`; a second call only adds `stops`. *Cancellation*: the drain continues."""
        self._stops = self._stops or stops
        if self._seconds is None:
            self._give_order(seconds)
        counts = self._seconds
        unanswered = await self._wait_for_order()
        subscribers = sum(member.subscribers for member in self._members)
        return {"draining": True, "subscribers": subscribers, "seconds": counts, "unanswered": unanswered}

    async def end_drain(self) -> Answer:
        """See `web.admin_streams.Streams`. *Cancellation*: the drain has ended."""
        self._stops = False
        if self._seconds is not None:
            self._give_order(None)
        return {"draining": False, "unanswered": await self._wait_for_order()}

    def _give_order(self, seconds: float | None) -> None:
        self._order += 1
        self._seconds = seconds
        for member in self._members:
            member.order_drain(self._order, seconds)

    async def _wait_for_order(self) -> list[str]:
        """Wait until every worker has carried out the last order; returns the workers that did not in time."""
        order = self._order

        async def wait(member: Member) -> None:
            while member.drain < order:
                await member.wait_heard()

        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                for member in self._members:
                    nursery.start_soon(wait, member)
        return [member.name for member in self._members if member.drain < order]

    async def _watch(self, member: Member) -> None:
        while True:
            await member.wait_heard()
            if member.drain < self._order:
                member.order_drain(self._order, self._seconds)
            if self._stops and all(map(self._is_empty, self._members)):
                self._stops = False  # a second signal would mean "immediately"
                self._stop()

    def _is_empty(self, member: Member) -> bool:
        """Whether a worker has no subscribers; a process that has never reported has none."""
        return not member.is_up or (member.drain == self._order and member.subscribers == 0)

    async def _ask_all(
        self, seconds: float, what: str, question: Callable[[Member], Mapping[str, Any]]
    ) -> Mapping[str, Mapping[str, Any]]:
        """Return the answers that arrive in time, by worker."""
        answers: dict[str, Mapping[str, Any]] = {}

        async def ask(member: Member) -> None:
            answer = await _ask(member, seconds, what, question(member))
            if answer is not None:
                answers[member.name] = answer

        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(ask, member)
        return answers

    def _unanswered(self, answers: Mapping[str, object]) -> list[str]:
        return [member.name for member in self._members if member.name not in answers]


async def _ask(member: Member, seconds: float, what: str, question: Mapping[str, Any]) -> Mapping[str, Any] | None:
    with trio.move_on_after(seconds):
        page = await member.ask(what, **question)
        if page is not None:
            answer: Mapping[str, Any] = orjson.loads(page)
            return answer
    return None


def _own_number(member: Member, after: int) -> int:
    """Translate a number of all workers into the one after which this worker has to list its streams."""
    worker, number = divmod(after, NUMBERS)
    if worker == int(member.name):
        return number
    return 0 if worker < int(member.name) else NUMBERS
