"""What is wrong with topics and the group is seen by asking a real broker, with its authorizer, and said everywhere."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
import trio
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from dispatcher.sansio.topic_health import Reason
from testbed.broker import topics
from testbed.broker.cluster import KafkaCluster
from testbed.clients import SseStream, open_sse
from testbed.patience import seconds
from testbed.replicas import Replica

AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
"""Everybody is anonymous here, and may do what no rule is about."""


def rule(kind: ResourceType, name: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    """A rule about everybody."""
    return AclBinding(kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission)


def restrict(admin: AdminClient, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Deny an operation on one resource, and allow every other."""
    rules = [
        rule(kind, name, AclOperation.ALL, AclPermissionType.ALLOW),
        rule(kind, name, operation, AclPermissionType.DENY),
    ]
    for answer in admin.create_acls(rules).values():
        answer.result(seconds(30))


def lift(admin: AdminClient) -> None:
    """Remove every rule."""
    anything: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    for answer in admin.delete_acls([everything]).values():
        answer.result(seconds(30))


def reasons(status: Mapping[str, Any]) -> dict[str, str | None]:
    """By topic, why it is degraded; "unknown" while that is not known."""
    return {
        name: "unknown" if one["health"] == "unknown" else one["reason"] for name, one in status["topic_health"].items()
    }


async def state_with(stream: SseStream, degraded: Mapping[str, str]) -> None:
    """Return at a state that names these topics, and no others."""
    with trio.fail_after(seconds(30)):
        while True:
            event = await stream.next_event()
            assert event is not None
            if event.type == "state" and orjson.loads(event.data).get("degraded", {}) == degraded:
                return


async def logged_of(replica: Replica, event: str, topics: set[str]) -> None:
    """Return when an event has been logged of these topics, and of no others."""
    await trio.to_thread.run_sync(
        replica.wait_until_logged, event, lambda lines: {line["topic"] for line in lines} == topics
    )


@pytest.mark.timeout(400)
async def test_what_is_wrong_with_a_topic_is_said_for_as_long_as_it_lasts(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """In the status, readiness, metrics, log and streams: a typo, a deletion, READ denied, DESCRIBE denied."""
    cluster = own_cluster(1, AUTHORIZER)
    cluster.start()
    names = ["readable", "unreadable", "hidden", "gone"]
    for name in [*names, "orders"]:
        cluster.create_topic(name, 1)
    restrict(cluster.admin, ResourceType.TOPIC, "unreadable", AclOperation.READ)
    restrict(cluster.admin, ResourceType.TOPIC, "hidden", AclOperation.DESCRIBE)
    replica = replicas(cluster.bootstrap_servers, ",".join([*names, "ordres"]), group="readers")
    at_first = {
        "readable": None,
        "unreadable": "unauthorized",
        "hidden": "unauthorized",
        "gone": None,
        "ordres": "missing",
    }
    status = await trio.to_thread.run_sync(replica.wait_for, "asked", lambda s: reasons(s) == at_first)
    assert status["topic_health"]["ordres"]["detail"] == "topic ordres does not exist: did you mean orders?"
    await logged_of(replica, "topic degraded", {"unreadable", "hidden", "ordres"})
    await trio.to_thread.run_sync(replica.wait_for, "asked", lambda s: s["group_health"]["health"] == "healthy")
    await trio.to_thread.run_sync(replica.wait_until_ready)
    body = replica.get("/readyz").json()
    assert body["ready"]
    assert len(body["degraded"]) == 3
    lines = replica.get("/metrics").text.splitlines()
    found = {line for line in lines if line.startswith("dispatcher_topic_degraded{") and '"hidden"' in line}
    assert len(found) == len(Reason), found
    assert [line.endswith(" 1.0") for line in sorted(found) if '"unauthorized"' in line] == [True]
    wrong = {name: reason for name, reason in at_first.items() if reason}
    async with open_sse(replica) as stream:
        await state_with(stream, wrong)
        await trio.to_thread.run_sync(cluster.delete_topic, "gone")
        await state_with(stream, {**wrong, "gone": "deleted"})
        async with open_sse(replica, "?topic=readable") as other:
            await state_with(other, {})
        await trio.to_thread.run_sync(lift, cluster.admin)
        for name in ("gone", "ordres"):
            await trio.to_thread.run_sync(cluster.create_topic, name, 1)
        await state_with(stream, {})
    await logged_of(replica, "topic healthy", {"unreadable", "hidden", "ordres", "gone"})
    assert replica.get("/readyz").json()["degraded"] == []


@pytest.mark.timeout(400)
async def test_a_group_that_may_not_be_joined_is_named(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """Neither the topic nor the brokers are blamed."""
    cluster = own_cluster(1, AUTHORIZER)
    cluster.start()
    cluster.create_topic("assets", 1)
    restrict(cluster.admin, ResourceType.GROUP, "readers", AclOperation.READ)
    replica = replicas(cluster.bootstrap_servers, "assets", group="readers")
    await trio.to_thread.run_sync(replica.wait_for, "asked", lambda s: s["group_health"]["reason"] == "unauthorized")
    assert reasons(replica.status()) == {"assets": None}
    named = ["the replica has not joined the group readers yet (group readers may not be joined: grant READ on it)"]
    with trio.fail_after(seconds(30)):
        while (await trio.to_thread.run_sync(replica.get, "/readyz")).json()["reasons"] != named:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)
    await trio.to_thread.run_sync(lift, cluster.admin)
    await trio.to_thread.run_sync(replica.wait_until_ready)
    await trio.to_thread.run_sync(replica.wait_for, "asked", lambda s: s["group_health"]["health"] == "healthy")


@pytest.mark.timeout(400)
async def test_a_topic_without_a_leader_is_named_with_its_brokers(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica]
) -> None:
    """It is named until the broker is back; another topic stays healthy."""
    cluster = own_cluster(3)
    cluster.start()
    cluster.create_topic("healthy", 1)
    topics.create_on_nodes(cluster.admin, "fragile", [0, 2])
    replica = replicas(cluster.bootstrap_servers, "healthy,fragile")
    well = {"healthy": None, "fragile": None}
    await trio.to_thread.run_sync(replica.wait_for, "asked", lambda s: reasons(s) == well)
    cluster.kill_node(2)
    ill = {"healthy": None, "fragile": "leaderless"}
    status = await trio.to_thread.run_sync(replica.wait_for, "leaderless", lambda s: reasons(s) == ill)
    expected = "topic fragile: partition 1 has no leader: start broker 2"
    assert status["topic_health"]["fragile"]["detail"] == expected
    cluster.start_node(2)
    await trio.to_thread.run_sync(replica.wait_for, "healthy", lambda s: reasons(s) == well, 60)


async def test_a_broker_that_does_not_answer_leaves_topics_unknown(replicas: Callable[..., Replica]) -> None:
    """They are neither healthy nor degraded, and have no series."""
    replica = replicas("127.0.0.1:1", "assets")
    status = await trio.to_thread.run_sync(
        replica.wait_for, "asked", lambda s: "no broker" in (s["topic_health"]["assets"]["detail"] or "")
    )
    assert status["topic_health"]["assets"]["health"] == status["group_health"]["health"] == "unknown"
    assert "dispatcher_topic_degraded{" not in replica.get("/metrics").text
    assert replica.get("/readyz").json()["degraded"] == []


async def test_an_address_that_a_broker_advertises_in_vain_is_named(
    own_cluster: Callable[..., KafkaCluster], replicas: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured address, at which that broker answers, is not."""
    cluster = own_cluster(1, {"advertised.listeners": "PLAINTEXT://127.0.0.1:1"})
    monkeypatch.setattr(cluster, "wait_until_ready", lambda: None)  # it never is, for clients
    await trio.to_thread.run_sync(cluster.start)
    replica = replicas(cluster.bootstrap_servers, "assets")
    named = f"no Kafka broker is reachable at 127.0.0.1:1, as a broker of {cluster.bootstrap_servers} advertises itself"
    with trio.fail_after(seconds(60)):
        while not (await trio.to_thread.run_sync(replica.get, "/readyz")).json()["reasons"][0].startswith(named):  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)
