"""Which log the records of each partition belong to."""

from dispatcher.sansio.log_ids import LogIds
from dispatcher.sansio.records import TopicPartition

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)


def test_a_recreated_topic_replaces_every_log_that_was_begun_before() -> None:
    """Those that begin afterwards are read of the new one."""
    ids = LogIds()
    ids.found({"assets": "a"})
    ids.begin(ONE)
    assert not ids.is_replaced(ONE)
    ids.found({"assets": "b"})
    ids.begin(TWO)
    assert (ids.is_replaced(ONE), ids.is_replaced(TWO)) == (True, False)
    ids.begin(ONE)
    assert not ids.is_replaced(ONE)


def test_a_broker_that_still_reports_the_old_topic_lags() -> None:
    """What was read of the new one is not read once more."""
    ids = LogIds()
    ids.found({"assets": "a"})
    ids.found({"assets": "b"})
    ids.begin(ONE)
    ids.found({"assets": "a"})
    ids.begin(TWO)
    assert not ids.is_replaced(ONE)
    assert not ids.is_replaced(TWO)


def test_the_group_may_know_the_new_topic_first() -> None:
    """Partitions of its old log, which are read here, are replaced then."""
    ids = LogIds()
    ids.found({"assets": "a"})
    ids.begin(ONE)
    assert ids.is_other(ONE, "b")
    ids.begin(TWO, "b")
    assert (ids.is_replaced(ONE), ids.is_replaced(TWO)) == (True, False)


def test_nothing_is_concluded_from_an_unknown_id() -> None:
    """It is known once a broker reports one, and counts from then on."""
    ids = LogIds()
    ids.begin(ONE)
    assert not ids.is_other(ONE, "a")
    assert not ids.is_replaced(ONE)
    assert not ids.is_replaced(TWO)
    ids.found({"assets": "a"})
    assert not ids.is_other(ONE, None)
    assert ids.is_other(ONE, "b")


def test_what_is_forgotten_is_of_no_log() -> None:
    """It may be read again later."""
    ids = LogIds()
    ids.begin(ONE, "a")
    ids.forget([ONE, TWO])
    assert not ids.is_other(ONE, "b")
