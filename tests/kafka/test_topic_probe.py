"""What a probe of the topics finds where it cannot even ask."""

from typing import Any

import pytest
import trio

from dispatcher.kafka.leaders import Leaders
from dispatcher.kafka.topic_probe import TopicProber
from dispatcher.sansio.topic_health import Finding


async def test_a_lack_of_threads_makes_topics_unknown_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next probe may find a thread."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    prober = TopicProber(Leaders({"bootstrap.servers": "127.0.0.1:9", "group.id": "g"}), ["assets", "orders"])
    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
    found = await prober.probe()
    assert {topic: probe.finding for topic, probe in found.topics.items()} == dict.fromkeys(
        ("assets", "orders"), Finding.SILENT
    )
    assert not found.existing
