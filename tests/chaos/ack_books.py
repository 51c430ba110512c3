"""The books of a topic of which only what was acknowledged may be committed.

Pure: no I/O, no clock; times are arguments, in seconds since the epoch, as the replicas' logs and Kafka's have them.

How it judges:

* A record is *said to be done* from the moment before its acknowledgement is sent. A commit in Kafka's log that passes
  one before anybody has said so is *ahead*.
* It is *surely acknowledged* at a replica when a pong answers a ping that was sent after the acknowledgement. If all
  before it were as well while the replica had the partition, since the offset from which it had it, then the replica
  commits it before it lets the partition go. A connection to an owner that begins after that, and whose id does not ask
  for the record, is not sent it again, unless a fault excuses that, as it does for what is written (`attribution`).
* What is acknowledged at a replica that only follows the partition is committed by nobody: it counts when that replica
  becomes the owner. Until then the owner sends it to others.
* No more than the window may be sent and not acknowledged.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from tests.audit.ledger import Repeat
from tests.chaos.attribution import Attribution, Stored, Tenure

EVIDENCE = 20
"""At most this many faults are kept in words."""


class Again(NamedTuple):
    """A record that was surely acknowledged before the connection began that was sent it."""

    at: float
    began: float
    """When the connection did, or the client learned that the partition is in it."""
    is_added: bool
    """Whether the connection had begun before that: a client that works may learn it long after."""
    process: str
    partition: int
    offset: int


class AckBooks:
    """Keeps the books of one topic."""

    def __init__(self) -> None:
        self.said: dict[tuple[int, int], float] = {}
        """(partition, offset): when somebody first began to say that it is done."""
        self.sure: dict[tuple[str, int, int], float] = {}
        """(process, partition, offset): when a pong said that it was acknowledged there."""
        self.again: list[Again] = []
        self.excused = 0
        """Records sent again that a fault excuses, or that were acknowledged out of turn."""
        self.ahead = 0
        self.unexcused = 0
        self.beyond_window = 0
        self.evidence: list[str] = []
        self._first_sure: dict[tuple[int, int], float] = {}

    def opened(self, process: str, named: Mapping[int, int], window: int, at: float) -> "Client":
        """A connection was opened, with an id that names these offsets."""
        return Client(self, process, named, window, at)

    def acknowledged(self, process: str, records: Iterable[tuple[int, int]], at: float) -> None:
        """A pong says that the replica has these acknowledgements."""
        for partition, offset in records:
            self.sure.setdefault((process, partition, offset), at)
            self._first_sure.setdefault((partition, offset), at)

    def is_sure(self, partition: int, offset: int, before: float) -> bool:
        """Whether a record was surely acknowledged somewhere before a time."""
        return self._first_sure.get((partition, offset), float("inf")) < before

    def judge_commits(self, commits: Sequence[Stored]) -> None:
        """Compare Kafka's log of commits with what was said to be done."""
        judged: dict[int, int] = defaultdict(int)
        for commit in sorted(commits, key=lambda one: one.at):
            for offset in range(judged[commit.partition], commit.offset):
                # Kafka keeps whole milliseconds, rounded down.
                if self.said.get((commit.partition, offset), float("inf")) > commit.at + 0.001:
                    self.ahead += 1
                    self.note(f"ahead: {commit} passes {offset}, of which nobody had said that it is done")
            judged[commit.partition] = max(judged[commit.partition], commit.offset)

    def judge_again(self, attribution: Attribution) -> None:
        """Put down what was sent again to what the logs say."""
        runs = list(self._runs(attribution))
        for one in self.again:
            began = _began(attribution, one)
            owners = [
                tenure.process
                for tenure, first, done_at in runs
                if tenure.partition == one.partition
                and 0 <= one.offset - first < len(done_at)
                and done_at[one.offset - first] < began
            ]
            if not owners:
                # It was only followed there, or what precedes it was not acknowledged yet: the owner had to send it.
                self.excused += 1
                continue
            first_owner = min(owners, key=lambda name: self.sure[name, one.partition, one.offset])
            number = len(attribution.evidence)
            attribution.cause(Repeat(one.at, one.partition, one.offset, first_owner, one.process))
            if len(attribution.evidence) > number:
                self.unexcused += 1
                self.note(f"acknowledged, and sent again: {attribution.evidence[-1]}")
            else:
                self.excused += 1

    def _runs(self, attribution: Attribution) -> Iterator[tuple[Tenure, int, Sequence[float]]]:
        """Of every assignment where it begins, and from there on when a record and all before it were acknowledged."""
        for tenure in attribution.tenures:
            first = max(attribution.committed_at(tenure), tenure.counted_to)
            done_at: list[float] = []
            at = tenure.began
            while tenure.began <= self._sure_at(tenure, first + len(done_at)) <= tenure.ended:
                at = max(at, self._sure_at(tenure, first + len(done_at)))
                done_at.append(at)
            yield tenure, first, done_at

    def _sure_at(self, tenure: Tenure, offset: int) -> float:
        return self.sure.get((tenure.process, tenure.partition, offset), -1.0)

    def note(self, words: str) -> None:
        """Keep a fault in words."""
        if len(self.evidence) < EVIDENCE:
            self.evidence.append(words)

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        yield "acknowledged", f"{len(self.said):,}", bool(self.said)
        yield "acknowledged, and sent again by a fault or out of turn", f"{self.excused:,}", True
        yield "acknowledged, and sent again", f"{self.unexcused:,}", not self.unexcused
        yield "commits ahead of acknowledgements", f"{self.ahead:,}", not self.ahead
        yield "sent beyond the window", f"{self.beyond_window:,}", not self.beyond_window


def _began(attribution: Attribution, one: Again) -> float:
    """Since when the sender had to know what an owner knows of the partition; -1 if it did not own it then and now."""
    then, now = (
        [held for held in attribution.held(one.partition, at) if held.process == one.process and held.owned_since <= at]
        for at in (one.began, one.at)
    )
    if not then or not now:
        return -1.0
    return then[-1].began if one.is_added else one.began


class Client:
    """One connection; made by `AckBooks.opened`."""

    def __init__(self, books: AckBooks, process: str, named: Mapping[int, int], window: int, at: float) -> None:
        self._books = books
        self._process = process
        self._named = named
        self._window = window
        self._opened_at = at
        self._began: dict[int, float] = {}
        self._listed: AbstractSet[int] = frozenset()
        self.outstanding: list[tuple[int, int]] = []
        """Sent here, and not acknowledged, in the order of delivery."""
        self._unanswered: list[tuple[int, list[tuple[int, int]]]] = []

    def state(self, listed: AbstractSet[int], at: float) -> None:
        """A state came: what is new in it begins now, and what has left is not acknowledged here any more."""
        for partition in listed - self._listed:
            self._began[partition] = at if self._listed else self._opened_at
        self._listed = listed
        self.outstanding = [one for one in self.outstanding if one[0] in listed]

    def record(self, partition: int, offset: int, at: float) -> None:
        """A record came; one that comes again takes the place of what was sent of its partition from there on."""
        self.outstanding = [one for one in self.outstanding if one[0] != partition or one[1] < offset]
        self.outstanding.append((partition, offset))
        if len(self.outstanding) > self._window:
            self._books.beyond_window += 1
            self._books.note(f"beyond the window of {self._window}: {partition}@{offset} of {self._process}")
        began = self._began.get(partition, self._opened_at)
        was_asked_for = partition in self._named and self._named[partition] < offset
        if not was_asked_for and self._books.is_sure(partition, offset, began):
            is_added = began > self._opened_at
            self._books.again.append(Again(at, began, is_added, self._process, partition, offset))

    def says_done(self, at: float) -> list[tuple[int, int]]:
        """All that is outstanding is about to be acknowledged; returns it."""
        done, self.outstanding = self.outstanding, []
        for record in done:
            self._books.said.setdefault(record, at)
        return done

    def asked(self, number: int, done: list[tuple[int, int]]) -> None:
        """A ping with this number was sent after the acknowledgement of these records."""
        self._unanswered.append((number, done))

    def answered(self, number: int, at: float) -> None:
        """A pong came; it answers all pings up to its number."""
        while self._unanswered and self._unanswered[0][0] <= number:
            self._books.acknowledged(self._process, self._unanswered.pop(0)[1], at)
