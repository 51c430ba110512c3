"""A short chaos run, as everybody can have it longer: ``nox -s chaos``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.broker.cluster import KafkaCluster
from tests.chaos.run import run_chaos
from tests.chaos.schedule import OF_WORKERS, Kind
from tests.chaos.timeline import draw

SEED = 7
SECONDS = 110.0
READERS = 20


@pytest.mark.timeout(600)
async def test_two_minutes_of_chaos(own_cluster: Callable[..., KafkaCluster], tmp_path: Path) -> None:
    """Nothing is lost or out of order, no commit is ahead, and planned changes repeat nothing."""
    cluster = own_cluster(3)
    cluster.start()
    outcome = await run_chaos(cluster, SEED, SECONDS, "classic", print, lambda _: None, readers=READERS)
    assert outcome.readers is not None
    bad = [(name, value) for name, value, good in outcome.rows() if not good]
    assert outcome.good, (bad, outcome.repeats, outcome.exit_codes, list(outcome.evidence))
    assert {one.event.kind for one in outcome.happened} == frozenset(Kind) - OF_WORKERS
    draw(outcome, tmp_path / "timeline.svg")
    assert "replica-1" in (tmp_path / "timeline.svg").read_text()
