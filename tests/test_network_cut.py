"""Guarantee G6: a replica is cut off from the brokers and not from its subscribers; it commits nothing old after it."""

from collections.abc import Callable, Iterator, Mapping

import pytest
import trio

from testbed.broker.cluster import KafkaCluster
from testbed.namespace import Namespace, why_not
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet

PARTITIONS = 4
TOPIC, GROUP = "assets", "group-assets"
RATE = 400.0
SESSION_SECONDS = 3
CUT_SECONDS = 2 * SESSION_SECONDS + 2
PROPERTIES: Mapping[str, Mapping[str, object]] = {
    "classic": {"session.timeout.ms": SESSION_SECONDS * 1000},
    "consumer": {"group.protocol": "consumer"},
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace for one replica."""
    if reason := why_not():
        pytest.skip(reason)
    with Namespace() as made:
        yield made


@pytest.mark.parametrize("protocol", list(PROPERTIES))
async def test_cut_off_for_longer_than_the_session(
    namespace: Namespace, own_cluster: Callable[..., KafkaCluster], protocol: str
) -> None:
    """No record is lost, another replica takes over, and the old assignment commits nothing more."""
    session = {"group.consumer.session.timeout.ms": SESSION_SECONDS * 1000}
    cluster = own_cluster(properties=session, host=namespace.broker_host)
    cluster.start()
    cluster.create_topic(TOPIC, PARTITIONS)
    servers = cluster.bootstrap_servers
    auditor = Auditor(servers, TOPIC, GROUP, PARTITIONS, rate=RATE)
    async with trio.open_nursery() as nursery:
        with Fleet(auditor, nursery, servers, TOPIC, GROUP, kafka=PROPERTIES[protocol]) as fleet:
            cut_off = await fleet.add(host=namespace.replica_host, command=namespace.command)
            await fleet.add()
            await fleet.wait_until_shared(PARTITIONS)
            nursery.start_soon(auditor.run)
            await trio.sleep(3)

            at = trio.current_time()
            namespace.cut()
            await trio.sleep(CUT_SECONDS)
            owners = {partition: process for _, process, partition, _ in auditor.ledger.receipts}
            assert not [process for process in owners.values() if process.startswith(cut_off.name)]
            assert all(listener.connected for listener in cut_off.listeners)
            namespace.heal()
            await fleet.wait_until_shared(PARTITIONS)
            await trio.sleep(3)
            report = await auditor.settle()
            assert cut_off.replica is not None
            await trio.to_thread.run_sync(cut_off.replica.wait_until_logged, "partitions lost")
            nursery.cancel_scope.cancel()
    assert report.clean, list(report.rows())
    assert report.dispatched == report.produced
    # It came back, on the same connections.
    assert {
        process.partition("/")[0] for when, process, _, _ in auditor.ledger.receipts if when > at + CUT_SECONDS
    } == {
        "replica-1",
        "replica-2",
    }
