"""``dispatcher redrive`` on a real Kafka: dead letters go back to their topics, each once."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from confluent_kafka import IsolationLevel, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin._listoffsets import OffsetSpec

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


def command(kafka: Kafka, topic: str, *options: str) -> list[str]:
    """The command, as people write it."""
    words = [sys.executable, "-m", "dispatcher", "redrive", "--bootstrap-servers", kafka.bootstrap_servers]
    return [*words, "--topics", topic, "--group-id", f"group-{topic}", *options]


def run(kafka: Kafka, topic: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(
        command(kafka, topic, *options), check=False, capture_output=True, text=True, timeout=seconds(60)
    )


def stop_on_terminal(words: list[str], number: int, begun: Callable[[], object]) -> tuple[int, str]:
    """Run a command on a terminal, and send it a signal once it has begun; returns its exit code and its output."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "wb") as output:
            process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + seconds(60)
            while not begun():
                assert time.monotonic() < deadline
                assert process.poll() is None
            process.send_signal(number)
            shown = b""
            with suppress(OSError):  # how a terminal ends
                while some := terminal.read(65536):
                    shown += some
            return process.wait(seconds(60)), shown.decode()
        finally:
            process.kill()
            process.wait()


def end_of(kafka: Kafka, topic: str, level: IsolationLevel) -> int:
    """The end of partition 0, as readers with this isolation see it."""
    place = Place(topic, 0)
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    found = kafka.admin.list_offsets({place: latest}, isolation_level=level)
    return int(found[place].result(seconds(30)).offset)


def write_letters(kafka: Kafka, topic: str, reasons: list[str], first: int = 0, said: str = "") -> None:
    """Numbered letters with these reasons, in partition 0 of the dead-letter topic; they may name another topic."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for n, reason in enumerate(reasons, start=first):
        record = Record(n, 5, b"key", str(n).encode(), (("n", b"1"),))
        letter = Letter(TopicPartition(said or topic, n % 2), record, reason)
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_finishes_its_transaction(kafka: Kafka, number: int, code: int) -> None:
    """It says what it has redriven, leaves the terminal as it was, and the next run continues."""
    topic = kafka.create_topic(2)
    create(kafka.admin, f"{topic}.dlq")
    write_letters(kafka, topic, ["nack"] * 200)
    words = command(kafka, topic, "--rate", "10")
    ended, shown = stop_on_terminal(words, number, lambda: end_of(kafka, topic, IsolationLevel.READ_COMMITTED))
    assert ended == code, shown
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") == 1
    redriven = numbers(read_all(kafka.bootstrap_servers, topic))
    assert Counter(range(len(redriven))) == redriven
    assert len(redriven) < 200
    assert [topic, "nack", str(len(redriven)), "0"] in [line.split() for line in shown.splitlines()], shown
    assert "Run the command again" in shown
    done = run(kafka, topic)
    assert done.returncode == 0, done.stderr
    assert numbers(read_all(kafka.bootstrap_servers, topic)) == Counter(range(200))


def test_a_letter_may_name_another_topic(kafka: Kafka) -> None:
    """Whoever may write letters chooses the topic: its record goes there if the topic is wanted, and ends no run."""
    topic, other = kafka.create_topic(2), kafka.create_topic(2)
    for letters in (f"{topic}.dlq", f"{other}.dlq"):
        create(kafka.admin, letters)
    write_letters(kafka, topic, ["nack"], said=other)
    write_letters(kafka, topic, ["nack"], first=1, said="unwanted")
    write_letters(kafka, topic, ["nack"], first=2)
    done = run(kafka, topic, "--topic", other)
    assert done.returncode == 0, done.stderr
    assert numbers(read_all(kafka.bootstrap_servers, other)) == Counter([0])
    assert numbers(read_all(kafka.bootstrap_servers, topic)) == Counter([2])


def test_a_topic_that_is_missing_keeps_no_letter_of_another_one(kafka: Kafka) -> None:
    """The run ends with an error for the missing topic, and a letter that names it is left."""
    topic, missing = kafka.create_topic(2), f"{kafka.create_topic(1)}-missing"
    create(kafka.admin, f"{topic}.dlq")
    write_letters(kafka, topic, ["nack"])
    write_letters(kafka, topic, ["nack"], first=1, said=missing)
    done = run(kafka, topic, "--topic", missing)
    assert done.returncode == 1, done.stderr
    assert missing in done.stderr
    assert numbers(read_all(kafka.bootstrap_servers, topic)) == Counter([0])


def test_a_transaction_that_fails_hides_no_later_record(kafka: Kafka) -> None:
    """It is aborted at once, and not when it times out."""
    topic = kafka.create_topic(2, {"max.message.bytes": "1000"})
    create(kafka.admin, f"{topic}.dlq")
    write_letters(kafka, topic, ["nack"] * 4)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    letter = Letter(TopicPartition(topic, 1), Record(0, 5, b"", b"0" * 2000, ()), "nack")
    headers: list[tuple[str, str | bytes | None]] = list(headers_of(letter, group="g", replica="r"))
    producer.produce(f"{topic}.dlq", letter.record.value, headers=headers)
    assert producer.flush(seconds(30)) == 0
    failed = run(kafka, topic)
    assert failed.returncode == 1, failed.stderr
    deadline = time.monotonic() + seconds(10)
    while end_of(kafka, topic, IsolationLevel.READ_COMMITTED) != end_of(kafka, topic, IsolationLevel.READ_UNCOMMITTED):
        assert time.monotonic() < deadline


def test_what_is_missing_is_named(kafka: Kafka) -> None:
    """A missing dead-letter topic is exit code 1, an invalid time 2."""
    topic = kafka.create_topic(1)
    missing = run(kafka, topic)
    assert (missing.returncode, f"{topic}.dlq" in missing.stderr) == (1, True), missing.stderr
    wrong = run(kafka, topic, "--since", "yesterday")
    assert (wrong.returncode, "2026-01-31T12:00:00Z" in wrong.stderr) == (2, True), wrong.stderr
