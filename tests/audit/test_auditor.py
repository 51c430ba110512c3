"""The auditor finds each fault that is put into a replica on purpose, and nothing where there is none."""

import pytest
import trio

from testbed.patience import seconds
from tests.audit import auditor
from tests.audit.auditor import Auditor, table
from tests.audit.fleet import Fleet
from tests.audit.ledger import Report
from tests.conftest import Kafka

PARTITIONS = 2
RATE = 500.0
SECONDS = 3.0

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
FAULTS = {
    "a record dropped before dispatch": (
        CHANGE_BATCH.format("batch.records[1:]"),
        {"lost", "left out within a connection", "dispatched at least once", "commits ahead of dispatch"},
    ),
    "two records swapped": (
        CHANGE_BATCH.format("type(batch.records).of((batch.records[1], batch.records[0], *batch.records[2:]))"),
        {"out of order within a connection", "left out within a connection"},
    ),
    "a commit one too far": (
        "from dataclasses import replace\n"
        "import dispatcher.kafka.commit_sender as module\n"
        "commit = module.CommitSender.send\n"
        "def too_far(self, consumer, commits):\n"
        "    commit(self, consumer, [c._replace(offset=c.offset + 1) for c in commits])\n"
        "module.CommitSender.send = too_far\n"
        # The replica must know its own commits in the answers, or it would never send a second one.
        "answers = module.CommitSender.take_answers\n"
        "def expected(self):\n"
        "    return [replace(answer, offset=answer.offset - 1) for answer in answers(self)]\n"
        "module.CommitSender.take_answers = expected\n",
        {"commits ahead of dispatch"},
    ),
    "a commit of long ago": (
        "import dispatcher.kafka.commit_sender as module\n"
        "commit, calls = module.CommitSender.send, []\n"
        "def too_late(self, consumer, commits):\n"
        "    calls.extend(commits)\n"
        "    late = commits if len(calls) < 9 else [c._replace(offset=c.offset // 2) for c in commits]\n"
        "    commit(self, consumer, late)\n"
        "module.CommitSender.send = too_late\n",
        {"commits that went backwards"},
    ),
    "none": ("", set()),
}


async def audit(kafka: Kafka, code: str) -> Report:
    """One replica with a fault, a few seconds; on a busy machine as long as it takes to produce enough."""
    topic = kafka.create_topic(PARTITIONS)
    audited = Auditor(kafka.bootstrap_servers, topic, f"group-{topic}", PARTITIONS, rate=RATE)
    async with trio.open_nursery() as nursery:
        with Fleet(audited, nursery, kafka.bootstrap_servers, topic, f"group-{topic}") as fleet:
            await fleet.add(code=code, code_in_fork=True)
            await fleet.wait_until_shared(PARTITIONS)
            nursery.start_soon(audited.run)
            await trio.sleep(SECONDS)
            with trio.fail_after(seconds(30)):
                while audited.ledger.report().produced <= RATE:  # noqa: ASYNC110 - a thread produces
                    await trio.sleep(0.1)
            report = await audited.settle()
            nursery.cancel_scope.cancel()
    return report


@pytest.mark.timeout(300)
async def test_each_fault_is_found(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the rows in which a fault must show are red, and without a fault none is.

    Side by side: each fault has a topic, a group and a replica of its own.
    """
    monkeypatch.setattr(auditor, "SETTLE_SECONDS", 2.0)
    reports: dict[str, Report] = {}

    async def audit_with(fault: str) -> None:
        reports[fault] = await audit(kafka, FAULTS[fault][0])

    async with trio.open_nursery() as nursery:
        for fault in FAULTS:
            nursery.start_soon(audit_with, fault)
    bad = {
        fault: {name.partition(" (")[0] for name, _, good in report.rows() if not good}
        for fault, report in reports.items()
    }
    assert bad == {fault: expected for fault, (_, expected) in FAULTS.items()}
    for fault, report in reports.items():
        assert (fault, report.produced > RATE, report.clean) == (fault, True, not FAULTS[fault][1])
        assert table(report).row_count == len(list(report.rows()))
