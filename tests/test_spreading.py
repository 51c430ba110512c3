"""Subscribers spread over the replicas again when one has come, if they are told to."""

from collections.abc import Callable

import pytest
import trio

from dispatcher.spreading import Spread
from tests.clients import open_sse
from tests.conftest import Kafka
from tests.replicas import Replica

PARTITIONS = 4
SUBSCRIBERS = 8


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [
        ((6,), 0.0),  # the first ones
        ((6, 4), 1 / 3),  # a third replica has come
        ((6, 4, 4), 0.0),  # and nothing since
        ((6, 4, 3), 0.25),
        ((3, 6), 0.0),  # one has left
        ((3, 6, 3), 0.5),  # and come back
        ((1, 0), 0.0),  # there are more replicas than partitions
        ((1, 0, 2), 0.0),
    ],
)
def test_the_part_that_goes_is_the_part_of_the_partitions_that_left(
    partitions: tuple[int, ...], expected: float
) -> None:
    """Only when partitions have left, once, and never all of it."""
    spread = Spread()
    assert [spread.settled(number) for number in partitions][-1] == pytest.approx(expected)


async def test_half_of_the_subscribers_go_when_a_second_replica_comes(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """They are told 1013 and the others go on; the new replica sends nobody away."""
    topic = kafka.create_topic(PARTITIONS)
    keywords = {"settings": {"spread_seconds": 0.1}, "code": "import dispatcher.spreading as s; s.LOOK_SECONDS = 0.1"}
    first = replicas(kafka.bootstrap_servers, topic, client_id="first", **keywords)
    first.wait_until_ready()
    told, codes = trio.open_memory_channel[object](SUBSCRIBERS)

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with open_sse(first) as stream:
            task_status.started()
            told.send_nowait((await stream.next_control("goodbye"))["code"])

    async with trio.open_nursery() as nursery:
        for _ in range(SUBSCRIBERS):
            await nursery.start(listen)
        second = await trio.to_thread.run_sync(
            lambda: replicas(kafka.bootstrap_servers, topic, client_id="second", **keywords)
        )
        with trio.fail_after(30):
            for _ in range(SUBSCRIBERS // 2):
                assert await codes.receive() == 1013
        await trio.to_thread.run_sync(lambda: first.wait_for("half stay", lambda s: s["subscribers"]["total"] == 4))
        await trio.to_thread.run_sync(lambda: second.wait_for("half", lambda s: len(s["partitions"]) == 2))
        (line,) = first.logged("spreading subscribers")
        assert (line["number"], line["of"]) == (4, 8)
        assert codes.statistics().current_buffer_used == 0
        assert second.logged("spreading subscribers") == []
        nursery.cancel_scope.cancel()
