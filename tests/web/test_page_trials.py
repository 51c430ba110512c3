"""Pages through harm that lasts for a moment; ``nox -s page_trials`` lets it last for two minutes, with fifty tabs."""

from collections.abc import Callable

import pytest
import trio

from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.page_trials import PARTITIONS, TRIALS, staged

BROWSERS = [["frozen-server", "offline", "background", "full-storage", "frozen-browser"], ["denied-storage"]]


@pytest.mark.parametrize("names", BROWSERS, ids=["a-user", "who-denies-storage"])
async def test_a_page_is_live_again_by_itself(kafka: Kafka, replicas: Callable[..., Replica], names: list[str]) -> None:
    """Nothing is missing or repeated."""
    topic = kafka.create_topic(PARTITIONS)
    with trio.fail_after(seconds(120)):
        replica = await trio.to_thread.run_sync(replicas, kafka.bootstrap_servers, topic)
        await trio.to_thread.run_sync(replica.wait_until_ready)
        async with staged(names[0], kafka.bootstrap_servers, topic, replica, 0.5) as stage:
            for name in names:
                await TRIALS[name](stage)
