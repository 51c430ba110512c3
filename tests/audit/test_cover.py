"""Every worker of a replica has a healthy listener, whatever the kernel does with connections."""

from typing import cast

import pytest
import trio

from testbed.patience import seconds
from tests.audit import fleet, workers
from tests.audit.auditor import Auditor
from tests.audit.fleet import Fleet
from tests.audit.ledger import Ledger
from tests.audit.listeners import Identify, Listener, Transport
from tests.workers.test_processes import NOWHERE, SETTINGS


class Listening:
    """An auditor that only listens."""

    def listen(
        self,
        nursery: trio.Nursery,
        where: object,
        transport: Transport,
        receive_buffer_bytes: int = 0,
        identify: Identify | None = None,
    ) -> Listener:
        """See `Auditor`."""
        ledger = Ledger()
        listener = Listener(ledger, where, transport, "assets", receive_buffer_bytes, identify=identify)  # type: ignore[arg-type]
        nursery.start_soon(listener.run)
        return listener


@pytest.mark.timeout(300)
async def test_listeners_that_all_have_the_same_worker_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen when a worker was suspended while all of them connected: nothing of its partitions was received any more."""
    monkeypatch.setattr(fleet, "MOST_LISTENERS", 2)
    async with trio.open_nursery() as nursery:
        auditor = cast("Auditor", Listening())
        replicas = Fleet(auditor, nursery, NOWHERE, "assets", "g", settings=SETTINGS, workers=2)
        with replicas:
            slot = await replicas.add()
            replica = slot.replica
            assert replica is not None

            def served() -> set[str]:
                return {one.served_by for one in slot.listeners if one.connected}

            with trio.fail_after(seconds(60)):
                while len(workers.running(replica)) < 2 or not all(one.connected for one in slot.listeners):  # noqa: ASYNC110 - logs
                    await trio.sleep(0.05)
                while len(served()) != 1 or not all(one.connected for one in slot.listeners):
                    if len(served()) == 2:
                        await slot.listeners[0].vanish()
                    await trio.sleep(0.05)
                nursery.start_soon(replicas.cover)
                while served() != set(workers.running(replica).values()):  # noqa: ASYNC110 - the kernel chooses
                    await trio.sleep(0.05)
            assert len(slot.listeners) == 2
            nursery.cancel_scope.cancel()
