"""``dispatcher redrive`` on a real Kafka: dead letters go back to their topics, each once."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from dispatcher.errors import KafkaClientError
from dispatcher.kafka import redriving
from dispatcher.kafka.redriving import Redriving, Report
from dispatcher.sansio.dead_letters import Letter, headers_of
from dispatcher.sansio.records import Record, TopicPartition
from dispatcher.sansio.redrive import Wanted
from testbed.patience import seconds
from testbed.replicas import Replica
from tests.conftest import Kafka
from tests.test_dead_letters import create, deadline, is_committed, numbers, produce, read_all


def run(kafka: Kafka, topic: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The command, as people run it."""
    command = [sys.executable, "-m", "dispatcher", "redrive", "--bootstrap-servers", kafka.bootstrap_servers]
    return subprocess.run(
        [*command, "--topics", topic, "--group-id", f"group-{topic}", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds(60),
    )


def write_letters(kafka: Kafka, topic: str, reasons: list[str], first: int = 0) -> None:
    """Numbered letters with these reasons, in partition 0 of the dead-letter topic."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for n, reason in enumerate(reasons, start=first):
        letter = Letter(TopicPartition(topic, n % 2), Record(n, 5, b"key", str(n).encode(), (("n", b"1"),)), reason)
        headers: list[tuple[str, str | bytes | None]] = list(headers_of(letter, group="g", replica="r"))
        producer.produce(f"{topic}.dlq", letter.record.value, letter.record.key, 0, headers=headers)
    assert producer.flush(seconds(30)) == 0


def test_letters_go_back_once_and_as_they_were(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """Key, value, headers and partition return to the topic, however often it is run."""
    topic = kafka.create_topic(2)
    create(kafka.admin, f"{topic}.dlq", 2)
    replica = replicas(kafka.bootstrap_servers, topic, settings=deadline(topic, "dead-letter", 0.5))
    produce(kafka.bootstrap_servers, topic, 0, 40)
    replica.wait_for("all committed", lambda s: is_committed(s, 40))
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 0
    dry = run(kafka, topic, "--dry-run")
    assert (dry.returncode, len(read_all(kafka.bootstrap_servers, topic))) == (0, 40), dry.stderr
    assert f"{topic}" in dry.stderr
    for _ in range(2):
        done = run(kafka, topic)
        assert done.returncode == 0, done.stderr
        messages = read_all(kafka.bootstrap_servers, topic)
        assert numbers(messages) == Counter(dict.fromkeys(range(40), 2))
    assert "No letters are left to redrive." in done.stderr
    for message in messages:
        n = int(message.value() or b"")
        assert message.headers() == [("n", str(n).encode()), ("empty", None)]
        assert (message.key(), message.partition()) == (f"key-{n}".encode(), n % 2)


def test_what_is_left_out_is_there_for_another_run(kafka: Kafka) -> None:
    """Letters are left out by reason and number, and later letters are redriven as well."""
    topic = kafka.create_topic(2)
    create(kafka.admin, f"{topic}.dlq")
    write_letters(kafka, topic, ["nack", "deadline", "nack", "deadline", "nack"])
    expected = Counter[int]()
    for options, redriven in (
        (["--reason", "nack", "--limit", "2"], [0, 2]),
        (["--reason", "nack"], [4]),
        (["--since", "-1h", "--rate", "1000"], [1, 3]),
    ):
        done = run(kafka, topic, *options)
        assert done.returncode == 0, done.stderr
        expected.update(redriven)
        assert numbers(read_all(kafka.bootstrap_servers, topic)) == expected
    write_letters(kafka, topic, ["nack"], first=5)
    run(kafka, topic)
    assert numbers(read_all(kafka.bootstrap_servers, topic)) == Counter(range(6))


def test_a_run_that_is_cut_off_redrives_nothing_twice(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run fences it; its open transaction is void, and earlier ones count."""
    topic = kafka.create_topic(2)
    create(kafka.admin, f"{topic}.dlq")
    write_letters(kafka, topic, ["nack"] * 20)
    monkeypatch.setattr(redriving, "BATCH_LETTERS", 5)
    properties = {"bootstrap.servers": kafka.bootstrap_servers}
    wanted = Wanted(frozenset({topic}))
    first = Redriving(properties, f"group-{topic}.redrive", f"{topic}.dlq", is_dry=False)
    assert first.open([topic]) == 20
    first.run(wanted, Report(), limit=10, rate=0, advance=lambda _number: None)
    done = run(kafka, topic)
    assert done.returncode == 0, done.stderr
    with pytest.raises(KafkaClientError):
        first.run(wanted, Report(), limit=None, rate=0, advance=lambda _number: None)
    assert numbers(read_all(kafka.bootstrap_servers, topic)) == Counter(range(20))


def test_what_is_missing_is_named(kafka: Kafka) -> None:
    """A missing dead-letter topic is exit code 1, an invalid time 2."""
    topic = kafka.create_topic(1)
    missing = run(kafka, topic)
    assert (missing.returncode, f"{topic}.dlq" in missing.stderr) == (1, True), missing.stderr
    wrong = run(kafka, topic, "--since", "yesterday")
    assert (wrong.returncode, "2026-01-31T12:00:00Z" in wrong.stderr) == (2, True), wrong.stderr
