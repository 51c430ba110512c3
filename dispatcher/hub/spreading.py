"""Sends a part of the subscribers away when a replica has come, so that they spread over all of them again.

A connection that lasts stays where it is: a new replica has partitions at once, and subscribers only as they happen to
come. A replica knows nothing of the others, but it sees the group settle anew, with how many partitions and how many
subscribers it had before, and with how many it has now. It keeps as many subscribers for each partition as before; the
others come back by whatever spreads connections in front of the replicas. So it goes when

* one has come: fewer partitions are left, and the same part of the subscribers;
* one was replaced: the partitions are as many as before, and the subscribers of the one that went are too many;
* one has left for good: its partitions have come, and its subscribers with them. All stay.
"""

from collections import deque
from collections.abc import Callable

import structlog
import trio

from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.hub import Hub
from dispatcher.hub.statistics import ReplicaState

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0

SETTLED_LOOKS = 5
"""So often all has to be the same. A new replica is in its group at once, and what stands in front knows of it only
after a health check and a look into DNS: who is sent away before that comes back to the old ones."""

REMEMBERED_LOOKS = 20
"""So far back lies before. When a replica crashes, its subscribers come at once, and the group hears of it only when
the session has timed out, 10 s later."""


class Spread:
    """Tells how many subscribers should go, from what is seen of a replica once in a while."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] = (0, 0)
        self._same = 0
        self._recent: deque[int] = deque(maxlen=REMEMBERED_LOOKS)
        self._before: int | None = None
        """How many subscribers there were before what has not settled yet."""
        self._partitions = 0
        """How many there were then."""
        self._most = 0
        """The most that there were since."""

    def looked(self, assignments: int, partitions: int, subscribers: int, *, calm: bool = True) -> int:
        """The next look; returns how many should go, at most half of them.

        Args:
            assignments: How often partitions have come.
            partitions: How many are here.
            subscribers: How many are here.
            calm: No partition is on its way.
        """
        if not calm or (assignments, partitions) != self._seen:
            self._seen = assignments, partitions
            self._same = 0
            if self._before is None:
                self._before = min(self._recent, default=0)
            self._most = max(self._most, partitions)
            return 0
        self._same += 1
        if self._same < SETTLED_LOOKS:
            return 0
        number = 0
        if self._before is not None:
            # Who was the first of all to start had every partition for a moment, and every subscriber came to it.
            before, had = (self._before, self._partitions) if self._partitions else (subscribers, self._most)
            if partitions:  # else the emptiest would get them back
                number = max(0, min(subscribers - round(before * partitions / had), subscribers // 2))
            self._before, self._partitions, self._most = None, partitions, 0
            self._recent.clear()
        self._recent.append(subscribers - number)
        return number


async def spread_subscribers(hub: Hub, seconds: float, goodbye: Callable[[], Goodbye]) -> None:
    """Look again and again whether some should go, and send them away evenly over a time, until cancelled.

    *Cancellation*: safe.

    Args:
        hub: Whose subscribers.
        seconds: How long sending away takes; 0 returns at once.
        goodbye: Makes what they are told.
    """
    spread = Spread()
    while seconds:
        await trio.sleep(LOOK_SECONDS)
        calm = hub.state in {ReplicaState.STREAMING, ReplicaState.WAITING}
        number = spread.looked(hub.assignments, hub.partitions, hub.subscribers, calm=calm)
        if number:
            log.info("spreading subscribers", number=number, of=hub.subscribers, seconds=seconds)
        for subscriber in hub.some_subscribers(number):
            subscriber.end(goodbye())
            await trio.sleep(seconds / number)
