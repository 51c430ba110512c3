"""Which log the records of each partition belong to."""

from dispatcher.sansio.log_ids import REPORTS, LogIds
from dispatcher.sansio.records import TopicPartition

ONE, TWO = TopicPartition("assets", 0), TopicPartition("assets", 1)
OTHER = TopicPartition("orders", 0)


def begun(*partitions: TopicPartition) -> LogIds:
    """They are read as topic `a`."""
    ids = LogIds()
    for partition in partitions:
        ids.begin(partition, "a")
    return ids


def test_a_recreated_topic_replaces_every_log_that_was_begun_before() -> None:
    """Those that begin afterwards are read of the new one."""
    ids = begun(ONE, OTHER)
    for number in range(1, REPORTS + 2):
        assert ids.is_replaced(ONE) is (number > REPORTS)
        assert ids.found({"assets": "b"}) is (number < REPORTS)
    ids.begin(TWO, ids.reported("assets"))
    assert [ids.is_replaced(partition) for partition in (ONE, TWO, OTHER)] == [True, False, False]
    ids.begin(ONE, "b")
    assert not ids.is_replaced(ONE)


def test_a_report_of_one_broker_that_lags_changes_nothing() -> None:
    """Neither for what was begun before it nor for what begins with it, once the others are heard again."""
    ids = begun(ONE)
    for _ in range(3):
        ids.found({"assets": "old"})
        ids.found({"assets": "a"})
        assert not ids.is_replaced(ONE)
    ids.found({"assets": "old"})
    ids.begin(TWO, ids.reported("assets"))
    for _ in range(REPORTS):
        ids.found({"assets": "a"})
    assert (ids.is_replaced(ONE), ids.is_replaced(TWO)) == (False, True)


def test_a_report_without_the_topic_says_nothing() -> None:
    """A broker may be silent in between."""
    ids = begun(ONE)
    ids.found({"assets": "b"})
    ids.found({"orders": "c"})
    assert not ids.is_replaced(ONE)
    ids.found({"assets": "b"})
    assert ids.is_replaced(ONE)


def test_the_id_of_the_group_is_compared_at_once() -> None:
    """It has looked when the partition began."""
    ids = begun(ONE)
    assert ids.is_same(ONE, "a") is True
    assert ids.is_same(ONE, "b") is False
    assert ids.is_same(ONE, None) is None
    assert ids.is_known(ONE)


def test_nothing_is_concluded_from_an_unknown_id() -> None:
    """It is known once a broker reports one, and counts from then on."""
    ids = LogIds()
    ids.begin(ONE, ids.reported("assets"))
    assert not ids.is_known(ONE)
    assert not ids.is_known(TWO)
    assert ids.is_same(ONE, "a") is None
    assert ids.is_same(TWO, "a") is None
    assert not ids.is_replaced(TWO)
    ids.found({"assets": "a"})
    assert ids.is_same(ONE, "a") is True
    assert not ids.is_replaced(ONE)


def test_what_is_forgotten_is_of_no_log() -> None:
    """It may be read again later."""
    ids = begun(ONE)
    ids.forget([ONE, TWO])
    assert not ids.is_known(ONE)


def test_a_partition_that_returns_may_have_a_log_of_another_id() -> None:
    """What was read of it meanwhile, without owning it, does not matter; nothing is concluded from an unknown id."""
    ids = begun(ONE)
    ids.left(ONE)
    ids.left(TWO)
    ids.forget([ONE])
    ids.begin(ONE, "b")
    assert [ids.has_changed(ONE, topic_id) for topic_id in ("a", "b", None)] == [False, True, False]
    assert not ids.has_changed(TWO, "b")
    assert not ids.has_changed(OTHER, "b")
    ids.left(ONE)
    assert [ids.has_changed(ONE, topic_id) for topic_id in ("a", "b")] == [True, False]
