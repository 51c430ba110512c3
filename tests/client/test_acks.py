"""The Python client acknowledges: the longest run of which all is done, again after a reconnect, and refusals."""

import dataclasses
from collections.abc import AsyncIterator, ItemsView, Iterator
from contextlib import asynccontextmanager, suppress

import orjson
import pytest
import trio
import trio.testing

from dispatcher.client import Record, Subscription, WrongAddressError, subscribe
from dispatcher.client.acks import Acks
from dispatcher.client.events import Gap, Heartbeat, State
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.sansio.records import TopicPartition
from testbed import commands
from tests.hub.test_acking import Letters
from tests.hub.test_hub import TWO
from tests.web.test_acks import AckHouse


def address(house: AckHouse) -> str:
    """Return the address to subscribe to."""
    host, port = house.server.addresses[0]
    return f"http://{host}:{port}"


async def take(stream: Subscription, number: int) -> list[Record]:
    """The next records."""
    return [await anext(stream) for _ in range(number)]


def cut(house: AckHouse) -> None:
    """End every stream as a rebalance of subscribers does: the clients come back at once."""
    for subscriber in tuple(house.hub._registry.everybody.values()):
        subscriber.end(Goodbye(4408, "cut by the test", 0))


@asynccontextmanager
async def taking(stream: Subscription) -> AsyncIterator[list[Record]]:
    """Take everything that arrives within the ``async with`` block, as a busy caller does."""
    found: list[Record] = []

    async def take_all() -> None:
        async for record in stream:
            found.append(record)  # noqa: PERF401 - each as it comes

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_all)
        yield found
        nursery.cancel_scope.cancel()


async def test_a_record_is_acknowledged_when_the_next_one_is_asked_for() -> None:
    """The loop's body is done with it then; a record whose body raised is not acknowledged."""
    house = AckHouse()
    async with house.serving():
        house.batch(5)
        stream: Subscription
        with suppress(ZeroDivisionError):
            async with subscribe(address(house), ack="auto", window=2) as stream:
                async for record in stream:
                    assert record.offset not in house.done()
                    if record.offset == 3:
                        raise ZeroDivisionError
        await house.until(lambda: house.hub.subscribers == 0)
        assert house.done() == [0, 1, 2]
        async with subscribe(address(house), ack="auto", last_event_id=stream.position) as stream:
            assert [record.offset for record in await take(stream, 2)] == [3, 4]


async def test_the_loop_over_all_events_acknowledges_as_well() -> None:
    """The state after a record counts as the next item, and more than a window gets through."""
    house = AckHouse()
    async with house.serving(), subscribe(address(house), ack="auto", window=3) as stream:
        house.batch(10)
        found: list[int] = []
        async for event in stream.events():
            if isinstance(event, Record):
                assert event.offset not in house.done()
                found.append(event.offset)
                if event.offset == 9:
                    break
        assert found == [*range(10)]
        await house.until(lambda: house.done() == [*range(9)])
        assert stream.statistics().attempts == 1


async def test_a_window_of_bytes_is_kept() -> None:
    """A single record always fits into the window."""
    house = AckHouse()
    async with house.serving():
        house.batch(3)
        async with subscribe(address(house), ack="manual", window_bytes=1) as stream:
            for offset in range(3):
                (record,) = await take(stream, 1)
                assert record.offset == offset
                assert house.hub.statistics().acking.outstanding_records == 1
                await stream.ack(record)


async def test_the_longest_run_is_acknowledged() -> None:
    """A record that is done early waits for those before it, and the position is that of the run."""
    house = AckHouse()
    async with house.serving():
        async with subscribe(address(house), ack="manual") as stream:
            house.batch(5)
            records = await take(stream, 5)
            for at in (0, 2, 3):
                await stream.ack(records[at])
            await house.until(lambda: house.done() == [0])
            assert stream.position == "assets:0=0"
            await stream.ack(records[1])
            await stream.ack(records[1])
            await house.until(lambda: house.done() == [0, 1, 2, 3])
            assert stream.position == "assets:0=3"
            await stream.ack(records[4])
        await house.until(lambda: house.done() == [0, 1, 2, 3, 4])


async def test_what_comes_again_is_acknowledged_again_and_not_handed_out() -> None:
    """Records that the caller still had when the connection ended are acknowledged on the next one."""
    house = AckHouse()
    async with house.serving(), subscribe(address(house), ack="manual") as stream:
        house.batch(3)
        records = await take(stream, 3)
        await stream.ack(records[0])
        await house.until(lambda: house.done() == [0])
        async with taking(stream) as more:
            cut(house)
            await house.until(lambda: stream.statistics().attempts == 2 and stream.repeats == 2)
            await stream.ack(records[2])
            await stream.ack(records[1])
            await house.until(lambda: house.done() == [0, 1, 2])
            house.batch(1)
            await house.until(lambda: len(more) == 1)
            assert more[0].offset == 3


async def test_a_refused_record_is_done_when_the_server_answers() -> None:
    """Without an answer it is refused again on the next connection, until its letter is stored."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), subscribe(address(house), ack="manual") as stream:
        house.batch(3)
        records = await take(stream, 3)
        await stream.nack(records[0], "cannot be read")
        await stream.ack(records[0])
        await stream.ack(records[1])
        await house.until(lambda: len(letters.sent) == 1)
        assert stream.position == "assets:0=-1"
        async with taking(stream):
            waiting = next(iter(house.hub.acking._letters.values()))
            first = set(waiting)
            cut(house)
            await house.until(lambda: not first & set(waiting))
            assert [(record.offset, reason) for _, record, reason in letters.sent] == [(0, "cannot be read")]
            letters.store[0]()
            await house.until(lambda: house.done() == [0, 1])
            await house.until(lambda: stream.position == "assets:0=1")


async def test_a_record_that_is_left_to_other_clients_is_refused_again_and_never_acknowledged() -> None:
    """It holds up no later record, and its owner commits nothing of it before the letter is stored."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), subscribe(address(house), scope="topic", ack="manual") as stream:
        house.follow(TWO)
        house.batch(3, TWO, epoch=0)
        records = await take(stream, 3)
        await stream.nack(records[0], "poison")
        for each in records[1:]:
            await stream.ack(each)
        await house.until(lambda: "1=2" in stream.position)
        await house.until(lambda: house.done(TWO) == [1, 2])
        assert letters.sent == []
        house.own(TWO)
        async with taking(stream) as more:
            cut(house)
            await house.until(lambda: house.done(TWO) == [1, 2])
            assert [(partition, record.offset, reason) for partition, record, reason in letters.sent] == [
                (TWO, 0, "poison")
            ]
            letters.store[0]()
            assert house.done(TWO) == [0, 1, 2]
            assert more == []


async def test_a_refused_record_of_a_partition_that_has_left_holds_up_no_other_partition() -> None:
    """It is left to the partition's next owner, and refused again if that is this replica."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), subscribe(address(house), ack="manual") as stream:
        house.batch(2, TWO)
        poison, other = await take(stream, 2)
        house.batch(3)
        records = await take(stream, 3)
        house.hub.unassigned([TWO])
        house.hub.acking.released([TWO])
        await stream.nack(poison, "poison")
        for each in (other, *records):
            await stream.ack(each)
        await house.until(lambda: house.done() == [0, 1, 2])
        assert (letters.sent, house.done(TWO)) == ([], [])
        house.ends[TWO] = 0
        async with taking(stream) as more:
            house.hub.assigned([TWO])
            house.batch(2, TWO)
            await house.until(lambda: house.done(TWO) == [1])
            letters.store[0]()
            assert house.done(TWO) == [0, 1]
            assert more == []


async def test_a_refusal_that_no_server_has_heard_waits_for_no_server_without_the_partition() -> None:
    """It was lost with its connection, and the next replica has another part of the topic."""
    house = AckHouse()
    house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), subscribe(address(house), ack="manual") as stream:
        house.batch(1, TWO)
        (poison,) = await take(stream, 1)
        house.batch(3)
        records = await take(stream, 3)
        async with taking(stream):
            house.hub.unassigned([TWO])
            house.hub.acking.released([TWO])
            cut(house)
            await stream.nack(poison, "poison")
            for each in records:
                await stream.ack(each)
            await house.until(lambda: house.done() == [0, 1, 2])
            assert stream.position == "assets:0=2,1=0"


async def test_any_reason_can_be_sent_and_what_is_none_is_said_at_once() -> None:
    """A long one would exceed what a server reads, and half a character cannot be sent."""
    house = AckHouse()
    letters = house.hub.acking.dead_letters = Letters("assets")
    async with house.serving(), subscribe(address(house), ack="manual") as stream:
        house.batch(2)
        records = await take(stream, 2)
        with pytest.raises(TypeError, match="a reason is a str, not ValueError"):
            await stream.nack(records[0], ValueError("no text"))  # type: ignore[arg-type]
        await stream.nack(records[0], "x" * 70_000)
        await stream.nack(records[1], "bad \udcff byte")
        await house.until(lambda: len(letters.sent) == 2)
        assert [(record.offset, reason) for _, record, reason in letters.sent] == [(0, "x" * 1000), (1, "bad ? byte")]
        assert stream.statistics().attempts == 1


async def test_tail_acknowledges_each_line_that_it_has_written() -> None:
    """Records beyond the requested number are not acknowledged."""
    house = AckHouse()
    async with house.serving(within_seconds=40):
        house.batch(5)
        command = ["tail", address(house), "--ack", "--count", "3", "--format", "value"]
        result = await commands.run(*command)
        assert result.returncode == 0
        assert result.stdout == b"0\n1\n2\n"
        assert b"--from-id 'assets:0=2'" in result.stderr
        await house.until(lambda: house.hub.subscribers == 0)
        assert house.done() == [0, 1, 2]
        wrong = await commands.run(*command, "--transport", "sse")
        assert wrong.returncode == 2
        assert b"use transport websocket" in wrong.stderr


async def test_acknowledgements_need_a_websocket_and_to_be_asked_for() -> None:
    """Wrong uses are reported at once."""
    with pytest.raises(WrongAddressError, match="use transport websocket"):
        async with subscribe("http://127.0.0.1:1", ack="auto", transport="sse"):
            pass
    async with subscribe("http://127.0.0.1:1") as stream:
        record = Record("assets:0=0", "assets", 0, 0, None, None, b"")
        with pytest.raises(RuntimeError, match='ack="manual"'):
            await stream.ack(record)


def record(offset: int) -> Record:
    """A record of the first partition."""
    return Record(f"assets:0={offset}", "assets", 0, offset, None, None, b"")


@pytest.fixture
def acks() -> tuple[Acks, list[str]]:
    """A ledger, and what it says."""
    said: list[str] = []

    async def say(text: str) -> bool:
        said.append(text)
        return True

    return Acks({}, say), said


async def test_gaps_and_positions_wait_for_the_records_before_them(acks: tuple[Acks, list[str]]) -> None:
    """A position past a record that is not done would lose the record."""
    ledger, said = acks
    ledger.came(record(0))
    ledger.came(Gap("assets", 0, 1, 4, "expired"))
    ledger.came(Heartbeat("assets:0=4,1=7"))
    assert (ledger.position, ledger.outstanding) == ("", 1)
    ledger.done(record(0))
    assert ledger.position == "assets:0=4,1=7"
    await ledger.send()
    assert said == ['{"type":"ack","id":"assets:0=0"}']
    ledger.came_again(record(0))
    await ledger.send()
    assert said == ['{"type":"ack","id":"assets:0=0"}'] * 2
    await ledger.send()
    assert len(said) == 2, "nothing is due"


async def test_nothing_of_a_log_is_acknowledged_once_another_has_taken_its_place(acks: tuple[Acks, list[str]]) -> None:
    """Offsets start over, so an old acknowledgement would hit new records."""
    ledger, said = acks
    old = [dataclasses.replace(record(offset), value=b"old") for offset in range(4)]
    for each in old:
        ledger.came(each)
    ledger.done(old[0])  # due, and not sent yet
    ledger.refuse(old[1], "bad")
    ledger.came(Gap("assets", 0, 4, -1, "recreated"))
    assert ledger.outstanding == 0
    for offset in range(3):
        ledger.came(record(offset))
    for each in old:
        ledger.done(each)
        ledger.refuse(each, "late")
    await ledger.send()
    assert (said, ledger.outstanding) == ([], 3)
    ledger.answered("assets:0=1", is_stored=True)
    ledger.done(record(0))
    await ledger.send()
    assert (said, ledger.position) == (['{"type":"ack","id":"assets:0=0"}'], "assets:0=0")


async def test_an_answer_that_means_nothing_changes_nothing(acks: tuple[Acks, list[str]]) -> None:
    """Answers about records that were not refused, or about none, are ignored."""
    ledger, _ = acks
    ledger.came(record(0))
    for answer in ("", "nonsense", "assets:0=0", "assets:0=9"):
        ledger.answered(answer, is_stored=True)
        ledger.answered(answer, is_stored=False)
    assert ledger.outstanding == 1
    ledger.refuse(record(5), "never came")
    ledger.refuse(record(0), "bad")
    ledger.done(record(0))
    assert ledger.outstanding == 1
    ledger.answered("assets:0=0", is_stored=True)
    assert (ledger.outstanding, ledger.position) == (0, "assets:0=0")


async def test_what_is_acknowledged_covers_no_record_that_was_left_to_others(acks: tuple[Acks, list[str]]) -> None:
    """A server that has sent such a record again must hear of its refusal before it hears of later offsets."""
    ledger, said = acks
    for offset in range(4):
        ledger.came(record(offset))
    ledger.refuse(record(0), "bad")
    await ledger.send()
    ledger.answered("assets:0=0", is_stored=False)
    ledger.answered("assets:0=0", is_stored=False)
    ledger.done(record(1))
    assert (ledger.position, ledger.outstanding) == ("assets:0=1", 2)
    ledger.connecting()
    ledger.done(record(2))
    await ledger.send()
    assert said == ['{"type":"nack","id":"assets:0=0","reason":"bad"}'], "nothing has arrived on this connection"
    for offset in range(4):
        ledger.came_again(record(offset))
    ledger.done(record(3))
    await ledger.send()
    assert said[1:] == ['{"type":"nack","id":"assets:0=0","reason":"bad"}', '{"type":"ack","id":"assets:0=3"}']
    ledger.answered("assets:0=0", is_stored=True)
    ledger.came_again(record(0))
    await ledger.send()
    assert said[3:] == ['{"type":"ack","id":"assets:0=0"}'], "its letter is stored"


async def test_a_refusal_waits_until_its_record_has_arrived_again(acks: tuple[Acks, list[str]]) -> None:
    """Until then a server has no such record, and would leave it to others: the position would pass it."""
    ledger, said = acks
    for offset in range(3):
        ledger.came(record(offset))
    ledger.connecting()
    ledger.done(record(1))
    ledger.refuse(record(0), "bad")
    await ledger.send()
    ledger.answered("assets:0=0", is_stored=False)
    assert (said, ledger.position, ledger.outstanding) == ([], "", 2)
    for offset in range(3):
        ledger.came_again(record(offset))
    await ledger.send()
    assert said == ['{"type":"nack","id":"assets:0=0","reason":"bad"}']
    ledger.refuse(record(2), "bad")
    await ledger.send()
    ledger.answered("assets:0=0", is_stored=True)
    ledger.answered("assets:0=2", is_stored=False)
    assert len(said) == 2
    assert (ledger.position, ledger.outstanding) == ("assets:0=2", 0)


async def test_a_refused_record_that_does_not_come_again_holds_up_nothing(acks: tuple[Acks, list[str]]) -> None:
    """It was compacted while there was no connection: the server leaves it to others once later ones have arrived."""
    ledger, said = acks
    for offset in range(2):
        ledger.came(record(offset))
    ledger.refuse(record(0), "bad")
    ledger.connecting()
    ledger.came_again(record(1))
    ledger.came(record(2))
    await ledger.send()
    assert said == ['{"type":"nack","id":"assets:0=0","reason":"bad"}']
    ledger.answered("assets:0=0", is_stored=False)
    ledger.done(record(1))
    ledger.done(record(2))
    assert (ledger.position, ledger.outstanding) == ("assets:0=2", 0)


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    "passing", [Heartbeat("assets:0=9,1=3"), Record("assets:1=3,0=9", "assets", 1, 3, None, None, b"")]
)
async def test_a_position_past_a_refused_record_lets_its_refusal_go_out(
    acks: tuple[Acks, list[str]], passing: Heartbeat | Record, *, is_late: bool
) -> None:
    """Nothing else of its partition may come, as in a filtered stream; where a stream begins says nothing."""
    ledger, said = acks
    ledger.came(record(8))
    if not is_late:
        ledger.refuse(record(8), "bad")
    ledger.connecting()
    ledger.came(Heartbeat("assets:0=9"))
    await ledger.send()
    assert said == []
    ledger.came(passing)
    if is_late:
        ledger.refuse(record(8), "bad")
    await ledger.send()
    assert said == ['{"type":"nack","id":"assets:0=8","reason":"bad"}']
    ledger.answered("assets:0=8", is_stored=False)
    assert ledger.outstanding == isinstance(passing, Record)


async def test_what_was_reached_stays_reached_if_older_records_come_again(acks: tuple[Acks, list[str]]) -> None:
    """They do when a followed partition becomes the replica's own."""
    ledger, said = acks
    for offset in range(11):
        ledger.came(record(offset))
    ledger.came_again(record(4))
    ledger.refuse(record(8), "bad")
    await ledger.send()
    assert said == ['{"type":"nack","id":"assets:0=8","reason":"bad"}']
    ledger.came_again(record(8))
    await ledger.send()
    assert len(said) == 2


class Counted(dict[tuple[TopicPartition, int], str]):
    """Counts how often all of it is gone through."""

    walks = 0

    def items(self) -> ItemsView[tuple[TopicPartition, int], str]:  # type: ignore[override]
        """All of it."""
        self.walks += 1
        return super().items()

    def __iter__(self) -> Iterator[tuple[TopicPartition, int]]:
        self.walks += 1
        return super().__iter__()


async def test_an_arrival_looks_at_no_refusal_of_later_records(acks: tuple[Acks, list[str]]) -> None:
    """Otherwise a reconnect with thousands of refused records would cost the square of their number."""
    ledger, said = acks
    for offset in range(100):
        ledger.came(record(offset))
        ledger.refuse(record(offset), "bad")
    ledger._refused = refused = Counted(ledger._refused)
    ledger.connecting()
    for offset in range(100):
        ledger.came_again(record(offset))
    await ledger.send()
    assert (len(said), refused.walks) == (100, 1)


async def test_a_refusal_that_no_server_will_answer_holds_up_nothing(acks: tuple[Acks, list[str]]) -> None:
    """Older servers do not answer if they do not have the partition; nobody does if the record has expired."""
    ledger, said = acks
    for offset in range(3):
        ledger.came(record(offset))
    ledger.refuse(record(0), "bad")
    ledger.stated(State("live", assigned={"assets": (0, 1)}, scope="replica"))
    ledger.stated(State("live", assigned={"assets": (1,)}, scope="topic"))
    assert ledger.outstanding == 3
    ledger.stated(State("waiting", scope="replica"))
    assert (ledger.outstanding, ledger.position) == (2, "assets:0=0")
    ledger.refuse(record(1), "bad")
    assert (ledger.outstanding, ledger.position) == (1, "assets:0=1")
    ledger.connecting()
    ledger.refuse(record(2), "bad")
    assert ledger.outstanding == 1
    ledger.came(Gap("assets", 1, 2, 5, "expired"))
    ledger.came(Gap("assets", 0, 3, 5, "expired"))
    assert ledger.outstanding == 1
    ledger.came(Gap("assets", 0, 2, 5, "expired"))
    assert (ledger.outstanding, ledger.position) == (0, "assets:0=5,1=5")
    assert said == []


async def test_refusals_that_were_left_to_others_are_bounded(
    acks: tuple[Acks, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten, and long reasons are cut off; a recreated topic makes all of them void."""
    monkeypatch.setattr("dispatcher.client.acks.MAX_LEFT", 2)
    ledger, said = acks
    for offset in range(3):
        ledger.came(record(offset))
        ledger.refuse(record(offset), "x" * 2000)
        ledger.answered(f"assets:0={offset}", is_stored=False)
    await ledger.send()
    for offset in range(3):
        ledger.came_again(record(offset))
    await ledger.send()
    assert [orjson.loads(text).get("reason") for text in said[3:]] == ["x" * 1000, "x" * 1000, None]
    ledger.came(Gap("assets", 0, 3, -1, "recreated"))
    ledger.came(record(2))
    ledger.came_again(record(2))
    await ledger.send()
    assert len(said) == 6


async def test_acknowledgements_are_joined_while_one_is_sent(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - makes time jump
) -> None:
    """The newest position is sent once the connection is free again."""
    said: list[str] = []
    gate = trio.Event()

    async def say(text: str) -> bool:
        said.append(text)
        await gate.wait()
        return True

    ledger = Acks({}, say)
    nursery.start_soon(ledger.run)
    for offset in range(5):
        ledger.came(record(offset))
    ledger.done(record(0))
    await trio.sleep(1)
    for offset in range(1, 5):
        ledger.done(record(offset))
    await trio.sleep(1)
    assert said == ['{"type":"ack","id":"assets:0=0"}']
    gate.set()
    await trio.sleep(1)
    assert said[1:] == ['{"type":"ack","id":"assets:0=4"}']


async def test_records_of_one_message_are_acknowledged_together(
    acks: tuple[Acks, list[str]],
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - makes time jump
) -> None:
    """They are acknowledged at once when all are done, otherwise after a moment."""
    ledger, said = acks
    nursery.start_soon(ledger.run)
    for offset in range(500):
        ledger.came(record(offset))
    began = trio.current_time()
    for offset in range(500):
        ledger.done(record(offset))
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert (said, trio.current_time()) == (['{"type":"ack","id":"assets:0=499"}'], began)
    ledger.came(record(500))
    ledger.came(record(501))
    ledger.done(record(500))
    await trio.sleep(1)
    assert said[1:] == ['{"type":"ack","id":"assets:0=500"}']
