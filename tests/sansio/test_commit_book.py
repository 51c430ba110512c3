"""The book of commits under way."""

from dispatcher.sansio.commit_book import Commit, CommitBook, CommitBookStatistics
from dispatcher.sansio.records import TopicPartition

ONE, TWO = TopicPartition("assets", 1), TopicPartition("assets", 2)


def test_an_answer_belongs_to_the_oldest_commit_that_fits() -> None:
    """Equal offsets of two assignments are answered in the order in which they were sent."""
    book = CommitBook()
    earlier, other, later = Commit(ONE, 1, 7, None), Commit(ONE, 1, 9, None), Commit(ONE, 2, 7, None)
    for commit in (earlier, other, later):
        book.enter(commit)
    assert book.under_way == [earlier, other, later]
    assert book.take(ONE, 7) == earlier
    assert (book.has(ONE, 1), book.has(ONE, 2), book.has(ONE, 3), book.has(TWO, 1)) == (True, True, False, False)
    assert book.take(ONE, 7) == later
    assert book.take(ONE, 7) is None
    assert book.take(TWO, 7) is None
    assert book.take(ONE, 9) == other
    assert book.statistics() == CommitBookStatistics(under_way=0, sent=3)


def test_nothing_is_answered_after_the_book_was_cleared() -> None:
    """The consumer is gone, and so are its outstanding answers."""
    book = CommitBook()
    book.enter(Commit(ONE, 1, 7, None))
    book.clear()
    assert book.take(ONE, 7) is None
    assert not book.under_way
