"""Subscribers spread over the replicas again after one has joined, if the setting asks for it."""

from collections.abc import Callable

import pytest
import trio

from dispatcher.hub.spreading import REMEMBERED_SAMPLES, STABLE_SAMPLES, Spread
from testbed.clients import open_sse
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 4
SUBSCRIBERS = 8


CRASHED = [(1, 4, 30)] * (REMEMBERED_SAMPLES - STABLE_SAMPLES) + [(2, 4, 30)]


@pytest.mark.parametrize(
    ("before", "then", "number"),
    [
        pytest.param((6, 30), [(2, 4, 30)], 10, id="one has joined"),
        pytest.param((4, 20), [(2, 6, 30), (3, 4, 30)], 10, id="one was replaced at once"),
        pytest.param((4, 20), CRASHED, 10, id="one has crashed, and come back before its session ended"),
        pytest.param((6, 30), [(2, 4, 30), (3, 3, 30)], 15, id="two have joined"),
        pytest.param((6, 30), [(2, 1, 30)], 15, id="many have joined, and half go at most"),
        pytest.param((6, 0), [(2, 4, 0)], 0, id="one has joined, and nobody is connected"),
        pytest.param((4, 30), [(2, 6, 45)], 0, id="one has left, with its subscribers"),
        pytest.param((4, 30), [(1, 4, 90)], 0, id="more subscribers have connected"),
        pytest.param((6, 30), [(2, 0, 30)], 0, id="nothing is left"),
        pytest.param((0, 30), [(2, 6, 30)], 0, id="nothing was there"),
        pytest.param((0, 0), [(2, 6, 30), (3, 4, 30)], 10, id="it was the first of all to start"),
    ],
)
def test_as_many_stay_for_each_partition_as_before(
    before: tuple[int, int], then: list[tuple[int, int, int]], number: int
) -> None:
    """Once the group has settled; nobody is sent away twice."""
    spread = Spread()
    gone = [spread.observe(1, *before) for _ in range(REMEMBERED_SAMPLES)]
    gone += [spread.observe(*sample) for sample in then]
    assert sum(gone) == 0
    assignments, partitions, subscribers = then[-1]
    assert [spread.observe(assignments, partitions, subscribers) for _ in range(STABLE_SAMPLES)][-1] == number
    later = [spread.observe(assignments, partitions, subscribers - number) for _ in range(STABLE_SAMPLES)]
    assert sum(later) == 0


def test_nobody_goes_during_a_rebalance() -> None:
    """However long that takes."""
    spread = Spread()
    for _ in range(REMEMBERED_SAMPLES):
        spread.observe(1, 6, 30)
    gone = [spread.observe(2, 4, 30, stable=False) for _ in range(REMEMBERED_SAMPLES)]
    assert sum(gone) == 0


async def test_half_of_the_subscribers_go_when_a_second_replica_joins(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """They get goodbye 1013, the others stay, and the new replica sends nobody away."""
    topic = kafka.create_topic(PARTITIONS)
    keywords = {
        "settings": {"spread_seconds": 0.1},
        "code": "import dispatcher.hub.spreading as s; s.SAMPLE_SECONDS = 0.1",
    }
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
        with trio.fail_after(seconds(30)):
            for _ in range(SUBSCRIBERS // 2):
                assert await codes.receive() == 1013
        await trio.to_thread.run_sync(lambda: first.wait_for("half stay", lambda s: s["subscribers"]["total"] == 4))
        await trio.to_thread.run_sync(lambda: second.wait_for("half", lambda s: len(s["partitions"]) == 2))
        (line,) = await trio.to_thread.run_sync(first.wait_until_logged, "spreading subscribers")
        assert (line["number"], line["of"]) == (4, 8)
        assert codes.statistics().current_buffer_used == 0
        assert second.logged("spreading subscribers") == []
        nursery.cancel_scope.cancel()
