"""What the parent answers for all workers: ``/status``, ``/metrics``, and the reasons of ``/readyz``.

A worker that does not answer in time is left out and named.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from dispatcher.sansio.health import ReplicaState
from dispatcher.settings import Settings
from dispatcher.telemetry.metrics_page import replica_info
from dispatcher.workers.member import Member, MemberStatistics

ANSWER_SECONDS = 2.0
"""How long a worker may take to answer."""

SUMMED = ("commits", "connections", "access", "subscribers", "records", "replays", "history", "bytes", "tasks")
"""Members of ``/status`` whose numbers are added up."""

NOT_SUMMED = frozenset({"addresses", "behind_records", "most_subscribers_of_one_address", "transports"})
"""Members of these whose sum would be meaningless: one address may have subscribers in several workers."""

HEALTHS = ("degraded", "unknown", "healthy")
"""The health of topics and the group, the worst first."""

STATES = tuple(map(str, ReplicaState))
"""States of a replica in order of precedence: if one worker streams, the replica streams; if none does, the first of
these states counts."""

PARENT = "parent"
"""The label ``worker`` of the metrics of the parent's own process, and of the name of the whole replica."""


class Format(NamedTuple):
    """A format of metrics."""

    generate: Callable[[CollectorRegistry], bytes]
    parse: Callable[[str], Iterable[Metric]]


TEXT = Format(generate_latest, text_string_to_metric_families)
OPENMETRICS = Format(openmetrics_exposition.generate_latest, openmetrics_parser.text_string_to_metric_families)
"""The format that has room for exemplars."""


class WorkersStatus:
    """Reports on all workers (`web.operations.Operations`).

    *Thread*: Trio's; pages are made in a worker thread.

    Args:
        settings: The settings of all workers.
        members: The workers.
    """

    def __init__(self, settings: Settings, members: Sequence[Member]) -> None:
        self._settings = settings
        self._members = members
        self._rendering = trio.CapacityLimiter(1)
        self.is_stopping = False

    def why_not_ready(self) -> list[str]:
        """Reasons why no new subscriber should be sent here; empty when at least one worker is ready."""
        if self.is_stopping:
            return ["the replica is stopping"]
        reasons = {member.name: member.reasons for member in self._members}
        if not all(reasons.values()):
            return []
        return _by_worker(reasons)

    def degraded(self) -> list[str]:
        """What is wrong although the replica may be ready: workers that are not ready, and what workers report."""
        return _by_worker({member.name: member.reasons + member.degraded for member in self._members})

    @property
    def has_been_ready(self) -> bool:
        """Whether any worker has ever been ready."""
        return any(member.has_been_ready for member in self._members)

    async def status_page(self) -> bytes:
        """Return every worker's status, and sums. *Cancellation*: safe."""
        pages = await self._pages("status")
        statistics = {member.name: member.statistics() for member in self._members}
        reasons = self.why_not_ready()
        return await trio.to_thread.run_sync(
            _render_status, self._settings, pages, statistics, reasons, limiter=self._rendering
        )

    async def metrics_page(self, *, openmetrics: bool = False) -> bytes:
        """Return every worker's metrics, each with the label ``worker``. *Cancellation*: safe."""
        pages = await self._pages("openmetrics" if openmetrics else "metrics")
        statistics = {member.name: member.statistics() for member in self._members}
        form = OPENMETRICS if openmetrics else TEXT
        replica = self._settings.client_id
        return await trio.to_thread.run_sync(_render_metrics, form, replica, pages, statistics, limiter=self._rendering)

    async def _pages(self, what: str) -> Mapping[str, bytes | None]:
        pages: dict[str, bytes | None] = {member.name: None for member in self._members}

        async def ask(member: Member) -> None:
            with trio.move_on_after(ANSWER_SECONDS):
                pages[member.name] = await member.ask(what)

        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(ask, member)
        return pages


def _by_worker(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """Merge equal reasons of several workers into one."""
    names: dict[str, list[str]] = {}
    for name, some in reasons.items():
        for reason in some:
            names.setdefault(reason, []).append(name)
    return [f"worker {', '.join(some)}: {reason}" for reason, some in names.items()]


def _render_status(
    settings: Settings,
    pages: Mapping[str, bytes | None],
    statistics: Mapping[str, MemberStatistics],
    reasons: Sequence[str],
) -> bytes:
    read = {name: orjson.loads(page) for name, page in pages.items() if page is not None}
    workers = [
        {
            "worker": name,
            "up": name in read,
            "pid": one.pid,
            "restarts": one.restarts,
            "silent_seconds": one.silent_seconds,
            "sent_on": one.sent_on,
            "status": read.get(name),
        }
        for name, one in statistics.items()
    ]
    healths = [status.get("topic_health", {}) for status in read.values()]
    answer = {
        "replica": settings.client_id,
        "group": settings.group_id,
        "topics": settings.topics,
        "state": _first_of([status.get("state") for status in read.values()], STATES),
        "ready": not reasons,
        "reasons": reasons,
        "broker_reachable": any(status["broker_reachable"] for status in read.values()),
        "joined": any(status["joined"] for status in read.values()),
        "topic_health": {
            topic: _worst([found[topic] for found in healths if topic in found])
            for topic in dict.fromkeys(topic for found in healths for topic in found)
        },
        "group_health": _worst([status["group_health"] for status in read.values() if "group_health" in status]),
        "partitions": sorted(
            ({**partition, "worker": name} for name, status in read.items() for partition in status["partitions"]),
            key=lambda partition: (partition["topic"], partition["partition"]),
        ),
        **{name: sum_of([status[name] for status in read.values()]) for name in SUMMED if read},
        "workers": workers,
    }
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2)


def _worst(conditions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the condition of a topic or of the group, from the worker that sees it worst."""
    nobody_knows = {"health": "unknown", "reason": None, "detail": "no worker answers", "since": None}
    return min(conditions, key=lambda one: HEALTHS.index(one["health"]), default=nobody_knows)


def _first_of(values: Sequence[Any], order: Sequence[str]) -> str:
    """Return the value that comes first in an order."""
    return min((value for value in values if value in order), key=order.index, default="unknown")


def sum_of(values: Sequence[Any]) -> Any:
    """Add up numbers, and tables member by member; a member that only some tables have is the sum of those."""
    if isinstance(values[0], Mapping):
        names = dict.fromkeys(name for value in values for name in value if name not in NOT_SUMMED)
        return {name: sum_of([value[name] for value in values if name in value]) for name in names}
    # Unknown numbers are left out of the sum.
    return sum(value for value in values if value is not None)


def _render_metrics(
    form: Format, replica: str, pages: Mapping[str, bytes | None], statistics: Mapping[str, MemberStatistics]
) -> bytes:
    parent = CollectorRegistry()
    for make in (ProcessCollector, PlatformCollector, GCCollector):
        make(registry=parent)
    parent.register(_Named(replica))
    texts = {name: page.decode() for name, page in pages.items() if page is not None}
    registry = CollectorRegistry()
    texts_of_all = {**texts, PARENT: form.generate(parent).decode()}
    registry.register(_Merged(form, texts_of_all, statistics, set(texts)))
    return form.generate(registry)


class _Named(Collector):
    """The name of the whole replica: workers have names of their own.

    Args:
        replica: The replica's name.
    """

    def __init__(self, replica: str) -> None:
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        """Yield the metric, for prometheus-client."""
        yield replica_info(self._replica)


class _Merged(Collector):
    """The metrics of several processes, grouped by name, as the format requires.

    Args:
        form: The format of the texts.
        texts: Each process's metrics, by worker.
        statistics: What the parent knows about each worker.
        up: The workers that answered.
    """

    def __init__(
        self, form: Format, texts: Mapping[str, str], statistics: Mapping[str, MemberStatistics], up: set[str]
    ) -> None:
        self._parse = form.parse
        self._texts = texts
        self._statistics = statistics
        self._up = up

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, for prometheus-client."""
        is_up = GaugeMetricFamily("dispatcher_worker_up", "1 if the worker answers.", labels=["worker"])
        restarts = CounterMetricFamily(
            "dispatcher_worker_restarts", "Times that the worker ended and was started again.", labels=["worker"]
        )
        sent_on = CounterMetricFamily(
            "dispatcher_worker_sent_on",
            "Subscribers that the worker was ordered to send on to other workers because it was late.",
            labels=["worker"],
        )
        for name, one in self._statistics.items():
            is_up.add_metric([name], name in self._up)
            restarts.add_metric([name], one.restarts)
            sent_on.add_metric([name], one.sent_on)
        merged: dict[str, Metric] = {}
        for worker, text in self._texts.items():
            for family in self._parse(text):
                metric = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "worker": worker}
                    metric.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
        yield from (is_up, restarts, sent_on, *merged.values())
