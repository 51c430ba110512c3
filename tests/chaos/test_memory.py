"""The README's formula of memory, and which process is shown."""

import os

from dispatcher.settings import Settings
from tests.chaos.memory import MIB, Memory, bound_bytes


def test_the_formula_with_the_defaults() -> None:
    """The bound equals the sum of the README's lines."""
    expected = 100 + 64 + 1.4 * 8 + 8 + 9 + 28 + 4 * 12 + 10 * (1 + 0.25 + 0.0625)
    assert abs(bound_bytes(Settings(), 10) / MIB - expected) < 0.01


def test_librdkafka_properties_count() -> None:
    """The queue and the fetch count as configured."""
    settings = Settings(kafka={"queued.max.messages.kbytes": 1024, "fetch.max.bytes": MIB})
    assert abs((bound_bytes(Settings(), 1) - bound_bytes(settings, 1)) / MIB - (1.4 * 7 + 7)) < 0.01


def test_the_process_nearest_to_its_bound_is_shown() -> None:
    """It is shown with its most bytes and subscribers, and fails above the formula."""
    memory = Memory(Settings())
    assert memory.good
    assert list(memory.rows()) == []
    memory.sampled("a", 150 * MIB, 100)
    memory.sampled("a", 140 * MIB, 2)
    memory.sampled("b", 149 * MIB, 0)
    ((name, value, good),) = memory.rows()
    assert (name, good) == ("memory of b (0 subscribers)", True)
    assert value == "149 MiB, at most 268 by the formula"
    memory.sampled("b", 269 * MIB, 0)
    assert not memory.good


def test_a_sample_of_a_real_process() -> None:
    """A process can be sampled, and one that has ended yields nothing."""
    memory = Memory(Settings())
    memory.sample("this", os.getpid(), 1)
    memory.sample("gone", 2**22 + 1, 1)
    assert memory.most.keys() == {"this"}
    assert memory.most["this"].resident_bytes > MIB
