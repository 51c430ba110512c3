"""The subscribers of one hub, and who of them reads what.

*Thread*: Trio's.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dispatcher.hub.subscriber import Subscriber


class Registry:
    """Knows every subscriber, by number and by what it waits for."""

    def __init__(self) -> None:
        self.everybody: dict[int, Subscriber] = {}
        self.catching_up: dict[int, Subscriber] = {}
        """Those that are not live."""
        self._expecting: dict[int, Subscriber] = {}
        """Live ones that go back to catching up when some partition comes: it was named, or begins at a time."""
        self._readers: Counter[str] = Counter()
        """Number of subscribers by topic."""
        self._transports: Counter[str] = Counter()
        """Number of subscribers by transport."""

    def __len__(self) -> int:
        return len(self.everybody)

    def add(self, subscriber: Subscriber) -> None:
        """Take a new one, which catches up."""
        self.everybody[subscriber.number] = self.catching_up[subscriber.number] = subscriber
        self._readers.update(subscriber.feed.topics)
        self._transports[subscriber.transport.name] += 1

    def remove(self, subscriber: Subscriber) -> bool:
        """Forget one; False when it was forgotten already."""
        if self.everybody.pop(subscriber.number, None) is None:
            return False
        self._readers.subtract(subscriber.feed.topics)
        self.catching_up.pop(subscriber.number, None)
        self._expecting.pop(subscriber.number, None)
        self._transports -= Counter([subscriber.transport.name])
        return True

    def now_live(self, subscriber: Subscriber) -> None:
        """It has caught up."""
        self.catching_up.pop(subscriber.number, None)
        if subscriber.resumption.expects_partitions:
            self._expecting[subscriber.number] = subscriber

    def not_live(self, subscriber: Subscriber) -> None:
        """It reads the history."""
        self._expecting.pop(subscriber.number, None)
        self.catching_up[subscriber.number] = subscriber

    def reads(self, topic: str) -> bool:
        """Whether some subscriber reads a topic."""
        return self._readers[topic] > 0

    def readers(self, topic: str) -> Sequence[Subscriber]:
        """The subscribers that read a topic."""
        return [subscriber for subscriber in self.everybody.values() if topic in subscriber.feed.topics]

    def concerned(self, topic: str, *, is_unverified: bool) -> Iterable[Subscriber]:
        """Those to which it may matter that a partition of a topic is in the history now.

        Args:
            topic: The topic.
            is_unverified: The log may be another one: then live subscribers that expect nothing are concerned as well.
        """
        concerned = self.everybody if is_unverified else self.catching_up | self._expecting
        return [subscriber for subscriber in concerned.values() if topic in subscriber.feed.topics]

    def sample(self, number: int) -> list[Subscriber]:
        """A random sample of the current subscribers."""
        return random.sample(list(self.everybody.values()), number)

    def transports(self) -> Mapping[str, int]:
        """Number of subscribers by transport."""
        return dict(self._transports)
