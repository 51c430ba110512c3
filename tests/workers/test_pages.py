"""The answers of several workers in one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.settings import Settings
from dispatcher.workers import pages
from dispatcher.workers.member import Member, MemberStatistics
from dispatcher.workers.pages import WorkersStatus, sum_of


@dataclass
class Answering:
    """A worker without a process."""

    name: str
    pages: dict[str, bytes] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    has_been_ready: bool = False
    hangs: bool = False

    async def ask(self, what: str) -> bytes | None:
        """At once, or never."""
        if self.hangs:
            await trio.sleep_forever()
        return self.pages.get(what)

    def statistics(self) -> MemberStatistics:
        """As of a process that was started again once."""
        return MemberStatistics(17, is_up=True, restarts=1, silent_seconds=0.5, sent_on=3)


def status_of(*workers: Answering) -> WorkersStatus:
    """The status of some workers."""
    return WorkersStatus(Settings(client_id="edge"), cast("Sequence[Member]", workers))


def metrics(deliveries: int, subscribers: int) -> bytes:
    """The page of one process."""
    registry = CollectorRegistry()
    counter = Counter("dispatcher_deliveries", "Deliveries.", registry=registry)
    counter.inc(deliveries)
    gauge = Gauge("dispatcher_subscribers", 'By "state".', ["state"], registry=registry)
    gauge.labels(state='li"ve\\').set(subscribers)
    return generate_latest(registry)


def samples(text: bytes) -> dict[tuple[str, str, str], float]:
    """By name, worker and state."""
    return {
        (sample.name, sample.labels.get("worker", ""), sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_metrics_keep_their_numbers_and_get_the_worker() -> None:
    """Counters are per worker with their labels, and each name has one family."""
    merged = await status_of(
        Answering("1", {"metrics": metrics(10, 3)}), Answering("2", {"metrics": metrics(20, 4)})
    ).metrics_page()
    found = samples(merged)
    assert found["dispatcher_deliveries_total", "1", ""] == 10
    assert found["dispatcher_deliveries_total", "2", ""] == 20
    assert found["dispatcher_subscribers", "2", 'li"ve\\'] == 4
    assert found["dispatcher_worker_restarts_total", "1", ""] == 1
    assert found["dispatcher_worker_sent_on_total", "1", ""] == 3
    assert ("process_cpu_seconds_total", "parent", "") in found
    assert merged.count(b"# TYPE dispatcher_deliveries_total counter") == 1


@pytest.mark.parametrize(("openmetrics", "end"), [(False, ""), (True, "# EOF\n")])
async def test_one_process_of_the_replica_has_the_name_of_the_whole(openmetrics: bool, end: str) -> None:
    """Queries join it with the metrics of all workers by the instance alone; the workers have names of their own."""
    head = "# TYPE dispatcher_info gauge\n"
    texts = [f'{head}dispatcher_info{{replica="edge-{n}",version="1"}} 1\n{end}' for n in (1, 2)]
    what = "openmetrics" if openmetrics else "metrics"
    status = status_of(*(Answering(str(n), {what: text.encode()}) for n, text in enumerate(texts, 1)))
    page = (await status.metrics_page(openmetrics=openmetrics)).decode()
    (info,) = [one for one in text_string_to_metric_families(page) if one.name == "dispatcher_info"]
    names = {sample.labels["worker"]: sample.labels["replica"] for sample in info.samples}
    assert names == {"1": "edge-1", "2": "edge-2", "parent": "edge"}
    assert page.count(head) == 1


async def test_a_worker_that_does_not_answer_is_down_and_waited_for_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its metric says so, and the others' pages are included."""
    monkeypatch.setattr(pages, "ANSWER_SECONDS", 0.05)
    status = status_of(Answering("1", {"metrics": metrics(10, 3)}), Answering("2", hangs=True), Answering("3", {}))
    found = samples(await status.metrics_page())
    ups = [found["dispatcher_worker_up", name, ""] for name in ("1", "2", "3")]
    # The one that answers has 50 ms; a busy machine may need more.
    assert ups in ([1, 0, 0], [0, 0, 0])
    page = orjson.loads(await status_of(Answering("2", hangs=True)).status_page())
    assert [(one["worker"], one["up"], one["status"]) for one in page["workers"]] == [("2", False, None)]
    assert page["partitions"] == []


def a_status(worker: int, partition: int) -> bytes:
    """What a worker says, in part."""
    tables: dict[str, Any] = {name: {} for name in pages.SUMMED}
    tables |= {"connections": worker, "tasks": 1, "records": {"deliveries": 10 * worker, "unmatched": {"a": worker}}}
    tables["access"] = {"addresses": 3, "most_subscribers_of_one_address": 2, "refused_streams": worker}
    tables |= {"subscribers": {"total": worker, "behind_records": {"median": 1, "worst": 9}}}
    partitions = [{"topic": "a", "partition": partition}]
    return orjson.dumps(
        {"broker_reachable": worker == 1, "joined": True, "ready": True, "partitions": partitions, **tables}
    )


def condition(health: str, reason: str | None = None, detail: str = "") -> dict[str, str | None]:
    """As a status has it."""
    return {"health": health, "reason": reason, "detail": detail, "since": "2026-01-31T12:00:00Z"}


async def test_the_status_says_how_topics_and_the_group_are() -> None:
    """The worst view counts, and an unknown one makes it unknown."""
    denied, unknown = condition("degraded", "unauthorized", "grant READ"), condition("unknown", None, "not asked yet")
    healthy = condition("healthy")
    first = {"topic_health": {"a": healthy, "b": healthy, "c": healthy}, "group_health": unknown, "state": "waiting"}
    second = {"topic_health": {"a": healthy, "b": denied, "c": unknown}, "group_health": denied, "state": "streaming"}
    pages = [orjson.dumps({**orjson.loads(a_status(n, n)), **one}) for n, one in enumerate((first, second))]
    for order in (pages, pages[::-1]):
        status = status_of(*(Answering(str(n), {"status": page}) for n, page in enumerate(order, 1)))
        page = orjson.loads(await status.status_page())
        assert page["topic_health"] == {"a": healthy, "b": denied, "c": unknown}
        assert page["group_health"] == denied
        assert page["state"] == "streaming"
    page = orjson.loads(await status_of(Answering("1", hangs=True)).status_page())
    assert (page["topic_health"], page["group_health"]["health"], page["state"]) == ({}, "unknown", "unknown")


async def test_the_status_has_every_worker_and_sums() -> None:
    """All partitions are listed in order, each with its worker."""
    status = status_of(Answering("1", {"status": a_status(1, 7)}), Answering("2", {"status": a_status(2, 3)}))
    page = orjson.loads(await status.status_page())
    assert page["replica"] == "edge"
    assert page["ready"] is True
    assert page["broker_reachable"] is True
    assert page["partitions"] == [
        {"topic": "a", "partition": 3, "worker": "2"},
        {"topic": "a", "partition": 7, "worker": "1"},
    ]
    assert page["subscribers"] == {"total": 3}
    assert page["connections"] == 3
    # Nobody can add up addresses: the same one may have subscribers in both workers.
    assert page["access"] == {"refused_streams": 3}
    assert page["records"] == {"deliveries": 30, "unmatched": {"a": 3}}
    assert [(one["worker"], one["pid"], one["sent_on"], one["status"]["connections"]) for one in page["workers"]] == [
        ("1", 17, 3, 1),
        ("2", 17, 3, 2),
    ]


def test_sums_pass_over_what_is_unknown() -> None:
    """Members that only some workers have are summed over those."""
    assert sum_of([{"a": 1, "b": {"c": None}}, {"a": 2, "b": {"c": 3, "d": 4}}]) == {"a": 3, "b": {"c": 3, "d": 4}}


def test_it_is_ready_when_one_worker_is() -> None:
    """The others' reasons count as degraded, and equal ones are merged."""
    lost = "no Kafka broker is reachable"
    status = status_of(
        Answering("1", reasons=[lost]), Answering("2", has_been_ready=True), Answering("3", reasons=[lost])
    )
    assert status.why_not_ready() == []
    assert status.degraded() == [f"worker 1, 3: {lost}"]
    assert status.has_been_ready
    status = status_of(Answering("1", reasons=[lost]), Answering("2", reasons=[lost], degraded=["topic a: missing"]))
    assert status.why_not_ready() == [f"worker 1, 2: {lost}"]
    assert status.degraded() == [f"worker 1, 2: {lost}", "worker 2: topic a: missing"]
    assert not status.has_been_ready
    status.is_stopping = True
    assert status.why_not_ready() == ["the replica is stopping"]
