"""Readers find each fault that is put into a replica on purpose, and nothing where there is none."""

import pytest
import trio

from testbed.patience import seconds
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet
from tests.chaos import readers
from tests.chaos.crowd import Crowd
from tests.chaos.judge import Fault, Verdict
from tests.conftest import Kafka

PARTITIONS = 2
RATE = 400.0
SECONDS = 8.0
MOST_SECONDS = 40.0
"""How much longer a fault may take to show on a quiet machine."""

CHANGE_BATCH = """
import dispatcher.hub.hub as hub
publish, done = hub.Hub.publish, []
def changed(self, batch):
    if not done and len(batch.records) > 1 and batch.first_offset > 100:
        done.append(batch)
        batch.records = {}
    publish(self, batch)
hub.Hub.publish = changed
"""
CHANGE_RESUME = """
from dispatcher.sansio.open_lookups import OpenLookups
begin_all = OpenLookups.begin_all
OpenLookups.begin_all = lambda self, position: begin_all(self, {tp: offset + 1 for tp, offset in position.items()})
"""
CHANGE_AHEAD = """
import dispatcher.sansio.history as history
ahead, handed = history.History.ahead, []
def again(self, cursor):
    for entry in ahead(self, cursor):
        handed.append(entry)
        yield entry
        if len(handed) % 20 == 0:
            yield entry
history.History.ahead = again
"""
FAULTS: dict[str, tuple[str, set[Fault]]] = {
    "a record dropped": (CHANGE_BATCH.format("batch.records[1:]"), {Fault.LEFT_OUT, Fault.UNANNOUNCED}),
    "two records swapped": (
        CHANGE_BATCH.format("type(batch.records).of((batch.records[1], batch.records[0], *batch.records[2:]))"),
        {Fault.LEFT_OUT, Fault.OUT_OF_ORDER, Fault.UNANNOUNCED},
    ),
    "a batch handed out twice": (CHANGE_AHEAD, {Fault.REPEATED}),
    "a resume one too far": (CHANGE_RESUME, {Fault.ACROSS, Fault.UNANNOUNCED}),
    "none": ("", set()),
}


def has_seen_enough(verdict: Verdict) -> bool:
    """Whether there were as many records, resumes and cuts as a fault needs to show."""
    return min(verdict.records - RATE, verdict.resumed - 5, verdict.cuts - 5) > 0


def found_in(verdict: Verdict) -> set[Fault]:
    """The kinds of faults that readers met."""
    return {kind for kind, number in verdict.faults.items() if number}


async def crowd_with(kafka: Kafka, code: str, expected: set[Fault]) -> Verdict:
    """One replica with a fault, and a dozen readers, for a few seconds and until the fault has shown."""
    audited, topic = kafka.create_topic(PARTITIONS), kafka.create_topic(PARTITIONS)
    servers, group = kafka.bootstrap_servers, f"group-{topic}"
    auditor = Auditor(servers, audited, group, PARTITIONS, rate=1)
    async with trio.open_nursery() as nursery:
        with Fleet(auditor, nursery, servers, f"{audited},{topic}", group) as fleet:
            await fleet.add(code=code, code_in_fork=True)
            await fleet.wait_until_shared(PARTITIONS)
            crowd = Crowd(fleet, topic, seed=1)
            nursery.start_soon(crowd.run, 12, 1)
            nursery.start_soon(crowd.produce, servers, PARTITIONS, RATE, 1000)
            await trio.sleep(SECONDS)
            with trio.move_on_after(seconds(MOST_SECONDS)):
                while True:
                    verdict = crowd.judge.verdict()
                    if found_in(verdict) >= expected and has_seen_enough(verdict):
                        break
                    await trio.sleep(0.1)
            crowd.quiet()
            nursery.cancel_scope.cancel()
    return crowd.judge.verdict()


@pytest.mark.timeout(300)
async def test_each_fault_is_found(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault shows where it must, and nowhere else.

    Side by side: each fault has topics, a group and a replica of its own.
    """
    monkeypatch.setattr(readers, "VISIT_SECONDS", 1.0)
    monkeypatch.setattr(readers, "BETWEEN_PAUSES_SECONDS", 1.0)
    monkeypatch.setattr(readers, "PAUSE_SECONDS", (0.0, 1.0))
    monkeypatch.setattr(readers, "AWAY_SECONDS", (0.0, 0.2))
    verdicts: dict[str, Verdict] = {}

    async def read_with(fault: str) -> None:
        verdicts[fault] = await crowd_with(kafka, *FAULTS[fault])

    async with trio.open_nursery() as nursery:
        for fault in FAULTS:
            nursery.start_soon(read_with, fault)
    for fault, verdict in verdicts.items():
        _, expected = FAULTS[fault]
        # A reader that comes back just there misses the record across its resume.
        by_chance = {Fault.ACROSS} if fault in {"a record dropped", "two records swapped"} else set()
        assert (fault, found_in(verdict) - by_chance) == (fault, expected), verdict.evidence
        assert (fault, verdict.clean) == (fault, not expected)
        assert has_seen_enough(verdict), (fault, verdict)
