"""What happens to replicas during a run: what nobody asked for is written down, and undone."""

import signal
from typing import cast

import pytest
import trio

from testbed.broker.cluster import KafkaCluster
from testbed.patience import seconds
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet, Slot
from tests.chaos.abuse import Abuse
from tests.chaos.schedule import Kind
from tests.chaos.stage import Stage
from tests.chaos.trials import Trials
from tests.workers.test_processes import NOWHERE


@pytest.mark.timeout(120)
async def test_a_replica_that_ends_by_itself_is_started_again(nursery: trio.Nursery) -> None:
    """Its exit code is written down, and whoever judges repeats knows when it ended, as after a kill."""
    fleet = Fleet(cast("Auditor", None), nursery, NOWHERE, "assets", "group")
    told: list[str] = []
    stage = Stage(cast("KafkaCluster", None), fleet, cast("Trials", None), cast("Abuse", None), told.append)
    slot = Slot("replica-1")
    fleet.slots.append(slot)
    with fleet:
        await stage.start(slot)
        assert slot.replica is not None
        first = slot.replica.identity
        nursery.start_soon(stage.revive)
        slot.replica.signal(signal.SIGSEGV)
        with trio.fail_after(seconds(60)):
            while len(stage.lives) < 2:  # noqa: ASYNC110 - another process's life
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert stage.died == {first: -signal.SIGSEGV}
    assert [(life.process, life.killed) for life in stage.lives] == [(first, True), (slot.replica.identity, False)]
    assert [(one.event.kind, one.process) for one in stage.happened] == [(Kind.KILL, first)]
    assert first != slot.replica.identity
    assert "replica-1 ended by itself" in told[0]
