"""A topic that only observers read: what they are sent moves no offset, whatever happens to replicas and brokers."""

from collections.abc import Iterator, Mapping

import trio

from testbed.patience import seconds
from tests.audit.commits import CommittedOffsets
from tests.audit.fleet import Fleet
from tests.chaos.attribution import Attribute
from tests.chaos.crowd import Crowd
from tests.chaos.judge import Judge
from tests.chaos.readers import draw_observer

PARTITIONS = 3
OBSERVERS = 6
RATE = 60.0
VALUE_BYTES = 200
ANSWER_SECONDS = 30.0
"""A deadline in `testbed.patience.seconds`."""


class Observed:
    """The topic, its observers, and what the group has committed of it.

    Args:
        bootstrap_servers: Where the topic is.
        group: That of the replicas.
        topic: Nobody else reads it, and it was empty when the group got it.
    """

    def __init__(self, bootstrap_servers: str, group: str, topic: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._group = group
        self._topic = topic
        self._crowd: Crowd | None = None
        self.committed: Mapping[int, int] | None = None
        """By partition; None when no broker has answered."""

    @property
    def topics(self) -> Mapping[str, int]:
        """Partitions by topic."""
        return {self._topic: PARTITIONS}

    @property
    def tables(self) -> Mapping[str, Mapping[str, object]]:
        """The settings of single topics: none."""
        return {}

    @property
    def judges(self) -> list[Judge]:
        """Return the judges of its readers."""
        return [] if self._crowd is None else [self._crowd.judge]

    async def run(self, fleet: Fleet, seed: int, _: int) -> None:
        """Produce until `quiet`, and let observers come and go until cancelled. *Cancellation*: safe."""
        self._crowd = crowd = Crowd(fleet, self._topic, seed, draw_observer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.run, OBSERVERS, 0)
            nursery.start_soon(crowd.produce, self._bootstrap_servers, PARTITIONS, RATE, VALUE_BYTES)

    def quiet(self) -> None:
        """Produce no more."""
        if self._crowd is not None:
            self._crowd.quiet()

    async def settle(self, _: Fleet, __: Attribute) -> None:
        """Ask the broker what the group has committed. *Cancellation*: safe, late by one question."""
        if self._crowd is None:
            return
        committed = CommittedOffsets(self._bootstrap_servers, self._group, self._topic, PARTITIONS)
        try:
            with trio.move_on_after(seconds(ANSWER_SECONDS)):
                while (found := await trio.to_thread.run_sync(committed.read)) is None:  # noqa: ASYNC110 - Kafka's
                    await trio.sleep(0.1)
                self.committed = found
        finally:
            committed.close()

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        if self._crowd is None:
            return
        verdict = self._crowd.judge.verdict()
        yield "records read by observers alone", f"{verdict.records:,}", verdict.records > 0
        yield "what they should not have seen", f"{sum(verdict.faults.values()):,}", not any(verdict.faults.values())
        moved = None if self.committed is None else sum(self.committed.values())
        yield "offsets that they moved", "unknown" if moved is None else f"{moved:,}", moved == 0

    @property
    def evidence(self) -> Iterator[str]:
        """Return what was wrong, in words."""
        if self._crowd is not None:
            yield from (f"observed: {words}" for words in self._crowd.judge.evidence)
