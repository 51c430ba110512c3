"""Subscribers that know nothing but the edge: they come back as the protocol says, and write down how long it took."""

from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import h11
import orjson
import trio
from trio_websocket import WebSocketConnection

from testbed.clients import Addressed, SseStream, open_sse, open_ws
from tests.audit.ledger import Ledger
from tests.audit.listeners import ENDINGS, Transport

RETRY_SECONDS = 1.0
"""What ``retry:`` says when nothing else does."""

RESTART, TRY_LATER = 1012, 1013
CUT = 0
"""In the place of a code: the stream ended without a goodbye."""

OPEN_SECONDS = 5.0
WAVE_SECONDS = 5.0
"""Returns within this time count as one wave."""

_Message = dict[str, Any]
_Next = Callable[[], Awaitable[_Message | None]]


@dataclass(slots=True)
class Visit:
    """One connection that reached a replica."""

    process: str
    began: float
    live_at: float | None = None
    """When it learned that records flow."""
    ended: float | None = None
    code: int = CUT


class Edge:
    """Where the stack is reached.

    Args:
        port: On loopback.
    """

    def __init__(self, port: int) -> None:
        self._port = port

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return "127.0.0.1", self._port


class Visitor:
    """One subscriber, who always comes back, without an id: what one has missed, others must have got.

    Args:
        ledger: Where it writes down what it reads.
        edge: Where it connects.
        transport: SSE or WebSocket.
        topic: What it reads.
    """

    def __init__(self, ledger: Ledger, edge: Addressed, transport: Transport, topic: str) -> None:
        self.visits: list[Visit] = []
        self.refused = 0
        """Connections that did not reach a replica."""
        self._ledger = ledger
        self._edge = edge
        self._transport = transport
        self._query = f"?topic={topic}"
        self._retry_seconds = RETRY_SECONDS

    async def run(self) -> None:
        """Read for ever. *Cancellation*: safe, the connection is closed."""
        while True:
            self._retry_seconds = RETRY_SECONDS
            number = len(self.visits)
            try:
                with trio.move_on_after(OPEN_SECONDS) as opening:
                    async with self._open() as next_message:
                        opening.deadline = float("inf")
                        await self._read(next_message)
            except* (*ENDINGS, h11.RemoteProtocolError):
                pass  # the next connection tells how things are
            self.refused += len(self.visits) == number
            await trio.sleep(self._retry_seconds)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[_Next]:
        if self._transport == "sse":
            async with open_sse(self._edge, self._query) as stream:
                yield lambda: _next_event(stream)
        else:
            async with open_ws(self._edge, self._query) as websocket:
                yield lambda: _next_text(websocket)

    async def _read(self, next_message: _Next) -> None:
        visit: Visit | None = None
        connection = -1
        try:
            while (message := await next_message()) is not None:
                kind = message["type"]
                if kind == "state":
                    if visit is None:
                        visit = Visit(message["replica"], trio.current_time())
                        self.visits.append(visit)
                        connection = self._ledger.opened(visit.process, visit.began)
                    else:
                        self._ledger.told_state(connection)
                    if visit.live_at is None and message["state"] == "streaming":
                        visit.live_at = trio.current_time()
                elif kind == "records":
                    for record in message["records"]:
                        number = int(record["value"])
                        self._ledger.received(
                            connection, record["partition"], record["offset"], number, trio.current_time()
                        )
                elif kind == "goodbye":
                    self._retry_seconds = message["retry_ms"] / 1000
                    if visit is not None:
                        visit.code = message["code"]
        finally:
            if visit is not None:
                visit.ended = trio.current_time()


async def _next_event(stream: SseStream) -> _Message | None:
    """The next event as a WebSocket would have it; None at the end."""
    event = await stream.next_event()
    if event is None:
        return None
    if event.type == "message":
        partition, offset = event.own
        return {"type": "records", "records": [{"partition": partition, "offset": offset, "value": event.data}]}
    return {"type": event.type, **orjson.loads(event.data)}


async def _next_text(websocket: WebSocketConnection) -> _Message | None:
    message: _Message = orjson.loads(await websocket.get_message())
    return message


@dataclass(frozen=True, slots=True)
class Returns:
    """How subscribers came back while something happened."""

    stops: dict[str, int] = field(default_factory=dict)
    """By process that stopped: how many of its subscribers it told so."""
    largest_wave: int = 0
    """The most connections that began within ``WAVE_SECONDS``."""
    most_at_once: int = 0
    """The most subscribers that one process had at any time."""
    seconds: tuple[float, ...] = ()
    """From the stop of its replica until a subscriber was live again."""
    never: int = 0
    """How many were not, by the end."""
    spread: int = 0
    """How many were sent to another replica by one that went on."""
    cut: int = 0
    """How many lost their stream without a word."""

    @property
    def median_seconds(self) -> float:
        """Half of them were faster."""
        return median(self.seconds) if self.seconds else 0.0

    @property
    def worst_seconds(self) -> float:
        """None was slower."""
        return max(self.seconds, default=0.0)


def returns(visitors: Sequence[Sequence[Visit]], began: float, ended: float) -> Returns:
    """What happened to the visitors between two times.

    Args:
        visitors: The visits of each.
        began: Of what happened.
        ended: Of it.
    """
    over = [(visits, visit) for visits in visitors for visit in visits if began <= (visit.ended or 0) < ended]
    stops: dict[str, list[tuple[Sequence[Visit], float]]] = {}
    for visits, visit in over:
        if visit.code == RESTART and visit.ended is not None:
            stops.setdefault(visit.process, []).append((visits, visit.ended))
    seconds: list[float] = []
    never = 0
    for those in stops.values():
        stop = min(left for _, left in those)
        for visits, left in those:
            live = next((one.live_at for one in visits if one.began >= left and one.live_at is not None), None)
            if live is None:
                never += 1
            else:
                seconds.append(live - stop)
    codes = Counter(visit.code for _, visit in over)
    return Returns(
        stops={process: len(those) for process, those in stops.items()},
        largest_wave=_largest_wave(sorted(v.began for visits in visitors for v in visits if began <= v.began < ended)),
        most_at_once=_most_at_once([visit for visits in visitors for visit in visits], began, ended),
        seconds=tuple(seconds),
        never=never,
        spread=codes[TRY_LATER],
        cut=codes[CUT],
    )


def _largest_wave(times: Sequence[float]) -> int:
    return max((bisect_left(times, time + WAVE_SECONDS) - index for index, time in enumerate(times)), default=0)


def _most_at_once(visits: Sequence[Visit], began: float, ended: float) -> int:
    most = 0
    for process in {visit.process for visit in visits}:
        there = [(max(v.began, began), v.ended or ended) for v in visits if v.process == process and v.began < ended]
        for time, _ in there:
            most = max(most, sum(first <= time < last for first, last in there))
    return most
