"""Guarantee G6 with healthy subscribers: a replica joins, another stops, and every record is dispatched once."""

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import trio

from testbed.clients import open_sse
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 6
ROUND = 3000
ROUNDS = 12
JOIN_IN_ROUND, STOP_IN_ROUND = 3, 8


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_join_and_a_planned_stop_lose_and_repeat_nothing(
    kafka: Kafka, replicas: Callable[..., Replica], protocol: str
) -> None:
    """Each replica has a subscriber, records keep arriving, and finally the log end is committed."""
    topic = kafka.create_topic(PARTITIONS)
    properties = {"group.protocol": protocol}
    seen: Counter[tuple[int, int]] = Counter()
    told: list[tuple[str, str, int]] = []

    async def read(replica: Replica) -> None:
        async with open_sse(replica) as stream:
            while (event := await stream.next_event()) is not None:
                if event.type == "message":
                    seen[event.own] += 1
                elif event.type == "state":
                    state = orjson.loads(event.data)
                    told.append((state["replica"], state["state"], len(state["assigned"].get(topic, ()))))

    started: list[Replica] = []

    def start_second() -> Replica:
        started.append(replicas(kafka.bootstrap_servers, topic, kafka=properties, client_id="second"))
        return started[0]

    first = replicas(kafka.bootstrap_servers, topic, kafka=properties)
    first.wait_until_ready()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, first)
        for n in range(ROUNDS):
            await trio.to_thread.run_sync(
                produce_numbered, kafka.bootstrap_servers, topic, ROUND, PARTITIONS, 100, n * ROUND
            )
            if n == JOIN_IN_ROUND:
                nursery.start_soon(read, await trio.to_thread.run_sync(start_second))
            if n == STOP_IN_ROUND:
                await trio.to_thread.run_sync(started[0].wait_for, "its half", has(PARTITIONS // 2))
                first.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(first.wait) == 0
        with trio.fail_after(seconds(60)):
            await trio.to_thread.run_sync(started[0].wait_for, "all of it, committed", has(PARTITIONS, lag=0))
        nursery.cancel_scope.cancel()
    end = ROUNDS * ROUND // PARTITIONS
    expected = {(partition, offset) for partition in range(PARTITIONS) for offset in range(end)}
    assert set(seen) == expected, f"{len(expected - set(seen))} lost"
    assert not [own for own, times in seen.items() if times > 1], f"{sum(seen.values()) - len(seen)} repeated"
    # A subscriber that loses partitions is notified, and then of what is left.
    left = PARTITIONS // 2
    assert ("replica", "rebalancing", left) in told
    assert ("replica", "streaming", left) in told[told.index(("replica", "rebalancing", left)) :]
    rows = kafka.group_offsets(first.group)
    assert {row.current_offset for row in rows.values()} == {end}


def has(partitions: int, lag: int | None = None) -> Callable[[dict[str, Any]], bool]:
    """A condition on a status: this many partitions, and optionally this much lag in each."""
    return lambda status: (
        len(status["partitions"]) == partitions and (lag is None or all(p["lag"] == lag for p in status["partitions"]))
    )
