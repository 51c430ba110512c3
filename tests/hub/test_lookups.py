"""Lookups: each client is handed what it asked for."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet

import pytest
import trio
import trio.testing

from dispatcher.hub import lookups
from dispatcher.hub.asked_decoding import AskedDecoding
from dispatcher.hub.lookups import Lookups
from dispatcher.hub.statistics import LookupStatistics
from dispatcher.sansio.lookups import LogBounds, OffsetsForTime, ReadRanges
from dispatcher.sansio.ranges import NOW, Bounds, Chunk, Range
from dispatcher.sansio.records import TopicPartition
from tests.hub.test_hub import ONE, TWO, RecordedLog, settle


class Doubter:
    """Asks where partitions end, and keeps the answers."""

    def __init__(self) -> None:
        self.owner: Hashable = None
        self.lookup_scope = trio.CancelScope()
        self.closed = False
        self.decodes: frozenset[str] = frozenset()
        self.told: list[Mapping[TopicPartition, Bounds]] = []
        self.again: list[AbstractSet[TopicPartition]] = []
        self.may_ask_again = trio.Event()

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> None:  # noqa: ARG002
        """Keep it."""
        self.told.append(bounds)

    def on_chunk(self, lookup: ReadRanges, chunk: Chunk) -> None:
        """Not asked for."""
        raise AssertionError(lookup, chunk)

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> None:
        """Not asked for."""
        raise AssertionError(lookup, offsets)

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Keep what may be asked again."""
        self.again.append(partitions)
        self.may_ask_again.set()


class Ends(RecordedLog):
    """Every log ends at 10."""

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """The same for all."""
        return {partition: Bounds(0, 10) for partition in partitions}


async def test_answers_hold_only_the_partitions_that_were_asked_about(nursery: trio.Nursery) -> None:
    """By the time of the answer a new partition may be past that end."""
    answers, first, second = Lookups(Ends(), 1000), Doubter(), Doubter()
    nursery.start_soon(answers.run)
    answers.ask(first, LogBounds(frozenset({ONE})))
    answers.ask(second, LogBounds(frozenset({TWO})))
    await settle()
    assert (first.told, second.told) == ([{ONE: Bounds(0, 10)}], [{TWO: Bounds(0, 10)}])
    nursery.cancel_scope.cancel()


class Half(RecordedLog):
    """Of partition 1 there is no answer."""

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Those of the others."""
        return {partition: Bounds(0, 10) for partition in partitions if partition != TWO}


async def test_a_partition_without_an_answer_keeps_no_other_waiting(nursery: trio.Nursery) -> None:
    """The reader gets the other answer, and may ask again after a pause."""
    answers, both, one = Lookups(Half(), 1000), Doubter(), Doubter()
    nursery.start_soon(answers.run)
    answers.ask(both, LogBounds(frozenset({ONE, TWO})))
    answers.ask(one, LogBounds(frozenset({ONE})))
    await settle()
    assert both.told == one.told == [{ONE: Bounds(0, 10)}]
    assert (both.again, one.again) == ([], [])
    await both.may_ask_again.wait()
    assert both.again == [{TWO}]
    nursery.cancel_scope.cancel()


async def test_between_two_turns_of_others_a_slice_is_answered(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart, ten thousand readers with a hundred partitions each held the loop for 1.1 s."""
    monkeypatch.setattr(lookups, "ANSWER_SLICE", 10)
    answers, askers = Lookups(Ends(), 1000), [Doubter() for _ in range(50)]
    nursery.start_soon(answers.run)
    for client in askers:
        answers.ask(client, LogBounds(frozenset({ONE, TWO})))
    turns = [0]
    while turns[-1] < len(askers):
        await trio.lowlevel.checkpoint()
        turns.append(sum(len(client.told) for client in askers))
    # Trio runs tasks in any order, so there may be two slices between two turns of one task.
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 10
    nursery.cancel_scope.cancel()


class Asker:
    """Keeps every answer."""

    def __init__(self, on_answer: Callable[[], None] = lambda: None) -> None:
        self.owner: Hashable = None
        self.lookup_scope = trio.CancelScope()
        self.closed = False
        self.decodes: frozenset[str] = frozenset()
        self.on_answer = on_answer
        self.offsets: list[Mapping[TopicPartition, int | None]] = []
        self.chunks: list[Chunk] = []
        self.again: list[AbstractSet[TopicPartition]] = []

    def on_log_bounds(self, lookup: LogBounds, bounds: Mapping[TopicPartition, Bounds]) -> None:
        """Not asked for."""
        raise AssertionError(lookup, bounds)

    def on_chunk(self, lookup: ReadRanges, chunk: Chunk) -> None:  # noqa: ARG002
        """Keep it."""
        self.chunks.append(chunk)

    def on_offsets_for_time(self, lookup: OffsetsForTime, offsets: Mapping[TopicPartition, int | None]) -> None:  # noqa: ARG002
        """Keep them."""
        self.offsets.append(offsets)
        self.on_answer()

    def ask_again(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Keep what may be asked again."""
        self.again.append(partitions)


class Known(RecordedLog):
    """Logs from 3 to 10 in which something came at 5 in partition 0, and nothing since in the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.group = {ONE: 4, TWO: 9}

    async def bounds(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """The same for all."""
        self.calls.append("bounds")
        await self.gate.wait()
        return {partition: Bounds(3, 10) for partition in partitions}

    async def offsets_since(
        self,
        partitions: Iterable[TopicPartition],
        since_ms: int,  # noqa: ARG002
    ) -> Mapping[TopicPartition, int | None]:
        """Of partition 0 alone."""
        self.calls.append("times")
        await self.gate.wait()
        return {partition: 5 if partition == ONE else None for partition in partitions}

    async def committed(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return what the group has committed."""
        self.calls.append("committed")
        return {partition: self.group[partition] for partition in partitions if partition in self.group}


PAIR = frozenset({ONE, TWO})


@pytest.mark.parametrize(
    ("lookup", "starts", "calls"),
    [
        (OffsetsForTime(PAIR, 1000), {ONE: 5, TWO: None}, ["times"]),
        (OffsetsForTime(PAIR, 1000, exact=True), {ONE: 5, TWO: 10}, ["times", "bounds"]),
        (OffsetsForTime(frozenset({ONE}), 1000, exact=True), {ONE: 5}, ["times"]),
        (OffsetsForTime(PAIR, NOW), {ONE: 10, TWO: 10}, ["bounds"]),
        (OffsetsForTime(PAIR, None, last=2), {ONE: 8, TWO: 8}, ["bounds"]),
        (OffsetsForTime(PAIR, None, last=100), {ONE: 3, TWO: 3}, ["bounds"]),
        (OffsetsForTime(PAIR, None, committed=PAIR), {ONE: 4, TWO: 9}, ["committed"]),
        (OffsetsForTime(PAIR, 1000, committed=PAIR), {ONE: 4, TWO: 9}, ["times", "committed"]),
        (OffsetsForTime(PAIR, NOW, committed=frozenset({TWO})), {ONE: 10, TWO: 9}, ["bounds", "committed"]),
        (OffsetsForTime(PAIR, None, last=6, committed=PAIR), {ONE: 4, TWO: 4}, ["bounds", "committed"]),
        (OffsetsForTime(PAIR, None, last=7, committed=PAIR), {ONE: 3, TWO: 3}, ["bounds", "committed"]),
    ],
)
async def test_a_start_is_found_by_time_by_number_or_by_what_the_group_has(
    nursery: trio.Nursery,
    lookup: OffsetsForTime,
    starts: Mapping[TopicPartition, int | None],
    calls: list[str],
) -> None:
    """Kafka is asked only what is necessary, and the earlier of two starts counts."""
    log, client = Known(), Asker()
    answers = Lookups(log, 1000)
    nursery.start_soon(answers.run)
    answers.ask(client, lookup)
    await settle()
    assert (client.offsets, log.calls) == ([starts], calls)
    assert answers.statistics() == LookupStatistics(asked=1, reading=0, looking_up=0, put_off=0)


async def asked_together(nursery: trio.Nursery, *questions: OffsetsForTime) -> list[dict[TopicPartition, int | None]]:
    """What each of some clients that ask at once is answered about its partitions."""
    answers, clients = Lookups(Known(), 1000), [Asker() for _ in questions]
    nursery.start_soon(answers.run)
    for client, question in zip(clients, questions, strict=True):
        answers.ask(client, question)
    await settle()
    given = [client.offsets[0] for client in clients]
    pairs = zip(questions, given, strict=True)
    return [{tp: start for tp, start in starts.items() if tp in question.partitions} for question, starts in pairs]


async def test_an_observer_begins_where_it_asked_whatever_group_members_ask_at_once(nursery: trio.Nursery) -> None:
    """The group's committed offsets are for those that asked for them, and only in those partitions."""
    starts = await asked_together(
        nursery,
        OffsetsForTime(PAIR, NOW, committed=PAIR),
        OffsetsForTime(PAIR, NOW, exact=True),
        OffsetsForTime(PAIR, NOW),
        OffsetsForTime(PAIR, NOW, committed=frozenset({TWO})),
    )
    assert starts == [{ONE: 4, TWO: 9}, {ONE: 10, TWO: 10}, {ONE: 10, TWO: 10}, {ONE: 10, TWO: 9}]


async def test_the_end_of_the_log_is_the_answer_only_for_those_that_ask_for_it(nursery: trio.Nursery) -> None:
    """Where nothing has a time yet, a reader that counts begins as a new one does, whoever asks at once."""
    starts = await asked_together(nursery, OffsetsForTime(PAIR, 1000), OffsetsForTime(PAIR, 1000, exact=True))
    assert starts == [{ONE: 5, TWO: None}, {ONE: 5, TWO: 10}]


async def test_readers_that_ask_about_the_same_partitions_share_an_answer(nursery: trio.Nursery) -> None:
    """After a restart, hundreds may ask about a thousand partitions each: a copy for each would hold the loop."""
    for committed in (PAIR, frozenset[TopicPartition]()):
        answers, clients = Lookups(Known(), 1000), [Asker() for _ in range(3)]
        nursery.start_soon(answers.run)
        for client in clients:
            answers.ask(client, OffsetsForTime(PAIR, NOW, committed=frozenset(committed)))
        await settle()
        assert clients[0].offsets[0] is clients[1].offsets[0] is clients[2].offsets[0]


async def test_an_answer_of_its_own_is_about_its_own_partitions(nursery: trio.Nursery) -> None:
    """With readers of a thousand topics each, copies of all answers held the loop for 54 ms."""
    answers, clients = Lookups(Known(), 1000), [Asker(), Asker()]
    nursery.start_soon(answers.run)
    for client, tp in zip(clients, (ONE, TWO), strict=True):
        answers.ask(client, OffsetsForTime(frozenset({tp}), NOW, committed=frozenset({tp})))
    await settle()
    assert [client.offsets for client in clients] == [[{ONE: 4}], [{TWO: 9}]]


async def test_without_the_offset_of_the_group_there_is_no_start_yet(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Beginning at the time alone would leave out undispatched records."""
    del autojump_clock
    log, client = Known(), Asker()
    del log.group[TWO]
    answers = Lookups(log, 1000)
    nursery.start_soon(answers.run)
    answers.ask(client, OffsetsForTime(PAIR, 1000, committed=PAIR))
    await settle()
    assert client.offsets == [{ONE: 4}]
    await trio.sleep(2 * lookups.ASK_AGAIN_SECONDS)
    assert client.again == [{TWO}]


async def test_what_many_ask_for_at_once_is_looked_up_once(nursery: trio.Nursery) -> None:
    """Questions that arrive meanwhile are looked up together afterwards."""
    log = Known()
    log.gate = trio.Event()
    answers, clients = Lookups(log, 1000), [Asker() for _ in range(6)]
    nursery.start_soon(answers.run)
    for number, client in enumerate(clients):
        answers.ask(client, OffsetsForTime(frozenset({ONE}), 1000))
        if number in {0, 3}:
            await settle()
    assert answers.statistics().looking_up == 1
    log.gate.set()
    await settle()
    assert [client.offsets for client in clients] == [[{ONE: 5}]] * 6
    assert log.calls == ["times", "times"]


async def test_between_two_turns_of_others_a_slice_of_questions_is_joined(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred readers that begin at the same time may ask about a thousand partitions each."""
    monkeypatch.setattr(lookups, "UNION_SLICE", 2)
    log, askers = Known(), [Asker() for _ in range(21)]
    answers = Lookups(log, 1000)
    nursery.start_soon(answers.run)
    for number, client in enumerate(askers):
        answers.ask(client, OffsetsForTime(frozenset({ONE} if number else {TWO}), NOW))
    turns = 0
    while not log.calls:
        turns += 1
        await trio.lowlevel.checkpoint()
    assert turns > len(askers) // 2
    await settle()
    assert log.calls == ["bounds"]
    assert [client.offsets for client in askers] == [[{ONE: 10, TWO: 10}]] * len(askers)


async def test_whoever_has_left_is_answered_nothing(nursery: trio.Nursery) -> None:
    """A subscriber may leave before, during and after its look-up."""
    log = Known()
    log.gate = trio.Event()
    answers = Lookups(log, 1000)
    late = Asker()
    first = Asker(lambda: setattr(late, "closed", True))
    nursery.start_soon(answers.run)
    for client in (first, late):
        answers.ask(client, OffsetsForTime(frozenset({ONE}), 1000))
    before, during = Asker(), Asker()
    before.closed = True
    for reader in (before, during):
        answers.ask(reader, ReadRanges({ONE: Range(0, 5)}))
    await settle()
    assert answers.statistics().reading == 1
    during.closed = True
    log.gate.set()
    await settle()
    assert (first.offsets, late.offsets) == ([{ONE: 5}], [])
    assert (before.chunks, during.chunks) == ([], [])
    assert answers.statistics().reading == 0


async def test_a_read_that_is_no_longer_wanted_is_cancelled(nursery: trio.Nursery) -> None:
    """Others in line get its place."""
    log = Known()
    log.gate = trio.Event()
    answers, client = Lookups(log, 1000), Asker()
    nursery.start_soon(answers.run)
    answers.ask(client, ReadRanges({ONE: Range(0, 5)}))
    await settle()
    client.lookup_scope.cancel()
    await settle()
    assert (client.chunks, answers.statistics().reading) == ([], 0)


async def test_those_without_an_answer_ask_again_one_after_the_other(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Ten thousand that wait for one broker must not hold the loop; departed ones are skipped."""
    del autojump_clock
    answers, clients = Lookups(Half(), 1000), [Doubter() for _ in range(3)]
    nursery.start_soon(answers.run)
    began = trio.current_time()
    for client in clients:
        answers.ask(client, LogBounds(frozenset({TWO})))
    await settle()
    assert answers.statistics().put_off == 3
    clients[1].closed = True
    await clients[2].may_ask_again.wait()
    passed = trio.current_time() - began
    assert passed >= lookups.ASK_AGAIN_SECONDS + 2 * lookups.ASK_AGAIN_EACH_SECONDS - 1e-6
    assert [client.again for client in clients] == [[{TWO}], [], [{TWO}]]


class HalfRead(RecordedLog):
    """Of partition 1 nothing can be read now."""

    async def read(
        self,
        ranges: Mapping[TopicPartition, Range],
        max_bytes: int,  # noqa: ARG002
        client: Hashable = None,  # noqa: ARG002
    ) -> Chunk:
        """All of the others."""
        return Chunk([], {partition: asked.end for partition, asked in ranges.items() if partition != TWO}, ())


async def test_what_was_read_is_handed_over_and_what_was_not_is_asked_for_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A partition whose broker is down delays no other."""
    del autojump_clock
    answers, client = Lookups(HalfRead(), 1000), Asker()
    nursery.start_soon(answers.run)
    answers.ask(client, ReadRanges({ONE: Range(0, 5), TWO: Range(0, 7)}))
    await settle()
    assert [chunk.next_offsets for chunk in client.chunks] == [{ONE: 5}]
    await trio.sleep(2 * lookups.ASK_AGAIN_SECONDS)
    assert client.again == [{TWO}]


class Decoding(AskedDecoding):
    """Keeps the topics for which it decodes, and lets nothing through."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: list[AbstractSet[str]] = []

    async def decoded(self, chunk: Chunk, topics: frozenset[str]) -> Chunk:  # noqa: ARG002
        """Return as if every record waited for its schema."""
        self.topics.append(topics)
        return Chunk([], {}, ())


async def test_what_was_read_is_decoded_for_those_that_ask(nursery: trio.Nursery) -> None:
    """It is decoded before it is handed over; others get what Kafka delivered."""
    decoding, asking, plain = Decoding(), Asker(), Asker()
    asking.decodes = frozenset({"assets"})
    answers = Lookups(HalfRead(), 1000, decoding)
    nursery.start_soon(answers.run)
    for client in (asking, plain):
        answers.ask(client, ReadRanges({ONE: Range(0, 5)}))
    await settle()
    assert decoding.topics == [{"assets"}]
    assert [client.chunks[0].next_offsets for client in (asking, plain)] == [{}, {ONE: 5}]
    nursery.cancel_scope.cancel()
