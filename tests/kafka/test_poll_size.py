"""Both threads take fewer records while filters are tried often on each."""

from confluent_kafka import Message

from dispatcher.hub.feed import feed_of
from dispatcher.kafka.bridge import PollResult
from dispatcher.kafka.decoding import Group
from dispatcher.kafka.follower import Followed
from dispatcher.pipeline import Pipeline
from dispatcher.sansio.encoding.wire import SSE_VALUE
from dispatcher.sansio.filter_dialect import read_filter
from dispatcher.sansio.poll_size import MOST_TRIES
from dispatcher.sansio.records import Records, TopicPartition
from dispatcher.settings import Settings
from tests.hub.test_hub import RecordingTransport

PARTITION = TopicPartition("assets", 0)
RECORDS = Records(range(500), [0] * 500, [b"hot"] * 500, [b"{}"] * 500, [()] * 500)
FILTERS = 50


class Client:
    """A consumer that has one message, and notes how many more it is asked for."""

    def __init__(self) -> None:
        self.asked = list[int]()

    def poll(self, _: float) -> Message:
        """The message."""
        return Message(topic="assets", partition=0, offset=len(self.asked))

    def consume(self, number: int, _: float) -> list[Message]:
        """No more."""
        self.asked.append(number)
        return []


def pipeline_with_filters() -> Pipeline:
    """One with subscribers who want the same key, and some value each."""
    pipeline = Pipeline(Settings(client_id="replica", bootstrap_servers="127.0.0.1:1", topics=(PARTITION.topic,)))
    for number in range(FILTERS):
        wanted = read_filter({"all": [{"exact": {"key": "hot"}}, {"exact": {"/n": f"{number}"}}]})
        pipeline.hub.subscribe(feed_of(SSE_VALUE, frozenset({PARTITION.topic}), wanted), RecordingTransport())
    return pipeline


async def test_the_member_of_the_group_takes_fewer_records() -> None:
    """By how often filters were tried on those of its last poll."""
    pipeline, client = pipeline_with_filters(), Client()
    pipeline.hub.assigned([PARTITION])
    pipeline._offsets.assigned(PARTITION)
    pipeline._offsets.began(PARTITION, 0)
    pipeline.exchange(PollResult(groups=[Group(PARTITION, RECORDS, None)]))
    pipeline.make_consumer()._poll(client, 0)  # type: ignore[arg-type] # as much of a consumer as is used
    assert client.asked == [MOST_TRIES // FILTERS - 1]


async def test_the_follower_takes_fewer_records() -> None:
    """The same."""
    pipeline, client = pipeline_with_filters(), Client()
    following = pipeline._following
    epoch = following._ownership.follow(PARTITION)
    pipeline.hub.followed.follow(PARTITION, 0)
    following.followed(Followed(groups=[(epoch, Group(PARTITION, RECORDS, None))]))
    following._follower._poll(client)  # type: ignore[arg-type] # as much of a consumer as is used
    assert client.asked == [MOST_TRIES // FILTERS - 1]
