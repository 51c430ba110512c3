"""What a process knows of its topics while consumers come and go."""

from dispatcher.sansio.beginnings import Stamp
from dispatcher.sansio.topic_memory import TopicMemory

OLD, NEW, UNKNOWN = Stamp("old", 2), Stamp("new", 2), Stamp(None, 2)


def test_a_topic_that_was_only_seen_says_something_once_it_is_another_one() -> None:
    """What a member has seen says nothing about what the group has read; the first one that was seen is remembered."""
    memory = TopicMemory()
    assert memory.of("assets", NEW) == []
    memory.found({"assets": OLD})
    memory.found({"assets": NEW})
    assert memory.of("assets", OLD) == []
    assert memory.of("assets", NEW) == [OLD]
    assert memory.of("assets", UNKNOWN) == [OLD]
    assert memory.of("others", NEW) == []


def test_a_topic_that_is_read_is_known() -> None:
    """As it was when reading began for the last time."""
    memory = TopicMemory()
    memory.begun("assets", OLD)
    memory.begun("assets", NEW)
    assert memory.of("assets", NEW) == memory.of("assets", UNKNOWN) == [NEW]


def test_brokers_may_report_no_ids_at_first() -> None:
    """An update of the brokers brings them; a topic without an id says nothing."""
    memory = TopicMemory()
    memory.found({"assets": UNKNOWN})
    assert (memory.has_ids, memory.of("assets", NEW), memory.of("assets", UNKNOWN)) == (False, [], [])
    memory.found({"assets": OLD})
    assert (memory.has_ids, memory.of("assets", NEW)) == (True, [OLD])
