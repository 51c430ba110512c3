"""``/admin`` over all workers, with workers that have no process."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
import trio

from dispatcher.errors import NotFoundError, UnavailableError
from dispatcher.web.admin_streams import Selection
from dispatcher.workers import admin
from dispatcher.workers.admin import NUMBERS, WorkersStreams
from dispatcher.workers.member import Member
from testbed.patience import seconds

EVERYBODY = Selection()


@dataclass
class Worker:
    """A worker without a process: it has streams, and shows life when a test says so."""

    name: str
    streams: list[int] = field(default_factory=list)
    hangs: bool = False
    is_up: bool = True
    drain: int = 0
    orders: list[tuple[int, float | None]] = field(default_factory=list)
    heard: trio.Event = field(default_factory=trio.Event)

    @property
    def subscribers(self) -> int:
        """How many it has."""
        return len(self.streams)

    async def wait_heard(self) -> None:
        """Until it shows life."""
        await self.heard.wait()

    def start_again(self) -> None:
        """As another process, which has carried out nothing."""
        self.drain = 0
        self.orders.clear()

    def show_life(self) -> None:
        """As a heartbeat that has arrived."""
        self.heard.set()
        self.heard = trio.Event()

    def order_drain(self, number: int, drain_seconds: float | None) -> None:
        """Carried out at once, unless it hangs."""
        self.orders.append((number, drain_seconds))
        if not self.hangs:
            self.drain = number
            self.show_life()

    async def ask(self, what: str, **question: Any) -> bytes | None:
        """As a process answers."""
        if self.hangs:
            await trio.sleep_forever()
        if what == "subscribers":
            wanted = [number for number in self.streams if number > question["after"]]
            shown = wanted[: question["limit"]]
            following = shown[-1] if len(wanted) > len(shown) else None
            page = {"subscribers": [{"id": number} for number in shown], "next": following, "total": len(self.streams)}
            return orjson.dumps(page)
        if what == "disconnect-one":
            found = question["number"] in self.streams
            self.streams = [number for number in self.streams if number != question["number"]]
            return orjson.dumps({"disconnected": int(found)})
        assert what == "disconnect"
        ended, self.streams = self.streams, []
        return orjson.dumps({"disconnected": len(ended)})


@dataclass
class Parent:
    """The streams of some workers, and how often all of them were stopped."""

    workers: Sequence[Worker]
    stops: int = 0

    def __post_init__(self) -> None:
        self.streams = WorkersStreams(cast("Sequence[Member]", self.workers), self._stop)

    def _stop(self) -> None:
        self.stops += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Orders are carried out within the ``async with`` block."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.streams.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        """Let workers show life until a condition holds."""
        with trio.fail_after(seconds(20)):
            while not condition():
                for worker in self.workers:
                    worker.show_life()
                await trio.lowlevel.checkpoint()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs is waited for no longer than a moment."""
    monkeypatch.setattr(admin, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(admin, "END_SECONDS", 0.05)


@pytest.mark.parametrize("limit", range(1, 7))
async def test_each_stream_of_each_worker_is_on_one_page(limit: int) -> None:
    """Pages are ordered by worker and number, full, and name the beginning of the next one."""
    streams = Parent([Worker("1", [1, 3, 4]), Worker("2"), Worker("3", [2, 7])]).streams
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await streams.page(EVERYBODY, after, limit)
        assert page["total"] == 5
        assert len(page["subscribers"]) == limit or page["next"] is None
        assert all(str(one["id"]).startswith(one["worker"]) for one in page["subscribers"])
        seen += [one["id"] for one in page["subscribers"]]
        after = page["next"]
    assert seen == [NUMBERS + 1, NUMBERS + 3, NUMBERS + 4, 3 * NUMBERS + 2, 3 * NUMBERS + 7]


async def test_one_stream_is_ended_where_it_is() -> None:
    """The same number of another worker stays, and unknown numbers are not found."""
    one, two = Worker("1", [5]), Worker("2", [5])
    streams = Parent([one, two]).streams
    assert await streams.disconnect_one(2 * NUMBERS + 5, returns=True) == {"disconnected": 1}
    assert (one.streams, two.streams) == ([5], [])
    for number in (2 * NUMBERS + 5, 5, 3 * NUMBERS + 5):
        with pytest.raises(NotFoundError):
            await streams.disconnect_one(number, returns=True)


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_does_not_answer_is_named() -> None:
    """The others act; a single stream of the silent one is unavailable."""
    one, two = Worker("1", [1, 2]), Worker("2", [5], hangs=True)
    parent = Parent([one, two])
    page = await parent.streams.page(EVERYBODY, 0, 10)
    assert ([each["id"] for each in page["subscribers"]], page["unanswered"]) == ([NUMBERS + 1, NUMBERS + 2], ["2"])
    with pytest.raises(UnavailableError, match="worker 2"):
        await parent.streams.disconnect_one(2 * NUMBERS + 5, returns=True)
    assert await parent.streams.disconnect(EVERYBODY, returns=True) == {"disconnected": 2, "unanswered": ["2"]}
    async with parent.running():
        assert (await parent.streams.begin_drain(7, stops=True))["unanswered"] == ["2"]
        assert one.orders == [(1, 7)]
        await parent.until(lambda: len(two.orders) > 1)
        assert parent.stops == 0


async def test_a_process_that_starts_during_a_drain_is_drained() -> None:
    """It gets the order, and later the end of the drain, at its first report."""
    one, two = Worker("1", [1]), Worker("2", [1, 2])
    parent = Parent([one, two])
    async with parent.running():
        answer = await parent.streams.begin_drain(60, stops=False)
        assert answer == {"draining": True, "subscribers": 3, "seconds": 60, "unanswered": []}
        assert await parent.streams.begin_drain(5, stops=False) == answer, "the first one counts"
        two.start_again()
        await parent.until(lambda: two.orders)
        assert two.orders[:1] == [(1, 60)]
        assert await parent.streams.end_drain() == {"draining": False, "unanswered": []}
        assert one.orders == [(1, 60), (2, None)]
        two.start_again()
        await parent.until(lambda: two.orders)
        assert two.orders[:1] == [(2, None)]
    assert parent.stops == 0


async def test_all_stop_together_once_nobody_is_left() -> None:
    """They stop once, after the last stream: a second stop would mean "immediately"."""
    one, two = Worker("1", [1]), Worker("2", [1, 2])
    parent = Parent([one, two])
    async with parent.running():
        await parent.streams.begin_drain(60, stops=False)
        await parent.streams.begin_drain(0, stops=True)
        assert one.orders == [(1, 60)]
        one.streams = []
        for _ in range(3):
            one.show_life()
            await trio.testing.wait_all_tasks_blocked()
        assert parent.stops == 0
        two.streams = []
        await parent.until(lambda: parent.stops)
        for worker in (one, two, one):
            worker.show_life()
            await trio.testing.wait_all_tasks_blocked()
    assert [parent.stops] == [1]


async def test_what_a_worker_showed_before_the_order_stops_nobody() -> None:
    """An empty worker without the order may still accept streams."""
    one, two = Worker("1", hangs=True), Worker("2")
    parent = Parent([one, two])
    async with parent.running(), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: parent.streams.begin_drain(0, stops=True))
        await trio.testing.wait_all_tasks_blocked()
        for worker in (two, one, two):
            worker.show_life()
            await trio.testing.wait_all_tasks_blocked()
        assert parent.stops == 0
        one.is_up = False  # its process has ended
        await parent.until(lambda: parent.stops)
        nursery.cancel_scope.cancel()
