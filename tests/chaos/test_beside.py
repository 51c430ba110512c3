"""What runs beside finds each fault that is put into a replica on purpose, and nothing where there is none."""

from functools import partial
from types import SimpleNamespace
from typing import cast

import orjson
import pytest
import trio

from testbed.broker import topics
from testbed.patience import seconds
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet
from tests.chaos import ackers, filtered
from tests.chaos.acked import Acked
from tests.chaos.attribution import Attribution
from tests.chaos.beside import Beside
from tests.chaos.filtered import Filtered
from tests.chaos.judge import Fault
from tests.conftest import Kafka

READ_RECORDS = 45
"""By every reader that stays, of each partition: of two records with one key, one is hidden on purpose."""

ACKED_RECORDS = 100

COUNTS_WRITES = """
from dispatcher.topic_settings import TopicSettings
TopicSettings.acked_topics = property(lambda self: frozenset())
"""
PARKS_NOTHING = """
from dispatcher.hub import parking
parking.Parking.parks = lambda self, topic: False
"""
MATCHES_TOO_LITTLE = """
from dispatcher.sansio import filter_dialect
read = filter_dialect.read_parameters
hidden = [str(n) for n in range(3, 1200, 20)]
def changed(arguments):
    found, hides = read(arguments), filter_dialect.read_filter({"not": {"in": {"/n": hidden}}})
    return found and filter_dialect.all_of([found, hides])
filter_dialect.read_parameters = changed
"""
EXPECTED = {
    "commits ahead of acknowledgements",
    "commits past what was parked",
    f"with filters: {Fault.LEFT_OUT}",
}


async def until_read(filters: Filtered, acks: Acked) -> None:
    """Return when those that stay have read some records of each partition, and some were acknowledged."""

    def places() -> list[dict[int, int]]:
        crowds = [topic.crowd for topic in (filters.settles, filters.parks)]
        return [reader.position for crowd in crowds if crowd is not None for reader in crowd.stayers]

    def lowest() -> int:
        return min((place.get(n, -1) for place in places() for n in range(filtered.PARTITIONS)), default=-1)

    with trio.fail_after(seconds(60)):
        while lowest() < 0 or len(acks.books.said) < ACKED_RECORDS:  # noqa: ASYNC110 - other threads'
            await trio.sleep(0.05)
        enough = max(offset for place in places() for offset in place.values()) + READ_RECORDS
        while lowest() < enough:  # noqa: ASYNC110 - the same
            await trio.sleep(0.05)


async def run_beside(kafka: Kafka, code: str) -> list[Beside]:
    """One replica, for a few seconds."""
    topic = kafka.create_topic(1)
    servers, group = kafka.bootstrap_servers, f"group-{topic}"
    filters, acks = Filtered(servers, group, topic), Acked(servers, group, f"{topic}-acked")
    beside: list[Beside] = [filters, acks]
    others = {name: partitions for one in beside for name, partitions in one.topics.items()}
    for name, partitions in others.items():
        kafka.create_topic(partitions, name=name)
    tables = {name: table for one in beside for name, table in one.tables.items()}
    settings = {"topic_tables": orjson.dumps(tables).decode(), "ack_timeout_seconds": 30, "heartbeat_seconds": 1}
    auditor = Auditor(servers, topic, group, 1, rate=1)
    async with trio.open_nursery() as nursery:
        with Fleet(auditor, nursery, servers, ",".join([topic, *others]), group, settings=settings, code=code) as fleet:
            await fleet.add()
            await fleet.wait_until_shared(1, others)
            for one in beside:
                run = partial(one.run, fleet, 1, 1)
                nursery.start_soon(run)
            await until_read(filters, acks)
            for one in beside:
                one.quiet()
                await one.settle(fleet, lambda _, commits, receipts: Attribution([], commits, receipts, [], []))
            nursery.cancel_scope.cancel()
    return beside


@pytest.mark.timeout(300)
async def test_each_fault_is_found(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three faults in one replica are found and none in another, side by side with separate topics and groups."""
    monkeypatch.setattr(filtered, "SETTLE_SECONDS", 20.0)
    monkeypatch.setattr(ackers, "WORK_SECONDS", 0.5)
    found: dict[str, list[Beside]] = {}

    async def run(code: str) -> None:
        found[code] = await run_beside(kafka, code)

    async with trio.open_nursery() as nursery:
        for code in (COUNTS_WRITES + PARKS_NOTHING + MATCHES_TOO_LITTLE, ""):
            nursery.start_soon(run, code)
    for code, beside in found.items():
        bad = {name for one in beside for name, _, good in one.rows() if not good}
        words = [words for one in beside for words in one.evidence]
        assert bad >= EXPECTED if code else not bad, (code, bad, words)


async def test_nothing_is_judged_if_a_record_is_stored_twice(kafka: Kafka) -> None:
    """Books that can't say what readers are owed say so, and find no fault in a replica."""
    filters = Filtered(kafka.bootstrap_servers, "group", kafka.create_topic(1))
    for name, partitions in filters.topics.items():
        kafka.create_topic(partitions, name=name)
    name = filters.settles.name
    await trio.to_thread.run_sync(topics.fill, kafka.bootstrap_servers, name, [1], 1, "one too many")
    with trio.fail_after(seconds(60)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(filters.run, cast("Fleet", SimpleNamespace(slots=[])), 1, 0)
            while not any(name in words for words in filters.evidence):  # noqa: ASYNC110 - another thread's
                await trio.sleep(0.05)
            filters.quiet()
            nursery.cancel_scope.cancel()
    assert list(filters.rows()) == [("with filters: not judged, as records were stored elsewhere", name, True)]
