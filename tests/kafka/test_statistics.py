"""What is taken from librdkafka's statistics."""

import orjson

from dispatcher.kafka.statistics import FetchStatistics, parse_statistics
from dispatcher.sansio.records import TopicPartition


def document(broker: int = 0, fetch_state: str = "active", state: str = "UP", **partition: int) -> bytes:
    """Return a document as librdkafka 2.16 writes it, reduced to what is read."""
    known = {"committed_offset": 10, "hi_offset": 15, "ls_offset": 12, "fetchq_size": 7}
    one = {"partition": 0, "broker": broker, "fetch_state": fetch_state, **known, **partition}
    none = {"partition": -1, "broker": -1, "fetch_state": "none"}
    brokers = {"a:1/0": {"nodeid": 0, "state": state}, "a:1/bootstrap": {"nodeid": -1, "state": "UP"}}
    return orjson.dumps({"brokers": brokers, "topics": {"t": {"partitions": {"0": one, "-1": none}}}})


def parsed(text: bytes) -> FetchStatistics:
    """The one partition."""
    statistics = parse_statistics(text)
    assert statistics is not None
    partitions = statistics.partitions
    assert list(partitions) == [TopicPartition("t", 0)]
    return partitions[TopicPartition("t", 0)]


def test_offsets_of_a_partition_that_is_fetched() -> None:
    """Log end and last stable offset are distinguished, and negative numbers mean unknown."""
    assert parsed(document()) == FetchStatistics(10, 15, 12, 7)
    assert parsed(document(committed_offset=-1001, hi_offset=-1001, ls_offset=-1001)) == FetchStatistics(
        None, None, None, 7
    )


def test_a_broker_that_is_away_reports_no_log_end() -> None:
    """The last one is repeated; the broker's state, or a missing leader, shows the outage."""
    assert parsed(document(state="TRY_CONNECT")) == FetchStatistics(10, None, None, 7)
    assert parsed(document(broker=-1)) == FetchStatistics(10, None, None, 7)


def test_what_is_left_of_an_earlier_assignment_is_unknown() -> None:
    """A partition that is not fetched yet still shows the offsets from before it left."""
    assert parsed(document(fetch_state="offset-query")) == FetchStatistics(None, None, None, 7)


def test_a_document_without_partitions_is_no_error() -> None:
    """This is the case before the first metadata."""
    statistics = parse_statistics(b"{}")
    assert statistics is not None
    assert (statistics.brokers_up, statistics.partitions) == (0, {})


def test_requests_to_the_coordinator_that_timed_out_are_counted() -> None:
    """Not those to other brokers, and none before there is a coordinator."""
    brokers = {"GroupCoordinator": {"nodeid": 1, "state": "UP", "req_timeouts": 2}, "a:1/0": {"req_timeouts": 5}}
    for known, timeouts in ((brokers, 2), ({}, 0)):
        statistics = parse_statistics(orjson.dumps({"brokers": known}))
        assert statistics is not None
        assert statistics.coordinator_timeouts == timeouts
