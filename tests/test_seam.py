"""The hub without Kafka and sockets: those who leave, come back, or are ahead of what the replica has read."""

from tests.test_hub import FEED, GOODBYE, Bench, RecordingTransport


async def test_who_has_left_is_told_no_goodbye() -> None:
    """Subscribers are sent away over a time, and some leave by themselves meanwhile: that ends nobody else."""
    bench = Bench()
    subscriber = bench.hub.subscribe(FEED, RecordingTransport())
    bench.hub.unsubscribe(subscriber)
    subscriber.end(GOODBYE)
    assert bench.hub.subscribers == 0
