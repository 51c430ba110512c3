"""The health of each topic and of the group: takes what probes found, and returns conditions and lines to log.

Rules of this module:

* librdkafka reports a problem only once. So the brokers are asked every few seconds, and a topic is degraded as long as
  they say so.
* Without an answer, a condition is unknown, which is neither healthy nor degraded.
* A topic that existed before is *deleted*, and one that never did is *missing*. Problems of the topic itself take
  precedence over those of its partitions, then of the schema registry, then of records that wait.
* Each condition is logged once when it begins, when it changes, and when it ends.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

from dispatcher.sansio.health import LogLine
from dispatcher.sansio.records import TopicPartition


class Reason(StrEnum):
    """Why a topic, or the group, is degraded."""

    MISSING = "missing"
    DELETED = "deleted"
    UNAUTHORIZED = "unauthorized"
    LEADERLESS = "leaderless"
    REGISTRY = "registry"
    BEHIND = "behind"


class Finding(StrEnum):
    """What a broker answered about a topic, or about the group."""

    FOUND = "found"
    ABSENT = "absent"
    DENIED = "denied"
    """Not even describing it is allowed."""
    SILENT = "silent"
    """There was no answer, or a meaningless one."""


class TopicProbe(NamedTuple):
    """What a probe found out about one topic."""

    finding: Finding
    may_read: bool | None = None
    """Whether its records may be read; None if the broker does not say."""
    leaderless: Mapping[int, Sequence[int]] = {}
    """Partitions without a leader, each with the brokers that have it."""
    topic_id: str | None = None
    """Kafka's id of the topic; None if the broker does not say."""
    error: str = ""
    """The broker's words, or librdkafka's."""


class GroupProbe(NamedTuple):
    """What a probe found out about the group."""

    finding: Finding
    may_read: bool | None = None
    """Whether it may be joined; None if the broker does not say."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of a topic or of the group."""

    healthy: bool | None
    """None: unknown."""
    reason: Reason | None
    """Why it is degraded."""
    detail: str
    """The reason for people: what is at fault, by name, and what to do; empty if it is healthy."""
    since: float
    """When the condition began, in seconds since 1970."""


class TopicHealth:
    """Keeps the condition of each topic and of the group.

    Args:
        topics: The topics to dispatch.
        group: The group's name.
        since: The time, in seconds since 1970.
    """

    def __init__(self, topics: Sequence[str], group: str, since: float) -> None:
        self._group_name = group
        unknown = Condition(None, None, "not asked yet", since)
        self._topics = dict.fromkeys(topics, unknown)
        self._group = unknown
        self._seen: set[str] = set()
        """Topics that have existed."""

    @property
    def topics(self) -> Mapping[str, Condition]:
        """The condition of each topic."""
        return self._topics

    @property
    def group(self) -> Condition:
        """The group's condition."""
        return self._group

    @property
    def broken(self) -> Mapping[str, Reason]:
        """Topics from which no records arrive, and why. *Behind* is left out, because subscribers are the remedy."""
        reasons = {name: one.reason for name, one in self._topics.items()}
        return {name: reason for name, reason in reasons.items() if reason not in {None, Reason.BEHIND}}

    def probed(
        self,
        probes: Mapping[str, TopicProbe],
        group: GroupProbe,
        *,
        existing: Iterable[str],
        paused: Iterable[TopicPartition],
        joined: bool,
        now: float,
        undecodable: Mapping[str, str] = {},
    ) -> list[LogLine]:
        """Take what a probe found out.

        Args:
            probes: The results by topic.
            group: The result for the group.
            existing: Names of known topics that may be described: one of them may have been meant.
            paused: Partitions that are not fetched, because too many of their records wait.
            joined: Whether the replica is in the group, whatever it is allowed to ask about it.
            now: Seconds since 1970.
            undecodable: Topics whose new schemas cannot be fetched, and why.

        Returns:
            A line for each condition that has changed.
        """
        existing, paused = sorted(existing), sorted(paused)
        lines = []
        for name, probe in probes.items():
            waiting = [partition.partition for partition in paused if partition.topic == name]
            condition = self._judge(name, probe, existing, waiting, now, undecodable=undecodable.get(name))
            lines += _change("topic", name, self._topics[name], condition)
            self._topics[name] = _kept(self._topics[name], condition)
        condition = self._judge_group(group, joined=joined, now=now)
        lines += _change("group", self._group_name, self._group, condition)
        self._group = _kept(self._group, condition)
        return lines

    def _judge(
        self,
        name: str,
        probe: TopicProbe,
        existing: Sequence[str],
        waiting: Sequence[int],
        now: float,
        *,
        undecodable: str | None,
    ) -> Condition:
        if probe.finding is Finding.SILENT:
            return Condition(None, None, f"no broker says how topic {name} is: {probe.error}", now)
        if probe.finding is Finding.FOUND:
            self._seen.add(name)
            reason, detail = _of_existing(name, probe, waiting, undecodable)
            return Condition(reason is None, reason, detail, now)
        if probe.finding is Finding.DENIED:
            detail = f"topic {name} may not be described, or does not exist ({probe.error}): grant READ on it"
            return Condition(False, Reason.UNAUTHORIZED, detail, now)
        if name in self._seen:
            return Condition(False, Reason.DELETED, f"topic {name} was deleted: create it again", now)
        close = get_close_matches(name, existing, n=1)
        remedy = f"did you mean {close[0]}?" if close else "create it, or correct the setting `topics`"
        return Condition(False, Reason.MISSING, f"topic {name} does not exist: {remedy}", now)

    def _judge_group(self, probe: GroupProbe, *, joined: bool, now: float) -> Condition:
        name = self._group_name
        if probe.finding is Finding.FOUND and probe.may_read is not False:
            return Condition(True, None, "", now)
        if probe.finding is Finding.SILENT or (probe.finding is Finding.DENIED and joined):
            # A member may be allowed to join, but not to ask.
            return Condition(None, None, f"no broker says how group {name} is: {probe.error}", now)
        words = f" ({probe.error})" if probe.error else ""
        return Condition(False, Reason.UNAUTHORIZED, f"group {name} may not be joined{words}: grant READ on it", now)


def _of_existing(
    name: str, probe: TopicProbe, waiting: Sequence[int], undecodable: str | None
) -> tuple[Reason | None, str]:
    if probe.may_read is False:
        return Reason.UNAUTHORIZED, f"topic {name} may not be read: grant READ on it"
    if probe.leaderless:
        brokers = sorted({broker for replicas in probe.leaderless.values() for broker in replicas})
        partitions = sorted(probe.leaderless)
        lack = f"{_named('partition', partitions)} {'has' if len(partitions) == 1 else 'have'} no leader"
        remedy = f": start {_named('broker', brokers)}" if brokers else ""
        return Reason.LEADERLESS, f"topic {name}: {lack}{remedy}"
    if undecodable is not None:
        return Reason.REGISTRY, f"topic {name}: the schema registry is unavailable ({undecodable})"
    if waiting:
        verb, whose = ("is", "its") if len(waiting) == 1 else ("are", "their")
        words = f"{verb} not fetched, because subscribers do not take {whose} records"
        return Reason.BEHIND, f"topic {name}: {_named('partition', waiting)} {words}"
    return None, ""


def _change(kind: str, name: str, before: Condition, after: Condition) -> list[LogLine]:
    if (before.healthy, before.reason) == (after.healthy, after.reason):
        return []
    if after.reason is not None:
        return [LogLine("warning", f"{kind} degraded", {kind: name, "reason": after.reason, "detail": after.detail})]
    if before.reason is not None:
        words = {} if after.healthy else {"detail": after.detail}
        return [
            LogLine("info", f"{kind} healthy" if after.healthy else f"{kind} health unknown", {kind: name, **words})
        ]
    return []


def _kept(before: Condition, after: Condition) -> Condition:
    """Return the new condition, with the time of the earlier one if it has not changed."""
    same = (before.healthy, before.reason) == (after.healthy, after.reason)
    return Condition(after.healthy, after.reason, after.detail, before.since if same else after.since)


def _named(noun: str, numbers: Sequence[int]) -> str:
    few = ", ".join(map(str, numbers[:10]))
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"{noun if len(numbers) == 1 else f'{noun}s'} {few}{more}"
