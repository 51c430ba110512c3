"""Which worker serves a connection is found out from outside, and when one was killed."""

import os
import signal

import orjson
import pytest
import trio

from testbed.clients import open_sse
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.audit import workers
from tests.workers.test_processes import NOWHERE, SETTINGS


@pytest.mark.timeout(300)
async def test_each_worker_counts_as_a_process() -> None:
    """The state names a stream's worker; a killed worker has ended, and its successor has another name."""
    replica = await trio.to_thread.run_sync(lambda: Replica(NOWHERE, "assets", settings=SETTINGS))
    try:
        found: set[str] = set()
        with trio.fail_after(seconds(60)):
            while len(found) < 2:
                async with open_sse(replica) as stream:
                    event = await stream.next_event()
                    assert event is not None
                    assert isinstance(stream.stream, trio.SocketStream)
                    port = stream.stream.socket.getsockname()[1]
                    name = await trio.to_thread.run_sync(workers.serving, replica, port)
                    assert name.partition("/")[0] == orjson.loads(event.data)["replica"]
                    found.add(name)
            assert found == set((await trio.to_thread.run_sync(workers.running, replica)).values())
            killed = min(found)
            os.kill(int(killed.partition("/")[2]), signal.SIGKILL)
            while killed not in dict(workers.ends(replica)) or len(workers.starts(replica)) < 3:  # noqa: ASYNC110 - logs
                await trio.sleep(0.05)
        again = workers.identity(replica, workers.starts(replica)[-1])
        assert (again.partition("/")[0], again not in found) == (killed.partition("/")[0], True)
    finally:
        replica.end()
