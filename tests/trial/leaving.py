"""Clients end in every way, a thousand in each: nothing of them is left, and those that stay miss nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import orjson
import psutil
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from testbed.broker.cluster import KafkaCluster
from testbed.clients import open_ws, pair_of
from testbed.patience import seconds
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.audit.producing import produce_steadily
from tests.chaos.leftovers import violated
from tests.test_whole_topic import PlainReader
from tests.trial.ledger import Row
from tests.web.test_bad_input import come_and_go, wait_for

WITNESSES = 2
SETTINGS = {
    # Clients that answer no ping are noticed soon, witnesses of a busy machine are not taken for them, and memory has
    # nothing to grow with but what is left over.
    "heartbeat_seconds": 5,
    "stall_timeout_seconds": 5,
    "history_bytes": "2MiB",
    "pause_above_bytes": "1MiB",
    "resume_below_bytes": "512KiB",
}
GROWTH_BYTES = 16 * 1024 * 1024
"""Of resident memory, over all clients: a leak of 600 bytes for each of 33,000 would be more."""
LATE_GROWTH_BYTES = GROWTH_BYTES // 4
"""Of that, while the second half of the clients of each kind comes and leaves: whatever is reused exists by then, and a
leak grows as fast as before."""
SPARE_DESCRIPTORS = 2
"""The Kafka clients open and close some now and then."""
ENDING_SECONDS = 300.0
"""A deadline in `testbed.patience.seconds`."""
SOME = 100
"""Clients of each kind before the count begins, and when there are no witnesses."""
AFTERWARDS = 10
"""Records that are written when all clients of one kind have left."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What was left after one kind of ending, compared to before all of them."""

    ending: str
    tasks: int
    descriptors: int
    memory_bytes: int


async def run(cluster: KafkaCluster, clients: Mapping[str, int], rate: float, tell: Callable[[str], None]) -> list[Row]:
    """Let clients come and go beside witnesses, then alone.

    Args:
        cluster: One node that runs.
        clients: How many end in each way.
        rate: Records a second.
        tell: Called with what happens, in words.
    """
    topic = cluster.create_topic("leaving", 1)
    replica = await trio.to_thread.run_sync(partial(Replica, cluster.bootstrap_servers, topic, settings=SETTINGS))
    try:
        await trio.to_thread.run_sync(replica.wait_until_ready)
        stored: list[int] = []
        produce = partial(
            produce_steadily,
            cluster.bootstrap_servers,
            topic,
            1,
            rate=rate,
            value_bytes=200,
            on_stored=lambda _partition, offset, _number: stored.append(offset),
            on_refused=tell,
        )
        rows = await _beside_witnesses(replica, produce, clients, stored, tell)
        write = partial(produce_numbered, cluster.bootstrap_servers, topic, AFTERWARDS, 1, 0)
        rows += await _alone(replica, write, clients, len(stored), tell)
        violations = violated(await trio.to_thread.run_sync(replica.metrics))
        rows.append(("invariants violated", str(violations or 0), not violations))
        errors = replica.log.count('"level": "error"')
        rows.append(("errors in the log", f"{errors:,}", not errors))
    finally:
        replica.end(by_force=True)
    return rows


async def _beside_witnesses(
    replica: Replica,
    produce: Callable[..., None],
    clients: Mapping[str, int],
    stored: list[int],
    tell: Callable[[str], None],
) -> list[Row]:
    process = psutil.Process(replica.process.pid)
    reader = PlainReader(replica, "")
    over_websocket: list[int] = []
    found: list[_Left] = []
    is_over = False
    async with open_ws(replica) as websocket, trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        nursery.start_soon(_keep, websocket, over_websocket)
        await wait_for(replica, subscribers=WITNESSES)
        async with trio.open_nursery() as producing:
            producing.start_soon(trio.to_thread.run_sync, partial(produce, stopped=lambda: is_over))
            try:
                # Whatever is made at first and kept is there before the count begins.
                for ending, number in clients.items():
                    await _come_and_go(replica, ending, min(number, SOME))
                before = await wait_for(replica, subscribers=WITNESSES, connections=WITNESSES + 1)
                descriptors, memory_bytes = process.num_fds(), process.memory_info().rss
                for ending, number in _in_halves(clients):
                    await _come_and_go(replica, ending, number)
                    after = await wait_for(
                        replica, subscribers=WITNESSES, connections=WITNESSES + 1, tasks=before["tasks"]
                    )
                    with trio.move_on_after(seconds(10)):
                        while process.num_fds() > descriptors + SPARE_DESCRIPTORS:  # noqa: ASYNC110 - another process's
                            await trio.sleep(0.05)
                    left = _Left(
                        ending,
                        after["tasks"] - before["tasks"],
                        process.num_fds() - descriptors,
                        process.memory_info().rss - memory_bytes,
                    )
                    tell(f"{ending}: {left.descriptors:+} descriptors, {left.memory_bytes / 2**20:+.1f} MiB since then")
                    found.append(left)
            finally:
                is_over = True
        await reader.until({0: len(stored)})
        with trio.move_on_after(seconds(60)):
            while len(over_websocket) < len(stored):  # noqa: ASYNC110 - another task counts
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    tasks, descriptors = max(left.tasks for left in found), max(left.descriptors for left in found)
    late_bytes = found[-1].memory_bytes - found[len(found) // 2 - 1].memory_bytes
    whole = list(range(len(stored)))
    return [
        ("clients that came and left", f"{sum(clients.values()):,} in {len(clients)} ways", True),
        ("subscribers and connections left of them", "0, after each", True),
        ("tasks left, at most", f"{tasks:+}", tasks <= 0),
        ("descriptors left, at most", f"{descriptors:+}", descriptors <= SPARE_DESCRIPTORS),
        (
            "memory after all of them",
            f"{found[-1].memory_bytes / 2**20:+.1f} MiB",
            found[-1].memory_bytes < GROWTH_BYTES,
        ),
        ("of that, in their second half", f"{late_bytes / 2**20:+.1f} MiB", late_bytes < LATE_GROWTH_BYTES),
        ("records meanwhile", f"{len(stored):,}", bool(stored)),
        ("witness over SSE", f"{len(reader.seen):,} on {reader.connections} connection", reader.connections == 1),
        (
            "its holes, gaps, repeats",
            f"{len(reader.holes)}, {len(reader.gaps)}, {reader.repeats}",
            sorted(offset for _, offset in reader.seen) == whole
            and not (reader.holes or reader.gaps or reader.repeats),
        ),
        ("witness over WebSocket", f"{len(over_websocket):,}, in order", over_websocket == whole),
    ]


def _in_halves(clients: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Half of the clients of each kind, then the other halves: only so a plateau of memory differs from a leak."""
    yield from ((ending, number // 2) for ending, number in clients.items())
    yield from ((ending, number - number // 2) for ending, number in clients.items())


async def _alone(
    replica: Replica, write: Callable[[int], None], clients: Mapping[str, int], first: int, tell: Callable[[str], None]
) -> list[Row]:
    """After the clients of each kind have left, nothing that is written then may count as dispatched."""
    await wait_for(replica, subscribers=0)
    wrongly = 0
    for ending, number in clients.items():
        await _come_and_go(replica, ending, min(number, SOME))
        before = (await wait_for(replica, subscribers=0))["records"]
        await trio.to_thread.run_sync(write, first)
        first += AFTERWARDS
        taken = before["published"] + AFTERWARDS
        status = await trio.to_thread.run_sync(
            replica.wait_for, "published", lambda status, taken=taken: status["records"]["published"] >= taken
        )
        more = status["records"]["dispatched"] - before["dispatched"]
        wrongly += more
        if more:
            tell(f"{ending}: {more} records were dispatched to nobody")
    return [("records dispatched to clients that had left", f"{wrongly:,}", not wrongly)]


async def _come_and_go(replica: Replica, ending: str, number: int) -> None:
    with trio.fail_after(seconds(ENDING_SECONDS)):
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                nursery.start_soon(come_and_go, replica, ending)


async def _keep(websocket: WebSocketConnection, offsets: list[int]) -> None:
    """Until the replica ends it, which it must not."""
    with suppress(ConnectionClosed):
        while True:
            message = orjson.loads(await websocket.get_message())
            if message["type"] == "records":
                offsets += [pair_of(record)[1] for record in message["records"]]
