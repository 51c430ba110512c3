"""The books of a topic whose log changes: each fault is found, and what the protocol allows is not taken for one."""

import pytest

from tests.chaos.books import Books, Broken, is_new_to_its_owner


def books_with(number: int = 6) -> tuple[Books, int]:
    """This many records in partition 0, and a connection that lists it."""
    books = Books("t")
    for offset in range(number):
        books.produced(0, offset)
    connection = books.opened()
    books.state(connection, {0})
    return books, connection


def receive(books: Books, connection: int, *offsets: int, generation: int = 0) -> None:
    """Records of partition 0."""
    for offset in offsets:
        books.received(connection, 0, offset, generation)


def found(books: Books) -> dict[Broken, int]:
    """The faults in the end, each with words about it."""
    books.close()
    assert bool(books.faults) == bool(books.evidence)
    assert {name for name, _, good in books.rows() if not good} == {f"t: {fault}" for fault in books.faults}
    return dict(books.faults)


def test_all_is_well() -> None:
    """Every record reaches somebody, perhaps a later connection, perhaps before the books know the record."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1, 2, 3)
    other = books.opened()
    receive(books, other, 2, 3)
    books.produced(0, 3)
    assert found(books) == {}


def test_expired_records_that_a_gap_reports() -> None:
    """Expired records in a reported gap are no longer owed to anybody."""
    books, connection = books_with()
    receive(books, connection, 0)
    books.expired(0, 4)
    books.gap(connection, 0, 1, 3, "expired")
    receive(books, connection, 4, 5)
    assert found(books) == {}
    assert books.gaps == {"expired": 1}


def test_expired_records_that_no_gap_reports() -> None:
    """A hole within one connection is a fault, whatever states arrive: the partition was never away."""
    books, connection = books_with()
    receive(books, connection, 0)
    books.expired(0, 4)
    books.state(connection, {0})
    receive(books, connection, 4, 5)
    assert found(books) == {Broken.UNTOLD: 3, Broken.LOST: 3}


def test_a_gap_to_nobody_leaves_them_owed() -> None:
    """A new connection that begins after expired records got no gap, so they stay owed."""
    books, _ = books_with()
    books.expired(0, 4)
    receive(books, books.opened(), 4, 5)
    assert found(books) == {Broken.LOST: 4}


def test_a_gap_about_records_that_are_there() -> None:
    """A gap over existing records withholds them from readers, and is a fault."""
    books, connection = books_with()
    books.expired(0, 2)
    books.gap(connection, 0, 0, 3, "expired")
    receive(books, connection, 4, 5)
    assert found(books) == {Broken.WRONG_GAP: 1}


def test_a_gap_that_begins_too_late() -> None:
    """Records before the beginning of the gap are missing as well."""
    books, connection = books_with()
    receive(books, connection, 0)
    books.expired(0, 4)
    books.gap(connection, 0, 2, 3, "expired")
    receive(books, connection, 4, 5)
    assert found(books) == {Broken.UNTOLD: 1, Broken.LOST: 1}


def test_a_partition_that_leaves_may_go_on_anywhere() -> None:
    """After it left, a partition may continue anywhere, and its new log needs no report."""
    books, connection = books_with(2)
    receive(books, connection, 0, 1)
    books.state(connection, set())
    books.remade()
    for offset in range(4):
        books.produced(0, offset)
    books.state(connection, {0})
    receive(books, connection, 0, 1, 2, 3, generation=1)
    assert found(books) == {}


def test_a_topic_made_again_is_owed_from_its_beginning() -> None:
    """Everything before the old position in the new log is owed, too."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1, 2)
    books.remade()
    for offset in range(8):
        books.produced(0, offset)
    receive(books, connection, 3, 4, 5, 6, 7, generation=1)
    assert found(books) == {Broken.NOT_RECREATED: 1, Broken.LOST: 3}


def test_a_recreated_topic_that_is_reported() -> None:
    """The gap is sent first, then the new log."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1)
    books.remade()
    for offset in range(2):
        books.produced(0, offset)
    books.gap(connection, 0, 2, -1, "recreated")
    receive(books, connection, 0, 1, generation=1)
    assert found(books) == {}


def test_a_recreated_topic_that_is_reported_late() -> None:
    """Records after the old position come first, then the gap, then the whole new log."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1, 2)
    books.remade()
    for offset in range(5):
        books.produced(0, offset)
    receive(books, connection, 3, 4, generation=1)
    books.gap(connection, 0, 5, -1, "recreated")
    receive(books, connection, 0, 1, 2, 3, 4, generation=1)
    assert found(books) == {}


def test_a_gap_that_has_not_come_is_owed_like_a_record() -> None:
    """A run does not end before the replica has looked at the topic's id."""
    books, connection = books_with(1)
    settled = [books.are_settled]
    receive(books, connection, 0)
    settled.append(books.are_settled)
    books.remade()
    books.produced(0, 1)
    receive(books, connection, 1, generation=1)
    settled.append(books.are_settled)
    books.gap(connection, 0, 2, -1, "recreated")
    settled.append(books.are_settled)
    assert settled == [False, True, False, True]


def test_a_connection_that_ends_needs_no_gap() -> None:
    """The next connection begins where it asks to; records that it is not sent stay owed."""
    books, connection = books_with(1)
    receive(books, connection, 0)
    books.remade()
    for offset in range(3):
        books.produced(0, offset)
    receive(books, connection, 1, generation=1)
    receive(books, books.opened(), 2, generation=1)
    assert found(books) == {Broken.LOST: 1}


def test_records_again_on_one_connection() -> None:
    """At-least-once does not allow repeats within one connection."""
    books, connection = books_with(2)
    receive(books, connection, 0, 1, 1)
    assert found(books) == {Broken.DISORDER: 1}


def test_records_again_with_the_whole_topic() -> None:
    """The group had not committed them when the partition came to the replica; after them the rest comes in order."""
    books = Books("t", whole=True)
    for offset in range(6):
        books.produced(0, offset)
    connection = books.opened()
    books.state(connection, frozenset({0}))
    receive(books, connection, 0, 1, 2, 1, 2, 3, 5)
    assert ("t: sent again with the whole topic", "1", True) in list(books.rows())
    assert found(books) == {Broken.UNTOLD: 1, Broken.LOST: 1}


@pytest.mark.parametrize(
    ("assigned", "is_new"),
    [
        ([(4.0, "new")], True),
        ([(4.0, "old"), (5.0, "new")], False),
        ([(4.0, "other")], False),
        ([], False),
        # Between the two this may have been of either.
        ([(2.5, "old"), (4.0, "old")], False),
        ([(2.5, "old"), (4.0, "new")], True),
        ([(2.5, "new"), (4.0, "old")], True),
    ],
)
def test_a_topic_is_new_to_an_owner_that_has_never_had_any_of_it(
    assigned: list[tuple[float, str]], is_new: bool
) -> None:
    """It is not new to an owner that had some partition before the topic was deleted, nor while nobody has it."""
    before = (1.0, "old")
    assert is_new_to_its_owner([*assigned, before], {"old", "other"}, deleted_at=2, remade_at=3) == is_new


def test_what_was_written_before_an_owner_to_whom_the_topic_is_new_is_not_owed() -> None:
    """This holds only for that owner's partition."""
    books, _ = books_with()
    books.produced(1, 0)
    books.new_to_its_owner(0)
    assert books.missing() == [(1, 0)]
