"""What readers see on their connections, against what docs/protocol.md promises.

Pure: no I/O, no clock; times are arguments, in seconds on any clock that only goes forward.

How it judges:

* A *run* is what one connection gets of a partition while the replica has it: from the first offset on they go up one
  by one, and only a ``gap`` that says exactly which ones will not come excuses what is left out.
* A ``state`` that lists the partition no longer, or again, ends the run: the next one may begin anywhere.
* Several states that wait for a slow reader come to it as one, which may list a partition that has been away. So a run
  may start over after any state, if another connection has seen the partition leave that replica meanwhile.
* The first record of a partition that an id named is at most the one after the named offset; earlier ones may come,
  since what nobody was dispatched comes in any case. An id never names what its connection has not seen.
* Of a stream of the whole topic the partitions listed are those that the replica has or follows. When a followed one
  comes to the replica, what the group has not committed may be sent again (docs/guarantees.md): it is counted, and
  what comes after it goes on exactly where the run was.
* Of a stream with a filter all this is said of the records that match, and none comes that does not.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum

EVIDENCE = 100
"""At most this many faults are kept in words."""


class Fault(StrEnum):
    """What a reader must never see."""

    LEFT_OUT = "left out within a connection"
    OUT_OF_ORDER = "out of order within a connection"
    REPEATED = "repeated within a connection"
    ACROSS = "left out across a resume"
    UNANNOUNCED = "gaps not announced, or wrong"
    PROTOCOL = "WebSocket protocol violated"
    UNWANTED = "sent what the filter leaves out"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the readers have seen."""

    connections: int
    cuts: int
    """Connections that the reader has ended; the replica ended the others, or the run."""
    resumes: int
    """Connections with an id."""
    resumed: int
    """Partitions that went on after a place that an id named."""
    records: int
    gaps: int
    """Announced ones."""
    unseen: int
    """Times that a partition was away and a reader could not tell: it received one state with the partition."""
    whole: int
    """Connections with the whole topic."""
    observing: int
    """Connections of observers."""
    again: int
    """Records of the whole topic that a connection, or its id, had already."""
    strays: int
    """Runs of partitions that the last state did not list."""
    faults: Mapping[Fault, int]
    """In records; of gaps: in places."""
    evidence: tuple[str, ...]
    """The first faults, in words."""

    @property
    def clean(self) -> bool:
        """Whether every promise was kept, and some were put to the test."""
        return not any(self.faults.values()) and bool(self.records and self.resumed)

    def rows(self) -> Iterator[tuple[str, str, bool]]:
        """Name, value, and whether it is as it should be."""
        yield "readers' connections", f"{self.connections:,}", True
        yield "cut by the reader", f"{self.cuts:,}", True
        yield "resumed with an id", f"{self.resumes:,} ({self.resumed:,} partitions)", self.resumed > 0
        yield "with the whole topic, observing", f"{self.whole:,}, {self.observing:,}", True
        yield "records read", f"{self.records:,}", self.records > 0
        yield "sent again with the whole topic", f"{self.again:,}", True
        yield "gaps announced", f"{self.gaps:,}", True
        yield "partitions away without a word", f"{self.unseen:,}", True
        yield "runs of partitions not listed", f"{self.strays:,}", True
        for fault in Fault:
            yield f"readers: {fault}", f"{self.faults.get(fault, 0):,}", not self.faults.get(fault, 0)


@dataclass(slots=True)
class _Run:
    first: int
    next: int
    states: int
    """How many states it had received before its last record."""
    skipped: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{self.first} to {self.next - 1}"


class Judge:
    """Judges the connections of all readers of one topic."""

    def __init__(self) -> None:
        self.connected: Counter[str] = Counter()
        """Open connections by process."""
        self.left: dict[tuple[str, int], float] = {}
        """When a partition was last seen to leave a process."""
        self.counts: Counter[str] = Counter()
        self.faults: Counter[Fault] = Counter()
        self.evidence: list[str] = []
        self.begun: dict[int, int] = {}
        """By partition, the first offset of all runs."""

    def opened(
        self,
        reader: str,
        process: str,
        named: Mapping[int, int] | None,
        at: float,
        *,
        whole: bool = False,
        observes: bool = False,
        wants: Callable[[int], bool] | None = None,
    ) -> "View":
        """A connection was opened, with an id that names these offsets of partitions, or without one.

        Args:
            reader: What it is called.
            process: The replica.
            named: The offsets.
            at: When.
            whole: Whether it is of the whole topic.
            observes: Whether it observes.
            wants: Whether its filter chooses the record at an offset; None: it has no filter.
        """
        self.counts["connections"] += 1
        self.counts["whole"] += whole
        self.counts["observing"] += observes
        self.counts["resumes"] += named is not None
        self.connected[process] += 1
        return View(self, reader, process, named or {}, at, whole=whole, wants=wants)

    def verdict(self) -> Verdict:
        """Return what is known now."""
        return Verdict(
            connections=self.counts["connections"],
            cuts=self.counts["cuts"],
            resumes=self.counts["resumes"],
            resumed=self.counts["resumed"],
            records=self.counts["records"],
            gaps=self.counts["gaps"],
            unseen=self.counts["unseen"],
            whole=self.counts["whole"],
            observing=self.counts["observing"],
            again=self.counts["again"],
            strays=self.counts["strays"],
            faults=dict(self.faults),
            evidence=tuple(self.evidence),
        )


class View:
    """One connection, as its reader sees it; made by `Judge.opened`."""

    def __init__(
        self,
        judge: Judge,
        reader: str,
        process: str,
        named: Mapping[int, int],
        at: float,
        *,
        whole: bool,
        wants: Callable[[int], bool] | None,
    ) -> None:
        self._wants = wants
        self._judge = judge
        self._reader = reader
        self._process = process
        self._whole = whole
        self._place = f"{process}, the whole" if whole else process
        """Where partitions leave: a replica may follow what it no longer has."""
        self._named = dict(named)
        self._opened_at = self._at = at
        self._listed: AbstractSet[int] = frozenset()
        self._states = 0
        self._records = 0
        self._runs: dict[int, _Run] = {}
        self._seen: dict[int, int] = {}
        """Last offset of partitions that have left."""
        self._gone: set[int] = set()
        self._returned: set[int] = set()
        """Partitions that a state reported as gone, and a later one as assigned again: they may have begun at another
        offset."""

    def record(self, partition: int, offset: int) -> None:
        """A record came."""
        self._records += 1
        run = self._runs.get(partition)
        if self._wants is not None and not self._wants(offset):
            self._fault(Fault.UNWANTED, 1, f"{partition}: {offset}")
        elif run is not None and (offset == run.next or (offset > run.next and not self._owed(run.next, offset))):
            run.next = offset + 1
            run.states = self._states
        elif run is None:
            self._begin(partition, offset)
        elif self._whole and offset < run.next and offset not in run.skipped:
            self._judge.counts["again"] += 1
        elif run.states < self._states and self._was_away(partition):
            self._judge.counts["unseen"] += 1
            self._runs[partition] = _Run(offset, offset + 1, self._states)
        else:
            self._misplaced(run, partition, offset)

    def state(self, assigned: AbstractSet[int], at: float) -> None:
        """A state came, with the partitions that the replica has."""
        self._states += 1
        self._at = at
        for partition in self._listed - assigned:
            self._judge.left[self._place, partition] = at
        for partition in self._listed ^ assigned:
            if (run := self._runs.pop(partition, None)) is not None:
                self._seen[partition] = run.next - 1
        self._gone |= self._listed - assigned
        self._returned |= self._gone & assigned
        self._listed = assigned

    def gap(self, partition: int, first: int, last: int, reason: str) -> None:
        """A gap came: offsets from first to last will not."""
        self._judge.counts["gaps"] += 1
        run, named = self._runs.get(partition), self._named.pop(partition, None)
        if run is not None:
            exact = (first >= run.next and not self._owed(run.next, first)) or (
                run.states < self._states and self._was_away(partition)
            )
        else:
            exact = named is None or not self._owed(named + 1, first)
        if not exact or (last < first and reason != "recreated"):
            self._fault(Fault.UNANNOUNCED, 1, f"{partition}: {reason} from {first} to {last} after {run or named}")
        self._runs[partition] = _Run(last + 1, last + 1, self._states)

    def broken(self, words: str) -> None:
        """The server has broken the protocol of the connection."""
        self._fault(Fault.PROTOCOL, 1, f"none: {words}")

    def closed(self, position: Mapping[int, int], *, cut: bool) -> None:
        """The connection is over.

        Args:
            position: What the last id of this connection names; nothing if there was none.
            cut: The reader has ended it.
        """
        judge = self._judge
        judge.connected[self._process] -= 1
        judge.counts["records"] += self._records
        judge.counts["cuts"] += cut
        for partition, offset in position.items():
            run, named = self._runs.get(partition), self._named.get(partition, self._seen.get(partition, offset))
            following, states = (named + 1, 1) if run is None else (run.next, run.states)
            came_back = partition in self._returned or (
                partition in self._listed and states < self._states and self._was_away(partition)
            )
            if (owed := self._owed(following, offset + 1)) and not came_back:
                words = f"{partition}: the last id says {offset}, seen {run or f'nothing behind {named}'}"
                self._hole(Fault.ACROSS, owed, words)

    def _begin(self, partition: int, offset: int) -> None:
        named = self._named.pop(partition, None)
        if named is not None:
            self._judge.counts["resumed"] += 1
            if (owed := self._owed(named + 1, offset)) and not (self._states > 1 and self._was_away(partition)):
                words = f"{partition}: {offset} came first, the id said {named}"
                self._hole(Fault.ACROSS, owed, words)
        if partition not in self._listed:
            self._judge.counts["strays"] += 1
        following = offset + 1
        if self._whole and named is not None and offset <= named:
            self._judge.counts["again"] += 1
            following = named + 1
        self._judge.begun[partition] = min(offset, self._judge.begun.get(partition, offset))
        self._runs[partition] = _Run(offset, following, self._states)

    def _owed(self, start: int, end: int) -> int:
        """How many records of a range, its end excluded, have to come."""
        return max(0, end - start) if self._wants is None else sum(map(self._wants, range(start, end)))

    def _was_away(self, partition: int) -> bool:
        return self._judge.left.get((self._place, partition), -1.0) >= self._opened_at

    def _misplaced(self, run: _Run, partition: int, offset: int) -> None:
        if offset > run.next:
            self._hole(Fault.LEFT_OUT, self._owed(run.next, offset), f"{partition}: {offset} after {run}")
            run.skipped.update(range(run.next, offset))
            run.next = offset + 1
        elif offset in run.skipped or offset < run.first:
            run.skipped.discard(offset)
            self._fault(Fault.OUT_OF_ORDER, 1, f"{partition}: {offset} after {run}")
        else:
            self._fault(Fault.REPEATED, 1, f"{partition}: {offset} after {run}")
        run.states = self._states

    def _hole(self, fault: Fault, number: int, words: str) -> None:
        self._judge.faults[Fault.UNANNOUNCED] += 1
        self._fault(fault, number, words)

    def _fault(self, fault: Fault, number: int, words: str) -> None:
        self._judge.faults[fault] += number
        if len(self._judge.evidence) < EVIDENCE:
            where = f"{self._reader} at {self._process} since {self._opened_at:.2f} s, record {self._records}"
            states = f"{self._states} states, the last at {self._at:.2f} s: {sorted(self._listed)}"
            self._judge.evidence.append(f"{fault}: partition {words} ({where}, {states})")
