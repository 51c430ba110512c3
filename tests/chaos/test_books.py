"""The books of a topic whose log changes: each fault is found, and what the protocol allows is not taken for one."""

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
    """Every record comes to somebody, some of them to a connection that begins later, some before they are known."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1, 2, 3)
    other = books.opened()
    receive(books, other, 2, 3)
    books.produced(0, 3)
    assert found(books) == {}


def test_expired_records_that_a_gap_reports() -> None:
    """They are no longer owed to anybody."""
    books, connection = books_with()
    receive(books, connection, 0)
    books.expired(0, 4)
    books.gap(connection, 0, 1, 3, "expired")
    receive(books, connection, 4, 5)
    assert found(books) == {}
    assert books.gaps == {"expired": 1}


def test_expired_records_that_no_gap_reports() -> None:
    """A hole within one connection, whatever states come between: the partition was there all the time."""
    books, connection = books_with()
    receive(books, connection, 0)
    books.expired(0, 4)
    books.state(connection, {0})
    receive(books, connection, 4, 5)
    assert found(books) == {Broken.UNTOLD: 3, Broken.LOST: 3}


def test_a_gap_to_nobody_leaves_them_owed() -> None:
    """A new connection begins after them, and no gap was reported to it."""
    books, _ = books_with()
    books.expired(0, 4)
    receive(books, books.opened(), 4, 5)
    assert found(books) == {Broken.LOST: 4}


def test_a_gap_about_records_that_are_there() -> None:
    """It takes from readers what they would have been sent."""
    books, connection = books_with()
    books.expired(0, 2)
    books.gap(connection, 0, 0, 3, "expired")
    receive(books, connection, 4, 5)
    assert found(books) == {Broken.WRONG_GAP: 1}


def test_a_gap_that_begins_too_late() -> None:
    """What lies before it is left out as well."""
    books, connection = books_with()
    receive(books, connection, 0)
    books.expired(0, 4)
    books.gap(connection, 0, 2, 3, "expired")
    receive(books, connection, 4, 5)
    assert found(books) == {Broken.UNTOLD: 1, Broken.LOST: 1}


def test_a_partition_that_leaves_may_go_on_anywhere() -> None:
    """And its new log needs no word then."""
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
    """The old position is a place in the new log, and still everything before it is owed."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1, 2)
    books.remade()
    for offset in range(8):
        books.produced(0, offset)
    receive(books, connection, 3, 4, 5, 6, 7, generation=1)
    assert found(books) == {Broken.NOT_RECREATED: 1, Broken.LOST: 3}


def test_a_recreated_topic_that_is_reported() -> None:
    """The gap comes first, then the new log."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1)
    books.remade()
    for offset in range(2):
        books.produced(0, offset)
    books.gap(connection, 0, 2, -1, "recreated")
    receive(books, connection, 0, 1, generation=1)
    assert found(books) == {}


def test_a_recreated_topic_that_is_reported_late() -> None:
    """Records of the new log from the old place come first, then the gap, then all of the new log."""
    books, connection = books_with(3)
    receive(books, connection, 0, 1, 2)
    books.remade()
    for offset in range(5):
        books.produced(0, offset)
    receive(books, connection, 3, 4, generation=1)
    books.gap(connection, 0, 5, -1, "recreated")
    receive(books, connection, 0, 1, 2, 3, 4, generation=1)
    assert found(books) == {}


def test_a_connection_that_ends_needs_no_gap() -> None:
    """The one after it begins where it asks to; what it is not sent is owed all the same."""
    books, connection = books_with(1)
    receive(books, connection, 0)
    books.remade()
    for offset in range(3):
        books.produced(0, offset)
    receive(books, connection, 1, generation=1)
    receive(books, books.opened(), 2, generation=1)
    assert found(books) == {Broken.LOST: 1}


def test_records_again_on_one_connection() -> None:
    """A repeat within it is none of what at-least-once allows."""
    books, connection = books_with(2)
    receive(books, connection, 0, 1, 1)
    assert found(books) == {Broken.DISORDER: 1}


def test_a_topic_is_new_to_an_owner_that_has_never_had_it() -> None:
    """Not to one that had the partition before the topic was made again, nor while nobody has it."""
    before, after = (1.0, "one"), (3.0, "two")
    assert is_new_to_its_owner([after, before], remade_at=2)
    assert not is_new_to_its_owner([before, after, (2.5, "one")], remade_at=2)
    assert not is_new_to_its_owner([before], remade_at=2)


def test_what_was_written_before_an_owner_to_whom_the_topic_is_new_is_not_owed() -> None:
    """Of that partition alone."""
    books, _ = books_with()
    books.produced(1, 0)
    books.new_to_its_owner(0)
    assert books.missing() == [(1, 0)]
