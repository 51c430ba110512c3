"""Health by topic and of the group: what is degraded, what is unknown, and what is logged when."""

import pytest

from dispatcher.sansio.health import LogLine
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_health import Condition, Finding, GroupProbe, Reason, TopicHealth, TopicProbe

WELL = TopicProbe(Finding.FOUND, may_read=True)
GROUP_WELL = GroupProbe(Finding.FOUND, may_read=True)


class Watched:
    """One topic and its group, probed once a second from time 1 on."""

    def __init__(self) -> None:
        self.health = TopicHealth(["orders"], "readers", 0.0)
        self.now = 0.0

    def probe(
        self,
        topic: TopicProbe = WELL,
        group: GroupProbe = GROUP_WELL,
        *,
        existing: tuple[str, ...] = (),
        paused: tuple[int, ...] = (),
        joined: bool = True,
        undecodable: str | None = None,
    ) -> list[LogLine]:
        """One probe; returns what is logged."""
        self.now += 1.0
        return self.health.probed(
            {"orders": topic},
            group,
            existing=existing,
            paused=[TopicPartition("orders", number) for number in paused],
            joined=joined,
            now=self.now,
            undecodable={} if undecodable is None else {"orders": undecodable},
        )

    @property
    def topic(self) -> Condition:
        """The topic's condition."""
        return self.health.topics["orders"]


@pytest.mark.parametrize(
    ("probe", "existing", "reason", "detail"),
    [
        (TopicProbe(Finding.ABSENT), (), "missing", "topic orders does not exist: create it, or correct the setting"),
        (TopicProbe(Finding.ABSENT), ("order", "bills"), "missing", "topic orders does not exist: did you mean order?"),
        (TopicProbe(Finding.DENIED, error="denied"), (), "unauthorized", "may not be described, or does not exist (de"),
        (TopicProbe(Finding.FOUND, may_read=False), (), "unauthorized", "topic orders may not be read: grant READ on"),
        (
            TopicProbe(Finding.FOUND, True, {2: [1, 3], 0: [1]}),
            (),
            "leaderless",
            "0, 2 have no leader: start brokers 1, 3",
        ),
        (TopicProbe(Finding.FOUND, True, {2: []}), (), "leaderless", "topic orders: partition 2 has no leader"),
    ],
)
def test_a_topic_is_degraded_for_as_long_as_a_broker_says_so(
    probe: TopicProbe, existing: tuple[str, ...], reason: str, detail: str
) -> None:
    """One line marks the beginning and one the end, and the start time is kept."""
    watched = Watched()
    (line,) = watched.probe(probe, existing=existing)
    assert (line.level, line.event, line.fields["reason"]) == ("warning", "topic degraded", reason)
    assert watched.probe(probe, existing=existing) == []
    assert (watched.topic.healthy, watched.topic.reason, watched.topic.since) == (False, reason, 1.0)
    assert detail in watched.topic.detail
    assert watched.health.broken == {"orders": reason}
    assert watched.probe() == [LogLine("info", "topic healthy", {"topic": "orders"})]
    assert watched.topic == Condition(True, None, "", 3.0)
    assert watched.health.broken == {}


def test_a_topic_that_was_there_is_deleted_not_missing() -> None:
    """A change of the reason is another line."""
    watched = Watched()
    watched.probe()
    watched.probe(TopicProbe(Finding.ABSENT), existing=("order",))
    assert watched.topic.reason is Reason.DELETED
    (line,) = watched.probe(TopicProbe(Finding.DENIED))
    assert line.fields["reason"] is Reason.UNAUTHORIZED


def test_what_cannot_be_asked_is_unknown() -> None:
    """At the start, without an answer, and if a broker cannot say who may read."""
    watched = Watched()
    assert watched.topic == Condition(None, None, "not asked yet", 0.0)
    assert watched.probe(TopicProbe(Finding.SILENT, error="timed out")) == []
    assert (watched.topic.healthy, watched.topic.reason, watched.topic.since) == (None, None, 0.0)
    watched.probe(TopicProbe(Finding.ABSENT))
    (line,) = watched.probe(TopicProbe(Finding.SILENT, error="timed out"))
    assert (line.event, line.fields["detail"]) == (
        "topic health unknown",
        "no broker says how topic orders is: timed out",
    )
    assert watched.health.broken == {}
    watched.probe(TopicProbe(Finding.FOUND, may_read=None))
    assert watched.topic.healthy


def test_a_topic_is_behind_when_nobody_takes_its_records() -> None:
    """It is degraded, but subscribers are not sent that, because they are the remedy."""
    watched = Watched()
    watched.probe(paused=tuple(range(12)))
    assert watched.topic.reason is Reason.BEHIND
    assert "partitions 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more are not fetched" in watched.topic.detail
    assert watched.health.broken == {}
    watched.probe(paused=(3,))
    assert watched.topic.detail.endswith("partition 3 is not fetched, because subscribers do not take its records")


@pytest.mark.parametrize(
    ("probe", "joined", "healthy"),
    [
        (GROUP_WELL, False, True),
        (GroupProbe(Finding.FOUND, may_read=None), False, True),
        (GroupProbe(Finding.FOUND, may_read=False), True, False),
        (GroupProbe(Finding.DENIED, error="denied"), False, False),
        (GroupProbe(Finding.DENIED, error="denied"), True, None),
        (GroupProbe(Finding.SILENT, error="timed out"), False, None),
    ],
)
def test_the_group_is_judged_by_what_may_be_done_with_it(probe: GroupProbe, joined: bool, healthy: bool | None) -> None:
    """A member that may not ask about its group is still a member."""
    watched = Watched()
    lines = watched.probe(group=probe, joined=joined)
    assert watched.health.group.healthy is healthy
    assert [line.event for line in lines] == (["group degraded"] if healthy is False else [])
    assert ("readers" in watched.health.group.detail) == (healthy is not True)


def test_a_topic_is_degraded_while_its_schemas_cannot_be_fetched() -> None:
    """Problems of the topic itself come first, waiting records last."""
    watched = Watched()
    watched.probe(undecodable="answered 503", paused=(1,))
    assert str(watched.topic.reason) == "registry"
    assert watched.topic.detail == "topic orders: the schema registry is unavailable (answered 503)"
    assert watched.health.broken == {"orders": Reason.REGISTRY}
    watched.probe(TopicProbe(Finding.FOUND, True, {2: [1]}), undecodable="answered 503")
    assert str(watched.topic.reason) == "leaderless"
    lines = watched.probe()
    assert watched.topic.reason is None
    assert [line.event for line in lines] == ["topic healthy"]
