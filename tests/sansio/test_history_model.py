"""What the history keeps about its partitions, against loops over all of them, whatever happens in which order."""

from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dispatcher.sansio.catch_up import CatchUp
from dispatcher.sansio.entries import Cursor, Entry, Part
from dispatcher.sansio.history import History
from dispatcher.sansio.lookups import OffsetsForTime
from dispatcher.sansio.ownership import HandOver
from dispatcher.sansio.ranges import NOW
from dispatcher.sansio.records import Batch, Record, TopicPartition
from tests.sansio.test_history import ONE_BYTES

PARTITIONS = [TopicPartition(topic, number) for topic in ("assets", "other") for number in range(3)]
ELSEWHERE = TopicPartition("assets", 7)
"""A partition that is never here."""

partitions = st.sampled_from(PARTITIONS)
some = st.sets(partitions, min_size=1, max_size=3)
differences = st.dictionaries(partitions, st.integers(-8, 3), max_size=4)
"""How far a reader is from the ends of some partitions."""
topics = st.sampled_from([frozenset({"assets"}), frozenset({"other"}), frozenset({"assets", "other"})])


class Tables(RuleBasedStateMachine):
    """A history, and what is known of it without asking it: roles, ends, and which entries wait."""

    def __init__(self) -> None:
        super().__init__()
        self.history = History(0)
        self.owned: set[TopicPartition] = set()
        self.followed: set[TopicPartition] = set()
        self.ends: dict[TopicPartition, int] = {}
        self.entries: list[Entry] = []
        self.epoch = 0
        self.differences: Mapping[TopicPartition, int] = {}

    @initialize(entries=st.integers(1, 12))
    def has_room(self, entries: int) -> None:
        """It evicts from a number of entries on."""
        self.history.history_bytes = entries * ONE_BYTES

    def lay_out(self) -> None:
        """Set what is owned and followed."""
        self.history.lay_out(self.owned | self.followed, self.followed)

    def assign(self, partition: TopicPartition) -> None:
        """Own a partition, unless it is followed."""
        if partition not in self.owned | self.followed:
            self.owned.add(partition)
            self.lay_out()

    @rule(partition=partitions, skipped=st.integers(0, 2), records=st.integers(1, 3), repeat=st.integers(1, 3))
    def publish(self, partition: TopicPartition, skipped: int, records: int, repeat: int) -> None:
        """Records arrive."""
        self.assign(partition)
        for _ in range(repeat):
            end = self.ends.get(partition, 4)
            offsets = range(end + skipped, end + skipped + records)
            batch = Batch(
                partition,
                tuple(Record(offset, None, None, b"value", ()) for offset in offsets),
                covers_from=end if partition in self.ends else None,
            )
            self.entries.append(self.history.append(batch))
            self.ends[partition] = batch.next_offset

    @rule(partition=partitions, more=st.integers(0, 3))
    def reach(self, partition: TopicPartition, more: int) -> None:
        """Offsets without records are read."""
        self.assign(partition)
        offset = self.ends[partition] = self.ends.get(partition, 4) + more
        self.history.reached(partition, offset)

    @rule(partition=partitions, offset=st.integers(0, 9))
    def follow(self, partition: TopicPartition, offset: int) -> None:
        """A partition that is elsewhere is followed."""
        if partition not in self.owned | self.followed:
            self.followed.add(partition)
            self.lay_out()
            self.history.follow(partition, offset)
            self.ends[partition] = offset

    @rule(which=some)
    def disown(self, which: set[TopicPartition]) -> None:
        """Owned partitions are followed from now on."""
        known = which & self.owned & self.ends.keys()
        self.history.disown(known)
        self.owned -= known
        self.followed |= known
        self.lay_out()

    @rule(partition=partitions, back=st.integers(0, 12), counted=st.integers(0, 4), later=st.integers(0, 3))
    def own(self, partition: TopicPartition, back: int, counted: int, later: int) -> None:
        """A followed partition is owned: from the committed offset on, or from the beginning if that is not here."""
        if partition in self.followed:
            self.epoch += 1
            begins = max(0, self.ends[partition] - back)
            ranges = [(begins + later, begins + later + counted)] if counted else []
            hand_over = HandOver(begins, ranges)
            is_here = self.history.own(partition, self.epoch, hand_over)
            if not is_here:
                self.history.remove([partition])
            self.followed.discard(partition)
            self.owned.add(partition)
            self.lay_out()
            if not is_here:
                self.ends[partition] = hand_over.counted_to
                self.history.reached(partition, hand_over.counted_to)

    @rule(which=some, again=st.booleans())
    def leave(self, which: set[TopicPartition], *, again: bool) -> None:
        """Partitions leave, or their topics are recreated: then they begin again at any offset."""
        self.history.remove(which)
        gone = which & self.ends.keys()
        for partition in which:
            self.ends.pop(partition, None)
        if not again:
            self.owned -= which
            self.followed -= which
            self.lay_out()
        for partition in sorted(gone) if again else ():
            self.ends[partition] = 2
            if partition in self.followed:
                self.history.follow(partition, 2)
            else:
                self.history.reached(partition, 2)

    def waiting(self) -> list[Entry]:
        """The entries that are here and undispatched."""
        return [entry for entry in self.entries if entry.waiting and not entry.removed]

    @rule(which=st.integers(0, 40), how=st.sampled_from(["dispatched", "settled", "in part"]))
    def take(self, which: int, how: str) -> None:
        """An entry is dispatched, or settled as a whole or in part."""
        if waiting := self.waiting():
            entry = waiting[which % len(waiting)]
            if how == "dispatched":
                assert self.history.dispatched(entry)
            elif how == "settled":
                self.history.release(entry)
            else:
                entry.settle([0])

    @rule(which=st.integers(0, 40), size=st.integers(1, 3 * ONE_BYTES))
    def encode(self, which: int, size: int) -> None:
        """An entry grows, wherever it is; the next trim evicts others, or this one."""
        if self.entries:
            entry = self.entries[which % len(self.entries)]
            self.history.encode(entry, size, lambda _: Part(b"", bytes(size), has_ids=True))
            self.history.trim()

    @rule(differences=differences)
    def readers_differ(self, differences: Mapping[TopicPartition, int]) -> None:
        """Readers are somewhere else in some partitions."""
        self.differences = differences

    def here(self, cursor: Cursor) -> list[TopicPartition]:
        """The known partitions that a cursor reads."""
        known = self.ends if cursor.whole else self.ends.keys() - self.followed
        return sorted(tp for tp in known if tp.topic in cursor.topics)

    def start(self, partition: TopicPartition) -> int:
        """Where a new reader begins."""
        pending = [entry.first_pending for entry in self.waiting() if entry.batch.partition == partition]
        return pending[0] if pending else self.ends[partition]

    def first_wanted(self, cursor: Cursor) -> int:
        """The sequence before the first entry in memory that a cursor wants."""
        here = self.here(cursor)
        wanted = [
            entry.sequence - 1
            for entry in self.entries
            if entry.batch.partition in here
            and entry.batch.records  # otherwise it was evicted or removed
            and entry.batch.next_offset > self.history.begin(entry.batch.partition)  # otherwise it was detached
            and entry.batch.next_offset > cursor.next_offsets[entry.batch.partition]
        ]
        return min(wanted, default=self.history.head)

    @invariant()
    def questions_are_answered_as_by_a_loop(self) -> None:
        """For readers of one topic or both, whole or not."""
        history, ends = self.history, self.ends
        assert history.is_counted
        here_or_waiting = [entry for entry in self.entries if entry.batch.records and not entry.removed]
        assert history.size_bytes == sum(entry.size_bytes for entry in here_or_waiting)
        assert history.waiting_bytes == sum(entry.size_bytes for entry in self.waiting())
        for partition in self.ends:
            assert history.waiting_between(partition, 0, 10**6) == list(history.waiting_of(partition))
        assert history.followed == self.followed
        waiting = sorted({entry.batch.partition for entry in self.waiting()})
        assert sorted(history.waiting_in(PARTITIONS)) == waiting
        assert history.waiting_in(()) == []
        for names in ({"assets"}, {"assets", "other"}):
            for whole in (False, True):
                cursor = Cursor(frozenset(names), whole=whole)
                here = self.here(cursor)
                assert history.ends(cursor) == {tp: ends[tp] for tp in here}
                assert history.starts(cursor) == {tp: self.start(tp) for tp in here}
                places = cursor.next_offsets = {tp: ends[tp] + self.differences.get(tp, 0) for tp in here}
                places[ELSEWHERE] = 3
                unfinished = history.unfinished(cursor)
                assert sorted(unfinished) == [tp for tp in here if places[tp] != ends[tp]]
                behind = [tp for tp in here if places[tp] < history.begin(tp)]
                assert sorted(history.behind(cursor, unfinished)) == behind
                assert history.is_beyond(cursor, unfinished) is any(places[tp] > ends[tp] for tp in here)
                history.seek(cursor, unfinished)
                assert cursor.sequence == self.first_wanted(cursor)
                history.became_live(cursor)
                assert cursor.next_offsets == {ELSEWHERE: 3}

    @rule(topics=topics, whole=st.booleans(), counts=st.booleans(), since=st.none() | st.just(NOW))
    def begin(self, topics: frozenset[str], *, whole: bool, counts: bool, since: int | None) -> None:
        """A reader begins where its id and its time say, as a loop over all partitions finds out."""
        position = {
            tp: self.ends.get(tp, 9) + difference - 1 for tp, difference in self.differences.items() if tp[0] in topics
        }
        position = {tp: max(0, offset) for tp, offset in position.items()}
        before = dict(position)
        reader = CatchUp(self.history, topics, position, since, whole=whole, counts=counts)
        assert position == before
        here = self.here(reader.cursor)
        places = {tp: self.start(tp) for tp in here} | {tp: offset + 1 for tp, offset in position.items()}
        unverified = {tp for tp in here if tp in position and places[tp] > self.ends[tp]}
        for tp in here:
            if counts and tp in position and tp not in unverified | self.followed:
                places[tp] = min(places[tp], self.start(tp))
        assert reader.cursor.next_offsets == places
        is_named = since is not None
        unresolved = {tp for tp in here if tp not in position and (is_named or (whole and tp in self.followed))}
        missing = {tp for tp in here if places[tp] < self.history.begin(tp)} - unresolved - unverified
        opened = reader._open
        assert (opened.unresolved, set(opened.unverified), opened.missing) == (unresolved, unverified, missing)
        if not reader.pending:
            assert reader.cursor.sequence == self.first_wanted(reader.cursor)
        lookup = reader.ask()
        if isinstance(lookup, OffsetsForTime):
            answers = {tp: self.ends[tp] + 3 * tp.partition - 3 for tp in here}
            assert reader.on_offsets_for_time(lookup, {**answers, ELSEWHERE: 5})
            for tp in unresolved:
                late = counts and tp not in self.followed
                places[tp] = min(answers[tp], self.start(tp)) if late else answers[tp]
            assert reader.cursor.next_offsets == places
            missing = {tp for tp in here if places[tp] < self.history.begin(tp)} - unverified
            assert (opened.unresolved, opened.missing) == (set(), missing)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
