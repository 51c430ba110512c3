"""Sends a part of the subscribers away when a replica has come, so that they spread over all of them again.

A connection that lasts stays where it is: a new replica has partitions at once, and subscribers only as they happen to
come. It cannot be told how many replicas there are, but a part of the partitions leaves when one comes, and the same
part of the subscribers is as many as should. They come back by whatever spreads connections in front of the replicas.
"""

from collections.abc import Callable

import structlog
import trio

from dispatcher.feed import Goodbye
from dispatcher.hub import Hub
from dispatcher.hub_statistics import ReplicaState

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0

SETTLED_LOOKS = 5
"""So often the partitions have to be the same. A new replica is in its group at once, and what stands in front knows of
it only after a health check and a look into DNS: who is sent away before that comes back to the old ones."""


class Spread:
    """Tells which part of the subscribers should go, from how many partitions there are between rebalances."""

    def __init__(self) -> None:
        self._partitions = 0

    def settled(self, partitions: int) -> float:
        """So many partitions are here, and none is on its way; returns a part of the subscribers, from 0 to below 1.

        A replica that is left without any partition keeps its subscribers: the emptiest would get them back.
        """
        before, self._partitions = self._partitions, partitions
        return (before - partitions) / before if 0 < partitions < before else 0.0


async def spread_subscribers(hub: Hub, seconds: float, goodbye: Callable[[], Goodbye]) -> None:
    """Look again and again whether some should go, and send them away evenly over a time, until cancelled.

    *Cancellation*: safe.

    Args:
        hub: Whose subscribers.
        seconds: How long sending away takes; 0 returns at once.
        goodbye: Makes what they are told.
    """
    spread = Spread()
    partitions = looks = 0
    while seconds:
        await trio.sleep(LOOK_SECONDS)
        is_settled = hub.state in {ReplicaState.STREAMING, ReplicaState.WAITING} and hub.partitions == partitions
        looks = looks + 1 if is_settled else 0
        partitions = hub.partitions
        if looks < SETTLED_LOOKS:
            continue
        number = round(spread.settled(partitions) * hub.subscribers)
        if number:
            log.info("spreading subscribers", number=number, of=hub.subscribers, seconds=seconds)
        for subscriber in hub.some_subscribers(number):
            subscriber.end(goodbye())
            await trio.sleep(seconds / number)
