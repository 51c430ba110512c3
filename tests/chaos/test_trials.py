"""What happens to topics aside is judged by their books, and a fault that is put into a replica is found there."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import cast

import orjson
import pytest
import trio

from testbed.broker.cluster import KafkaCluster
from testbed.patience import VARIABLE, seconds
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet
from tests.chaos import trials as trials_module
from tests.chaos.books import Broken
from tests.chaos.run import PROPERTIES, SETTINGS
from tests.chaos.schedule import Event, Kind
from tests.chaos.trials import PARTITIONS, Trials

HIDE_GAPS = """
from dispatcher.sansio.encoding import sse
sse.encode_gap = lambda *_: b": nothing\\n\\n"
"""
SKIP_NEW_PARTITIONS = """
import dispatcher.hub.hub as hub
publish = hub.Hub.publish
def changed(self, batch):
    if not (batch.partition.topic.endswith("grow") and batch.partition.partition and batch.first_offset == 0):
        publish(self, batch)
hub.Hub.publish = changed
"""
FAULTS: dict[Kind, str] = {Kind.RETENTION: HIDE_GAPS, Kind.GROW: SKIP_NEW_PARTITIONS}


async def trial(cluster: KafkaCluster, kind: Kind, code: str) -> Trials:
    """One replica, to which one kind of thing happens."""
    topic = cluster.create_topic(f"trial-{kind.option}-{bool(code)}", 1)
    made = Trials(cluster, topic, frozenset({kind}))
    await trio.to_thread.run_sync(made.create)
    servers, group = cluster.bootstrap_servers, f"group-{topic}"
    names = ",".join([topic, *made.topics])
    async with trio.open_nursery() as nursery:
        auditor = Auditor(servers, topic, group, 1, rate=1)
        fleet = Fleet(
            auditor, nursery, servers, names, group, settings=SETTINGS, kafka=PROPERTIES["classic"], code=code
        )
        with fleet:
            await fleet.add()
            await fleet.wait_until_shared(1, made.topics)
            nursery.start_soon(made.run, fleet, 1)
            await made.begin()
            with trio.fail_after(seconds(60)):
                while made.books[kind].missing():  # noqa: ASYNC110 - another process's
                    await trio.sleep(0.05)
            await made.happen(Event(0, kind, 0, 0))
            await made.settle(fleet, "earliest")
            nursery.cancel_scope.cancel()
    return made


@pytest.mark.timeout(300)
async def test_faults_put_in_on_purpose_are_found(
    own_cluster: Callable[..., KafkaCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap that is not reported, and lost first records of a new partition, are both found."""
    monkeypatch.setattr(trials_module, "SETTLE_SECONDS", 2.0)
    cluster = own_cluster()
    cluster.start()
    found: dict[Kind, Trials] = {}

    async def try_out(kind: Kind, code: str) -> None:
        found[kind] = await trial(cluster, kind, code)

    async with trio.open_nursery() as nursery:
        for kind, code in FAULTS.items():
            nursery.start_soon(try_out, kind, code)
    for kind, made in found.items():
        assert (kind, made.books[kind].faults[Broken.LOST] > 0) == (kind, True), made.books[kind].evidence


@asynccontextmanager
async def replica_that_replays(*came: int) -> AsyncIterator[SimpleNamespace]:
    """It says that it has all three partitions, and sends the records of some: one each, the last."""
    topic = "t-leaderless"
    state = orjson.dumps({"assigned": {topic: [0, 1, 2]}}).decode()
    last = trials_module.REPLAYED_RECORDS - 1
    events = [f"event: state\ndata: {state}\n\n", *(f"id: {topic}:{n}={last}\ndata: 0 \n\n" for n in came)]
    body = "".join(f"{len(event):x}\r\n{event}\r\n" for event in events)

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}".encode())
        while await stream.receive_some():
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1", handler_nursery=nursery))
        yield SimpleNamespace(identity="replica-1/1", address=listeners[0].socket.getsockname()[:2])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("came", "held_up"), [((0, 2), 0), ((0, 1, 2), 0), ((0,), 1), ((), 1)])
async def test_a_replay_that_a_bad_partition_holds_up(
    monkeypatch: pytest.MonkeyPatch, came: tuple[int, ...], held_up: int
) -> None:
    """Every healthy partition must arrive without waiting for the one without a leader."""
    monkeypatch.setenv(VARIABLE, "1" if not held_up else "0.02")
    made = Trials(cast("KafkaCluster", None), "t", frozenset({Kind.LEADERLESS}))
    for partition in range(PARTITIONS[Kind.LEADERLESS]):
        for offset in range(trials_module.REPLAYED_RECORDS):
            made.books[Kind.LEADERLESS].produced(partition, offset)
    async with replica_that_replays(*came) as replica:
        fleet = SimpleNamespace(slots=[SimpleNamespace(replica=replica)])
        await made.replay_beside(cast("Fleet", fleet), without_leader=1)
    assert len(made.not_replayed) == held_up, made.not_replayed
