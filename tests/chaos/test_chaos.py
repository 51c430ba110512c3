"""A short chaos run, as everybody can have it longer: ``nox -s chaos``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.broker.cluster import KafkaCluster
from tests.audit.ledger import Repeat
from tests.chaos.run import Happened, cause, run_chaos
from tests.chaos.schedule import Event, Kind
from tests.chaos.timeline import draw

SEED = 7
SECONDS = 110.0
READERS = 20


@pytest.mark.timeout(300)
async def test_two_minutes_of_chaos(own_cluster: Callable[..., KafkaCluster], tmp_path: Path) -> None:
    """Nothing lost, nothing out of order, no commit ahead, no repeat from a planned change, and readers as promised."""
    cluster = own_cluster(3)
    cluster.start()
    outcome = await run_chaos(cluster, SEED, SECONDS, "classic", print, lambda _: None, readers=READERS)
    assert outcome.readers is not None
    bad = [(name, value) for name, value, good in outcome.rows() if not good]
    assert outcome.good, (bad, outcome.repeats, outcome.exit_codes, outcome.readers.evidence)
    assert {one.event.kind for one in outcome.happened} == set(Kind)
    draw(outcome, tmp_path / "timeline.svg")
    assert "replica-1" in (tmp_path / "timeline.svg").read_text()


def happened(kind: Kind, began: float, ended: float | None = None, process: str | None = None) -> Happened:
    """An event as it came to pass."""
    return Happened(Event(0, kind, 0, 0), str(kind), began, process, ended)


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([happened(Kind.KILL, 5, 6, "a")], "kill -9"),
        ([happened(Kind.KILL, 5, 6, "a"), happened(Kind.JOIN, 8, 9)], "kill -9"),
        ([happened(Kind.KILL, 5, 6, "c"), happened(Kind.JOIN, 8, 9)], "kill -9"),
        ([happened(Kind.KILL, -3, 6, "c"), happened(Kind.JOIN, 8, 9)], "join"),
        ([happened(Kind.BROKER_KILL, 5, None), happened(Kind.STOP, 8, 9, "a")], "broker kill"),
        ([happened(Kind.KILL, 11, 12, "a"), happened(Kind.FREEZE, 8, 9)], "nothing"),
    ],
)
def test_a_repeat_is_put_down_to_the_fault_that_can_be_its_cause(events: list[Happened], kind: str) -> None:
    """A planned change only when no fault can be."""
    assert cause(Repeat(10.0, 0, 0, "a", "b"), events) == kind
