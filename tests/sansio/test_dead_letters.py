"""Dead letters: their headers, and the book that loses none of them."""

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
    """Which stay as they are, in their order; what is unknown is left out."""
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
    """Or one for each topic."""
    assert dead_letter_topic("{topic}.dlq", "assets") == "assets.dlq"
    assert dead_letter_topic("graveyard", "assets") == "graveyard"


def test_letters_are_taken_once_and_in_order() -> None:
    """Until they are acknowledged, or refused."""
    found = book(letter(0), letter(1))
    assert [one.record.offset for _, one in found.take(0)] == [0, 1]
    assert found.take(0) == []
    assert (found.under_way, found.is_empty, found.next_at(0)) == (2, False, None)
    acknowledged = found.acknowledged(1)
    assert acknowledged is not None
    assert acknowledged.record.offset == 0
    assert found.acknowledged(1) is None
    assert found.statistics() == DeadLetterStatistics({("assets", "deadline"): 1}, 1, {})
    found.acknowledged(2)
    assert found.is_empty


def test_a_topic_that_fails_is_tried_by_one_letter_after_longer_and_longer_pauses() -> None:
    """All of its letters wait meanwhile, those of other topics do not; then all are written in their order."""
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
    assert [number for number, _ in found.take(FIRST)] == [1]
    found.failed(1, "too large", FIRST, is_its_own=True)
    assert found.next_at(FIRST) == 3 * FIRST
    assert found.forget([ONE]) == [1, 2, 3]
    assert found.is_empty


def test_what_a_lost_producer_had_is_written_by_the_next_one() -> None:
    """After a pause; nothing of it is forgotten."""
    found = book(letter(0), letter(1))
    found.take(0)
    found.interrupted("fenced", 0)
    assert (found.under_way, found.take(0), found.statistics().waiting) == (0, [], 2)
    assert [number for number, _ in found.take(FIRST)] == [1]


def test_a_partition_that_leaves_takes_its_letters_along() -> None:
    """An answer to one of them says nothing any more."""
    found = book(letter(0), letter(0, TWO), letter(1))
    found.take(0)
    assert found.forget([ONE]) == [1, 3]
    assert found.acknowledged(1) is None
    assert found.under_way == 1
    assert found.statistics().waiting == 1


def test_the_producer_has_a_window_and_the_book_has_a_bound() -> None:
    """In letters and in bytes; whoever can wait is asked to."""
    many = book(*(letter(n) for n in range(WINDOW_LETTERS + 5)))
    assert len(many.take(0)) == WINDOW_LETTERS
    assert many.take(0) == []
    many.acknowledged(1)
    assert [number for number, _ in many.take(0)] == [WINDOW_LETTERS + 1]
    large = book()
    while large.has_room:
        large.add(letter(size=1024 * 1024))
    assert large.statistics().waiting == 8
    assert len(large.take(0)) == 4
    large.forget([ONE])
    assert large.has_room


class BookModel(RuleBasedStateMachine):
    """Letters added, written, refused and forgotten in any order: each is acknowledged once, or its partition left."""

    def __init__(self) -> None:
        super().__init__()
        self.book = LetterBook("{topic}.dlq")
        self.expected: dict[int, Letter] = {}
        self.under_way: set[int] = set()
        self.now = 0.0

    @rule(partition=st.sampled_from([ONE, TWO, OTHER]), size=st.sampled_from([1, 2 * 1024 * 1024]))
    def add(self, partition: TopicPartition, size: int) -> None:
        """One more."""
        one = letter(partition=partition, size=size)
        self.expected[self.book.add(one)] = one

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
            assert self.book.acknowledged(number) is self.expected.pop(number)
        else:
            self.book.failed(number, "refused", self.now, is_its_own=how == "itself")

    @rule(partition=st.sampled_from([ONE, TWO, OTHER]))
    def leave(self, partition: TopicPartition) -> None:
        """A partition leaves."""
        gone = {number for number, one in self.expected.items() if one.partition == partition}
        assert set(self.book.forget([partition])) == gone
        self.under_way -= gone
        for number in gone:
            del self.expected[number]

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
        assert self.book.is_empty is not bool(self.expected)
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
        assert self.book.is_empty
        assert self.expected == {}


TestBookModel = BookModel.TestCase
TestBookModel.settings = settings(max_examples=40, stateful_step_count=30)
