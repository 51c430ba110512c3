"""Sends some subscribers away after a replica has joined, or when asked to, so that the load evens out again.

A long-lived connection stays where it is: a new replica gets partitions at once, but subscribers only as they connect.
A replica cannot see the others, but it notices when the group has settled, and knows the partitions and subscribers
that it had before and has now. It keeps as many subscribers per partition as before; the others reconnect through the
load balancer. So when

* a replica has joined, fewer partitions are left, and the same share of the subscribers stays;
* a replica was replaced, this one has as many partitions as before, and the subscribers that it took over are a
  surplus;
* a replica has left for good, its partitions have arrived, and its subscribers with them: all stay;
* this replica owns every partition, so there is no other replica to go to: all stay.

A subscriber that counts and reads the replica's own partitions is sent on from a replica without any partition of its
topics, because nothing would ever reach it there. Streams of the whole topic get everything on any replica, and
observers watch what they asked for, so both stay.
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence

import structlog
import trio

from dispatcher.hub import goodbyes
from dispatcher.hub.goodbyes import Goodbye
from dispatcher.hub.hub import Hub
from dispatcher.hub.subscriber import Subscriber
from dispatcher.sansio.health import ReplicaState

log = structlog.get_logger(__name__)

SAMPLE_SECONDS = 1.0

STABLE_SAMPLES = 5
"""This many samples in a row must agree. A new replica is in its group at once, but the load balancer in front learns
of it only after a health check and a DNS look-up: a subscriber sent away any sooner returns to an old replica."""

REMEMBERED_SAMPLES = 20
"""How many samples back "before" is. When a replica crashes, its subscribers arrive at once, and the group notices only
when the session has timed out, 10 s later."""

MAX_WAIT_SAMPLES = 60
"""Maximum time before a subscriber that receives nothing is sent on. The time grows because a balancer may keep sending
it back: a replica that sends its subscribers on is the emptiest one."""


class SendingOn:
    """Decides, from samples of a replica, when subscribers that receive nothing here should leave."""

    def __init__(self) -> None:
        self._wait = STABLE_SAMPLES
        self._with = 0
        self._without = 0
        self._samples = 0
        self._known_since: dict[str, int] = {}

    def assigned_somewhere(self, topics: Collection[str]) -> frozenset[str]:
        """The existing topics of which the group has certainly assigned every partition.

        Called once per sample without a rebalance. A newly created topic is seen before it is assigned, perhaps to this
        very replica.
        """
        since = self._samples or -MAX_WAIT_SAMPLES
        self._samples += 1
        # A deleted topic starts over when it is recreated.
        self._known_since = {topic: self._known_since.get(topic, since) for topic in topics}
        return frozenset(topic for topic in topics if self._samples - self._known_since[topic] >= MAX_WAIT_SAMPLES)

    def observe(self, *, anybody: bool) -> bool:
        """Take the next sample; returns whether they should leave.

        Args:
            anybody: Whether there are such subscribers, and no rebalance is in progress.
        """
        if not anybody:
            self._with = 0
            self._without += 1
            if self._without >= self._wait:
                self._wait = STABLE_SAMPLES
            return False
        self._without = 0
        self._with += 1
        if self._with < self._wait:
            return False
        self._with, self._wait = 0, min(2 * self._wait, MAX_WAIT_SAMPLES)
        return True


class Spread:
    """Decides, from samples of a replica, how many subscribers should leave."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] = (0, 0)
        self._same = 0
        self._recent: deque[int] = deque(maxlen=REMEMBERED_SAMPLES)
        self._before: int | None = None
        """The number of subscribers before the current rebalance; None once that has settled."""
        self._partitions = 0
        """The number of partitions at that time."""
        self._peak_partitions = 0
        """The largest number of partitions since then."""

    def observe(self, assignments: int, partitions: int, subscribers: int, *, stable: bool = True) -> int:
        """Take the next sample; returns how many subscribers should leave, at most half of them.

        Args:
            assignments: Assignments up to now.
            partitions: Assigned partitions.
            subscribers: Connected subscribers.
            stable: Whether no rebalance is in progress.
        """
        if not stable or (assignments, partitions) != self._seen:
            self._seen = assignments, partitions
            self._same = 0
            if self._before is None:
                self._before = min(self._recent, default=0)
            self._peak_partitions = max(self._peak_partitions, partitions)
            return 0
        self._same += 1
        if self._same < STABLE_SAMPLES:
            return 0
        number = 0
        if self._before is not None:
            # The first replica to start owned every partition for a moment, and every subscriber connected to it.
            before, had = (self._before, self._partitions) if self._partitions else (subscribers, self._peak_partitions)
            if partitions:  # else the emptiest replica would get them back
                number = max(0, min(subscribers - round(before * partitions / had), subscribers // 2))
            self._before, self._partitions, self._peak_partitions = None, partitions, 0
            self._recent.clear()
        self._recent.append(subscribers - number)
        return number


async def spread_subscribers(hub: Hub, seconds: float, is_joined: Callable[[], bool]) -> None:
    """Sample the hub, and send away subscribers that should be elsewhere, evenly over a time, until cancelled.

    *Cancellation*: safe.

    Args:
        hub: The hub.
        seconds: How long sending them away takes; with 0 this returns at once.
        is_joined: Whether the replica is a member with an assignment. Without one, the partitions may have
            no owner: the group waits for crashed members until their sessions end.
    """
    spread, sending_on = Spread(), SendingOn()
    while seconds:
        await trio.sleep(SAMPLE_SECONDS)
        stable = is_joined() and hub.state in {ReplicaState.STREAMING, ReplicaState.WAITING}
        number = spread.observe(hub.assignments, hub.partitions, hub.subscribers, stable=stable)
        if number and not hub.owns_everything:
            log.info("spreading subscribers", number=number, of=hub.subscribers, seconds=seconds)
            await _send_away(hub.sample_subscribers(number), seconds, goodbyes.spread)
        existing = [topic for topic, count in hub.history.expected.items() if count]
        without = hub.without_partitions(sending_on.assigned_somewhere(existing)) if stable else []
        if sending_on.observe(anybody=bool(without)):
            log.info("sending subscribers to other replicas: they would get nothing here", number=len(without))
            # Partitions may be assigned here before the last of them has left.
            await _send_away(without, seconds, goodbyes.send_on, lambda one: hub.has_partitions(one.feed.topics))


async def send_some_on(hub: Hub, number: int, seconds: float) -> None:
    """Send some subscribers to replicas that are less busy, evenly over a time.

    *Cancellation*: safe.

    Args:
        hub: The hub.
        number: How many; fewer if that many are no longer connected.
        seconds: How long sending them away takes.
    """
    subscribers = hub.sample_subscribers(min(number, hub.subscribers))
    await _send_away(subscribers, seconds, goodbyes.spread)


async def _send_away(
    subscribers: Sequence[Subscriber],
    seconds: float,
    goodbye: Callable[[], Goodbye],
    may_stay: Callable[[Subscriber], bool] = lambda _subscriber: False,
) -> None:
    for subscriber in subscribers:
        if not may_stay(subscriber):
            subscriber.end(goodbye())
        await trio.sleep(seconds / len(subscribers))
