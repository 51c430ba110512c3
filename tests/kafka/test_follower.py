"""What the follower passes on of a poll while records wait for their schema, without a broker."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import trio
from confluent_kafka import Consumer

from dispatcher.kafka.follower import FollowCommands, Followed, Follower
from dispatcher.kafka.held import HeldRecords
from dispatcher.kafka.leaders import Leaders, Properties
from dispatcher.kafka.spacing import Spacing
from dispatcher.sansio.poll_size import PollSize
from dispatcher.sansio.records import TopicPartition
from testbed.patience import seconds
from tests.kafka.test_held import ONE, TWO, Decoder, group

EPOCH = 3


class NoDownstream:
    """Nothing crosses here."""

    has_orders = False

    def follow(self) -> FollowCommands:
        """Nothing to do."""
        return FollowCommands()

    def followed(self, result: Followed) -> FollowCommands:  # noqa: ARG002 - its interface
        """Nothing to do."""
        return FollowCommands()

    async def followed_when_settled(self, result: Followed) -> FollowCommands:
        """Nothing to do."""
        return self.followed(result)


@contextmanager
def following(decoder: Decoder, partitions: Collection[TopicPartition]) -> Iterator[tuple[Follower, Consumer]]:
    """A follower of these partitions from their first record on, whose consumer reaches no broker."""
    follower = Follower(
        {}, NoDownstream(), Spacing(0), Leaders({}).log_ends, poll_size=PollSize(1, int), batch_bytes=1, decoder=decoder
    )
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "none", "log_level": 0})
    try:
        follower._apply(consumer, FollowCommands(dict.fromkeys(partitions, (EPOCH, 0))))
        yield follower, consumer
    finally:
        consumer.close()


def test_records_that_wait_precede_what_a_broker_does_not_have() -> None:
    """Expired records are skipped up to the first existing one; records read before are not."""
    decoder = Decoder(b"a")
    with following(decoder, [ONE, TWO]) as (follower, consumer):
        held = HeldRecords(decoder)
        polled = Followed([(EPOCH, group(ONE, 0, b"a", b"b", b"a"))], out_of_range=[(ONE, EPOCH, 3), (TWO, EPOCH, 0)])
        follower._decode(consumer, held, polled)
        assert [one.records.offsets for _, one in polled.groups] == [(0,)]
        assert polled.out_of_range == [(TWO, EPOCH, 0)]
        decoder.known.add(ord("b"))
        polled = Followed()
        follower._decode(consumer, held, polled)
        assert [one.records.offsets for _, one in polled.groups] == [(1, 2)]
        assert polled.out_of_range == [(ONE, EPOCH, 3)]
        polled = Followed()
        follower._decode(consumer, held, polled)
        assert polled.out_of_range == []


def test_a_partition_that_starts_over_is_not_reported_for_what_came_before() -> None:
    """Its records are read again in another epoch."""
    decoder = Decoder()
    with following(decoder, [ONE]) as (follower, consumer):
        held = follower._held = HeldRecords(decoder)
        polled = Followed([(EPOCH, group(ONE, 0, b"b"))], out_of_range=[(ONE, EPOCH, 1)])
        follower._decode(consumer, held, polled)
        follower._apply(consumer, FollowCommands({ONE: (EPOCH + 1, 0)}))
        polled = Followed()
        follower._decode(consumer, held, polled)
        assert (polled.groups, polled.out_of_range) == ([], [])


class CountsWaits(Spacing):
    """Says when the thread has polled often enough."""

    def __init__(self, polls: int, on_enough: Callable[[], None]) -> None:
        super().__init__(0)
        self._left, self._on_enough = polls, on_enough

    def wait(self) -> None:
        """Count a poll that is about to begin."""
        self._left -= 1
        if not self._left:
            self._on_enough()


class Quiet(NoDownstream):
    """Has nothing to do for the thread, until it must stop."""

    def __init__(self) -> None:
        self.crossings = 0

    def stop(self) -> None:
        """Have it stop at the next crossing."""
        self.has_orders = True

    def followed(self, result: Followed) -> FollowCommands:  # noqa: ARG002 - its interface
        """Count."""
        self.crossings += 1
        return FollowCommands(stop=self.has_orders)


async def test_a_poll_without_news_crosses_only_if_there_are_orders() -> None:
    """The loop of an idle worker sleeps: only the lags were reported before, once, because they are due at first."""
    quiet = Quiet()
    spacing = CountsWaits(8, quiet.stop)
    properties: Properties = {"test.mock.num.brokers": 1, "group.id": "none", "log_level": 0}
    with trio.fail_after(seconds(30)):
        log_ends, size = Leaders(properties).log_ends, PollSize(1, int)
        await Follower(properties, quiet, spacing, log_ends, poll_size=size, batch_bytes=1).run()
    assert quiet.crossings == 2
