"""What a repeat comes from: put down to what Kafka's log of commits and the replicas' own logs say, never to the clock.

Pure: no I/O, no clock; times are arguments, in seconds since the epoch, as both kinds of logs have them. They only say
what came before what, so a slow machine changes no verdict: everything is on one machine, with one clock.

How it judges:

* A *tenure* is the time in which a process has a partition: from ``assigned`` in its log until ``revoking`` or
  ``partitions lost`` there, or until it was killed.
* A repeat has two tenures: of the process that sent the record first, and of the one that sent it as well. The later
  one begins at the group's committed offset in Kafka's log. A record before that offset was committed, and is
  sent again only to subscribers that were there when the partition left this process, and continue where they had left
  off (docs/protocol.md, "States"); from there on the earlier owner had dispatched it and not committed it.
* Why it had not, the hand-over says: the owner was killed, or had lost the partition without a word to it. An owner
  that was asked to let go commits first, so such a hand-over repeats nothing, unless nobody could commit: while a fault
  was *in force* between the first receipt of the record and the hand-over; or the owner's log says that a write of its
  records lasted longer than a revoke waits.
* A member that is killed or suspended is in force until others have all of its partitions; a broker that is killed,
  until it answers again and Kafka has stored a commit of the partition after that.
* A commit that steps back is a late one when a replica's log says that librdkafka had given it up before, and Kafka's
  log has a later commit that puts it right.
* So is one that follows a late commit of the previous owner: stored when another process already had the partition,
  and had not yet sent the last record that it covers. Only a broker that was killed excuses it: without a coordinator,
  librdkafka can keep a commit for later and still release the partition.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tests.audit.ledger import Backwards, Repeat

NOTHING = "nothing"
"""No fault can be the cause, and no planned change was."""

COMMITTED = "a committed record, sent again"
"""The later owner began before the offset that was committed when it was assigned: no fault excuses that."""

CONTINUED = "subscribers that continued"
"""The partition returned to a process, and the subscribers that it had before continued where they had left off."""

LOST = "partitions lost"
"""Of a replica that nobody had touched, such as on a machine that is too slow for the session."""

SLOW = "writes outlast a revoke"
"""Subscribers took more than `drain_seconds` for what was being written, as on a machine that is too slow."""

GIVEN_UP = frozenset(
    {
        "_TIMED_OUT",
        "_TRANSPORT",
        "_WAIT_COORD",
        "REQUEST_TIMED_OUT",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
    }
)
"""Answers after which the request may still be stored: librdkafka stops waiting, or sends it again by itself."""

HANDED_OVER = "partition handed over"
"""A replica that has read the partition for the whole topic becomes its owner, and knows from where on."""

AROUND_SECONDS = 20.0
"""How much of the logs is shown of a step back that nothing excuses."""

HELD_BACK_SECONDS = 5.0
"""How long after its member has left a commit may still be stored."""


class Ending(StrEnum):
    """How a tenure ended."""

    ASKED = "revoking"
    LOST = "partitions lost"
    KILLED = "kill -9"


class Line(NamedTuple):
    """A line of a replica's log, about one partition."""

    at: float
    process: str
    event: str
    """``assigned``, ``revoking``, ``partitions lost``, ``commit not stored``, `SLOW`, `HANDED_OVER`."""
    partition: int
    offset: int = -1
    """Of a commit; or up to where what was sent before a hand-over counts."""
    error: str = ""
    """Of a commit."""


class Stored(NamedTuple):
    """A commit in Kafka's log, in its order within a partition."""

    partition: int
    offset: int
    at: float


@dataclass(slots=True)
class Tenure:
    """One process has one partition."""

    process: str
    partition: int
    began: float
    ended: float = float("inf")
    ending: Ending | None = None
    """None: it had the partition to the end of the run."""
    owned_since: float = 0.0
    """Until then what its clients were sent, and acknowledged, was that of a followed partition."""
    counted_to: int = 0
    """Up to where that counts."""


class Incident(NamedTuple):
    """What the run did that can be a cause."""

    kind: str
    began: float
    ended: float
    process: str | None
    """The member that it happened to; None: a broker, or a planned change of nobody in particular."""
    is_fault: bool
    """Else it is a planned change."""


def tenures(lines: Iterable[Line], killed: Iterable[tuple[str, float]]) -> list[Tenure]:
    """Which process had which partition when, oldest first.

    Args:
        lines: Of all replicas, in any order.
        killed: Processes that were killed, and when: they say no last word.
    """
    open_now: dict[tuple[str, int], Tenure] = {}
    found: list[Tenure] = []
    for line in sorted(lines, key=lambda one: one.at):
        key = line.process, line.partition
        if line.event == "assigned":
            found.append(Tenure(line.process, line.partition, line.at, owned_since=line.at))
            open_now[key] = found[-1]
        elif line.event == HANDED_OVER and (tenure := open_now.get(key)) is not None:
            tenure.owned_since, tenure.counted_to = line.at, line.offset
        elif line.event in set(Ending) and (tenure := open_now.pop(key, None)) is not None:
            tenure.ended, tenure.ending = line.at, Ending(line.event)
    for process, at in killed:
        for (name, _), tenure in open_now.items():
            if name == process:
                tenure.ended, tenure.ending = at, Ending.KILLED
    return found


class Attribution:
    """Tells where repeats and steps back come from.

    Args:
        lines: What the replicas have logged about the audited topic.
        commits: Kafka's log of commits for it.
        receipts: (at, process, partition, offset): when somebody first had a record of a process.
        incidents: What the run did, in order.
        killed: Processes that were killed, and when.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        commits: Sequence[Stored],
        receipts: Iterable[tuple[float, str, int, int]],
        incidents: Sequence[Incident],
        killed: Iterable[tuple[str, float]],
    ) -> None:
        self._lines = lines
        self._commits: dict[int, list[Stored]] = defaultdict(list)
        for commit in commits:
            self._commits[commit.partition].append(commit)
        self._tenures: dict[int, list[Tenure]] = defaultdict(list)
        for tenure in tenures(lines, killed):
            self._tenures[tenure.partition].append(tenure)
        self._received = {(process, partition, offset): at for at, process, partition, offset in receipts}
        self._incidents = incidents
        self._slow = [line for line in lines if line.event == SLOW]
        self._committed: dict[tuple[str, int, float], int] = {}
        self._ends: dict[tuple[Incident, int], float] = {}
        self.evidence: list[str] = []
        """Repeats that no fault excuses, in words."""

    def cause(self, repeat: Repeat) -> str:
        """The kind of incident that a repeat comes from, or one of this module's words for those without."""
        verdict, words = NOTHING, "no log tells of both assignments"
        for older, newer in self._pairs(repeat):
            found, said = self._judge(repeat, older, newer)
            if words.startswith("no log"):
                verdict, words = found, said
            if not said:
                return found
        first = f"{repeat.partition}@{repeat.offset} by {repeat.first_process}, then by {repeat.process}"
        self.evidence.append(f"repeated: {first}: {words}")
        return verdict

    def is_late(self, step: Backwards) -> bool:
        """Whether a commit that stepped back was given up, or came twice, and was put right later."""
        stored = step.stored_ms / 1000
        given_up = any(
            line.event == "commit not stored"
            and (line.partition, line.offset) == (step.partition, step.offset)
            and line.error in GIVEN_UP
            and line.at <= stored + 0.001  # Kafka keeps whole milliseconds
            for line in self._lines
        )
        later = [one for one in self._commits[step.partition] if one.at >= stored and one.offset >= step.before]
        known = (self._was_stored_before, self._was_held_back, self._follows_late_one)
        return bool(later) and (given_up or any(excuses(step, stored) for excuses in known))

    def _was_stored_before(self, step: Backwards, stored: float) -> bool:
        """Whether Kafka stored the same commit before the higher one, for the same owner: it came twice.

        That an owner sends no lower commit after a higher one is an invariant, which the replicas count themselves.
        """
        owners = [one.began for one in self._tenures[step.partition] if one.began <= stored <= one.ended]
        earlier = [one.at for one in self._commits[step.partition] if one.offset == step.offset and one.at < stored]
        return bool(owners and earlier) and max(owners) <= earlier[-1]

    def _was_held_back(self, step: Backwards, stored: float) -> bool:
        """Whether both commits are of one owner, and a broker was away meanwhile: librdkafka held the lower one back.

        It may store it after the owner has left: nothing awaits a commit once a higher one is confirmed.
        """
        commits = [one.at for one in self._commits[step.partition] if one.offset == step.before and one.at <= stored]
        owners = [one for one in self._tenures[step.partition] if one.began <= stored]
        if not commits or not owners:
            return False
        began, ended = owners[-1].began, owners[-1].ended
        is_of_one = began <= commits[-1] and stored <= ended + HELD_BACK_SECONDS
        return is_of_one and any(
            one.is_fault and one.process is None and one.began <= stored and one.ended >= began
            for one in self._incidents
        )

    def _follows_late_one(self, step: Backwards, stored: float) -> bool:
        """Whether the higher commit was one of the previous owner, and was late because a broker was away."""
        commits = [one for one in self._commits[step.partition] if one.offset == step.before and one.at <= stored]
        if not commits:
            return False
        at, last = commits[-1].at, (step.partition, step.before - 1)
        tenures = self._tenures[step.partition]
        newer = [one for one in tenures if one.began <= at <= one.ended]
        older = [one for one in tenures if one.ended < at and self._received.get((one.process, *last), at) < one.ended]
        return (
            bool(newer and older)
            and all(self._received.get((one.process, *last), float("inf")) > at for one in newer)
            and any(
                one.is_fault and one.process is None and one.began <= at and one.ended >= older[-1].began
                for one in self._incidents
            )
        )

    def explain(self, step: Backwards) -> str:
        """What the logs have around a commit that stepped back and is not a late one, in words."""
        at = step.stored_ms / 1000
        near = [one for one in self._commits[step.partition] if abs(one.at - at) <= AROUND_SECONDS]
        commits = ", ".join(f"{one.offset} at {one.at - at:+.3f}" for one in near)
        failed = ", ".join(
            f"{line.offset} of {line.process} at {line.at - at:+.3f} ({line.error})"
            for line in self._lines
            if line.event == "commit not stored"
            and line.partition == step.partition
            and abs(line.at - at) <= AROUND_SECONDS
        )
        held = ", ".join(
            f"{one.process} from {one.began - at:+.3f} to {one.ended - at:+.3f} ({one.ending or 'the end'})"
            for one in self._tenures[step.partition]
            if one.began <= at + AROUND_SECONDS and one.ended >= at - AROUND_SECONDS
        )
        return f"stepped back: {step}: stored {commits}; not stored {failed or 'nothing'}; assigned to {held}"

    def _pairs(self, repeat: Repeat) -> Iterator[tuple[Tenure, Tenure]]:
        """Assignments in which the two may have sent the record, the likely ones first; none twice."""
        first_at = self._first_at(repeat)
        ones = self._candidates(repeat.partition, repeat.first_process, first_at)
        others = self._candidates(repeat.partition, repeat.process, repeat.at)
        for one in ones:
            for other in others:
                yield (one, other) if one.began <= other.began else (other, one)

    def _candidates(self, partition: int, process: str, at: float) -> list[Tenure]:
        return [one for one in reversed(self._tenures[partition]) if one.process == process and one.began <= at]

    def _first_at(self, repeat: Repeat) -> float:
        return self._received.get((repeat.first_process, repeat.partition, repeat.offset), repeat.at)

    def _judge(self, repeat: Repeat, older: Tenure, newer: Tenure) -> tuple[str, str]:
        """The cause, and why it is none; empty words when it excuses the repeat."""
        committed = self.committed_at(newer)
        first_at = min(self._first_at(repeat), newer.began)
        in_force = [one for one in self._incidents if one.is_fault and self._in_force(one, repeat, first_at, newer)]
        if repeat.offset < committed:
            if repeat.since < newer.began:
                return CONTINUED, ""
            # A commit is in Kafka's log before the replicas of that log have it, and only then is it given to anybody.
            broker = [one for one in in_force if one.process is None]
            words = f"{committed} was committed when {newer.process} was assigned"
            return (broker[-1].kind, "") if broker else (COMMITTED, words)
        between = [one for one in self._tenures[repeat.partition] if older.began <= one.began < newer.began]
        for tenure in reversed(between):
            if tenure.ending in {Ending.KILLED, Ending.LOST}:
                return self._of_tenure(tenure), ""
        if in_force:
            return in_force[-1].kind, ""
        if any(self._is_slow(line, older, newer) for line in self._slow):
            return SLOW, ""
        planned = [one for one in self._incidents if not one.is_fault and one.began <= newer.began]
        words = f"asked to let go, {older.process} had not committed it, and nothing kept it from that"
        return (planned[-1].kind if planned else NOTHING), words

    def _is_slow(self, line: Line, older: Tenure, newer: Tenure) -> bool:
        is_of_older = (line.process, line.partition) == (older.process, older.partition)
        return is_of_older and older.ended <= line.at <= newer.began

    def _of_tenure(self, tenure: Tenure) -> str:
        """The fault that ended a tenure without a word to the group."""
        for one in reversed(self._incidents):
            if one.is_fault and one.process == tenure.process and one.began <= tenure.ended:
                return one.kind
        brokers = [one for one in self._incidents if one.is_fault and one.process is None]
        away = [
            one for one in brokers if one.began <= tenure.ended and self._end_of(one, tenure.partition) >= tenure.began
        ]
        return away[-1].kind if away else LOST

    @property
    def tenures(self) -> list[Tenure]:
        """Which process had which partition when."""
        return [tenure for several in self._tenures.values() for tenure in several]

    def held(self, partition: int, at: float) -> list[Tenure]:
        """The processes that had a partition at a time."""
        return [one for one in self._tenures[partition] if one.began <= at <= one.ended]

    def committed_at(self, tenure: Tenure) -> int:
        """The lowest offset in force from the assignment to its first record: where the owner may have begun."""
        key = (tenure.process, tenure.partition, tenure.began)
        if key not in self._committed:
            self._committed[key] = self._find_committed(tenure)
        return self._committed[key]

    def _find_committed(self, tenure: Tenure) -> int:
        sent = [
            at
            for (process, partition, _), at in self._received.items()
            if (process, partition) == (tenure.process, tenure.partition) and at >= tenure.began
        ]
        until = min(sent, default=tenure.began)
        before, during = 0, []
        for commit in self._commits[tenure.partition]:
            if commit.at <= tenure.began:
                before = commit.offset
            elif commit.at <= until:
                during.append(commit.offset)
        return min([before, *during])

    def _in_force(self, incident: Incident, repeat: Repeat, first_at: float, newer: Tenure) -> bool:
        return incident.began <= newer.began and self._end_of(incident, repeat.partition) >= first_at

    def _end_of(self, incident: Incident, partition: int) -> float:
        """When a fault stopped having an effect on a partition."""
        key = (incident, partition)
        if key not in self._ends:
            self._ends[key] = self._find_end(incident, partition)
        return self._ends[key]

    def _find_end(self, incident: Incident, partition: int) -> float:
        if incident.process is None:
            after = [one.at for one in self._commits[partition] if one.at >= incident.ended]
            return min(after, default=float("inf"))
        held = [
            tenure
            for several in self._tenures.values()
            for tenure in several
            if tenure.process == incident.process and tenure.began <= incident.began <= tenure.ended
        ]
        ends = []
        for tenure in held:
            taken = [one.began for one in self._tenures[tenure.partition] if one.began > incident.began]
            ends.append(min(taken, default=float("inf")) if tenure.ending is not None else incident.ended)
        return max(ends, default=incident.ended)


Attribute = Callable[[str, Sequence[Stored], Sequence[tuple[float, str, int, int]]], Attribution]
"""What the logs say of a topic: its name, Kafka's log of commits, and when each process had which record."""
