"""How late the auditor reads: what waits unread in its sockets is gone when a replica is killed, and looks lost."""

from collections import defaultdict
from collections.abc import Iterable

from tests.chaos.attribution import Stored


def longest_lateness(receipts: Iterable[tuple[float, str, int, int]], commits: Iterable[Stored]) -> float:
    """Return the longest time in seconds from a record's commit until the auditor first received the record.

    Args:
        receipts: Time, process, partition and offset, in the order in which they came.
        commits: Those in Kafka's log, on the same clock.
    """
    first: dict[int, dict[int, float]] = defaultdict(dict)
    for at, _, partition, offset in receipts:
        first[partition].setdefault(offset, at)
    committed: dict[int, int] = defaultdict(int)
    longest = 0.0
    for commit in sorted(commits, key=lambda one: one.at):
        received = first[commit.partition]
        for offset in range(committed[commit.partition], commit.offset):
            longest = max(longest, received.get(offset, commit.at) - commit.at)
        committed[commit.partition] = max(committed[commit.partition], commit.offset)
    return longest
