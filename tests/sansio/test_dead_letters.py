"""Dead letters: their headers, and the book that loses none of them."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispatcher.sansio import dead_letters
from dispatcher.sansio.dead_letters import (
    RETRY_SECONDS,
    WINDOW_LETTERS,
    DeadLetterStatistics,
    Letter,
    LetterBook,
    dead_letter_topic,
    headers_of,
)
from dispatcher.sansio.records import Record, TopicPartition

ONE, TWO, OTHER = TopicPartition("assets", 0), TopicPartition("assets", 1), TopicPartition("orders", 0)
FIRST, LONGEST = RETRY_SECONDS


def letter(offset: int = 0, partition: TopicPartition = ONE, size: int = 1) -> Letter:
    """A letter about one record."""
    return Letter(partition, Record(offset, 5, b"key", b"x" * size, (("tenant", b"t1"), ("tenant", None))), "deadline")


def book(*letters: Letter) -> LetterBook:
    """A book with letters in it."""
    made = LetterBook("{topic}.dlq")
    for one in letters:
        made.add(one)
    return made


def test_what_a_letter_says_is_beside_the_records_own_headers() -> None:
    """The record's headers stay unchanged and in order; unknown values are left out."""
    said = dict(headers_of(letter(7)._replace(detail="too late"), group="g", replica="r")[2:])
    assert headers_of(letter(7), group="g", replica="r")[:2] == (("tenant", b"t1"), ("tenant", None))
    assert said == {
        "dispatcher.dlq.reason": b"deadline",
        "dispatcher.dlq.topic": b"assets",
        "dispatcher.dlq.partition": b"0",
        "dispatcher.dlq.offset": b"7",
        "dispatcher.dlq.timestamp": b"5",
        "dispatcher.dlq.group": b"g",
        "dispatcher.dlq.replica": b"r",
        "dispatcher.dlq.detail": b"too late",
    }
    long = dict(headers_of(letter(7)._replace(detail="\ud800" * 600), group="g", replica="r"))
    assert long["dispatcher.dlq.detail"] == b"?" * 500
    bare = Letter(ONE, Record(0, None, None, None, ()), "nack")
    names = [name for name, _ in headers_of(bare, group="g", replica="r")]
    assert "dispatcher.dlq.timestamp" not in names
    assert "dispatcher.dlq.detail" not in names


def test_the_dead_letter_topic_may_be_one_for_all() -> None:
    """The template may name one topic for all, or one for each topic."""
    assert dead_letter_topic("{topic}.dlq", "assets") == "assets.dlq"
    assert dead_letter_topic("graveyard", "assets") == "graveyard"


def test_letters_are_taken_once_and_in_order() -> None:
    """A letter is under way until it is acknowledged or refused."""
    found = book(letter(0), letter(1))
    assert [one.record.offset for _, one in found.take(0)] == [0, 1]
    assert found.take(0) == []
    assert (found.under_way, found.next_at(0)) == (2, None)
    acknowledged = found.acknowledged(1)
    assert acknowledged is not None
    assert acknowledged.record.offset == 0
    assert found.acknowledged(1) is None
    assert found.statistics() == DeadLetterStatistics({("assets", "deadline"): 1}, 1, {})
    found.acknowledged(2)
    assert found.statistics().waiting == 0


def test_a_topic_that_fails_is_tried_by_one_letter_after_longer_and_longer_pauses() -> None:
    """Other topics continue; afterwards all letters are written in order."""
    found = book(letter(0), letter(1), letter(2))
    now, expected = 0.0, FIRST
    assert len(found.take(now)) == 3
    for number in (2, 1, 3):
        found.failed(number, "missing", now)
    found.failed(3, "missing", now)  # not under way
    found.failed(99, "missing", now)  # nobody's
    found.add(letter(0, OTHER))
    assert [number for number, _ in found.take(now)] == [4]
    for _ in range(8):
        assert found.statistics().failing == {"assets.dlq": "missing"}
        assert found.take(now) == []
        assert found.next_at(now) == now + expected
        now += expected
        assert found.next_at(now) == now
        assert [number for number, _ in found.take(now)] == [1]
        assert found.take(now) == []
        found.failed(1, "missing", now)
        expected = min(2 * expected, LONGEST)
    now += LONGEST
    assert [number for number, _ in found.take(now)] == [1]
    found.acknowledged(1)
    assert found.statistics().failing == {}
    assert [number for number, _ in found.take(now)] == [2, 3]


def test_a_letter_that_is_at_fault_itself_holds_up_no_other() -> None:
    """It waits alone, and is tried again."""
    found = book(letter(0), letter(1))
    found.take(0)
    found.failed(1, "too large", 0, is_its_own=True)
    found.add(letter(2))
    assert [number for number, _ in found.take(0)] == [3]
    assert found.statistics().failing == {"assets.dlq": "too large"}
    assert found.next_at(0) == FIRST
    assert found.take(FIRST) == [], "it goes alone"
    found.acknowledged(2)
    found.acknowledged(3)
    assert found.statistics().failing == {"assets.dlq": "too large"}, "one letter waits still"
    found.add(letter(3))
    assert [number for number, _ in found.take(FIRST)] == [1]
    assert found.take(FIRST) == [], "and others wait for its answer"
    found.failed(1, "too large", FIRST, is_its_own=True)
    assert [number for number, _ in found.take(FIRST)] == [4]
    assert found.next_at(FIRST) == 3 * FIRST
    assert found.forget([ONE]) == [1, 4]
    assert found.statistics().waiting == 0


def test_letters_that_were_refused_for_one_beside_them_are_written() -> None:
    """Each is tried again alone, because brokers refuse a whole batch for its size."""
    found = book(*(letter(n) for n in range(5)))
    now, large = 0.0, 3
    written: list[int] = []
    under_way = found.take(now)
    while under_way or len(written) < 4:
        batch = [number for number, _ in under_way]
        if large in batch:
            for number in batch:
                found.failed(number, "too large", now, is_its_own=True)
        else:
            for number in batch:
                found.acknowledged(number)
            written += batch
        if not (under_way := found.take(now)):
            assert now < 100, "the small ones are not written"
            now += FIRST
    assert sorted(written) == [1, 2, 4, 5]


def test_what_a_lost_producer_had_is_written_by_the_next_one() -> None:
    """It is written after a pause, and nothing is forgotten."""
    found = book(letter(0), letter(1))
    found.take(0)
    found.interrupted("fenced", 0)
    assert (found.under_way, found.take(0), found.statistics().waiting) == (0, [], 2)
    assert [number for number, _ in found.take(FIRST)] == [1]


def test_a_partition_that_leaves_takes_its_letters_along() -> None:
    """Answers to its letters no longer mean anything."""
    found = book(letter(0), letter(0, TWO), letter(1))
    found.take(0)
    assert found.forget([ONE]) == [1, 3]
    assert found.acknowledged(1) is None
    assert found.under_way == 1
    assert found.statistics().waiting == 1


def test_the_producer_has_a_window_and_the_book_has_a_bound() -> None:
    """Both are bounded in letters and bytes; what can wait has to."""
    many = book(*(letter(n) for n in range(WINDOW_LETTERS + 5)))
    assert len(many.take(0)) == WINDOW_LETTERS
    assert many.take(0) == []
    many.acknowledged(1)
    assert [number for number, _ in many.take(0)] == [WINDOW_LETTERS + 1]
    large = book()
    for offset in range(8):
        assert large.has_room
        large.add(letter(offset, size=1024 * 1024))
    assert not large.has_room
    assert large.statistics().waiting == 8
    assert len(large.take(0)) == 4
    large.forget([ONE])
    assert large.has_room


def test_a_record_has_one_letter() -> None:
    """This holds for every cause, even after storing; a record of another log gets its own letter."""
    found = book(letter(0))
    assert found.has(ONE, 0)
    assert not found.has(ONE, 1)
    assert found.add(letter(0)._replace(reason="nack")) == 1
    assert found.add(letter(0, size=2)) == 2
    found.take(0)
    found.acknowledged(1)
    assert found.has(ONE, 0), "of the other log"
    found.acknowledged(2)
    assert not found.has(ONE, 0)
    assert found.has_stored(letter(0)._replace(reason="nack"))
    later = letter(0)
    assert not found.has_stored(later._replace(record=later.record._replace(timestamp_ms=6)))
    assert found.statistics().written == {("assets", "deadline"): 2}
    found.forget([TWO])
    assert found.has_stored(letter(0))
    assert (found.remembers(ONE, 0), found.remembers(ONE, 1)) == (True, False)
    found.forget([ONE])
    assert not found.has_stored(letter(0)), "its next owner decides"
    assert not found.remembers(ONE, 0)


def test_stored_letters_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest are remembered, so memory is bounded."""
    monkeypatch.setattr(dead_letters, "REMEMBERED_LETTERS", 2)
    found = book(letter(0), letter(1), letter(2))
    for number, _ in found.take(0):
        found.acknowledged(number)
    assert [found.has_stored(letter(offset)) for offset in range(3)] == [False, True, True]


class BookModel(RuleBasedStateMachine):
    """Letters added, written, refused and forgotten in any order: each is acknowledged once, or its partition left."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LetterBook("{topic}.dlq")
        self.expected: dict[int, Letter] = {}
        self.under_way: set[int] = set()
        self.newest: dict[tuple[TopicPartition, int], int] = {}
        """The letter of each record; another log may have had one at its offset."""
        self.stored: set[tuple[TopicPartition, int]] = set()
        self.now = 0.0

    @rule(
        partition=st.sampled_from([ONE, TWO, OTHER]),
        offset=st.integers(0, 20),
        size=st.sampled_from([1, 2 * 1024 * 1024]),
        reason=st.sampled_from(["nack", "deadline"]),
    )
    def add(self, partition: TopicPartition, offset: int, size: int, reason: str) -> None:
        """A record is put aside: it has the letter that it had, and the first reason; another log's has another one."""
        one = letter(offset, partition, size)._replace(reason=reason)
        assert self.book.has_stored(one) == ((partition, offset) in self.stored)
        key = partition, offset
        number = self.book.add(one)
        newest = self.newest.get(key, 0)
        if newest and self.expected[newest].record == one.record:
            assert number == newest
        else:
            assert number not in self.expected
            self.expected[number] = one
            self.newest[key] = number

    def gone(self, number: int) -> Letter:
        """A letter is in the book no longer."""
        one = self.expected.pop(number)
        if self.newest.get(key := (one.partition, one.record.offset)) == number:
            del self.newest[key]
        return one

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 60.0]))
    def take(self, seconds: float) -> None:
        """What is taken was not under way, and is in order within its topic."""
        self.now += seconds
        taken = self.book.take(self.now)
        numbers = [number for number, _ in taken]
        assert not self.under_way.intersection(numbers)
        assert all(self.expected[number] is one for number, one in taken)
        for topic in ("assets", "orders"):
            its = [number for number, one in taken if one.partition.topic == topic]
            assert its == sorted(its)
        self.under_way.update(numbers)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), how=st.sampled_from(["acknowledged", "topic", "itself"]))
    def answer(self, data: st.DataObject, how: str) -> None:
        """The broker answers."""
        number = data.draw(st.sampled_from(sorted(self.under_way)))
        self.under_way.discard(number)
        if how == "acknowledged":
            one = self.gone(number)
            assert self.book.acknowledged(number) is one
            self.stored.add((one.partition, one.record.offset))
        else:
            self.book.failed(number, "refused", self.now, is_its_own=how == "itself")

    @rule(partition=st.sampled_from([ONE, TWO, OTHER]))
    def leave(self, partition: TopicPartition) -> None:
        """A partition leaves."""
        gone = {number for number, one in self.expected.items() if one.partition == partition}
        assert set(self.book.forget([partition])) == gone
        self.under_way -= gone
        self.stored = {key for key in self.stored if key[0] != partition}
        for number in gone:
            self.gone(number)

    @rule()
    def lose_producer(self) -> None:
        """The producer fails for good."""
        self.book.interrupted("fatal", self.now)
        self.under_way.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        """The book has what nobody has acknowledged, and something to do next as long as it is not all under way."""
        assert self.book.statistics().waiting == len(self.expected)
        assert self.book.under_way == len(self.under_way)
        for key in [(partition, offset) for partition in (ONE, TWO) for offset in range(3)]:
            assert self.book.has(*key) is (key in self.newest)
        assert (self.book.next_at(self.now) is None) is (len(self.under_way) == len(self.expected))

    def teardown(self) -> None:
        """In the end the broker takes everything."""
        for _ in range(200):
            self.now += dead_letters.RETRY_SECONDS[1]
            for number, _one in self.book.take(self.now):
                self.under_way.add(number)
            for number in tuple(self.under_way):
                self.book.acknowledged(number)
                self.expected.pop(number)
            self.under_way.clear()
        assert self.book.statistics().waiting == 0
        assert self.expected == {}


TestBookModel = BookModel.TestCase
TestBookModel.settings = settings(max_examples=40, stateful_step_count=30)
